"""What the hooks of `book_keeping` remember of one call of one layer, and how a graph starts at its output."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class TrainableLayer:
    """A module with trainable parameters, by their names within it; how many numbers; whether `LAYERS` knows it."""

    name: str
    module: nn.Module
    known: bool
    wanted: dict[str, nn.Parameter]
    size: int


@dataclass(slots=True)
class LayerCall:
    """One call of one layer; owns what the hooks stored.

    Attributes:
        layer: that was called.
        arguments: by place, without their graph.
        keywords: by name, likewise.
        versions: of the tensors among them, which in-place changes raise.
        statistics: mean and 1 / deviation of each group, which a group norm has taken already; empty for others.
        gradients: of each output, once it has come.
    """

    layer: TrainableLayer
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    versions: list[tuple[torch.Tensor, int]]
    statistics: tuple[torch.Tensor, ...] = ()
    gradients: list[torch.Tensor | None] = field(default_factory=list)


def group_statistics(module: nn.Module, output: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return what a `GroupNorm` keeps for its own gradient, shape (records, groups) each; nothing of other modules."""
    made_by: Any = output.grad_fn if type(module) is nn.GroupNorm else None
    if made_by is None or made_by.name() != "NativeGroupNormBackward0":
        return ()
    return made_by._saved_result1, made_by._saved_result2


def refuse_changed_inputs(layer: TrainableLayer, versions: Iterable[tuple[torch.Tensor, int]]) -> None:
    """Raise ValueError if a stored input is no longer what the layer computed with."""
    if any(tensor._version != version for tensor, version in versions):
        raise ValueError(f"the input of layer '{layer.name}' was changed in place after use; do not work in place")


class Rooted(torch.autograd.Function):
    """Makes a tensor that autograd does not know yet the start of a graph, without a copy and without a leaf."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - torch types it so
        """Return the tensor itself."""
        ctx.mark_dirty(tensor)
        return tensor

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None]:  # noqa: ANN401 - torch types it so
        """Return nothing: the graph ends here."""
        return None, None


def detached(value: Any, tensors: list[tuple[torch.Tensor, int]]) -> Any:  # noqa: ANN401 - a module's arguments
    """Return the arguments without their graph; list each tensor with its version, which in-place changes raise."""
    if isinstance(value, torch.Tensor):
        tensors.append((value, value._version))
        return value.detach()
    if isinstance(value, dict):
        return {key: detached(each, tensors) for key, each in value.items()}
    if type(value) in (tuple, list):
        return type(value)(detached(each, tensors) for each in value)
    return value
