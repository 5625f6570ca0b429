"""Net benefit: what acting on a model's scores is worth, in ill patients who are rightly treated.

At a threshold t, whoever treats patients with a chance above t weighs one patient treated without need as
t / (1 - t) of an ill patient treated. Net benefit = (true positives - false positives t / (1 - t)) / patients; treating
nobody has 0. Thresholds are edges between bins, so that no binning comes in.

Source: Vickers and Elkin, Medical Decision Making 2006.
"""

from dataclasses import dataclass

from fedhealth.metrics.estimate import Estimate
from fedhealth.metrics.histogram import ScoreHistogram
from fedhealth.metrics.noisy_cells import mean_of


@dataclass(frozen=True)
class NetBenefit:
    """Net benefit at one threshold, in ill patients treated for each patient there is.

    Attributes:
        threshold: an edge between bins.
        model: treating those whom the model gives a higher chance; None where the noise leaves nothing to say.
        treat_all: treating everybody.
    """

    threshold: float
    model: Estimate | None
    treat_all: Estimate | None


def decision_curve(scores: ScoreHistogram) -> list[NetBenefit]:
    """Return the net benefit at each threshold, lowest first."""
    cells, bins, points = scores.cells, scores.bins, []
    for number, threshold in enumerate(scores.thresholds, start=1):
        harm, left = -threshold / (1 - threshold), bins - number
        model = [0.0] * number + [1.0] * left + [0.0] * number + [harm] * left
        everybody = [1.0] * bins + [harm] * bins
        points.append(NetBenefit(threshold, mean_of(cells, model), mean_of(cells, everybody)))
    return points
