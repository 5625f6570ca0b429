"""Per-patient gradients of one layer from its input and the gradient of its output, by type of layer.

`LAYERS` says which types are known; what it does not hold is left to `fallback.py`. What is returned: `parts.py`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fedhealth.training.convolution import convolution_parts
from fedhealth.training.micro_batches import Bucket
from fedhealth.training.parts import (
    Ghost,
    LayerFunction,
    Part,
    ghost_is_smaller,
    only,
    outer_products,
    patient_of_record,
    per_record,
    sums_over_positions,
)


def linear_parts(
    layer: nn.Linear,
    a: torch.Tensor,
    g: torch.Tensor,
    buckets: Sequence[Bucket],
    wanted: Set[str],
    must_keep: bool,
) -> list[Part]:
    """Return the parts of `Linear`: a of shape (records, ..., inputs), g (records, ..., outputs)."""
    if a.dim() == 2:
        a, g = a[:, None], g[:, None]
    elif a.dim() > 3:
        a, g = a.flatten(1, -2), g.flatten(1, -2)
    one_row = a.shape[1] == 1 and len(buckets) == 1 and buckets[0].records_each == 1  # its gradient has rank one
    keep = must_keep or not (one_row or ghost_is_smaller(a.shape[1], a.shape[2], g.shape[2], buckets))
    together = one_row and not keep and wanted >= {"weight", "bias"}
    parts = [Part("bias", kept=sums_over_positions(g, buckets), in_other=together)] if "bias" in wanted else []
    if "weight" not in wanted:
        return parts
    if keep:
        return [outer_products(a, g, buckets), *parts]

    def weighted_sum(factors: torch.Tensor, counts: torch.Tensor | None, out: torch.Tensor) -> object:
        rows = only(g, counts, buckets) * per_record(factors, buckets)[:, None, None]
        columns = only(a, counts, buckets)
        return torch.mm(rows.reshape(-1, g.shape[2]).t(), columns.reshape(-1, a.shape[2]), out=out)

    return [Part("weight", ghost=Ghost(lambda: (a, g), weighted_sum, with_bias=together)), *parts]


def embedding_parts(
    layer: nn.Embedding,
    a: torch.Tensor,
    g: torch.Tensor,
    buckets: Sequence[Bucket],
    wanted: Set[str],
    must_keep: bool,
) -> list[Part]:
    """Return the parts of `Embedding`: a of shape (records, ...), integers; g (records, ..., width).

    The gradients of one patient's equal tokens are added up; nothing cancels unseen.
    """
    owners = patient_of_record(buckets, g.device)
    tokens, rows = a.reshape(len(a), -1), g.reshape(-1, g.shape[-1])
    if layer.padding_idx is not None:
        rows = rows.masked_fill((tokens == layer.padding_idx).reshape(-1, 1), 0.0)
    count = buckets[-1].patients.stop
    if must_keep:
        kept = g.new_zeros(count * layer.num_embeddings, g.shape[-1])
        kept.index_add_(0, (owners[:, None] * layer.num_embeddings + tokens).reshape(-1), rows)
        return [Part("weight", kept=kept.reshape(count, *layer.weight.shape))]

    @cache
    def sums_by_token() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the sum of each patient's rows with one token, whose it is, and the token."""
        pairs, place = torch.unique((owners[:, None] * layer.num_embeddings + tokens).reshape(-1), return_inverse=True)
        sums = g.new_zeros(len(pairs), g.shape[-1]).index_add_(0, place, rows)
        return sums, pairs // layer.num_embeddings, pairs % layer.num_embeddings

    def norms() -> torch.Tensor:
        sums, pair_owners, _ = sums_by_token()
        squares = torch.linalg.vector_norm(sums, dim=1).square()
        return g.new_zeros(count).index_add_(0, pair_owners, squares).sqrt()

    def weighted_sum(factors: torch.Tensor, counts: torch.Tensor | None, out: torch.Tensor) -> object:
        sums, pair_owners, pair_tokens = sums_by_token()
        scaled = sums * factors[pair_owners][:, None]
        if counts is not None:
            scaled = scaled.masked_fill(~counts[pair_owners][:, None], 0.0)
        return out.zero_().index_add_(0, pair_tokens, scaled)

    return [Part("weight", ghost=Ghost(lambda: (tokens, rows.reshape(*tokens.shape, -1)), weighted_sum, norms=norms))]


def norm_parts(
    layer: Any,  # noqa: ANN401 - of the kind that `LAYERS` names
    a: torch.Tensor,
    g: torch.Tensor,
    buckets: Sequence[Bucket],
    wanted: Set[str],
    must_keep: bool,
) -> list[Part]:
    """Return the parts of `LayerNorm` and `GroupNorm`, small enough to be kept always."""
    by_record = _layer_norm_by_record if isinstance(layer, nn.LayerNorm) else _group_norm_by_record
    return _kept(by_record(layer, a, g), buckets, wanted)


def group_norm_parts(
    statistics: tuple[torch.Tensor, ...],
    layer: Any,  # noqa: ANN401 - a `GroupNorm`
    a: torch.Tensor,
    g: torch.Tensor,
    buckets: Sequence[Bucket],
    wanted: Set[str],
    _must_keep: bool,
) -> list[Part]:
    """Return the parts of a `GroupNorm` whose call has left its groups' statistics: mean and 1 / deviation."""
    return _kept(_group_norm_by_record(layer, a, g, statistics), buckets, wanted)


def _kept(gradients: Iterable[torch.Tensor], buckets: Sequence[Bucket], wanted: Set[str]) -> list[Part]:
    found = zip(("weight", "bias"), gradients, strict=True)
    return [Part(name, kept=sums_over_positions(own[:, None], buckets)) for name, own in found if name in wanted]


def _layer_norm_by_record(layer: nn.LayerNorm, a: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of weight and bias for each record, shape (records, width) each."""
    normal = functional.layer_norm(a, layer.normalized_shape, eps=layer.eps).mul_(g)
    weight, bias = (values.reshape(len(a), -1, layer.weight.numel()).sum(1) for values in (normal, g))
    return weight, bias


def _group_norm_by_record(
    layer: nn.GroupNorm, a: torch.Tensor, g: torch.Tensor, statistics: tuple[torch.Tensor, ...] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same of channels: the library's own gradient, each record's channels as groups of one record.

    It goes through a and g once and writes nothing of their size; taking the statistics, where they are not given,
    does, for the library has no other function that does not take longer.
    """
    records, channels, groups = len(a), a.shape[1], layer.num_groups
    positions = math.prod(a.shape[2:])
    means, scales = (
        statistics
        or torch.native_group_norm(a.contiguous(), None, None, records, channels, positions, groups, layer.eps)[1:]
    )
    _, weight, bias = torch.ops.aten.native_group_norm_backward(
        g.reshape(1, records * channels, positions),
        a.reshape(1, records * channels, positions),
        means.reshape(1, -1),
        scales.reshape(1, -1),
        a.new_ones(records * channels),
        1,
        records * channels,
        positions,
        records * groups,
        [False, True, True],
    )
    return weight.view(records, channels), bias.view(records, channels)


LAYERS: Mapping[type[nn.Module], LayerFunction] = MappingProxyType(
    {
        nn.Linear: linear_parts,
        nn.Embedding: embedding_parts,
        nn.Conv1d: convolution_parts,
        nn.Conv2d: convolution_parts,
        nn.Conv3d: convolution_parts,
        nn.GroupNorm: norm_parts,
        nn.LayerNorm: norm_parts,
    }
)
"""By exact type: a subclass may compute something else, and is left to the fallback."""
