"""Per-patient gradients of a layer that no function of `layers.py` knows: the layer alone, one patient at a time.

Recurrent layers and cells, attention, and modules with parameters of their own come here. The layer is computed again
from its stored inputs for each patient, and differentiated with the patient's rows of the output gradient. That is
slow, and exact for any layer that computes each record by itself and the same each time. It needs nothing but autograd:
Opacus has functions for few layers more than `LAYERS`, and its general way takes no layer with several inputs or
outputs, such as an LSTM.
"""

from collections.abc import Callable, Sequence, Set
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from fedhealth.training.micro_batches import Bucket
from fedhealth.training.parts import Part


def fallback_parts(
    layer: nn.Module,
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    output_gradients: Sequence[torch.Tensor | None],
    buckets: Sequence[Bucket],
    wanted: Set[str],
) -> list[Part]:
    """Return the parts of one call, all kept.

    Args:
        layer: the module; its hooks must not act on the calls made here.
        arguments: what it was called with, detached.
        keywords: the same by name.
        output_gradients: one for each tensor of its output, in order; None where none arrived.
        buckets: the batch.
        wanted: names of the trainable parameters within the layer.

    Raises:
        ValueError: it takes a tensor whose first dimension does not count the records.
    """
    records = buckets[-1].records.stop
    parameters = {name: each.detach() for name, each in layer.named_parameters() if name in wanted}
    kept = {name: each.new_zeros(buckets[-1].patients.stop, *each.shape) for name, each in parameters.items()}
    for bucket in buckets:
        for place, patient in enumerate(range(bucket.patients.start, bucket.patients.stop)):
            first = bucket.records.start + place * bucket.records_each

            def mine(
                values: torch.Tensor, dim: int, first: int = first, each: int = bucket.records_each
            ) -> torch.Tensor:
                if values.dim() <= dim or values.shape[dim] != records:
                    raise ValueError(
                        f"{type(layer).__name__} got a tensor of shape {tuple(values.shape)}, whose dimension {dim} "
                        f"does not hold the {records} records; its gradient per patient cannot be told"
                    )
                return values.narrow(dim, first, each)

            with torch.enable_grad():
                variables = {name: each.requires_grad_() for name, each in parameters.items()}
                output = functional_call(
                    layer,
                    variables,
                    tuple(_map(mine, value, _record_dimension(layer, i)) for i, value in enumerate(arguments)),
                    {name: value if name in _WHOLE else _map(mine, value, 0) for name, value in keywords.items()},
                )
            pairs = [
                (tensor, mine(gradient, dim))
                for (tensor, dim), gradient in zip(output_tensors(layer, output), output_gradients, strict=True)
                if gradient is not None and tensor.requires_grad
            ]
            if pairs:
                found = torch.autograd.grad(
                    [pair[0] for pair in pairs],
                    list(variables.values()),
                    [pair[1] for pair in pairs],
                    allow_unused=True,
                )
                for name, gradient in zip(variables, found, strict=True):
                    if gradient is not None:
                        kept[name][patient] = gradient
    return [Part(name, kept=each) for name, each in kept.items()]


def output_tensors(layer: nn.Module, output: Any) -> list[tuple[torch.Tensor, int]]:  # noqa: ANN401 - what a module returns
    """Return the floating tensors of an output in order, each with the dimension that holds the records.

    Raises:
        ValueError: the output is something else than tensors, tuples and lists of tensors, and None.
    """
    if isinstance(output, torch.Tensor):
        return [(output, 0)] if output.is_floating_point() else []
    if output is not None and type(output) not in (tuple, list):
        raise ValueError(f"{type(layer).__name__} returned a {type(output).__name__}, whose tensors nobody can follow")
    found: list[tuple[torch.Tensor, int]] = []
    for place, value in enumerate(output or ()):
        dim = _record_dimension(layer, place)
        found += [(tensor, dim) for tensor, _ in output_tensors(nn.Identity(), value)]
    return found


def separate(output: Any) -> Any:  # noqa: ANN401 - what a module returns
    """Return the same output with each tensor a view of its own.

    One output may be computed from another, as h from c in an LSTM cell; the gradient of c itself would then hold what
    came through h, and count it twice.
    """
    return _map(lambda tensor, _: tensor.view_as(tensor) if tensor.is_floating_point() else tensor, output, 0)


_WHOLE = frozenset({"attn_mask"})
"""Arguments by name that belong to all records alike."""


def _record_dimension(layer: nn.Module, place: int) -> int:
    """Return 1 for the states of a recurrent layer, which are (layers, records, width), else 0."""
    return 1 if isinstance(layer, nn.RNNBase) and place == 1 else 0


def _map(change: Callable[[torch.Tensor, int], torch.Tensor], value: Any, dim: int) -> Any:  # noqa: ANN401 - what a module returns
    if isinstance(value, torch.Tensor):
        return change(value, dim)
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        raise ValueError("a packed sequence has no row per record; pad the sequences")
    if isinstance(value, tuple | list):
        return type(value)(_map(change, each, dim) for each in value)
    return value
