"""Per-patient gradients of convolutions in one, two and three dimensions.

Kept gradients come from a grouped convolution: the channels of each patient become a group, so that one call of the
library's own weight gradient gives the gradient of every patient (Rochette, Manoel, Tramel, "Efficient Per-Example
Gradient Computations in Convolutional Neural Networks", 2019), a few patients at a time to stay in the cache. Ghost
norms come from unfolded inputs. See `parts.py` for when which.
"""

from collections.abc import Sequence, Set
from typing import Any

import torch
from torch.nn import functional

from fedhealth.training.micro_batches import Bucket
from fedhealth.training.parts import (
    PATIENTS_AT_ONCE,
    Ghost,
    Part,
    beside,
    ghost_is_smaller,
    only,
    per_record,
    sums_over_positions,
)


def convolution_parts(
    layer: Any,  # noqa: ANN401 - of the kind that `LAYERS` names
    a: torch.Tensor,
    g: torch.Tensor,
    buckets: Sequence[Bucket],
    wanted: Set[str],
    must_keep: bool,
) -> list[Part]:
    """Return the parts of `Conv1d`, `Conv2d` and `Conv3d`: a (records, channels, ...), g (records, outputs, ...)."""
    parts = []
    dimensions = len(layer.kernel_size)
    if a.dim() != dimensions + 2:
        raise ValueError(
            f"{type(layer).__name__} needs inputs with a dimension for records, got shape {tuple(a.shape)}"
        )
    flat = g.flatten(2)
    if "weight" in wanted:
        padding = list(layer.padding) if layer.padding_mode == "zeros" and not isinstance(layer.padding, str) else None
        if padding is None:  # what the layer's own forward does for "same" and for other modes than zeros
            mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
            a = functional.pad(a, layer._reversed_padding_repeated_twice, mode=mode)
            padding = [0] * dimensions
        inputs, outputs = layer.weight[0].numel(), g.shape[1]
        if must_keep or layer.groups > 1 or not ghost_is_smaller(flat.shape[2], inputs, outputs, buckets):
            parts.append(_convolution_gradients(layer, a, g, padding, buckets))
        else:

            def rows() -> tuple[torch.Tensor, torch.Tensor]:
                return _unfold(layer, a, padding), flat.transpose(1, 2)

            def weighted_sum(factors: torch.Tensor, counts: torch.Tensor | None, out: torch.Tensor) -> object:
                scaled = only(g, counts, buckets) * beside(per_record(factors, buckets), g)
                a_only = only(a, counts, buckets)
                return out.copy_(_weight_gradient(layer, a_only, scaled, layer.weight, padding, layer.groups))

            parts.append(Part("weight", ghost=Ghost(rows, weighted_sum)))
    if "bias" in wanted:
        parts.append(Part("bias", kept=sums_over_positions(flat.sum(2)[:, None], buckets)))
    return parts


def _convolution_gradients(
    layer: Any,  # noqa: ANN401 - of the kind that `LAYERS` names
    a: torch.Tensor,
    g: torch.Tensor,
    padding: list[int],
    buckets: Sequence[Bucket],
) -> Part:
    """Keep shape (patients, *weight): the patients' channels become the groups of one grouped convolution."""
    kept = g.new_empty(buckets[-1].patients.stop, *layer.weight.shape)
    length = g.new_empty(len(kept))
    for bucket in buckets:
        records = bucket.records_each
        for start in range(bucket.patients.start, bucket.patients.stop, PATIENTS_AT_ONCE):
            patients = slice(start, min(start + PATIENTS_AT_ONCE, bucket.patients.stop))
            count = patients.stop - patients.start
            first = bucket.records.start + (start - bucket.patients.start) * records
            rows = slice(first, first + count * records)
            weight = g.new_empty(count * layer.weight.shape[0], *layer.weight.shape[1:])
            gradient = _weight_gradient(
                layer,
                _patients_as_channels(a[rows], count),
                _patients_as_channels(g[rows], count),
                weight,
                padding,
                count * layer.groups,
            )
            kept[patients] = gradient.reshape(count, *layer.weight.shape)
            length[patients] = torch.linalg.vector_norm(gradient.reshape(count, -1), dim=1)
    return Part("weight", kept=kept, length=length)


def _patients_as_channels(values: torch.Tensor, patients: int) -> torch.Tensor:
    """Return shape (records of each, patients * channels, ...) of (patients * records of each, channels, ...)."""
    split = values.reshape(patients, -1, *values.shape[1:]).transpose(0, 1)
    return split.reshape(split.shape[0], patients * values.shape[1], *values.shape[2:])


def _weight_gradient(
    layer: Any,  # noqa: ANN401 - of the kind that `LAYERS` names
    a: torch.Tensor,
    g: torch.Tensor,
    weight: torch.Tensor,
    padding: list[int],
    groups: int,
) -> torch.Tensor:
    nothing = [0] * len(padding)
    gradients = torch.ops.aten.convolution_backward(
        g, a, weight, None, layer.stride, padding, layer.dilation, False, nothing, groups, [False, True, False]
    )
    return gradients[1]  # type: ignore[no-any-return]


def _unfold(
    layer: Any,  # noqa: ANN401 - of the kind that `LAYERS` names
    a: torch.Tensor,
    padding: list[int],
) -> torch.Tensor:
    """Return shape (records, positions, inputs of one output): what each position of the output saw."""
    a = functional.pad(a, [each for side in reversed(padding) for each in (side, side)]).contiguous()
    positions = [
        (length - dilation * (kernel - 1) - 1) // stride + 1
        for length, dilation, kernel, stride in zip(
            a.shape[2:], layer.dilation, layer.kernel_size, layer.stride, strict=True
        )
    ]
    moves = [step * stride for step, stride in zip(a.stride()[2:], layer.stride, strict=True)]
    reach = [step * dilation for step, dilation in zip(a.stride()[2:], layer.dilation, strict=True)]
    windows = a.as_strided(
        (len(a), *positions, a.shape[1], *layer.kernel_size), (a.stride(0), *moves, a.stride(1), *reach)
    )
    return windows.reshape(len(a), -1, layer.weight[0].numel())
