"""The histogram of a model's scores for ill and well patients: all that is known of the scores."""

from dataclasses import dataclass

from fedhealth.metrics.estimate import Estimate


@dataclass(frozen=True)
class ScoreHistogram:
    """Noisy numbers of patients by predicted chance, in bins of equal width over [0, 1].

    Attributes:
        ill: patients who have the condition, lowest bin first; may be negative.
        well: those who have not.
        noise_sd: standard deviation of the noise of each count, >= 0.
    """

    ill: tuple[float, ...]
    well: tuple[float, ...]
    noise_sd: float

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


@dataclass(frozen=True)
class Binned:
    """A figure from binned scores.

    Attributes:
        value: the figure with every score in the middle of its bin; None where the noise leaves nothing to say.
        binning: the figure of the exact scores is at most so far from the one of the binned.
    """

    value: Estimate | None
    binning: float
