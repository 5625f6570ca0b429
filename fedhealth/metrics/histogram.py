"""The histogram of a model's scores for ill and well patients: all that is known of the scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from fedhealth.metrics.estimate import Estimate
from fedhealth.metrics.noisy_cells import NoisyCells


@dataclass(frozen=True)
class ScoreHistogram:
    """Noisy numbers of patients by predicted chance, in an even number of bins of equal width over [0, 1].

    Attributes:
        ill: patients who have the condition, lowest bin first; may be negative.
        well: those who have not.
        noise_sd: standard deviation of the noise of each count as released, >= 0.
        known: as in `NoisyCells`, of the sum of either half of the bins.
    """

    ill: tuple[float, ...]
    well: tuple[float, ...]
    noise_sd: float
    known: float = 0.0

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.ill)

    @property
    def middles(self) -> list[float]:
        """The predicted chance in the middle of each bin."""
        return [(number + 0.5) / self.bins for number in range(self.bins)]

    @property
    def thresholds(self) -> list[float]:
        """The edges between bins: the only thresholds about which anything is known."""
        return [number / self.bins for number in range(1, self.bins)]

    @property
    def cells(self) -> NoisyCells:
        """All bins of ill patients, then of well ones."""
        return NoisyCells(self.ill + self.well, self.noise_sd, self.bins // 2, self.known)

    def with_table(self, table: Sequence[float], table_noise_sd: float) -> Self:
        """Return this histogram after a confusion table of the same patients has told the sums of its halves again.

        Each half's sum and the table's cell are two measurements of one number. The sum becomes their mean, weighted
        by how little noise each has, and its bins share the difference evenly: the least squares estimate, as in Hay
        et al., PVLDB 2010. It is made of released numbers alone and costs no privacy.

        Args:
            table: true positives, false positives, true negatives, false negatives; called ill is a chance above 0.5.
            table_noise_sd: standard deviation of the noise of each, >= 0.
        """
        half = self.bins // 2
        bins_noise = half * self.noise_sd**2
        known = bins_noise / (bins_noise + table_noise_sd**2) if bins_noise > 0 else 0.0
        found, alarmed, spared, missed = table

        def told(counts: Sequence[float], cell: float) -> list[float]:
            share = known * (cell - math.fsum(counts)) / half
            return [count + share for count in counts]

        return type(self)(
            tuple(told(self.ill[:half], missed) + told(self.ill[half:], found)),
            tuple(told(self.well[:half], spared) + told(self.well[half:], alarmed)),
            self.noise_sd,
            known,
        )

    def table(self) -> tuple[float, float, float, float]:
        """Return the confusion table at 0.5: true positives, false positives, true negatives, false negatives."""
        half = self.bins // 2
        found, alarmed = math.fsum(self.ill[half:]), math.fsum(self.well[half:])
        return found, alarmed, math.fsum(self.well[:half]), math.fsum(self.ill[:half])

    @property
    def table_noise_sd(self) -> float:
        """Standard deviation of the noise of each cell of `table`."""
        return self.noise_sd * math.sqrt(self.bins // 2 * (1 - self.known))


@dataclass(frozen=True)
class Binned:
    """A figure from binned scores.

    Attributes:
        value: the figure with every score in the middle of its bin; None where the noise leaves nothing to say.
        binning: the figure of the exact scores is at most so far from the one of the binned.
    """

    value: Estimate | None
    binning: float
