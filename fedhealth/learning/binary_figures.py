"""What an evaluation says, from noisy counts and the protocol: every figure of the evidence, stated or withheld.

A figure is withheld where its interval is wider than the protocol's `too_wide`, or where the noise leaves nothing to
say; that too is decided from noisy counts alone. The numbers come from `fedhealth.metrics`, the cells from the lines of
the released vector. Counts of several sites add up, and so does their noise. Confusion table and histogram count the
same patients, so each makes the other less noisy.
"""

import math
from collections.abc import Mapping, Sequence

from fedhealth.learning.binary_cells import CONFUSION_CELLS, SCORES, TABLE, score_cells, subgroup_cell
from fedhealth.learning.figures import Figure, FigurePart, FigureRow, figure_of
from fedhealth.learning.lines import Line
from fedhealth.metrics.calibration import brier_of, calibration_in_the_large, observed_rates
from fedhealth.metrics.decision_curve import decision_curve
from fedhealth.metrics.discrimination import auc_of, roc_of
from fedhealth.metrics.histogram import Binned, ScoreHistogram
from fedhealth.metrics.proportion import proportion_of


class BinnedFigure(Figure):
    """A metric of predicted chances that are known up to their bin.

    Attributes:
        binning: the figure of the exact chances is at most so far from the one of the bins; the interval does not
            include it. None where the figure is withheld.
    """

    binning: float | None


class TableFigures(FigurePart):
    """How often the model's yes or no is right.

    Attributes:
        accuracy: of all patients.
        sensitivity: of the ill.
        specificity: of the well.
    """

    accuracy: Figure
    sensitivity: Figure
    specificity: Figure


class CalibrationBin(FigurePart):
    """Patients whose predicted chance lies in (low, high], and how many of them are ill."""

    low: float
    high: float
    observed: Figure


class RocPoint(FigurePart):
    """What follows from calling everybody ill whose predicted chance is above `threshold`."""

    threshold: float
    sensitivity: Figure
    specificity: Figure


class NetBenefit(FigurePart):
    """Net benefit at one threshold, of the model and of treating everybody; that of treating nobody is 0."""

    threshold: float
    model: Figure
    treat_all: Figure


class ScoreFigures(FigurePart):
    """What the histogram of predicted chances says.

    Attributes:
        auc: how often an ill patient has a higher chance than a well one.
        brier: mean squared distance of chance and outcome.
        calibration_in_the_large: observed rate less mean predicted chance.
        calibration: by bin, lowest first.
        roc: by threshold, lowest first.
        net_benefit: by threshold, lowest first.
    """

    auc: BinnedFigure
    brier: BinnedFigure
    calibration_in_the_large: BinnedFigure
    calibration: tuple[CalibrationBin, ...]
    roc: tuple[RocPoint, ...]
    net_benefit: tuple[NetBenefit, ...]


class SubgroupFigures(TableFigures):
    """The same of the patients with one word in a column."""

    column: str
    category: str


class Figures(TableFigures):
    """All that is said of the model on held-out patients.

    Attributes:
        scores: None where the protocol does not ask for them.
        subgroups: by column and word, in the order of the protocol.
    """

    scores: ScoreFigures | None = None
    subgroups: tuple[SubgroupFigures, ...] = ()

    @property
    def headline(self) -> FigureRow:
        """The figure that is shown first: the accuracy."""
        return _row("", "accuracy", self.accuracy)

    def named(self) -> tuple[FigureRow, ...]:
        """Return the figures that are single numbers, subgroups included."""
        groups: list[tuple[str, TableFigures]] = [("", self)]
        groups += [(f"{each.column}={each.category}", each) for each in self.subgroups]
        rows = [
            _row(group, name, figure)
            for group, table in groups
            for name, figure in (
                ("accuracy", table.accuracy),
                ("sensitivity", table.sensitivity),
                ("specificity", table.specificity),
            )
        ]
        if self.scores is not None:
            of_scores = (
                ("auc", self.scores.auc),
                ("brier", self.scores.brier),
                ("calibration_in_the_large", self.scores.calibration_in_the_large),
            )
            rows += [_row("", name, figure) for name, figure in of_scores]
        return tuple(rows)


def _row(group: str, name: str, figure: Figure) -> FigureRow:
    plain = Figure(estimate=figure.estimate, low=figure.low, high=figure.high, withheld=figure.withheld)
    return FigureRow(group=group, name=name, unit="share", meaning=_MEANINGS[name], figure=plain)


_MEANINGS = {
    "accuracy": "of all patients, how many the model is right about",
    "sensitivity": "of the ill, how many it calls ill",
    "specificity": "of the healthy, how many it calls healthy",
    "auc": "how often an ill patient gets a higher chance than a healthy one",
    "brier": "mean squared distance of chance and truth",
    "calibration_in_the_large": "share of ill patients less the mean chance given",
}


def figures_of(
    counts: Sequence[Mapping[str, float]], lines: Sequence[Line], noise: Mapping[str, float], too_wide: float
) -> Figures:
    """Return what the noisy counts of one site say, or those of several together.

    Args:
        counts: of each site, by the names of the lines' cells; may be empty.
        lines: what the evaluation released.
        noise: standard deviation of the noise of each site's count, by the names of the lines.
        too_wide: withhold a metric whose half-interval is wider than this.
    """
    total = {cell: math.fsum(each[cell] for each in counts) for line in lines for cell in line.cells}
    more_noise = math.sqrt(len(counts))
    table, table_noise = tuple(total[cell] for cell in CONFUSION_CELLS), noise[TABLE] * more_noise
    scores, subgroups = None, []
    for line in lines:
        noise_sd = noise[line.name] * more_noise
        if line.name == SCORES:
            histogram = _histogram_of(total, line, noise_sd).with_table(table, table_noise)
            table, table_noise = histogram.table(), histogram.table_noise_sd
            scores = _score_figures(histogram, too_wide)
        for category in line.categories:
            cells = [total[subgroup_cell(line.column, category, cell)] for cell in CONFUSION_CELLS]
            group = _table_figures(cells, noise_sd, too_wide)
            subgroups.append(SubgroupFigures(column=line.column, category=category, **dict(group)))
    stated = _table_figures(table, table_noise, too_wide)
    return Figures(**dict(stated), scores=scores, subgroups=tuple(subgroups))


def _table_figures(table: Sequence[float], noise_sd: float, too_wide: float) -> TableFigures:
    true_positive, false_positive, true_negative, false_negative = table  # as in CONFUSION_CELLS
    right, wrong = true_positive + true_negative, false_positive + false_negative
    return TableFigures(
        accuracy=figure_of(proportion_of(right, wrong, math.sqrt(2) * noise_sd), too_wide),
        sensitivity=figure_of(proportion_of(true_positive, false_negative, noise_sd), too_wide),
        specificity=figure_of(proportion_of(true_negative, false_positive, noise_sd), too_wide),
    )


def _histogram_of(total: Mapping[str, float], line: Line, noise_sd: float) -> ScoreHistogram:
    bins = len(line.cells) // 2
    found = [total[cell] for cell in score_cells(bins)]
    return ScoreHistogram(tuple(found[:bins]), tuple(found[bins:]), noise_sd)


def _score_figures(scores: ScoreHistogram, too_wide: float) -> ScoreFigures:
    edges = [0.0, *scores.thresholds, 1.0]
    return ScoreFigures(
        auc=_binned_figure(auc_of(scores), too_wide),
        brier=_binned_figure(brier_of(scores), too_wide),
        calibration_in_the_large=_binned_figure(calibration_in_the_large(scores), too_wide),
        calibration=tuple(
            CalibrationBin(low=low, high=high, observed=figure_of(rate, too_wide))
            for low, high, rate in zip(edges, edges[1:], observed_rates(scores), strict=False)
        ),
        roc=tuple(
            RocPoint(
                threshold=point.threshold,
                sensitivity=figure_of(point.sensitivity, too_wide),
                specificity=figure_of(point.specificity, too_wide),
            )
            for point in roc_of(scores)
        ),
        net_benefit=tuple(
            NetBenefit(
                threshold=point.threshold,
                model=figure_of(point.model, too_wide),
                treat_all=figure_of(point.treat_all, too_wide),
            )
            for point in decision_curve(scores)
        ),
    )


def _binned_figure(found: Binned, too_wide: float) -> BinnedFigure:
    figure = figure_of(found.value, too_wide)
    return BinnedFigure(**dict(figure), binning=None if figure.estimate is None else found.binning)
