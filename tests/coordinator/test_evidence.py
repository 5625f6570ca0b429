"""What evidence says: figures from noisy counts, withheld where they say too little, and what was spent."""

import math
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant

from fedhealth.coordinator.evidence import Figure, figures_of, pooled_figures, spent_by
from fedhealth.learning.evaluation import CONFUSION_CELLS
from fedhealth.learning.plan import plan_study
from fedhealth.study.protocol import load_study

STUDY = load_study(Path(__file__).resolve().parents[2] / "protocols" / "heart-disease-diagnosis.toml")
WITHHELD = Figure(estimate=None, low=None, high=None, withheld="too few patients to say")


def table(tp, fp, tn, fn):
    return dict(zip(CONFUSION_CELLS, (tp, fp, tn, fn), strict=True))


def wilson(successes, n):
    """Return Wilson's 95 % score interval by its textbook formula."""
    z, p = 1.959963984540054, successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def test_figures_without_noise_are_wilsons():
    found = figures_of(table(80, 10, 90, 20), 0.0, 0.5)
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
    found = figures_of(table(6, 20, 380, 2), 0.0, 0.15)
    assert found.sensitivity == WITHHELD
    assert found.specificity.estimate == pytest.approx(0.95)
    assert found.accuracy.estimate == pytest.approx(386 / 408)


@pytest.mark.parametrize(
    "counts",
    [table(0, 0, 0, 0), table(-3, 2, -1, 1), table(3, 1, 3, 1), table(-40, -40, -40, -40)],
    ids=["nobody", "noise below zero", "eight patients", "all negative"],
)
def test_too_few_patients_give_no_figure(counts):
    found = figures_of(counts, 3.0, 0.15)
    assert (found.accuracy, found.sensitivity, found.specificity) == (WITHHELD, WITHHELD, WITHHELD)


def test_a_withheld_figure_holds_no_number():
    dumped = figures_of(table(6, 20, 380, 2), 0.0, 0.15).sensitivity.model_dump()
    assert dumped == {"estimate": None, "low": None, "high": None, "withheld": "too few patients to say"}


def test_the_limit_of_too_wide_is_the_half_width():
    low, high = wilson(80, 100)
    half = (high - low) / 2
    assert figures_of(table(80, 10, 90, 20), 0.0, half * 1.001).sensitivity.estimate == pytest.approx(0.8)
    assert figures_of(table(80, 10, 90, 20), 0.0, half * 0.999).sensitivity == WITHHELD


def test_pooled_counts_and_noise_add_up():
    # Four sites with the same table and noise s are one site with four times the counts and noise 2 s.
    one, noise = table(40, 10, 50, 12), 4.0
    whole = {cell: 4 * count for cell, count in one.items()}
    assert pooled_figures([one] * 4, noise, 0.5) == figures_of(whole, 2 * noise, 0.5)
    assert pooled_figures([one], noise, 0.5) == figures_of(one, noise, 0.5)


def test_pooled_intervals_cover_the_truth_over_the_draws_of_noise():
    # 200 of 250 ill patients are found, in five sites; noise of standard deviation 5 on every count. Only the noise
    # is drawn here, so an interval for patients' chance and noise together must cover well above 95 %, and one whose
    # noise did not add up would not be wide enough: the noise alone moves the estimate by 0.04.
    generator = np.random.default_rng(5)
    covered = withheld = 0
    for _ in range(400):
        tables = [table(*(np.array([40, 10, 60, 10]) + generator.normal(0, 5, 4))) for _ in range(5)]
        figure = pooled_figures(tables, 5.0, 0.5).sensitivity
        withheld += figure.estimate is None
        covered += figure.low is not None and figure.low <= 0.8 <= figure.high
    assert withheld == 0
    assert covered / 400 > 0.95


def test_accuracy_adds_two_noisy_counts_on_each_side():
    # Two noises of standard deviation s add up to one of s times the square root of two.
    accuracy = figures_of(table(80, 10, 90, 20), 5.0, 0.5).accuracy
    assert accuracy == figures_of(table(80 + 90, 0, 0, 10 + 20), 5.0 * math.sqrt(2), 0.5).sensitivity


def test_more_noise_gives_wider_intervals():
    widths = []
    for noise in (0.0, 2.0, 5.0, 9.0):
        figure = figures_of(table(80, 10, 90, 20), noise, 0.5).accuracy
        widths.append(figure.high - figure.low)
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]


def pld_epsilon(noise_multiplier, releases, delta):
    """Return epsilon by Google's privacy loss distributions, an independent accountant."""
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_accounting.GaussianDpEvent(noise_multiplier), releases)
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(("training", "evaluation"), [(20, 1), (7, 1), (20, 0), (1, 0)])
def test_what_was_spent_is_what_an_independent_accountant_says(training, evaluation):
    lines = spent_by(STUDY, training, evaluation)
    assert [line.purpose for line in lines] == ["training", "evaluation"][: 1 + (evaluation > 0)]
    assert [line.patients for line in lines] == ["training", "held-out"][: 1 + (evaluation > 0)]
    for line, releases in zip(lines, (training, evaluation), strict=False):
        assert line.releases == releases
        independent = pld_epsilon(line.noise_multiplier, releases, STUDY.privacy.delta)
        assert line.epsilon == pytest.approx(independent, rel=2e-3)


def test_a_whole_study_costs_what_its_protocol_asks_and_not_more():
    training, evaluation = spent_by(STUDY, STUDY.training.rounds + STUDY.training.spare_rounds, 1)
    assert STUDY.privacy.training_epsilon * 0.999 < training.epsilon <= STUDY.privacy.training_epsilon
    assert STUDY.privacy.evaluation_epsilon * 0.999 < evaluation.epsilon <= STUDY.privacy.evaluation_epsilon
    assert training.noise_multiplier == plan_study(STUDY)["train"].mechanism.noise_multiplier


def test_nothing_charged_is_nothing_spent():
    assert spent_by(STUDY, 0, 0) == ()
