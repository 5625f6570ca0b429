"""A proportion from two noisy counts, with an interval that covers the patients' chance and the noise.

Given c = C + noise and w = W + noise, where C of C + W patients are as the metric wants them, and independent noise
of standard deviation s each. For the true proportion p, c (1 - p) - w p has mean 0 and variance
n p (1 - p) + s^2 ((1 - p)^2 + p^2). The interval is every p that this does not contradict at 95 %: Wilson's, with the
noise inside. n is estimated by c + w; only noisy counts and public figures are used.
"""

from fedhealth.metrics.estimate import Estimate
from fedhealth.metrics.noisy_cells import NoisyCells, share_of


def proportion_of(wanted: float, other: float, noise_sd: float) -> Estimate | None:
    """Return the proportion of `wanted` in both, or None where the noise leaves nothing to say.

    Args:
        wanted: noisy count of those the metric wants; may be negative.
        other: noisy count of the others; may be negative.
        noise_sd: standard deviation of the noise of each count, >= 0.

    Example:
        >>> round(proportion_of(80, 20, 0.0).half_width, 3)
        0.078
    """
    return share_of(NoisyCells((wanted, other), noise_sd), (1.0, 0.0), (1.0, 1.0))
