"""A chain of linear layers and functions without weights, computed without hooks.

Hooks cost some 0.1 ms a layer, more than a small model's whole step. Where the model is an `nn.Sequential` of nothing
else than `Linear` and torch's own functions, its forward pass can be written down here, and autograd asked for the
gradients of the linear outputs directly. What happens to inputs and output gradients then is the same as with hooks.

Where every patient has one record, and that is a vector in each layer, a gradient is g (a, 1)^T: its norm is the
product of two lengths, and the whole step a few operations a layer (`rank_one_sum`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from fedhealth.training.layer_calls import TrainableLayer, refuse_changed_inputs
from fedhealth.training.micro_batches import Bucket
from fedhealth.training.parts import clip_factors, product_of_lengths


class LinearCall(NamedTuple):
    """One call of a linear layer: the layer, its input, and the gradient of its output."""

    layer: TrainableLayer
    a: torch.Tensor
    g: torch.Tensor


class FeedForward:
    """The forward pass of a chain; owns what it stores until `forget`.

    Args:
        links: each layer in turn: a trainable linear one, or any function.
    """

    def __init__(self, links: Sequence[TrainableLayer | Callable[[torch.Tensor], torch.Tensor]]) -> None:
        self._links = links
        self.forget()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the model returns, and keep the linear layers' inputs and outputs."""
        for link in self._links:
            if not isinstance(link, TrainableLayer):
                x = link(x)
                continue
            weight, bias = link.wanted["weight"].detach(), link.wanted.get("bias")
            z = functional.linear(x, weight, None if bias is None else bias.detach())
            if torch.is_grad_enabled():
                self.outputs.append(z if z.requires_grad else z.requires_grad_())
                self._inputs.append((link, x, x._version))
            x = z
        return x

    def calls(self, gradients: Sequence[torch.Tensor | None]) -> list[LinearCall]:
        """Return the calls of the forward pass whose outputs have a gradient.

        Raises:
            ValueError: an input was changed in place.
        """
        for layer, a, version in self._inputs:
            if a._version != version:
                refuse_changed_inputs(layer, [(a, version)])
        pairs = zip(self._inputs, gradients, strict=True)
        return [LinearCall(layer, a, g) for (layer, a, _), g in pairs if g is not None]

    def forget(self) -> None:
        """Let go of what was stored."""
        self.outputs: list[torch.Tensor] = []
        self._inputs: list[tuple[TrainableLayer, torch.Tensor, int]] = []


def feed_forward(model: nn.Module, layers: list[TrainableLayer]) -> FeedForward | None:
    """Return the chain that the model is, or None if it is something else.

    Args:
        model: any model.
        layers: its trainable layers.
    """
    if type(model) is not nn.Sequential or any(getattr(each, hook) for each in model.modules() for hook in _HOOKS):
        return None
    wanted = [parameter for layer in layers for parameter in layer.wanted.values()]
    if not len({id(each) for each in wanted}) == len(wanted) == len(list(model.parameters())):
        return None  # frozen, or of several layers
    by_module = {id(layer.module): layer for layer in layers if type(layer.module) is nn.Linear}
    links: list[TrainableLayer | Callable[[torch.Tensor], torch.Tensor]] = []
    for module in model:
        plain = type(module) in WITHOUT_WEIGHTS and not getattr(module, "inplace", False)
        if not plain and id(module) not in by_module:
            return None
        links.append(module if plain else by_module[id(module)])
    return FeedForward(links)


def gradients_of(
    loss: torch.Tensor, outputs: Sequence[torch.Tensor], weights: torch.Tensor
) -> Sequence[torch.Tensor | None]:
    """Return `torch.autograd.grad(loss, outputs, weights, allow_unused=True)`, without the third of it that is checks.

    The engine's entry is private to torch, whose version is pinned; every test of a chain would notice another meaning.
    """
    found: Sequence[torch.Tensor | None] = torch.autograd.graph._engine_run_backward(
        (loss,), (weights,), False, False, tuple(outputs), True, accumulate_grad=False
    )
    return found


def have_rank_one(calls: Sequence[LinearCall], layers: Sequence[TrainableLayer], buckets: Sequence[Bucket]) -> bool:
    """Return whether each patient has one record, and each layer of a chain saw it once, as a vector."""
    if len(calls) != len(layers) or len(buckets) != 1 or buckets[0].records_each != 1:
        return False
    shapes = [a.shape for _, a, _ in calls]
    return [len(shape) for shape in shapes].count(2) == len(shapes) and shapes[0][0] == buckets[0].records.stop


def rank_one_sum(
    calls: Sequence[LinearCall], size: int, l2_clip_norm: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return the clipped sum, shape (d,), each patient's norm, and who is finite (None: all).

    Args:
        calls: of all layers, in order, with a of shape (patients, inputs) and g (patients, outputs).
        size: d, the number of their weights.
        l2_clip_norm: the most one patient's gradient may measure.
    """
    norms: torch.Tensor | None = None
    for layer, a, g in calls:
        lengths = product_of_lengths(a, g, "bias" in layer.wanted)
        norms = lengths if norms is None else norms.hypot_(lengths)
    assert norms is not None  # noqa: S101 - a chain that was called has calls
    factors, finite = clip_factors(norms, l2_clip_norm)
    total, start, column = norms.new_empty(size), 0, factors.unsqueeze(1)
    for layer, a, g in calls:
        scaled, rows = g * column, a
        if finite is not None:  # zero times NaN would be NaN
            rows, scaled = a.masked_fill(~finite.unsqueeze(1), 0.0), scaled.masked_fill_(~finite.unsqueeze(1), 0.0)
        weight = layer.wanted["weight"]
        own = total.narrow(0, start, layer.size)
        torch.mm(scaled.t(), rows, out=own.narrow(0, 0, weight.numel()).view(weight.shape))
        if "bias" in layer.wanted:
            torch.sum(scaled, 0, out=own.narrow(0, weight.numel(), scaled.shape[1]))
        start += layer.size
    return total, norms, finite


WITHOUT_WEIGHTS = frozenset(
    {nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign}
    | {nn.Hardtanh, nn.ReLU6, nn.LogSigmoid, nn.Identity, nn.Flatten, nn.Dropout, nn.Softmax, nn.LogSoftmax}
)
"""By exact type: torch's functions that keep nothing, and change no input unless told to."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
