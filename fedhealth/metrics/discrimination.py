"""How well scores tell ill patients from well ones: area under the ROC curve, and the curve's points.

The AUC is that of the score rounded to its bin: a pair of patients in one bin counts half, as ties do (Hanley and
McNeil, Radiology 1982). What the exact scores would give is at most half the share of such pairs away, which is
stated beside it at the upper end of its own interval.

At the true AUC x, the sum over bins i and j of a_i b_j (f_ij - x), where f is 1, 1/2 or 0 as the ill patient's bin i is
above, at or below the well one's j, has mean 0, because ill and well patients and their noise are independent. Its
variance is that of the Mann-Whitney statistic by placement values (DeLong, DeLong and Clarke-Pearson, Biometrics
1988), with the noise beside the patients' chance in each bin:

    sum_j var(b_j) (sum_i A_i (f_ij - x))^2 + sum_i var(a_i) (sum_j B_j (f_ij - x))^2
    + sum_ij var(a_i) var(b_j) (f_ij - x)^2.

With noisy counts in the place of A and B the first two sums come out too large, by twice the third on average; leaving
the third away keeps the variance positive and on the safe side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from fedhealth.metrics.estimate import Estimate, estimate_of
from fedhealth.metrics.histogram import Binned, ScoreHistogram
from fedhealth.metrics.noisy_cells import share_of


@dataclass(frozen=True)
class RocPoint:
    """What follows from calling everybody ill whose predicted chance is above a threshold.

    Attributes:
        threshold: an edge between bins.
        sensitivity: of the ill, how many are called ill; None where the noise leaves nothing to say.
        specificity: of the well, how many are not.
    """

    threshold: float
    sensitivity: Estimate | None
    specificity: Estimate | None


def auc_of(scores: ScoreHistogram) -> Binned:
    """Return how often an ill patient's bin is above a well one's, ties counting half.

    Example:
        >>> auc_of(ScoreHistogram((0.0, 100.0), (100.0, 100.0), 0.0)).value.estimate
        0.75
    """
    tied = _share_of_pairs(scores, of_ill=scores.well, of_well=scores.ill)
    value = _share_of_pairs(scores, of_ill=_below(scores.well), of_well=_above(scores.ill))
    return Binned(value, tied.high / 2 if tied else 0.5)


def _share_of_pairs(scores: ScoreHistogram, *, of_ill: Sequence[float], of_well: Sequence[float]) -> Estimate | None:
    """Return the share of the pairs of an ill and a well patient that count.

    Args:
        scores: the patients.
        of_ill: for each bin, how many well patients count with an ill one there: sum_j B_j f_ij.
        of_well: for each bin, how many ill patients count with a well one there: sum_i A_i f_ij.
    """
    cells, none, one = scores.cells, [0.0] * scores.bins, [1.0] * scores.bins
    if not (cells.is_clear(one + none) and cells.is_clear(none + one)):
        return None
    ill, well = math.fsum(scores.ill), math.fsum(scores.well)
    return estimate_of(
        math.fsum(count * won for count, won in zip(scores.ill, of_ill, strict=True)),
        ill * well,
        cells.variance_of([*of_ill, *of_well], [well] * scores.bins + [ill] * scores.bins),
        0.0,
        1.0,
    )


def roc_of(scores: ScoreHistogram) -> list[RocPoint]:
    """Return the points of the ROC curve that are known, one for each threshold, lowest first."""
    points, cells, none = [], scores.cells, [0.0] * scores.bins
    for number, threshold in enumerate(scores.thresholds, start=1):
        called = [0.0] * number + [1.0] * (scores.bins - number)
        spared = [1.0] * number + [0.0] * (scores.bins - number)
        points.append(
            RocPoint(
                threshold,
                share_of(cells, called + none, [1.0] * scores.bins + none),
                share_of(cells, none + spared, none + [1.0] * scores.bins),
            )
        )
    return points


def _below(counts: Sequence[float]) -> list[float]:
    """Return for each bin the counts below it and half of its own."""
    return [reached - count / 2 for reached, count in zip(accumulate(counts), counts, strict=True)]


def _above(counts: Sequence[float]) -> list[float]:
    """Return for each bin the counts above it and half of its own."""
    return _below(counts[::-1])[::-1]
