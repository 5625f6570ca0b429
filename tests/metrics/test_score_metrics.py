"""Metrics of a histogram of scores, against the raw scores of the same patients and over many draws."""

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from fedhealth.metrics.calibration import brier_of, calibration_in_the_large, observed_rates
from fedhealth.metrics.decision_curve import decision_curve
from fedhealth.metrics.discrimination import auc_of, roc_of
from fedhealth.metrics.histogram import ScoreHistogram
from fedhealth.metrics.noisy_cells import NoisyCells, mean_of

BINS = 10


@pytest.fixture(params=[1, 2, 3], scope="module")
def patients(request):
    """Return predicted chances and outcomes of 700 patients; the model is good, and too sure of itself."""
    generator = np.random.default_rng(request.param)
    ill = generator.random(700) < 0.35
    chance = 1 / (1 + np.exp(-generator.normal(np.where(ill, 1.0, -1.2), 1.5)))
    return chance, ill


def histogram_of(chance, ill, noise_sd=0.0, bins=BINS):
    counts = [np.histogram(chance[group], bins, (0, 1))[0].astype(float).tolist() for group in (ill, ~ill)]
    return ScoreHistogram(tuple(counts[0]), tuple(counts[1]), noise_sd)


def exact_auc(scores, ill):
    return mannwhitneyu(scores[ill], scores[~ill]).statistic / (ill.sum() * (~ill).sum())


@pytest.mark.parametrize("bins", [2, 10, 100])
def test_auc_is_mann_whitneys_of_the_binned_scores_and_near_that_of_the_raw(patients, bins):
    chance, ill = patients
    found = auc_of(histogram_of(chance, ill, bins=bins))
    assert found.value.estimate == pytest.approx(exact_auc(np.floor(chance * bins), ill))
    assert abs(found.value.estimate - exact_auc(chance, ill)) <= found.binning
    assert found.value.low < found.value.estimate < found.value.high


def test_more_bins_hide_less(patients):
    hidden = [auc_of(histogram_of(*patients, bins=bins)).binning for bins in (2, 10, 100)]
    assert hidden == sorted(hidden, reverse=True)


def test_without_noise_the_interval_of_the_auc_is_as_wide_as_a_bootstraps(patients):
    chance, ill = patients
    found = auc_of(histogram_of(chance, ill)).value
    generator, binned, drawn = np.random.default_rng(0), np.floor(chance * BINS), []
    for _ in range(400):
        again = generator.integers(0, len(ill), len(ill))
        drawn.append(exact_auc(binned[again], ill[again]))
    assert found.half_width == pytest.approx(1.96 * np.std(drawn), rel=0.15)


@pytest.mark.parametrize("bins", [2, 10, 100])
def test_brier_score_is_that_of_the_middles_and_near_that_of_the_raw(patients, bins):
    chance, ill = patients
    found = brier_of(histogram_of(chance, ill, bins=bins))
    middles = (np.floor(chance * bins) + 0.5) / bins
    assert found.value.estimate == pytest.approx(np.mean((middles - ill) ** 2))
    assert abs(found.value.estimate - np.mean((chance - ill) ** 2)) <= found.binning
    assert found.binning <= 1 / bins


def test_calibration_in_the_large_is_observed_less_predicted(patients):
    chance, ill = patients
    found = calibration_in_the_large(histogram_of(chance, ill))
    middles = (np.floor(chance * BINS) + 0.5) / BINS
    assert found.value.estimate == pytest.approx(ill.mean() - middles.mean())
    assert abs(found.value.estimate - (ill.mean() - chance.mean())) <= found.binning == 0.05


def test_rates_and_curves_are_those_of_the_raw_scores_at_the_edges(patients):
    chance, ill = patients
    scores = histogram_of(chance, ill)
    for number, rate in enumerate(observed_rates(scores)):
        inside = (chance >= number / BINS) & (chance < (number + 1) / BINS)
        assert rate.estimate == pytest.approx(ill[inside].mean())
    for point, worth in zip(roc_of(scores), decision_curve(scores), strict=True):
        called = chance >= point.threshold
        assert point.sensitivity.estimate == pytest.approx(called[ill].mean())
        assert point.specificity.estimate == pytest.approx((~called)[~ill].mean())
        odds = point.threshold / (1 - point.threshold)
        assert worth.model.estimate == pytest.approx((called & ill).mean() - odds * (called & ~ill).mean())
        assert worth.treat_all.estimate == pytest.approx(ill.mean() - odds * (~ill).mean())


def test_a_weighted_mean_of_two_cells_is_a_proportion_with_agrestis_and_coulls_patients_more():
    # 30 of 100: (x - 0.3)^2 100^2 <= z^2 (x^2 (70 + z^2 / 2) + (1 - x)^2 (30 + z^2 / 2)); the roots, by the textbook:
    z2 = 1.959963984540054**2
    a, b, c = 100**2 - z2 * (100 + z2), 30 * 100 - z2 * (30 + z2 / 2), 30**2 - z2 * (30 + z2 / 2)
    low, high = np.sort(np.roots([a, -2 * b, c]))
    found = mean_of(NoisyCells((30.0, 70.0), 0.0), [1.0, 0.0])
    assert (found.low, found.estimate, found.high) == pytest.approx((low, 0.3, high))


@pytest.mark.parametrize(
    "scores",
    [
        ScoreHistogram((0.0,) * 10, (0.0,) * 10, 0.0),
        ScoreHistogram((-3.0,) * 10, (2.0,) * 10, 3.0),
        ScoreHistogram((3.0,) * 10, (3.0,) * 10, 9.0),  # 30 ill with noise 9 * sqrt(10) = 28
        ScoreHistogram((20.0,) * 10, (-1.0,) * 10, 1.0),
    ],
    ids=["nobody", "negative", "noise as large as the counts", "fewer than no well patients"],
)
def test_nothing_is_said_of_the_auc_where_there_may_be_nobody(scores):
    assert auc_of(scores).value is None
    assert auc_of(scores).binning == 0.5


@pytest.mark.parametrize(
    ("size", "noise_sd", "table_noise_sd"),
    [(400, 0.0, None), (400, 3.0, None), (400, 3.0, 2.5), (4000, 20.0, 5.0)],
)
def test_intervals_hold_the_truth_19_times_in_20(size, noise_sd, table_noise_sd):
    # The truth: of the binned scores of 400,000 patients, whose own chance error is below a thousandth.
    generator = np.random.default_rng(7)

    def draw(number):
        ill = generator.random(number) < 0.4
        return 1 / (1 + np.exp(-generator.normal(np.where(ill, 0.8, -0.8), 1.2))), ill

    def metrics(scores):
        curve, points = decision_curve(scores), roc_of(scores)
        large, brier = calibration_in_the_large(scores).value, brier_of(scores).value
        return [auc_of(scores).value, large, brier, observed_rates(scores)[6], points[4].specificity, curve[2].model]

    truth = [found.estimate for found in metrics(histogram_of(*draw(400_000)))]
    held, asked = np.zeros(len(truth)), 500
    for _ in range(asked):
        exact = histogram_of(*draw(size))
        noise = generator.normal(0, noise_sd or 1e-9, (2, BINS))
        seen = (np.array([exact.ill, exact.well]) + noise).tolist()
        noisy = ScoreHistogram(tuple(seen[0]), tuple(seen[1]), noise_sd)
        if table_noise_sd is not None:
            table = np.array(exact.table()) + generator.normal(0, table_noise_sd, 4)
            noisy = noisy.with_table(table.tolist(), table_noise_sd)
        found = metrics(noisy)
        held += [each is not None and each.low <= true <= each.high for each, true in zip(found, truth, strict=True)]
    # Of 500 at 0.95, four standard deviations are 0.04.
    assert np.all(held / asked > 0.95 - 4 * math.sqrt(0.95 * 0.05 / asked)), held / asked
    assert np.all(held / asked < 0.99), "so wide that they say less than they could"


def test_a_table_beside_the_histogram_is_combined_with_it_by_least_squares():
    ill, well = (3.0, 8.0, 20.0, 31.0), (44.0, 17.0, 6.0, -2.0)
    table, noise_sd, table_noise_sd = (60.0, 1.0, 55.0, 9.0), 4.0, 3.0
    # Twelve measurements of eight bins: each bin, and of each half the table's cell; in units of their noise.
    design = np.vstack([np.eye(8), np.kron(np.eye(4), [1, 1])])
    measured = np.array([*ill, *well, table[3], table[0], table[2], table[1]])
    units = np.array([noise_sd] * 8 + [table_noise_sd] * 4)
    expected = np.linalg.lstsq(design / units[:, None], measured / units, rcond=None)[0]
    covariance = np.linalg.inv((design / units[:, None]).T @ (design / units[:, None]))
    found = ScoreHistogram(ill, well, noise_sd).with_table(table, table_noise_sd)
    assert [*found.ill, *found.well] == pytest.approx(expected)
    generator = np.random.default_rng(0)
    one, other = generator.normal(0, 1, 8).tolist(), generator.normal(0, 1, 8).tolist()
    assert found.cells.covariance(one, other) == pytest.approx(one @ covariance @ np.array(other))
    assert found.table() == pytest.approx(
        (expected[2:4].sum(), expected[6:].sum(), expected[4:6].sum(), expected[:2].sum())
    )
    assert found.table_noise_sd == pytest.approx(math.sqrt(covariance[:2, :2].sum()))
