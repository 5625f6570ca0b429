"""Each bound is at least the exact probability, computed another way, and not much more."""

import itertools
import math

import mpmath
import numpy as np
import pytest

from fedhealth.compliance import tail_bounds as bounds


def chi_square_tails(ratio, samples):
    """Exact P(mean square / variance <= ratio) and >= ratio: a regularised incomplete gamma function."""
    half = mpmath.mpf(samples) / 2
    below = mpmath.gammainc(half, 0, half * ratio, regularized=True)
    return float(below), float(1 - below)


@pytest.mark.parametrize("samples", [10, 1000])
@pytest.mark.parametrize("sigmas", [-3.5, -2, 2, 3.5])
def test_the_variance_bound_holds_and_is_close(samples, sigmas):
    ratio = 1 + sigmas * math.sqrt(2 / samples) * (0.5 if samples == 10 else 1)
    exact = chi_square_tails(ratio, samples)[ratio > 1]
    found = bounds.variance_p_value(ratio, samples)
    assert 2 * exact <= found <= max(2 * exact * 12, 0)
    if ratio < 1:
        assert bounds.variance_p_value(ratio, samples, only_below=True) == pytest.approx(found / 2)
    else:
        assert bounds.variance_p_value(ratio, samples, only_below=True) == 1.0


def test_no_deviation_is_no_evidence_and_no_noise_is_all():
    assert bounds.variance_p_value(1.0, 1000) == 1.0
    assert bounds.variance_p_value(0.0, 10) == 0.0
    assert bounds.magnitude_p_value(2 * math.exp(-1) / (1 - math.exp(-2)), 1000, 1.0) == 1.0
    assert bounds.binomial_p_value(25, 100, 0.25) == 1.0


def magnitude_tails(total, samples, epsilon):
    """Exact tails of a sum of magnitudes of two-sided geometric noise, by convolution."""
    p = math.exp(-epsilon)
    one = (1 - p) / (1 + p) * np.where(np.arange(400) == 0, 1, 2) * p ** np.arange(400)
    whole = np.array([1.0])
    for _ in range(samples):
        whole = np.convolve(whole, one)
    return whole[: total + 1].sum(), whole[total:].sum()


@pytest.mark.parametrize("total", [8, 12, 38, 50])
def test_the_magnitude_bound_holds_and_is_close(total):
    samples, epsilon = 30, 1.0  # the mean magnitude is 2 p / (1 - p**2) = 0.851, so about 25.5 in all
    exact = magnitude_tails(total, samples, epsilon)[total > 26]
    found = bounds.magnitude_p_value(total / samples, samples, epsilon)
    assert 2 * exact <= found <= 2 * exact * 12


def test_the_magnitude_bound_of_zeros_alone_is_exact():
    p = math.exp(-0.5)
    assert bounds.magnitude_p_value(0.0, 7, 0.5) == pytest.approx(((1 - p) / (1 + p)) ** 7)


@pytest.mark.parametrize("successes", [0, 3, 8, 22, 30, 60])
def test_the_binomial_bound_holds_and_is_close(successes):
    trials, p = 60, 0.25
    chances = [math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(trials + 1)]
    above = successes > trials * p
    exact = sum(chances[successes:]) if above else sum(chances[: successes + 1])
    found = bounds.binomial_p_value(successes, trials, p)
    assert 2 * exact <= found * (1 + 1e-9)
    assert found <= 2 * exact * 12
    assert bounds.binomial_p_value(successes, trials, p, only_above=True) == pytest.approx(found / 2 if above else 1.0)


def test_the_bounds_that_are_formulas():
    assert bounds.shape_p_value(0.2, 50) == pytest.approx(2 * math.exp(-4))
    assert bounds.shape_p_value(0.0, 50) == 1.0
    assert bounds.normal_p_value(2.0) == pytest.approx(math.exp(-2))
    assert bounds.normal_p_value(2.0) > math.erfc(2 / math.sqrt(2)) / 2
    assert bounds.normal_p_value(-1.0) == 1.0
    assert bounds.repeat_p_value(5, 0.01) == pytest.approx(10 * 0.01)  # five rows make ten pairs


def test_the_autocorrelation_bound_holds_over_all_sequences_of_signs():
    """Of the 2**13 sequences of 13 signs, at most a share x has a p-value up to x."""
    found = np.array(
        [bounds.autocorrelation_p_value(np.array(signs))[0] for signs in itertools.product((-1.0, 1.0), repeat=13)]
    )
    for threshold in np.unique(found[found < 1]):
        assert np.mean(found <= threshold) <= threshold


def test_autocorrelation_finds_a_repetition_and_its_distance():
    half = np.random.default_rng(1).normal(size=(10, 50))
    p_value, distance, correlation = bounds.autocorrelation_p_value(np.concatenate([half, half]))
    assert p_value < 1e-9
    assert distance in (500, 497)  # 997, the largest prime up to 1,000, closes the ring
    assert correlation > 0.4
    assert bounds.autocorrelation_p_value(np.random.default_rng(2).normal(size=(20, 50)))[0] > 0.01
