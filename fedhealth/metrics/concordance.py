"""How well predicted risks order the times of events: Harrell's concordance index, from counts of patients in cells.

A patient is in one cell: a bin of predicted risk, and where follow-up ended: with the event in one of K intervals,
without it (censored) in one of them, or free of it at the horizon. Of two patients the intervals order those of whom
one had the event in an earlier interval than the one in which the other's follow-up ended. Such a pair counts 1 where
the earlier event has the higher bin, 1/2 where both are in one bin, else 0 (Harrell et al., JAMA 1982).

What the cells hide, and `binning` bounds: a pair in one bin counts half, so that the exact risks may give half the
share of those pairs more or less; and a pair in one interval, of which one had the event, does not count although
exact times may order it. If such pairs are a share h of all that exact times could order, the index moves by at most h
times what lies between it and the far end of [0, 1]. Both shares are taken at the upper ends of their own intervals.

At the true index x, the sum over pairs of cells (e, f) of N_e N_f c_ef (w_ef - x) has mean 0 (c is 1 where the
intervals order an event in e before f, w is 1, 1/2 or 0). It is a U-statistic: to first order a patient in cell c moves
it by g_c = sum_f N_f (q_cf + q_fc) with q = c (w - x), so its variance is that of sum g_c n_c, of the patients' chance
and the noise. As in `discrimination`, noisy counts in the place of N make the noise's part too large by twice the
second-order term of the noise, which is left away for that: the variance stays on the safe side.

Events are few and cells many, so that counts of survivors carry most of the noise; `Estimate` is withheld where the
number of ordered pairs is not clearly more than noise.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedhealth.metrics.estimate import Estimate, Quadratic, estimate_of, is_clear
from fedhealth.metrics.histogram import Binned
from fedhealth.metrics.noisy_cells import NoisyCells

Rows = tuple[tuple[float, ...], ...]
"""One row a bin of risk, lowest first; one number an interval."""


@dataclass(frozen=True)
class SurvivalHistogram:
    """Noisy numbers of patients by predicted risk and by where their follow-up ended.

    Attributes:
        events: patients with the event, by bin of risk (lowest first) and interval; may be negative.
        censored: patients whose follow-up ended without it, by the same.
        free: patients without the event at the horizon, by bin.
        noise_sd: standard deviation of the noise of each count, >= 0.
    """

    events: Rows
    censored: Rows
    free: tuple[float, ...]
    noise_sd: float

    @property
    def intervals(self) -> int:
        """Number of intervals up to the horizon."""
        return len(self.events[0])

    @property
    def cells(self) -> NoisyCells:
        """Each bin in turn: its events, its censored, and who is free of the event."""
        return NoisyCells(tuple(self._flat(self.events, self.censored, self.free)), self.noise_sd)

    def ended_after(self) -> list[list[float]]:
        """Return, by bin and interval, the patients whose follow-up ended in a later interval or at the horizon."""
        found = []
        for events, censored, free in zip(self.events, self.censored, self.free, strict=True):
            row, later = [0.0] * self.intervals, free
            for at in reversed(range(self.intervals)):
                row[at] = later
                later += events[at] + censored[at]
            found.append(row)
        return found

    def happened_before(self) -> list[list[float]]:
        """Return, by bin and interval, the events in earlier intervals; the last column is those of all intervals."""
        found = []
        for events in self.events:
            row = [0.0]
            for count in events:
                row.append(row[-1] + count)
            found.append(row)
        return found

    def pairs(self, share: Sequence[Sequence[float]]) -> "_Pairs":
        """Return the ordered pairs, each weighted by `share[bin of the event][bin of the other]`."""
        after, before = self.ended_after(), self.happened_before()
        as_event = [
            [math.fsum(w * row[at] for w, row in zip(weights, after, strict=True)) for at in range(self.intervals)]
            for weights in share
        ]
        as_other = [
            [
                math.fsum(weights[own] * row[at] for weights, row in zip(share, before, strict=True))
                for at in range(self.intervals + 1)
            ]
            for own in range(len(self.events))
        ]
        total = math.fsum(
            count * faced
            for counts, row in zip(self.events, as_event, strict=True)
            for count, faced in zip(counts, row, strict=True)
        )
        moved = self._flat(
            [[a + b for a, b in zip(one, other, strict=False)] for one, other in zip(as_event, as_other, strict=True)],
            [row[:-1] for row in as_other],
            [row[-1] for row in as_other],
        )
        return _Pairs(total, moved)

    @staticmethod
    def _flat(
        events: Sequence[Sequence[float]], censored: Sequence[Sequence[float]], free: Sequence[float]
    ) -> list[float]:
        rows = zip(events, censored, free, strict=True)
        return [number for one, other, last in rows for number in (*one, *other, last)]


@dataclass(frozen=True)
class _Pairs:
    """A weighted number of pairs, and by how much one patient more in each cell moves it."""

    total: float
    moved: list[float]


def concordance_of(histogram: SurvivalHistogram) -> Binned:
    """Return the concordance index of the binned risks and times, with what the cells may hide of it.

    Example:
        >>> two_bins = SurvivalHistogram(((0.0, 0.0), (100.0, 0.0)), ((0.0, 0.0), (0.0, 0.0)), (100.0, 0.0), 0.0)
        >>> concordance_of(two_bins).value.estimate
        1.0
    """
    bins = range(len(histogram.events))
    everyone = histogram.pairs([[1.0 for _ in bins] for _ in bins])
    noise = histogram.cells.covariance(everyone.moved, everyone.moved)
    if not is_clear(everyone.total, math.sqrt(noise)):
        return Binned(None, 1.0)
    won = histogram.pairs([[(own > other) + (own == other) / 2 for other in bins] for own in bins])
    value = _share(histogram, won, everyone)
    if value is None:
        return Binned(None, 1.0)
    tied = _share(histogram, histogram.pairs([[float(own == other) for other in bins] for own in bins]), everyone)
    far = max(value.high, 1 - value.low)
    return Binned(value, min(1.0, (tied.high / 2 if tied else 0.5) + far * _hidden_share(histogram, everyone)))


def _share(histogram: SurvivalHistogram, some: _Pairs, everyone: _Pairs) -> Estimate | None:
    variance = histogram.cells.variance_of(some.moved, everyone.moved)
    return estimate_of(some.total, everyone.total, variance, 0.0, 1.0)


def _hidden_share(histogram: SurvivalHistogram, ordered: _Pairs) -> float:
    """Return at most which share of the pairs that exact times might order are in one interval."""
    pairs, moved_event, moved_censored = 0.0, [], []
    for at in range(histogram.intervals):
        events = math.fsum(row[at] for row in histogram.events)
        censored = math.fsum(row[at] for row in histogram.censored)
        pairs += events * (events / 2 + censored)
        moved_event.append(events + censored)
        moved_censored.append(events)
    bins = len(histogram.events)
    moved = histogram._flat([moved_event] * bins, [moved_censored] * bins, [0.0] * bins)
    together = _Pairs(pairs + ordered.total, [one + other for one, other in zip(moved, ordered.moved, strict=True)])
    share = estimate_of(
        pairs, together.total, histogram.cells.variance_of(moved, together.moved), 0.0, 1.0
    )  # of x: pairs - x (pairs + ordered) has mean 0, and is moved by a patient as the two are
    return share.high if share else 1.0


def observed_to_expected(observed: float, expected: float, observed_sd: float, expected_sd: float) -> Estimate | None:
    """Return the events that happened over those a model expected of the same patients, or None if noise hides it.

    A patient's expected events are the cumulative hazard that the model gives the patient up to the end of the own
    follow-up, so that early censoring needs no assumption: where hazards are x times the model's, observed less x
    expected is a martingale at its end, with mean 0 and variance x times expected. The interval is every x that
    (O - x E)^2 <= z^2 (x E + noise) allows, with the noise of both sums.

    Args:
        observed: noisy number of events; may be negative.
        expected: noisy sum of expected events.
        observed_sd: standard deviation of the noise of the first, >= 0.
        expected_sd: of the second.

    Source: Berry, Biometrics 1983 (the ratio); Crowson, Atkinson and Therneau, Statistical Methods in Medical Research
    2016 (as a measure of calibration).

    Example:
        >>> observed_to_expected(90.0, 100.0, 0.0, 0.0).estimate
        0.9
    """
    if not is_clear(expected, expected_sd):
        return None
    variance = Quadratic(observed_sd**2, expected / 2, expected_sd**2)
    return estimate_of(observed, expected, variance, 0.0, math.inf)
