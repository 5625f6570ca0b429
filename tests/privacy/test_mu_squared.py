import math
from fractions import Fraction

import mpmath
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedhealth.privacy.mu_squared import (
    MU_SQUARED_UNITS,
    TOTAL_VARIATION_UNITS,
    MuSquaredBudget,
    MuSquaredCost,
    delta_of,
    epsilon_at,
    epsilon_of,
    gaussian_cost,
    mu_of,
    noise_multiplier_for,
)


def exact_delta(mu, epsilon):
    """Balle and Wang 2018, Theorem 8, at 60 digits."""
    with mpmath.workdps(60):
        mu, epsilon = mpmath.mpf(mu), mpmath.mpf(epsilon)
        return mpmath.ncdf(mu / 2 - epsilon / mu) - mpmath.exp(epsilon) * mpmath.ncdf(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize("noise_multiplier, releases", [(1.0, 1), (5.0, 10), (30.0, 100), (2.0, 25), (0.5, 1)])
def test_a_composition_of_gaussians_costs_what_the_pld_accountant_says(noise_multiplier, releases):
    # Its default relation is that one record is added or removed, with sensitivity 1.
    one = pld.from_gaussian_mechanism(noise_multiplier, value_discretization_interval=1e-4)
    reference = one.self_compose(releases)
    mu = math.sqrt(releases) / noise_multiplier
    cost = gaussian_cost(noise_multiplier, 0.0).times(releases)
    for delta in (1e-3, 1e-5, 1e-7):
        epsilon = reference.get_epsilon_for_delta(delta)
        assert epsilon_of(cost, delta) == pytest.approx(epsilon, rel=1e-3)
        assert delta_of(mu, epsilon) == pytest.approx(reference.get_delta_for_epsilon(epsilon), rel=1e-3)
        assert mu_of(epsilon, delta) == pytest.approx(mu, rel=1e-3)


@given(st.floats(1e-3, 12), st.floats(0, 50))
def test_delta_agrees_with_sixty_digits(mu, epsilon):
    exact = exact_delta(mu, epsilon)
    # Below 1e-16 the difference of two tails in double precision has no digits; no budget goes below 1e-12.
    assert abs(delta_of(mu, epsilon) - exact) <= 1e-9 * exact + mpmath.mpf("2e-16")


@given(st.floats(2**-20, 12), st.floats(-12, -2).map(lambda power: 10**power), st.sampled_from([0.0, 1e-12, 1e-6]))
def test_epsilon_is_rounded_up_in_exact_arithmetic(mu, delta, part):
    epsilon = epsilon_at(mu, part * delta, delta)
    if epsilon < math.inf:
        with mpmath.workdps(60):
            assert exact_delta(mu, epsilon) + (1 + mpmath.exp(epsilon)) * mpmath.mpf(part * delta) <= delta


@given(st.floats(-4, 1.69).map(lambda power: 10**power), st.floats(-12, -2).map(lambda power: 10**power))
def test_mu_is_rounded_down_in_exact_arithmetic(epsilon, delta):
    mu = mu_of(epsilon, delta)
    assert exact_delta(mu, epsilon) <= delta < exact_delta(mu * 1.0001, epsilon)


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf, 1e-200, 1e-9])
def test_no_cost_is_stated_for_a_noise_multiplier_that_is_no_noise(value):
    with pytest.raises(ValueError):
        gaussian_cost(value, 0.0)


@pytest.mark.parametrize("value", [-1e-30, 1.0, math.nan, math.inf])
def test_no_cost_is_stated_for_an_impossible_distance(value):
    with pytest.raises(ValueError):
        gaussian_cost(1.0, value)


@pytest.mark.parametrize(
    "cost", [{"mu_squared": 0}, {"mu_squared": -1}, {"mu_squared": 1.0}, {"mu_squared": True}, {"mu_squared": 2**53}]
)
def test_a_cost_that_is_not_a_positive_integer_does_not_exist(cost):
    with pytest.raises(ValidationError):
        MuSquaredCost(total_variation=0, **cost)


@given(st.floats(0.012, 1e150), st.floats(0, 1e-23))
def test_costs_are_rounded_up_and_by_less_than_one_unit(noise_multiplier, distance):
    cost = gaussian_cost(noise_multiplier, distance)
    exact = MU_SQUARED_UNITS / Fraction(noise_multiplier) ** 2
    assert exact <= cost.mu_squared < exact + 1
    exact = Fraction(distance) * TOTAL_VARIATION_UNITS
    assert exact <= cost.total_variation < exact + 1


def test_a_large_cost_is_rounded_up_where_floating_point_rounds_down():
    # 2**40 / 0.03292381563596655**2 in doubles lies below the true quotient, and so did its ceiling.
    noise_multiplier = 0.03292381563596655
    assert gaussian_cost(noise_multiplier, 0.0).mu_squared >= MU_SQUARED_UNITS / Fraction(noise_multiplier) ** 2


@given(st.floats(0.01, 20), st.floats(1e-12, 0.01))
def test_a_cap_is_rounded_down(epsilon, delta):
    cap = MuSquaredBudget(epsilon=epsilon, delta=delta).cap()
    with mpmath.workdps(60):
        mu = mpmath.sqrt(mpmath.mpf(cap.mu_squared) / MU_SQUARED_UNITS)
        distance = mpmath.mpf(cap.total_variation) / TOTAL_VARIATION_UNITS
        assert exact_delta(mu, epsilon) + (1 + mpmath.exp(epsilon)) * distance <= mpmath.mpf(delta) * (1 + 1e-9)


@given(st.floats(0.01, 20), st.floats(0.01, 20), st.floats(1e-12, 0.01), st.floats(1e-12, 0.01))
def test_more_epsilon_or_more_delta_never_buys_less(epsilon, other, delta, another):
    low = MuSquaredBudget(epsilon=min(epsilon, other), delta=min(delta, another)).cap()
    assert low.mu_squared <= MuSquaredBudget(epsilon=max(epsilon, other), delta=min(delta, another)).cap().mu_squared
    high = MuSquaredBudget(epsilon=min(epsilon, other), delta=max(delta, another)).cap()
    assert low.fits(high)


@pytest.mark.parametrize("field", ["epsilon", "delta"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_is_positive_and_finite(field, value):
    with pytest.raises(ValidationError):
        MuSquaredBudget(**{"epsilon": 1.0, "delta": 1e-5, field: value})


@pytest.mark.parametrize("releases", [1, 3, 100, 5000])
@pytest.mark.parametrize("epsilon, delta", [(0.1, 1e-6), (1.0, 1e-5), (3.0, 1e-5), (10.0, 1e-5), (18.0, 0.01)])
def test_planned_releases_cost_what_was_asked_and_half_a_percent_less_at_most(epsilon, delta, releases):
    cost = gaussian_cost(noise_multiplier_for(epsilon, delta, releases), 5e-34).times(releases)
    assert 0.995 * epsilon <= epsilon_of(cost, delta) <= epsilon
    assert cost.fits(MuSquaredBudget(epsilon=epsilon, delta=delta).cap()), "a study may ask for the whole of a budget"


def test_no_plan_exists_for_so_many_releases_that_each_costs_nothing():
    with pytest.raises(ValueError):
        noise_multiplier_for(0.01, 1e-12, 2**40)


@pytest.mark.parametrize("epsilon", [9.0, 17.0, 33.0])
def test_the_price_of_imperfect_noise_does_not_hide_an_epsilon_that_holds(epsilon):
    # At twice the epsilon the distance alone, times e^(2 epsilon), is above delta; at epsilon it takes a thousandth.
    delta = 1e-5
    mu = mu_of(epsilon, delta * 0.999)
    distance = delta * 0.0005 / (1 + math.exp(epsilon))
    cost = MuSquaredCost(mu_squared=math.floor(mu * mu * MU_SQUARED_UNITS), total_variation=1)
    steps = math.floor(distance * TOTAL_VARIATION_UNITS)
    cost = cost.model_copy(
        update={"total_variation": steps}
    )  # beyond what one MuSquaredCost may say, within what it means
    assert 0.99 * epsilon <= epsilon_of(cost, delta) <= epsilon


def test_noise_too_far_from_exact_guarantees_nothing():
    cost = MuSquaredCost(mu_squared=1, total_variation=1).model_copy(
        update={"total_variation": TOTAL_VARIATION_UNITS // 1000}
    )
    assert epsilon_of(cost, 1e-5) == math.inf


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.floats(1e-9, 1e-2))
def test_more_spent_is_never_a_smaller_epsilon(one, other, delta):
    low, high = sorted((one, other))
    small, large = (epsilon_of(MuSquaredCost(mu_squared=spent, total_variation=0), delta) for spent in (low, high))
    assert small <= large * (1 + 1e-9) + 1e-12


def test_costs_of_releases_add_up():
    one, two = MuSquaredCost(mu_squared=3, total_variation=5), MuSquaredCost(mu_squared=4, total_variation=0)
    assert one + two == MuSquaredCost(mu_squared=7, total_variation=5)
    assert one.times(4) == MuSquaredCost(mu_squared=12, total_variation=20)
    assert one.fits(one) and not (one + two).fits(one)
    assert not MuSquaredCost(mu_squared=1, total_variation=6).fits(one)
