"""Whether predicted chances come true: observed rates by bin, their mean gap, and the Brier score.

A patient's predicted chance is known up to its bin, and counts as the middle of it. How far the figure of the exact
chances can be from that is stated beside each figure (`binning`), as a bound: the mean gap moves by at most half a bin
width h; of the Brier score (Brier, Monthly Weather Review 1950), |(p - y)^2 - (m - y)^2| <= h (2 |m - y| + h) for every
patient with chance p in the bin with middle m and outcome y, and the bound is the upper end of the mean of that.

Stated: calibration in the large and by bin (Van Calster et al., Journal of Clinical Epidemiology 2016, calls these mean
and moderate calibration). Not stated: the expected calibration error, because a mean of absolute gaps grows with the
noise even where every gap is 0; and the calibration slope, which rests on how far out the scores of the two outer bins
lie, of which counts say nothing.
"""

from fedhealth.metrics.estimate import Estimate
from fedhealth.metrics.histogram import Binned, ScoreHistogram
from fedhealth.metrics.noisy_cells import mean_of, share_of


def observed_rates(scores: ScoreHistogram) -> list[Estimate | None]:
    """Return the share of ill patients in each bin, lowest first; None where the noise leaves nothing to say."""
    rates, none = [], [0.0] * scores.bins
    for number in range(scores.bins):
        inside = [float(other == number) for other in range(scores.bins)]
        rates.append(share_of(scores.cells, inside + none, inside + inside))
    return rates


def calibration_in_the_large(scores: ScoreHistogram) -> Binned:
    """Return the observed rate less the mean predicted chance; above 0 where the model predicts too little."""
    gaps = [1 - middle for middle in scores.middles] + [-middle for middle in scores.middles]
    return Binned(mean_of(scores.cells, gaps), 0.5 / scores.bins)


def brier_of(scores: ScoreHistogram) -> Binned:
    """Return the mean squared distance of predicted chance and outcome; 0 is perfect, 0.25 is always saying a half."""
    half_bin = 0.5 / scores.bins
    errors = [1 - middle for middle in scores.middles] + scores.middles
    value = mean_of(scores.cells, [error * error for error in errors])
    moved = mean_of(scores.cells, [half_bin * (2 * error + half_bin) for error in errors])
    return Binned(value, moved.high if moved else half_bin * (2 - half_bin))
