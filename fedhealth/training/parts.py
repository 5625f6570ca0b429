"""What one call of a layer adds to the patients' gradients: kept one by one, or as norms alone.

A layer's function gets the input `a` and the output gradient `g` of one call. Its records lie grouped by patient, and
patients with the same number of records side by side (`Bucket`), so a patient's records and positions are one
sequence and every product is a plain batched one. `g` carries the weight 1 / (records of the patient) already: all sums
here are means over records. What it returns is one `Part` per parameter, in one of two forms:

- *kept*: one gradient per patient, instantiated; the clipped sum is one product with the clip factors.
- *ghost*: only the norms, ||sum_i g_i a_i^T||^2 = sum_ij <g_i, g_j> <a_i, a_j>, and `a` and `g`; the clipped sum is
  one product G^T diag(c) A. Li et al., "Large Language Models Can Be Strong Differentially Private Learners",
  ICLR 2022, section 4; Bu et al., "Differentially Private Optimization on Large Model at Small Cost", ICML 2023.

With T positions a patient, p inputs and d outputs, keeping costs T p d operations and p d numbers, a ghost
T^2 (p + d) + T p d operations and T (p + d) numbers. A ghost is taken where it is smaller, T (p + d) < p d: there its
first term is also less than T p d. (2 T^2 < p d, the rule of Bu et al., leaves the second product out.)

*Rounding.* sum_ij can cancel. A norm that came out too small would let a patient through the clip, so a ghost norm is
raised by its own error bound: the squared norm is increased by gamma * (sum_i ||g_i|| ||a_i||)^2 with
gamma = 2 (p + d + 2 T + 8) u, u the unit roundoff, which is twice what the inner products of length p and d, the sums
over j and then i, and the operations between can lose together (Higham, "Accuracy and Stability of Numerical
Algorithms", 3.5: an inner product of length m is off by at most m u / (1 - m u) times the product of the norms).
"""

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from fedhealth.training.micro_batches import Bucket

PATIENTS_AT_ONCE = 16
"""Patients in one product or grouped convolution: measured best of 2 to 256; one call for all outgrows the cache."""


@dataclass(slots=True)
class Ghost:
    """What a clipped sum needs of gradients that are not kept.

    Attributes:
        rows: returns a, shape (records, positions, inputs), and g, shape (records, positions, outputs). For an
            embedding, a holds tokens, shape (records, positions).
        weighted_sum: from one factor per patient, and which patients count (None: all), to the sum, in the last
            argument, of the parameter's shape.
        with_bias: the norm is that of weight and bias together.
        norms: measures them, shape (patients,); None: `ghost_norms` of the rows.
    """

    rows: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    weighted_sum: Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor], object]
    with_bias: bool = False
    norms: Callable[[], torch.Tensor] | None = None


@dataclass(slots=True)
class Part:
    """What one call of a layer adds to the gradients of one parameter: kept, or a ghost.

    Attributes:
        parameter: "weight" or "bias", or any name within a layer of the fallback.
        kept: one gradient per patient, shape (patients, *parameter), or None for a ghost.
        length: norms, shape (patients,); None: to be measured.
        ghost: None for what is kept.
        in_other: the norm is counted in that of another part of the same call.
    """

    parameter: str
    kept: torch.Tensor | None = None
    length: torch.Tensor | None = None
    ghost: Ghost | None = None
    in_other: bool = False

    def measured(self, buckets: Sequence[Bucket]) -> torch.Tensor:
        """Return the norms, shape (patients,)."""
        if self.length is not None:
            return self.length
        if self.ghost is not None and self.ghost.norms is not None:
            return self.ghost.norms()
        if self.ghost is not None:
            return ghost_norms(*self.ghost.rows(), buckets, with_bias=self.ghost.with_bias)
        assert self.kept is not None  # noqa: S101 - no ghost, so it is kept
        length: torch.Tensor = torch.linalg.vector_norm(self.kept.flatten(1), dim=1)
        return length

    def weigh(self, factors: torch.Tensor, counts: torch.Tensor | None, out: torch.Tensor) -> None:
        """Write the sum of each patient's gradient times the patient's factor; `counts` says who does (None: all)."""
        if self.ghost is not None:
            self.ghost.weighted_sum(factors, counts, out)
            return
        assert self.kept is not None  # noqa: S101 - no ghost, so it is kept
        rows = self.kept.flatten(1)
        rows = rows if counts is None else rows.masked_fill(~counts[:, None], 0.0)
        torch.mv(rows.t(), factors, out=out.view(-1))


LayerFunction = Callable[[Any, torch.Tensor, torch.Tensor, Sequence[Bucket], Set[str], bool], list[Part]]
"""From layer, `a`, `g`, the buckets, the names of the trainable parameters, and whether all must be kept, to parts."""


def ghost_is_smaller(positions: int, inputs: int, outputs: int, buckets: Sequence[Bucket]) -> bool:
    """Return whether inputs and output gradients are fewer numbers than one gradient per patient."""
    sequence = positions * buckets[-1].records.stop / buckets[-1].patients.stop
    return bool(sequence * (inputs + outputs) < inputs * outputs)


def ghost_norms(a: torch.Tensor, g: torch.Tensor, buckets: Sequence[Bucket], with_bias: bool = False) -> torch.Tensor:
    """Return norms, raised by the bound on their own rounding error, shape (patients,).

    Args:
        a: shape (records, positions, inputs).
        g: shape (records, positions, outputs).
        buckets: the batch.
        with_bias: also count the sum of g itself, as if each row of `a` ended with a one.
    """
    if a.shape[1] == 1 and len(buckets) == 1 and buckets[0].records_each == 1:
        return product_of_lengths(a[:, 0], g[:, 0], with_bias)
    inputs, outputs = a.shape[-1], g.shape[-1]
    norms = g.new_empty(buckets[-1].patients.stop)
    for bucket in buckets:
        mine_a, mine_g = bucket.of(a), bucket.of(g)
        sequence = mine_a.shape[1]
        if sequence == 1:  # one position: nothing to cancel
            product = product_of_lengths(mine_a[:, 0], mine_g[:, 0], with_bias)
        elif sequence * (inputs + outputs) < inputs * outputs:
            gram_a, gram_g = mine_a @ mine_a.transpose(1, 2), mine_g @ mine_g.transpose(1, 2)
            gamma = (inputs + outputs + 2 * sequence + 8) * torch.finfo(g.dtype).eps  # eps is twice the unit roundoff
            one = 1.0 if with_bias else 0.0
            bound = gamma * ((lengths_of(mine_a) + one) * lengths_of(mine_g)).sum(1).square()
            product = (gram_a.add_(one).mul_(gram_g).sum(2).sum(1).clamp_(min=0) + bound).sqrt()
        else:  # a patient with many records: cheaper one gradient at a time, of which only the norm is kept
            if with_bias:
                mine_a = torch.cat((mine_a, mine_a.new_ones(*mine_a.shape[:-1], 1)), dim=-1)
            each = [torch.linalg.vector_norm(g_one.t() @ a_one) for g_one, a_one in zip(mine_g, mine_a, strict=True)]
            bound = (lengths_of(mine_a) * lengths_of(mine_g)).sum(1) * ((sequence + 8) * torch.finfo(g.dtype).eps)
            product = torch.stack(each) + bound
        if len(buckets) == 1:
            return product
        norms[bucket.patients] = product
    return norms


def product_of_lengths(a: torch.Tensor, g: torch.Tensor, with_bias: bool) -> torch.Tensor:
    """Return ||g|| ||a||, or ||g|| sqrt(||a||^2 + 1), for rows (patients, width)."""
    if with_bias:  # beside a one, what squares below the number range may have lost is nothing
        lengths = torch.linalg.vector_norm(a, dim=-1)
        lengths = lengths.hypot_(scalar(1.0, a.dtype, a.device))
    else:
        lengths = lengths_of(a)
    product: torch.Tensor = lengths.mul_(lengths_of(g))
    return product


def lengths_of(rows: torch.Tensor) -> torch.Tensor:
    """Return the norm of each row, raised by what squares below the number range may have lost."""
    length: torch.Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return length.add_(_lost(rows.shape[-1], rows.dtype, rows.device))


@lru_cache
def _lost(width: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    limits = torch.finfo(dtype)
    return scalar(math.sqrt(width * limits.tiny / limits.eps), dtype, device)


@lru_cache
def scalar(value: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the number as a tensor of no dimensions, which torch takes in half the time; not to be changed."""
    return torch.tensor(value, dtype=dtype, device=device)


def outer_products(a: torch.Tensor, g: torch.Tensor, buckets: Sequence[Bucket]) -> Part:
    """Keep shape (patients, outputs, inputs): the sum of g_i a_i^T over each patient's records and positions."""
    kept = g.new_empty(buckets[-1].patients.stop, g.shape[-1], a.shape[-1])
    length = g.new_empty(len(kept))
    for bucket in buckets:
        mine_g, mine_a, own = bucket.of(g).transpose(1, 2), bucket.of(a), kept[bucket.patients]
        for start in range(0, len(own), PATIENTS_AT_ONCE):
            few = slice(start, start + PATIENTS_AT_ONCE)
            torch.bmm(mine_g[few], mine_a[few], out=own[few])
            length[bucket.patients][few] = torch.linalg.vector_norm(own[few], dim=(1, 2))
    return Part("weight", kept=kept, length=length)


def sums_over_positions(g: torch.Tensor, buckets: Sequence[Bucket]) -> torch.Tensor:
    """Return shape (patients, width): the sums over each patient's records and positions."""
    sums = [each[:, 0] if each.shape[1] == 1 else each.sum(1) for each in (bucket.of(g) for bucket in buckets)]
    return sums[0] if len(sums) == 1 else torch.cat(sums)


def per_record(values: torch.Tensor, buckets: Sequence[Bucket]) -> torch.Tensor:
    """Return shape (records,) of values (patients,)."""
    if all(bucket.records_each == 1 for bucket in buckets):
        return values
    return torch.cat([values[bucket.patients].repeat_interleave(bucket.records_each) for bucket in buckets])


def record_weights(buckets: Sequence[Bucket], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return 1 / (records of the patient) for each record, shape (records,); not to be changed in place."""
    if len(buckets) == 1:
        return _equal_weights(buckets[0].records.stop, buckets[0].records_each, dtype, device)
    each = [1 / bucket.records_each for bucket in buckets for _ in range(bucket.records.start, bucket.records.stop)]
    return torch.tensor(each, dtype=dtype, device=device)


@lru_cache(maxsize=4)
def _equal_weights(records: int, records_each: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.full((records,), 1 / records_each, dtype=dtype, device=device)


def beside(values: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return values (records,) with dimensions of one, so that they scale the rows of `other`."""
    return values.reshape(-1, *[1] * (other.dim() - 1))


def only(values: torch.Tensor, counts: torch.Tensor | None, buckets: Sequence[Bucket]) -> torch.Tensor:
    """Return the values with zeros for patients that do not count: zero times NaN would be NaN."""
    return values if counts is None else values.masked_fill(~beside(per_record(counts, buckets), values), 0.0)


def patient_of_record(buckets: Sequence[Bucket], device: torch.device) -> torch.Tensor:
    """Return the patient of each record, shape (records,)."""
    each = [torch.arange(b.patients.start, b.patients.stop).repeat_interleave(b.records_each) for b in buckets]
    return torch.cat(each).to(device)


def clip_factors(norms: torch.Tensor, l2_clip_norm: float) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return min(1, l2_clip_norm / norm) for each patient, 0 where the norm is not finite, and who is finite.

    The second is None where everybody is, which is the common case, and the cheap one.
    """
    clip = scalar(l2_clip_norm, norms.dtype, norms.device)
    factors = clip.div(norms.clamp(min=clip))
    if math.isfinite(norms.max().item() if norms.numel() else 0.0):
        return factors, None
    finite = torch.isfinite(norms)
    return factors.masked_fill_(~finite, 0.0), finite
