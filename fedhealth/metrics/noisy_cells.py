"""Noisy counts of patients by cell, and what they say of a proportion or a mean.

A patient is in one cell. A metric x is a ratio of two sums over cells, sum u_c N_c / sum v_c N_c; at the true x the sum
of d_c n_c, with d = u - x v, has mean 0. Its variance is the patients' chance, sum d_c^2 N_c (cells of a multinomial;
the covariance drops out at the true x), and the noise, of covariance C: d C d. The interval is `estimate_of`'s.

N_c is not known. In the variance of a mean, a noisy count stands for it, at least 0, and z^2 patients more, spread
evenly over the cells, so that cells in which nobody was seen do not count as impossible (Agresti and Coull, The
American Statistician 1998, do so for two cells). In the estimate the counts stand as released, negative ones too:
cutting them at 0 would move every sum upwards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedhealth.metrics.estimate import Z95, Estimate, Quadratic, estimate_of, is_clear


@dataclass(frozen=True)
class NoisyCells:
    """Counts with noise of the same standard deviation each, perhaps less in the sums of groups of neighbours.

    The noise of cells c and e has covariance noise_sd^2 (1{c = e} - known / m) within a group of m cells, and none
    between groups: what is left where a group's sum was measured a second time (`ScoreHistogram.with_table`).

    Attributes:
        counts: may be negative.
        noise_sd: standard deviation of the noise of each count as released, >= 0.
        group: number of cells in a group; a divisor of the number of cells.
        known: the part of the variance of a group's sum that the second measurement took away, in [0, 1].
    """

    counts: tuple[float, ...]
    noise_sd: float
    group: int = 1
    known: float = 0.0

    def sum_of(self, weights: Sequence[float]) -> float:
        """Return the weighted sum of the counts."""
        return math.fsum(weight * count for weight, count in zip(weights, self.counts, strict=True))

    def covariance(self, one: Sequence[float], other: Sequence[float]) -> float:
        """Return the covariance that the noise gives two weighted sums of the counts."""
        alike = math.fsum(a * b for a, b in zip(one, other, strict=True))
        sums = (
            math.fsum(one[start : start + self.group]) * math.fsum(other[start : start + self.group])
            for start in range(0, len(one), self.group)
        )
        return self.noise_sd**2 * (alike - self.known / self.group * math.fsum(sums))

    def is_clear(self, weights: Sequence[float]) -> bool:
        """Say whether a sum of counts is clearly more than noise."""
        return is_clear(self.sum_of(weights), math.sqrt(max(self.covariance(weights, weights), 0.0)))

    def noise_of(self, u: Sequence[float], v: Sequence[float]) -> Quadratic:
        """Return the variance that the noise gives sum (u - x v) n, for every x."""
        return Quadratic(self.covariance(u, u), -self.covariance(u, v), self.covariance(v, v))

    def variance_of(self, u: Sequence[float], v: Sequence[float]) -> Quadratic:
        """Return the variance of sum (u - x v) n, of the patients' chance and the noise, for every x."""
        unseen = Z95 * Z95 / len(self.counts)
        patients = [max(count, 0.0) + unseen for count in self.counts]
        noise = self.noise_of(u, v)
        return Quadratic(
            noise.constant + math.fsum(a * a * each for a, each in zip(u, patients, strict=True)),
            noise.linear - math.fsum(a * b * each for a, b, each in zip(u, v, patients, strict=True)),
            noise.square + math.fsum(b * b * each for b, each in zip(v, patients, strict=True)),
        )


def mean_of(cells: NoisyCells, weights: Sequence[float]) -> Estimate | None:
    """Return the mean weight of a patient, or None where the noise leaves nothing to say.

    Args:
        cells: all patients.
        weights: what a patient in each cell counts.

    Example:
        >>> mean_of(NoisyCells((30.0, 10.0), 0.0), [0.0, 1.0]).estimate
        0.25
    """
    everybody = [1.0] * len(weights)
    if not cells.is_clear(everybody):
        return None
    total = cells.sum_of(everybody)
    return estimate_of(cells.sum_of(weights), total, cells.variance_of(weights, everybody), min(weights), max(weights))


def share_of(cells: NoisyCells, wanted: Sequence[float], among: Sequence[float]) -> Estimate | None:
    """Return the share of the patients in some cells among those in some more, as `proportion_of` does for two counts.

    Args:
        cells: all patients.
        wanted: 1 for each cell of those the metric wants, else 0.
        among: 1 for each cell of those it looks at, else 0.
    """
    if not cells.is_clear(among):
        return None
    total, noise = cells.sum_of(among), cells.noise_of(wanted, among)
    variance = Quadratic(noise.constant, noise.linear + total / 2, noise.square - total)
    return estimate_of(cells.sum_of(wanted), total, variance, 0.0, 1.0)
