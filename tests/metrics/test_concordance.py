"""The concordance index of a histogram, against the raw patients and over many draws; observed over expected events."""

import math

import numpy as np
import pytest

from fedhealth.metrics.concordance import SurvivalHistogram, concordance_of, observed_to_expected

GRID = np.array([0.0, 3.0, 6.0, 9.0, 12.0])


def cohort(seed, size=900):
    """Return risk in (0, 1), time and event of patients whose risk is right."""
    generator = np.random.default_rng(seed)
    risk = generator.uniform(0.02, 0.95, size)
    event_at = generator.exponential(1 / (-np.log1p(-risk) / 12))
    left_at = generator.uniform(1, 24, size)
    return risk, np.minimum(event_at, left_at), event_at <= left_at


def histogram_of(risk, time, event, bins=10, noise_sd=0.0, generator=None):
    place = np.minimum((risk * bins).astype(int), bins - 1)
    interval = np.searchsorted(GRID[1:], time, side="left")
    counts = np.zeros((bins, 2 * (len(GRID) - 1) + 1))
    width = len(GRID) - 1
    column = np.where(interval >= width, 2 * width, np.where(event, interval, width + interval))
    np.add.at(counts, (place, column), 1.0)
    if generator is not None:
        counts = counts + generator.normal(0, noise_sd, counts.shape)
    rows = counts.tolist()
    return SurvivalHistogram(
        tuple(tuple(row[:width]) for row in rows),
        tuple(tuple(row[width : 2 * width]) for row in rows),
        tuple(row[-1] for row in rows),
        noise_sd,
    )


def harrell(score, time, event):
    """Every pair, one by one, with the independent library's rule for ties."""
    concordance_index_censored = pytest.importorskip(
        "sksurv.metrics", reason="scikit-survival is not installed (extra 'dev')"
    ).concordance_index_censored
    return concordance_index_censored(event, time, score)[0]


def test_three_kinds_of_patients_worked_by_hand():
    # Two bins, two intervals, a hundred patients each. High risk: event in interval 1. Low risk: event in interval 2,
    # or free at the horizon. Pairs that the intervals order: (high 1, low 2) and (high 1, low free) are won; (low 2,
    # low free) is in one bin, a half. 2.5 of 3 times 10,000.
    found = concordance_of(SurvivalHistogram(((0.0, 1e2), (1e2, 0.0)), ((0.0, 0.0), (0.0, 0.0)), (1e2, 0.0), 0.0))
    assert found.value.estimate == pytest.approx(2.5 / 3)


def test_a_patient_censored_in_the_interval_of_an_event_is_not_compared_with_it():
    # The event of interval 1 is compared with the one free patient alone, who is in the higher bin: lost.
    found = concordance_of(SurvivalHistogram(((1e2,), (0.0,)), ((0.0,), (5e2,)), (0.0, 1e2), 0.0))
    assert found.value.estimate == 0.0
    # Each event has one free patient to be compared with, and 5 censored and half a fellow that exact times might
    # order: at least 5.5 of 6.5 pairs are hidden, and each might be won.
    assert 5.5 / 6.5 < found.binning <= 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_is_harrells_of_the_grouped_patients(seed):
    risk, time, event = cohort(seed)
    bins = np.minimum((risk * 10).astype(int), 9)
    interval = np.searchsorted(GRID[1:], time, side="left")
    inside = interval < len(GRID) - 1
    # Censoring in an interval is put before its events, so that the pairs of one interval are not compared.
    grouped = np.where(inside, np.where(event, interval + 0.5, interval), 99.0)
    happened = event & inside
    won = comparable = 0.0
    for i in np.flatnonzero(happened):
        later = grouped > grouped[i]
        comparable += later.sum()
        won += (bins[i] > bins[later]).sum() + (bins[i] == bins[later]).sum() / 2
    assert concordance_of(histogram_of(risk, time, event)).value.estimate == pytest.approx(won / comparable)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("bins", [3, 10, 40])
def test_the_exact_index_is_within_what_is_said_to_be_hidden(seed, bins):
    risk, time, event = cohort(seed)
    at_horizon = time > GRID[-1]
    exact = harrell(risk, np.where(at_horizon, GRID[-1], time), event & ~at_horizon)
    found = concordance_of(histogram_of(risk, time, event, bins))
    assert abs(found.value.estimate - exact) <= found.binning < 0.5


def test_more_bins_hide_less():
    hidden = [concordance_of(histogram_of(*cohort(1), bins)).binning for bins in (2, 5, 40)]
    assert hidden == sorted(hidden, reverse=True)


def test_without_noise_the_interval_is_as_wide_as_a_bootstraps():
    risk, time, event = cohort(5)
    found = concordance_of(histogram_of(risk, time, event)).value
    generator, drawn = np.random.default_rng(0), []
    for _ in range(300):
        again = generator.integers(0, len(risk), len(risk))
        drawn.append(concordance_of(histogram_of(risk[again], time[again], event[again])).value.estimate)
    assert found.half_width == pytest.approx(1.96 * np.std(drawn), rel=0.15)


@pytest.mark.parametrize("noise_sd", [1.0, 4.0])
def test_the_interval_holds_the_true_index_in_94_to_100_of_100_cohorts(noise_sd):
    truth = concordance_of(histogram_of(*cohort(99, 200_000))).value.estimate
    generator, held = np.random.default_rng(7), []
    for seed in range(300):
        found = concordance_of(histogram_of(*cohort(seed), noise_sd=noise_sd, generator=generator)).value
        held.append(found.low <= truth <= found.high)
    # 95 % of 300, less two standard errors of 0.0126 each.
    assert np.mean(held) >= 0.95 - 2 * 0.0126


def test_nothing_is_said_where_the_pairs_are_not_clearly_more_than_noise():
    generator = np.random.default_rng(3)
    found = concordance_of(histogram_of(*cohort(1, 60), noise_sd=20.0, generator=generator))
    assert found.value is None
    assert found.binning == 1.0


def test_nobody_with_an_event_says_nothing():
    assert concordance_of(SurvivalHistogram(((0.0,), (0.0,)), ((3.0,), (4.0,)), (5.0, 6.0), 0.0)).value is None


def test_the_ratios_interval_is_rao_s_for_a_poisson_count():
    # (90 - 100 x)^2 = z^2 100 x. Roots of 10000 x^2 - (18000 + 384.146) x + 8100 = 0.
    z_squared = 1.959963984540054**2
    b, c = 18000 + 100 * z_squared, 8100
    ends = [(b + sign * math.sqrt(b * b - 4 * 10000 * c)) / 20000 for sign in (-1, 1)]
    found = observed_to_expected(90.0, 100.0, 0.0, 0.0)
    assert [found.low, found.estimate, found.high] == pytest.approx([ends[0], 0.9, ends[1]])


@pytest.mark.parametrize("true_ratio", [0.7, 1.0, 1.4])
def test_the_ratio_of_noisy_sums_is_held_as_often_as_it_says(true_ratio):
    generator, held = np.random.default_rng(11), []
    for _ in range(1500):
        observed = generator.poisson(true_ratio * 120) + generator.normal(0, 12)
        found = observed_to_expected(observed, 120 + generator.normal(0, 8), 12.0, 8.0)
        held.append(found.low <= true_ratio <= found.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_no_ratio_is_said_of_an_expectation_within_noise():
    assert observed_to_expected(10.0, 15.0, 5.0, 5.0) is None
