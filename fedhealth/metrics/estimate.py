"""An estimate with its 95 % interval, and how such an interval follows from a statistic that is linear in it.

Every metric here is the x at which some statistic T(x) = u - x v of noisy counts has mean 0. Its interval is every x
that the counts do not contradict, T(x)^2 <= z^2 Var T(x): a score interval. The variance holds the patients' chance and
the noise, whose scale is public. It is a quadratic in x, so the ends are the roots of one; where v itself may be 0, the
set is not an interval, and nothing is said.

Nothing is said either where a number of patients is less than `CLEAR` standard deviations of its noise. Such a number
is stated mostly when the noise made it too large, and among those that are stated, intervals would then hold the truth
less often than they say (`benchmarks/intervals.py` counts).

Sources: Wilson, JASA 1927 (a proportion); Fieller, JRSS B 1954 (a ratio of two noisy quantities).
"""

import math
from dataclasses import dataclass

Z95 = 1.959963984540054

CLEAR = 4
"""A noisy number of patients says something from so many standard deviations of its noise on."""


@dataclass(frozen=True)
class Estimate:
    """An estimate and its 95 % interval.

    Attributes:
        estimate: the value the counts point to.
        low: lower end.
        high: upper end.
    """

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Quadratic:
    """The variance of T(x), as constant + 2 linear x + square x^2."""

    constant: float
    linear: float
    square: float


def is_clear(patients: float, noise_sd: float) -> bool:
    """Say whether a noisy number of patients is at least 1, and clearly more than noise.

    Args:
        patients: may be negative.
        noise_sd: standard deviation of its noise, >= 0.
    """
    return patients >= max(1.0, CLEAR * noise_sd)


def estimate_of(u: float, v: float, variance: Quadratic, lowest: float, highest: float) -> Estimate | None:
    """Return u / v with the interval of all x at which (u - x v)^2 is at most z^2 variance(x), or None.

    Args:
        u: at the true x, has mean x times that of v.
        v: what u is compared with; above 0 where there is something to say.
        variance: of u - x v.
        lowest: no metric of this kind is smaller.
        highest: nor larger.

    Returns:
        None where v is not clearly above 0, or the interval lies outside what is possible.
    """
    z_squared = Z95 * Z95
    a = v * v - z_squared * variance.square
    b = u * v + z_squared * variance.linear
    c = u * u - z_squared * variance.constant
    inside = b * b - a * c
    if v <= 0 or a <= 0 or inside < 0:
        return None
    low, high = (b - math.sqrt(inside)) / a, (b + math.sqrt(inside)) / a
    if high <= lowest or low >= highest:
        return None
    return Estimate(min(max(u / v, lowest), highest), max(low, lowest), min(high, highest))
