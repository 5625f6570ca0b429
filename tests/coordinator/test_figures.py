"""What noisy counts say: figures with intervals, withheld where they say too little."""

import math

import numpy as np
import pytest

from fedhealth.learning.binary_cells import CONFUSION_CELLS, SCORES, TABLE, score_cells, subgroup_cell
from fedhealth.learning.binary_figures import figures_of
from fedhealth.learning.figures import Figure
from fedhealth.learning.lines import Line

WITHHELD = Figure(estimate=None, low=None, high=None, withheld="too few patients to say")
TABLE_LINE = Line(TABLE, 1.0, CONFUSION_CELLS)


def table(tp, fp, tn, fn):
    return dict(zip(CONFUSION_CELLS, (tp, fp, tn, fn), strict=True))


def figures(counts, noise_sd, too_wide):
    return pooled([counts], noise_sd, too_wide)


def pooled(counts, noise_sd, too_wide):
    return figures_of(counts, [TABLE_LINE], {TABLE: noise_sd}, too_wide)


def wilson(successes, n):
    """Return Wilson's 95 % score interval by its textbook formula."""
    z, p = 1.959963984540054, successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def test_figures_without_noise_are_wilsons():
    found = figures(table(80, 10, 90, 20), 0.0, 0.5)
    # accuracy (80 + 90) / 200, sensitivity 80 / (80 + 20), specificity 90 / (90 + 10)
    for figure, successes, n in (
        (found.accuracy, 170, 200),
        (found.sensitivity, 80, 100),
        (found.specificity, 90, 100),
    ):
        assert figure.estimate == pytest.approx(successes / n)
        assert (figure.low, figure.high) == pytest.approx(wilson(successes, n))


def test_each_figure_is_withheld_alone():
    # 8 ill patients, 400 well ones: the half-width of 6/8 is 0.26, of 380/400 is 0.02.
    found = figures(table(6, 20, 380, 2), 0.0, 0.15)
    assert found.sensitivity == WITHHELD
    assert found.specificity.estimate == pytest.approx(0.95)
    assert found.accuracy.estimate == pytest.approx(386 / 408)


@pytest.mark.parametrize(
    "counts",
    [table(0, 0, 0, 0), table(-3, 2, -1, 1), table(3, 1, 3, 1), table(-40, -40, -40, -40)],
    ids=["nobody", "noise below zero", "eight patients", "all negative"],
)
def test_too_few_patients_give_no_figure(counts):
    found = figures(counts, 3.0, 0.15)
    assert (found.accuracy, found.sensitivity, found.specificity) == (WITHHELD, WITHHELD, WITHHELD)


def test_a_withheld_figure_holds_no_number():
    dumped = figures(table(6, 20, 380, 2), 0.0, 0.15).sensitivity.model_dump()
    assert dumped == {"estimate": None, "low": None, "high": None, "withheld": "too few patients to say"}


def test_the_limit_of_too_wide_is_the_half_width():
    low, high = wilson(80, 100)
    half = (high - low) / 2
    assert figures(table(80, 10, 90, 20), 0.0, half * 1.001).sensitivity.estimate == pytest.approx(0.8)
    assert figures(table(80, 10, 90, 20), 0.0, half * 0.999).sensitivity == WITHHELD


def test_pooled_counts_and_noise_add_up():
    # Four sites with the same table and noise s are one site with four times the counts and noise 2 s.
    one, noise = table(40, 10, 50, 12), 4.0
    whole = {cell: 4 * count for cell, count in one.items()}
    assert pooled([one] * 4, noise, 0.5) == figures(whole, 2 * noise, 0.5)
    assert pooled([one], noise, 0.5) == figures(one, noise, 0.5)


def test_pooled_intervals_cover_the_truth_over_the_draws_of_noise():
    # 200 of 250 ill patients are found, in five sites; noise of standard deviation 5 on every count. Only the noise
    # is drawn here, so an interval for patients' chance and noise together must cover well above 95 %, and one whose
    # noise did not add up would not be wide enough: the noise alone moves the estimate by 0.04.
    generator = np.random.default_rng(5)
    covered = withheld = 0
    for _ in range(400):
        tables = [table(*(np.array([40, 10, 60, 10]) + generator.normal(0, 5, 4))) for _ in range(5)]
        figure = pooled(tables, 5.0, 0.5).sensitivity
        withheld += figure.estimate is None
        covered += figure.low is not None and figure.low <= 0.8 <= figure.high
    assert withheld == 0
    assert covered / 400 > 0.95


def test_accuracy_adds_two_noisy_counts_on_each_side():
    # Two noises of standard deviation s add up to one of s times the square root of two.
    accuracy = figures(table(80, 10, 90, 20), 5.0, 0.5).accuracy
    assert accuracy == figures(table(80 + 90, 0, 0, 10 + 20), 5.0 * math.sqrt(2), 0.5).sensitivity


def test_more_noise_gives_wider_intervals():
    widths = []
    for noise in (0.0, 2.0, 5.0, 9.0):
        figure = figures(table(80, 10, 90, 20), noise, 0.5).accuracy
        widths.append(figure.high - figure.low)
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def full_evaluation():
    """Return three lines, and the counts of 400 patients, 200 of them ill, without noise."""
    bins = 4
    cells = [subgroup_cell("sex", word, cell) for word in ("f", "m") for cell in CONFUSION_CELLS]
    lines = [
        Line(TABLE, 0.4, CONFUSION_CELLS),
        Line(SCORES, 0.4, tuple(score_cells(bins))),
        Line("subgroup sex", 0.2, tuple(cells), (0, 2), "sex", ("f", "m")),
    ]
    counts = table(160, 40, 160, 40)
    # Of the ill: 10, 30, 60, 100 from the lowest bin to the highest; of the well the other way round.
    counts |= dict(zip(score_cells(bins), (10, 30, 60, 100, 100, 60, 30, 10), strict=True))
    counts |= dict(zip(cells, (90, 10, 90, 10, 6, 2, 6, 2), strict=True))
    return lines, {cell: float(count) for cell, count in counts.items()}


def test_scores_and_subgroups_are_read_from_their_own_cells():
    lines, counts = full_evaluation()
    found = figures_of([counts], lines, {line.name: 0.0 for line in lines}, 0.15)
    # Pairs in which the ill patient is higher: 30*100 + 60*(100+60) + 100*(100+60+30) = 31,600; in the same bin:
    # 10*100 + 30*60 + 60*30 + 100*10 = 5,600. AUC = (31,600 + 2,800) / 40,000 = 0.86.
    assert found.scores.auc.estimate == pytest.approx(0.86)
    # Middles 1/8, 3/8, 5/8, 7/8; of both: 10 * (7/8)^2 + 30 * (5/8)^2 + 60 * (3/8)^2 + 100 * (1/8)^2 = 29.375.
    assert found.scores.brier.estimate == pytest.approx(2 * 29.375 / 400)
    assert found.scores.calibration_in_the_large.estimate == pytest.approx(0.0)
    rates = [each.observed.estimate for each in found.scores.calibration]
    assert rates == pytest.approx([10 / 110, 1 / 3, 2 / 3, 10 / 11])
    assert [(each.low, each.high) for each in found.scores.calibration] == [
        (0, 0.25),
        (0.25, 0.5),
        (0.5, 0.75),
        (0.75, 1),
    ]
    assert [point.threshold for point in found.scores.roc] == [0.25, 0.5, 0.75]
    assert [point.sensitivity.estimate for point in found.scores.roc] == pytest.approx([0.95, 0.8, 0.5])
    assert [point.specificity.estimate for point in found.scores.roc] == pytest.approx([0.5, 0.8, 0.95])
    # Net benefit at 0.25: 190 ill and 100 well are treated, (190 - 100 / 3) / 400; all: (200 - 200 / 3) / 400.
    first = found.scores.net_benefit[0]
    assert first.model.estimate == pytest.approx((190 - 100 / 3) / 400)
    assert first.treat_all.estimate == pytest.approx((200 - 200 / 3) / 400)
    women, men = found.subgroups
    assert (women.column, women.category, men.category) == ("sex", "f", "m")
    assert women.sensitivity.estimate == pytest.approx(0.9)
    assert men.sensitivity == WITHHELD  # of 8 patients


def test_each_line_has_noise_of_its_own():
    lines, counts = full_evaluation()
    silent = {line.name: 0.0 for line in lines}
    quiet = figures_of([counts], lines, silent, 0.5)
    loud = figures_of([counts], lines, silent | {SCORES: 5.0}, 0.5)
    assert loud.accuracy.low == pytest.approx(quiet.accuracy.low)  # the table tells it without noise
    assert loud.subgroups == quiet.subgroups
    assert loud.scores.auc.low < quiet.scores.auc.low


def test_table_and_histogram_make_each_others_figures_sharper():
    lines, counts = full_evaluation()
    noise = {TABLE: 5.0, SCORES: 5.0, "subgroup sex": 5.0}
    both = figures_of([counts], lines, noise, 0.5)
    # Two bins' sum has noise of variance 50 and the table's cell 25: together 1 / (1 / 50 + 1 / 25) = 50 / 3.
    assert both.sensitivity.low == pytest.approx(figures(counts, math.sqrt(50 / 3), 0.5).sensitivity.low)
    assert both.sensitivity.low > figures(counts, 5.0, 0.5).sensitivity.low
    assert both.scores.auc.low > figures_of([counts], lines, noise | {TABLE: 1e9}, 0.5).scores.auc.low
    middle = both.scores.roc[1]
    assert middle.sensitivity.low == pytest.approx(both.sensitivity.low)
    assert middle.specificity.low == pytest.approx(both.specificity.low)


def test_all_figures_of_pooled_sites_are_those_of_one_site_with_all_their_patients():
    lines, counts = full_evaluation()
    whole = {cell: 4 * count for cell, count in counts.items()}
    noise = {line.name: 3.0 for line in lines}
    pooled_of_four = figures_of([counts] * 4, lines, noise, 0.15)
    assert pooled_of_four == figures_of([whole], lines, dict.fromkeys(noise, 6.0), 0.15)


def test_nobody_evaluated_is_nothing_stated():
    lines, _ = full_evaluation()
    found = figures_of([], lines, {line.name: 3.0 for line in lines}, 0.5)
    assert found.accuracy == WITHHELD
    assert found.scores.auc.withheld == "too few patients to say"
    assert found.scores.auc.binning is None
