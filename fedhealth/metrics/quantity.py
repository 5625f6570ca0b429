"""How well a quantity is predicted: from noisy histograms of the errors, and of the quantity itself.

A patient is shared between the two knots next to the patient's value, so that the mean of the knots is the value
("linear binning"; Jones and Lotwick, Applied Statistics 1984). A mean of anything that is straight between knots, such
as the error or, with a knot at 0, the absolute error, is then exact. A mean of squares comes out too large, by
f (1 - f) h^2 for a patient at the fraction f of a step h: at most h^2 / 4, and h^2 / 6 where fractions are spread
evenly. An estimate takes h^2 / 6 off; an interval holds the truth whatever the fractions are.

A patient on two knots adds to a variance at most what a patient on one does, so intervals are on the safe side.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from fedhealth.metrics.estimate import Estimate, Quadratic, estimate_of
from fedhealth.metrics.noisy_cells import NoisyCells, mean_of

_MEAN_EXCESS, _MOST_EXCESS = 1 / 6, 1 / 4
"""Of h^2: what shared patients add to a mean of squares."""


@dataclass(frozen=True)
class KnotHistogram:
    """Noisy numbers of patients by value, at knots that divide [-1, 1] evenly.

    Attributes:
        counts: from the knot at -1 to the one at 1; may be negative. For errors an odd number, so that 0 is a knot.
        noise_sd: standard deviation of the noise of each count, >= 0.
    """

    counts: tuple[float, ...]
    noise_sd: float

    @property
    def step(self) -> float:
        """Distance between knots."""
        return 2 / (len(self.counts) - 1)

    @cached_property
    def knots(self) -> list[float]:
        """The values."""
        steps = len(self.counts) - 1
        return [(2 * number - steps) / steps for number in range(steps + 1)]

    @property
    def cells(self) -> NoisyCells:
        """The counts."""
        return NoisyCells(self.counts, self.noise_sd)

    def mean(self) -> Estimate | None:
        """Return the mean value; None where the noise leaves nothing to say."""
        return mean_of(self.cells, self.knots)

    def mean_absolute(self) -> Estimate | None:
        """Return the mean absolute value."""
        return mean_of(self.cells, [abs(knot) for knot in self.knots])

    def root_mean_square(self) -> Estimate | None:
        """Return the root of the mean square."""
        found, square = mean_of(self.cells, [knot * knot for knot in self.knots]), self.step**2
        if found is None:
            return None
        return Estimate(
            math.sqrt(max(found.estimate - _MEAN_EXCESS * square, 0.0)),
            math.sqrt(max(found.low - _MOST_EXCESS * square, 0.0)),
            math.sqrt(found.high),
        )


def share_explained(errors: KnotHistogram, values: KnotHistogram, largest: float) -> Estimate | None:
    """Return R^2: 1 less the ratio of the errors' squares to those of the values' distances from their mean.

    The mean is the noisy one; that it is a little off does not move the sum of squares to first order. The covariance
    of a patient's two squares is left out of the variance, which is too large then, never too small.

    Args:
        errors: of the patients' predictions.
        values: of the same patients' quantity.
        largest: what an error of 1 is, in the unit of the values.

    Returns:
        None where the noise leaves nothing to say, or the values do not differ clearly.
    """
    mean = values.mean()
    if mean is None or errors.mean() is None:
        return None
    of_errors = [largest * largest * knot * knot for knot in errors.knots]
    of_values = [(knot - mean.estimate) ** 2 for knot in values.knots]
    spread = mean_of(values.cells, of_values)
    none = [0.0] * len(of_errors), [0.0] * len(of_values)
    found = estimate_of(
        errors.cells.sum_of(of_errors),
        values.cells.sum_of(of_values),
        Quadratic(
            errors.cells.variance_of(of_errors, none[0]).constant,
            0.0,
            values.cells.variance_of(none[1], of_values).square,
        ),
        0.0,
        math.inf,
    )
    hidden_errors, hidden_values = (largest * errors.step) ** 2, values.step**2
    if found is None or spread is None or spread.low <= _MOST_EXCESS * hidden_values:
        return None
    most = found.high / (1 - _MOST_EXCESS * hidden_values / spread.low)
    least = found.low - _MOST_EXCESS * hidden_errors / spread.low
    unexplained = (found.estimate - _MEAN_EXCESS * hidden_errors / spread.estimate) / (
        1 - _MEAN_EXCESS * hidden_values / spread.estimate
    )
    return Estimate(1 - min(max(unexplained, least, 0.0), most), 1 - most, min(1 - least, 1.0))
