"""The sum of the patients' clipped gradients in whole steps of a mechanism's grid: exact, of proven sensitivity.

The passes and parts are those of `book_keeping.py`. Two things are added, so that one patient changes the sum by at
most what the mechanism is made for, whatever the weights:

**1. A patient's numbers do not depend on who else is there.** Batches have fixed shapes (`fixed_batches.py`). For a
given shape a deterministic kernel on one thread is a fixed program: what it writes to a row depends on that row's
inputs and on where the row stands (no layer mixes rows: `privacy_check.py`, by type and by trial). Which places are
alike is found out, not assumed: before the first sum, in every shape that a patient could bring, made-up patients are
computed at every place with made-up weights, and only places with the bits of the first are ever taken. (Mostly all
are; where rows are of odd length, some kernels treat those apart whose addresses are not aligned.) So a patient's
inputs a and output gradients g, and what is computed from them below, are the same bits with and without others.

**2. The sum is exact.** Each patient's clipped gradient is rounded to whole steps before anything is added, and sums
and products of whole numbers below 2**53 have no rounding in doubles, in any order and with any kernel. With C the clip
norm, a step is u = grid / 2**m, m such that C / u is in [2**36, 2**37): one grid for all, from public figures.

- A gradient that is *kept* is scaled by the patient's factor c and rounded: P numbers, off by at most 0.51 sqrt(P) u.
- A *ghost* is sum_t g_t a_t^T over T rows and positions, p inputs and d outputs. Let n_t be the computed length of a_t.
  Then A_t = round(2**q a_t / n_t) and G_t = round(c n_t g_t / (2**q u)) are whole, and so is sum_t G_t A_t^T, which in
  steps of u stands for the gradient. With s = sum_t ||g_t|| n_t it is off by at most 0.51 sqrt(p) 2**-q c s (from A)
  plus 0.51 T sqrt(d) 2**q u (1 + sqrt(p) 2**-q) (from G): 0.5 for rounding, 0.01 for the doubles on the way. q is 18,
  less a quarter of log2 T, which balances the two. For an embedding a_t is a one, and nothing of it is rounded.

*Sensitivity.* Norms are computed in doubles, over-estimated as in `parts.py`; N is a patient's, over all parts. The
factor is

    c = min(1, (C (1 - 2**-28) - E) / (N + sum over ghosts of 0.51 sqrt(p) 2**-q s), 64 C / s for each ghost)

with E the sum over parts of what does not scale with c. So the whole vector measures at most c N + (what it is off by)
<= C (1 - 2**-28) (1 + rounding of N and c), and that rounding is below 2**-29 for fewer than 2**24 weights (as in
`privacy/gaussian.py`; what squares below the number range lose is below 1e-140): at most C. That is what the mechanism
assumes of one patient; its sensitivity needs no further term.

*No overflow.* |sum_t G_t A_t^T| is in no coordinate above (64 C / u + 0.51 T 2**q) 1.01 < 2**43.1 for one patient (E is
below C / 2, which bounds T), so `_PATIENTS_A_FLUSH` of them stay below 2**53; then the sum goes into 64-bit integers,
where 2**24 patients of at most 2**37 steps fit.

| case | result |
|---|---|
| a patient whose gradient, norm or s is not finite, or with more than `most_records` | counts as zero |
| nobody | zeros |
| more than one thread, or kernels that need not be deterministic | refused |
| a loss of one record that depends on other records, on made-up ones | refused, before any patient is read |
| a forward pass that draws random numbers (dropout) | refused: who is in a batch would decide who gets which |
| a shape in which places differ | only places like the first are taken: slower, as exact |
| layers too wide for the grid | refused, before any patient is read |

What is left to others: a model and losses that treat rows alike whatever they hold, from our own list.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fedhealth.privacy.gaussian import MAX_PATIENTS, GridGaussian
from fedhealth.training.book_keeping import Batch, BookKeeper, RecordLosses
from fedhealth.training.fixed_batches import FixedBatch, everybody_the_same, fixed_batches
from fedhealth.training.parts import Part, ghost_norms, lengths_of
from fedhealth.training.privacy_check import refuse_if_records_mix

_PATIENTS_A_FLUSH = 512
_INPUT_BITS = 18
_MOST_LENGTH = 64.0
_PROBED_RECORDS = 4


@dataclass
class ExactSummer:
    """Sums the clipped gradients of a model exactly; owns which shapes it has checked.

    Attributes:
        keeper: the model.
        mechanism: clip norm and grid; its dimension is the number of trainable weights.
        most_records: records of one patient, 1 or more; public.
        rows: rows of a physical batch, a power of two up to 512. With fewer than 64, what a layer writes need not be a
            whole number of vector registers; where the last numbers of the last row are then computed by other code,
            its place is not taken. Few are for records of many numbers, such as images.
        step: u, in the gradient's own unit.
    """

    keeper: BookKeeper
    mechanism: GridGaussian
    most_records: int
    rows: int = 64
    _alike: dict[tuple[object, ...], dict[int, NDArray[np.int64]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        size = sum(each.numel() for each in self.keeper.trainable)
        if size != self.mechanism.dimension:
            raise ValueError(f"the model has {size} trainable weights, the mechanism {self.mechanism.dimension}")
        if not (1 <= self.rows <= _PATIENTS_A_FLUSH and self.rows & (self.rows - 1) == 0):
            raise ValueError(f"rows must be a power of two from 1 to {_PATIENTS_A_FLUSH}, got {self.rows}")
        # clip / grid is f * 2**e with f in [0.5, 1), and so clip / step is f * 2**37.
        self._finer = 37 - math.frexp(self.mechanism.l2_clip_norm / self.mechanism.grid)[1]
        self.step = math.ldexp(self.mechanism.grid, -self._finer)

    def sum(
        self, losses: RecordLosses, batch: Batch, patients: NDArray[np.int64], patient_count: int
    ) -> tuple[NDArray[np.int64], int]:
        """Return the sum over patients of their clipped mean gradients, rounded to steps of the mechanism's grid.

        Args:
            losses: one loss per record.
            batch: tensors with the records first, on the model's device.
            patients: patient of each record, 0 to patient_count - 1, shape (records,), in any order.
            patient_count: number of patients, 0 to 2**24, those without records too.

        Returns:
            The sum, shape (d,), for `mechanism.add_noise`; and how many patients counted as zero, for the local journal
            only.

        Raises:
            ValueError: one of the module's refusals.
        """
        fine, zeroed = self.fine_sum(losses, batch, patients, patient_count)
        return self.rounded(fine), zeroed

    def rounded(self, fine: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a sum in steps u, rounded to steps of the mechanism's grid."""
        return (fine + (1 << (self._finer - 1))) >> self._finer

    @torch.no_grad()
    def fine_sum(
        self, losses: RecordLosses, batch: Batch, patients: NDArray[np.int64], patient_count: int
    ) -> tuple[NDArray[np.int64], int]:
        """Return the same in steps u, exactly, so that sums over parts of the patients add up."""
        fixed = torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        if torch.get_num_threads() != 1 or not fixed:
            raise ValueError("an exact sum needs one thread and deterministic kernels; call make_deterministic() first")
        if not 0 <= patient_count <= MAX_PATIENTS:
            raise ValueError(f"patient_count must be from 0 to {MAX_PATIENTS}, got {patient_count}")
        if patients.ndim != 1 or any(each.shape[:1] != patients.shape for each in batch):
            raise ValueError("batch and patients must have as many rows as there are records")
        first = self.keeper.trainable[0]
        whole = torch.zeros(self.mechanism.dimension, dtype=torch.int64, device=first.device)
        floating = torch.zeros(self.mechanism.dimension, dtype=torch.float64, device=first.device)
        parts, zeroed = fixed_batches(patients, patient_count, self.rows, self._alike_places(losses, batch))
        places = 0
        for part in parts:
            places += part.bucket.patients.stop
            if places > _PATIENTS_A_FLUSH:
                whole += floating.long()
                floating.zero_()
                places = part.bucket.patients.stop
            zeroed += self._add(losses, tuple(part.of(each) for each in batch), part, floating)
        whole += floating.long()
        return whole.cpu().numpy(), zeroed

    def _add(self, losses: RecordLosses, batch: Batch, part: FixedBatch, total: torch.Tensor) -> int:
        """Add a batch to the total, in steps; return how many of its patients were not finite."""
        contributions = self._contributions(losses, batch, part)
        factors, finite = self._factors(contributions)
        present = torch.from_numpy(part.taken).to(finite.device)
        factors, counted = factors.masked_fill(~(finite & present), 0.0), finite & present
        start = 0
        for parameter, each in zip(self.keeper.trainable, contributions, strict=True):
            own = total[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()
            for one in each:
                one.add_to(own, factors, counted)
        return int((present & ~finite).sum())

    def _contributions(self, losses: RecordLosses, batch: Batch, part: FixedBatch) -> "list[list[_Contribution]]":
        weights = torch.from_numpy(part.weights).to(self.keeper.trainable[0])
        parts = self.keeper.listen(losses, batch, [part.bucket], weights)
        return [[_contribution(one, part, self.step) for one in each] for each in parts]

    def _factors(self, contributions: "list[list[_Contribution]]") -> tuple[torch.Tensor, torch.Tensor]:
        """Return c for each patient, and whether it is finite."""
        every = [one for each in contributions for one in each]
        clip = self.mechanism.l2_clip_norm
        reach = clip * (1 - 2.0**-28) - sum(one.constant_error for one in every)
        if reach < clip / 2:
            raise ValueError("half of the clip norm would go to rounding: the model's layers are too wide for the grid")
        squares = torch.stack([one.norms.square() for one in every]).sum(0)
        length = squares.sqrt()
        for one in every:
            if one.lengths is not None:
                length = length + one.lengths * one.relative_error
        finite = torch.isfinite(length)
        factors = (reach / length).clamp(max=1.0)
        for one in every:
            if one.lengths is not None:
                factors = torch.minimum(factors, _MOST_LENGTH * clip / one.lengths)
        return factors, finite

    def _alike_places(self, losses: RecordLosses, batch: Batch) -> dict[int, NDArray[np.int64]]:
        """Return which places are alike in every shape that a patient could bring; no patient's record is read.

        Raises:
            ValueError: the model draws random numbers, or mixes records.
        """
        model = self.keeper.model
        modes = tuple(module.training for module in model.modules())
        key = (losses, modes, tuple((each.shape[1:], each.dtype, each.device) for each in batch))
        if key in self._alike:
            return self._alike[key]
        kept, state = [each.clone() for each in model.parameters()], torch.get_rng_state()
        shapes = [2**power for power in range((self.most_records - 1).bit_length() + 1)]
        alike = {rows: np.arange(max(1, self.rows // rows)) for rows in shapes}
        try:
            # Two orders of a sum often agree; of 2**14 numbers a place, or 32 patients' numbers, not all do. They must
            # be numbers that round: sums near one, not so large that functions flatten out at their ends.
            for trial in range(min(32, max(4, 2**14 // self.mechanism.dimension))):
                generator = np.random.default_rng(trial)
                for each in model.parameters():
                    if each.dim():
                        each.copy_(_made_up(len(each), each, generator) / math.sqrt(max(1, each[0].numel())))
                for rows in shapes:
                    alike[rows] = np.intersect1d(alike[rows], self._alike_places_of(losses, batch, rows, generator))
                if not torch.equal(state, torch.get_rng_state()):
                    raise ValueError("the forward pass draws random numbers: take dropout out, or call model.eval()")
                records = tuple(_made_up(_PROBED_RECORDS, each, generator) for each in batch)
                refuse_if_records_mix(model, losses, records)
        finally:
            for parameter, before in zip(model.parameters(), kept, strict=True):
                parameter.copy_(before)
        self._alike[key] = alike
        return alike

    def _alike_places_of(
        self, losses: RecordLosses, batch: Batch, rows_each: int, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Compute one made-up patient at every place; return the places whose every bit is that of the first."""
        part = everybody_the_same(rows_each, self.rows)
        made_up = tuple(part.of(_made_up(rows_each, each, generator)) for each in batch)
        contributions = self._contributions(losses, made_up, part)
        self._factors(contributions)
        same = np.ones(len(part.taken), dtype=np.bool_)
        for values in (values for each in contributions for one in each for values in one.computed()):
            rows = values.reshape(len(same), -1).contiguous().view(torch.uint8).view(len(same), -1)
            same &= (rows == rows[:1]).all(1).cpu().numpy()
        return np.flatnonzero(same)


@dataclass
class _Contribution:
    """One part in doubles.

    Attributes:
        norms: over-estimated norms, shape (patients,).
        lengths: s of a ghost, shape (patients,); None where the gradients are kept.
        relative_error: 0.51 sqrt(p) 2**-q, which s is multiplied with.
        constant_error: what rounding moves a patient by, whatever the factor; in the gradient's unit.
        values: what the sum is made of.
        add_to: adds the patients' whole steps to a parameter's, from factors and who counts.
    """

    norms: torch.Tensor
    lengths: torch.Tensor | None
    relative_error: float
    constant_error: float
    values: tuple[torch.Tensor, ...]
    add_to: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]

    def computed(self) -> list[torch.Tensor]:
        """Return all that is computed from a patient, with the patients' rows first."""
        return [self.norms, *self.values, *([] if self.lengths is None else [self.lengths])]


def _contribution(part: Part, batch: FixedBatch, step: float) -> _Contribution:
    if part.ghost is None:
        assert part.kept is not None  # noqa: S101 - no ghost, so it is kept
        return _of_kept(part.kept, step)
    a, g = part.ghost.rows()
    places = batch.bucket.patients.stop
    g = g.double().reshape(places, -1, g.shape[-1])
    if not a.is_floating_point():
        return _of_tokens(a.reshape(places, -1), g, step)
    return _of_ghost(a.double().reshape(places, -1, a.shape[-1]), g, batch, step)


def _of_kept(kept: torch.Tensor, step: float) -> _Contribution:
    rows = kept.flatten(1)

    def add_to(own: torch.Tensor, factors: torch.Tensor, counted: torch.Tensor) -> None:
        scaled = rows * (factors / step)[:, None]
        own += scaled.round_().masked_fill_(~counted[:, None], 0.0).sum(0).view(own.shape)

    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return _Contribution(norms, None, 0.0, 0.51 * math.sqrt(rows.shape[1]) * step, (rows,), add_to)


def _of_tokens(tokens: torch.Tensor, g: torch.Tensor, step: float) -> _Contribution:
    """Each position adds g to its token's row, as if a were one there: nothing of a is rounded."""
    equal = (tokens[:, :, None] == tokens[:, None, :]).double()
    norms = _raised(equal, g, g.new_ones(tokens.shape))

    def add_to(own: torch.Tensor, factors: torch.Tensor, counted: torch.Tensor) -> None:
        scaled = (g * (factors / step)[:, None, None]).round_().masked_fill_(~counted[:, None, None], 0.0)
        own.index_add_(0, tokens.reshape(-1), scaled.flatten(0, 1))

    error = 0.51 * g.shape[1] * math.sqrt(g.shape[2]) * step
    return _Contribution(norms, lengths_of(g).sum(1), 0.0, error, (tokens, g), add_to)


def _raised(gram: torch.Tensor, g: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return norms from the products of the a, raised by their rounding as in `parts.py`."""
    gamma = (g.shape[2] + 2 * g.shape[1] + 8) * torch.finfo(g.dtype).eps
    bound = gamma * (lengths_of(g) * lengths).sum(1).square()
    return (gram.mul_(g @ g.transpose(1, 2)).sum(2).sum(1).clamp_(min=0) + bound).sqrt()


def _of_ghost(a: torch.Tensor, g: torch.Tensor, batch: FixedBatch, step: float) -> _Contribution:
    sequence, inputs, outputs = a.shape[1], a.shape[2], g.shape[2]
    scale = 2.0 ** (_INPUT_BITS - round(math.log2(sequence) / 4))
    lengths_a = lengths_of(a)
    one_row = batch.bucket._replace(records=batch.bucket.patients, records_each=1)
    norms = ghost_norms(a, g, [one_row])
    unit = a / lengths_a[:, :, None]

    def add_to(own: torch.Tensor, factors: torch.Tensor, counted: torch.Tensor) -> None:
        rows = g * ((factors / (scale * step))[:, None] * lengths_a)[:, :, None]
        rows = rows.round_().masked_fill_(~counted[:, None, None], 0.0).flatten(0, 1)
        columns = (unit * scale).round_().masked_fill_(~counted[:, None, None], 0.0).flatten(0, 1)
        own.view(outputs, inputs).addmm_(rows.t(), columns)

    relative = 0.51 * math.sqrt(inputs) / scale
    constant = 0.51 * sequence * math.sqrt(outputs) * scale * step * (1 + math.sqrt(inputs) / scale)
    lengths = (lengths_of(g) * lengths_a).sum(1)
    return _Contribution(norms, lengths, relative, constant, (a, g, unit), add_to)


def _made_up(rows: int, like: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Return so many rows like those of a tensor, from nobody: normal, or zeros where it holds whole numbers."""
    shape = (rows, *like.shape[1:])
    if not like.is_floating_point():
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    return torch.from_numpy(generator.standard_normal(shape)).to(like)
