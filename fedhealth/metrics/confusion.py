"""A noisy confusion table of several classes: accuracy, each class's sensitivity and precision, and their means.

Sensitivities of different classes rest on different rows of the table, precisions on different columns: on different
patients and different noise. So a mean of them has an interval that follows from theirs, each end from the distances of
the parts' own ends, which keeps intervals that are not symmetrical (MOVER: Zou and Donner, Statistics in Medicine
2008): mean p_i - sqrt(sum (p_i - low_i)^2) / k, and likewise above.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedhealth.metrics.estimate import Estimate
from fedhealth.metrics.noisy_cells import NoisyCells, share_of


@dataclass(frozen=True)
class ConfusionTable:
    """Noisy numbers of patients.

    Attributes:
        counts: a row for each true class, with a number for each class that they are called; may be negative.
        noise_sd: standard deviation of the noise of each count, >= 0.
    """

    counts: tuple[tuple[float, ...], ...]
    noise_sd: float

    def accuracy(self) -> Estimate | None:
        """Return the share of patients who are called what they are; None where the noise leaves nothing to say."""
        places = range(len(self.counts))
        right = [float(true == called) for true in places for called in places]
        return share_of(NoisyCells(tuple(sum(self.counts, ())), self.noise_sd), right, [1.0] * len(right))

    def sensitivity(self, place: int) -> Estimate | None:
        """Return the share of a class's patients who are called so."""
        return self._share(self.counts[place], place)

    def precision(self, place: int) -> Estimate | None:
        """Return the share of those who are called a class who are in it."""
        return self._share([row[place] for row in self.counts], place)

    def mean_sensitivity(self) -> Estimate | None:
        """Return the mean of all classes' sensitivities; None where one of them is not known."""
        return mean_of_estimates([self.sensitivity(place) for place in range(len(self.counts))])

    def mean_precision(self) -> Estimate | None:
        """Return the mean of all classes' precisions; None where one of them is not known."""
        return mean_of_estimates([self.precision(place) for place in range(len(self.counts))])

    def _share(self, counts: Sequence[float], place: int) -> Estimate | None:
        wanted = [float(number == place) for number in range(len(counts))]
        return share_of(NoisyCells(tuple(counts), self.noise_sd), wanted, [1.0] * len(counts))


def mean_of_estimates(parts: Sequence[Estimate | None]) -> Estimate | None:
    """Return the mean of independent estimates, with its interval; None where one of them is not known.

    Example:
        >>> mean_of_estimates([Estimate(0.5, 0.2, 0.8), Estimate(0.5, 0.1, 0.9)])
        Estimate(estimate=0.5, low=0.25, high=0.75)
    """
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not known:
        return None
    mean = math.fsum(part.estimate for part in known) / len(known)
    below = math.hypot(*(part.estimate - part.low for part in known)) / len(known)
    above = math.hypot(*(part.high - part.estimate for part in known)) / len(known)
    return Estimate(mean, mean - below, mean + above)
