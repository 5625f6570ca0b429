"""A proportion from two noisy counts, with an interval that covers the patients' chance and the noise.

Given c = C + noise and w = W + noise, where C of C + W patients are as the metric wants them, and independent noise
of standard deviation s each. For the true proportion p, c (1 - p) - w p has mean 0 and variance
n p (1 - p) + s^2 ((1 - p)^2 + p^2). The interval is every p that this does not contradict at 95 %: a score
interval, as Wilson's, with the noise inside. n is estimated by c + w; only noisy counts and public figures are used.

Sources: Wilson, JASA 1927; Fieller, JRSS B 1954 (a ratio of two noisy quantities).
"""

import math
from dataclasses import dataclass

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Proportion:
    """An estimate and its 95 % interval, all in [0, 1]."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2


def proportion_of(wanted: float, other: float, noise_sd: float) -> Proportion | None:
    """Return the proportion of `wanted` in both, or None where the noise leaves nothing to say.

    Args:
        wanted: noisy count of those the metric wants; may be negative.
        other: noisy count of the others; may be negative.
        noise_sd: standard deviation of the noise of each count, >= 0.

    Example:
        >>> round(proportion_of(80, 20, 0.0).half_width, 3)
        0.078
    """
    total = wanted + other
    if total < 1:
        return None
    # (c - n p)^2 <= z^2 (n p (1 - p) + s^2 (1 - 2p + 2p^2)), as a p^2 - 2 b p + d <= 0.
    z_squared, variance = Z95 * Z95, noise_sd * noise_sd
    a = total * total + z_squared * total - 2 * z_squared * variance
    b = wanted * total + z_squared * (total / 2 - variance)
    d = wanted * wanted - z_squared * variance
    inside = b * b - a * d
    if a <= 0 or inside < 0:
        return None
    low, high = (b - math.sqrt(inside)) / a, (b + math.sqrt(inside)) / a
    if high <= 0 or low >= 1:
        return None
    return Proportion(min(max(wanted / total, 0.0), 1.0), max(low, 0.0), min(high, 1.0))
