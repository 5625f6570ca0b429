"""The mean over patients of a value that their cell decides, from the cells' noisy counts.

Brier score, net benefit and the gap between predicted and observed are all of this form: a patient in cell i counts
w_i, and the metric is x = sum w_i N_i / sum N_i. At the true x, sum (w_i - x) n_i has mean 0 and variance
sum (w_i - x)^2 (N_i + s^2): N_i for the patients' chance (cells of a multinomial; the covariance drops out at the true
x), s^2 for the noise. The interval is Fieller's.

N_i is not known. In the variance, a noisy count stands for it, at least 0, and z^2 patients more, spread evenly over
the cells, so that cells in which nobody was seen do not count as impossible (Agresti and Coull, The American
Statistician 1998, do so for two cells). In the estimate the counts stand as released, negative ones too: cutting them
at 0 would move every sum upwards.
"""

import math
from collections.abc import Sequence

from fedhealth.metrics.estimate import Z95, Estimate, Quadratic, estimate_of, is_clear


def weighted_mean_of(counts: Sequence[float], weights: Sequence[float], noise_sd: float) -> Estimate | None:
    """Return the mean weight of a patient, or None where the noise leaves nothing to say.

    Args:
        counts: noisy number of patients in each cell; may be negative. A patient is in one cell.
        weights: what a patient in each cell counts.
        noise_sd: standard deviation of the noise of each count, >= 0.

    Example:
        >>> weighted_mean_of([30.0, 10.0], [0.0, 1.0], 0.0).estimate
        0.25
    """
    total = math.fsum(counts)
    if not is_clear(total, math.sqrt(len(counts)) * noise_sd):
        return None
    variances = cell_variances(counts, noise_sd)
    return estimate_of(
        math.fsum(weight * count for weight, count in zip(weights, counts, strict=True)),
        total,
        Quadratic(
            math.fsum(weight * weight * variance for weight, variance in zip(weights, variances, strict=True)),
            -math.fsum(weight * variance for weight, variance in zip(weights, variances, strict=True)),
            math.fsum(variances),
        ),
        min(weights),
        max(weights),
    )


def cell_variances(counts: Sequence[float], noise_sd: float) -> list[float]:
    """Return the variance of each noisy count, of the patients' chance and the noise; see the module."""
    unseen = Z95 * Z95 / len(counts)
    return [max(count, 0.0) + unseen + noise_sd * noise_sd for count in counts]
