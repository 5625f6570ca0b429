import math
from fractions import Fraction

import numpy as np
import pytest

from fedhealth.compliance.one_run import correct_guesses, guess, one_run_p_value


def chances(guesses, share):
    return [math.comb(guesses, k) * share**k * (1 - share) ** (guesses - k) for k in range(guesses + 1)]


@pytest.mark.parametrize(("correct", "guesses"), [(0, 10), (7, 10), (10, 10), (80, 100)])
def test_without_delta_it_is_the_tail_of_randomized_response(correct, guesses):
    share = Fraction(3, 4)  # epsilon log 3 guesses right three times in four
    expected = float(sum(chances(guesses, share)[correct:]))
    assert one_run_p_value(correct, guesses, guesses, math.log(3), 0.0) == pytest.approx(expected)


def test_delta_adds_what_the_theorem_says():
    """By hand: B of two coins at 1/2 is 0, 1, 2 by 1/4, 1/2, 1/4.

    For v = 2: P(B >= 2) = 1/4; P(2 > B >= 1) / 1 = 1/2 and P(2 > B >= 0) / 2 = 3/8, of which the larger counts,
    times 2 m delta = 2 * 10 * 0.01.
    """
    assert one_run_p_value(2, 2, 10, 0.0, 0.01) == pytest.approx(1 / 4 + 0.2 * 1 / 2)


def randomized_response(generator, epsilon, canaries=2000):
    """Coins told truly with probability e^epsilon / (1 + e^epsilon): the best that can be guessed."""
    coins = generator.random(canaries) < 0.5
    told = coins ^ (generator.random(canaries) > 1 / (1 + math.exp(-epsilon)))
    return told.astype(np.float64), coins


def test_the_lower_bound_is_where_the_p_value_is_one_in_twenty():
    guesses = guess(*randomized_response(np.random.default_rng(1), 2.0))
    found = guesses.epsilon_at_least(1e-6, 0.95)
    assert 1.0 < found < 2.0
    assert guesses.p_value(found, 1e-6) <= 0.05
    assert guesses.p_value(found + 1e-3, 1e-6) > 0.05


def test_coins_that_cannot_be_guessed_show_nothing():
    generator = np.random.default_rng(2)
    assert guess(generator.random(1000), generator.random(1000) < 0.5).epsilon_at_least(0.0, 0.95) == 0.0


def test_the_bound_is_seldom_above_the_truth_and_not_idle():
    """Above it in at most 5 % of runs: 10 of 200, and 3 standard deviations (3.1) more by chance."""
    generator = np.random.default_rng(3)
    found = np.array([guess(*randomized_response(generator, 1.0)).epsilon_at_least(0.0, 0.95) for _ in range(200)])
    assert np.count_nonzero(found > 1.0) <= 19
    assert np.mean(found) > 0.7


def test_guesses_are_taken_from_the_ends_that_are_asked_for():
    scores, coins = np.array([3.0, -2.0, 0.1, 5.0, -9.0, 0.2]), np.array([True, False, False, True, False, True])
    assert correct_guesses(scores, coins, 2, 2) == 4
    assert correct_guesses(-scores, coins, 2, 2) == 0
    assert correct_guesses(scores, coins, 4, 0) == 3  # 5, 3, 0.2 are in, 0.1 is not
    assert correct_guesses(scores, coins, 0, 3) == 3


def test_who_was_drawn_is_told_even_where_half_of_those_who_were_in_were_not():
    """Half of the canaries that are in are drawn and seen for certain; of the others nothing is known."""
    generator = np.random.default_rng(4)
    coins = generator.random(4000) < 0.5
    seen = coins & (generator.random(4000) < 0.5)
    assert guess(seen + 0.1 * generator.random(4000), coins).epsilon_at_least(0.0, 0.95) > 3.0
