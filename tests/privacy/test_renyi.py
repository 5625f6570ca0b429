import itertools
import math
from fractions import Fraction

import mpmath
import pytest
from dp_accounting.rdp import rdp_privacy_accountant
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedhealth.privacy.events import GaussianEvent, GeometricEvent, plan_of
from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.privacy.mu_squared import MuSquaredBudget, gaussian_cost
from fedhealth.privacy.renyi import (
    RENYI_UNITS,
    RenyiBudget,
    RenyiCost,
    best_order,
    plan_cost,
    renyi_cost,
    renyi_epsilon,
)


def gaussian(noise_multiplier, sampling_rate, total_variation=0.0):
    return GaussianEvent(
        noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, total_variation=total_variation
    )


def divergence(event, order):
    return renyi_cost(event, order).renyi / RENYI_UNITS


def integrated(noise_multiplier, sampling_rate, order, other_direction=False):
    """The definition, as an integral of densities, without a series."""
    with mpmath.workdps(30):
        sigma, q, alpha = mpmath.mpf(noise_multiplier), mpmath.mpf(sampling_rate), mpmath.mpf(order)

        def excess(z):
            ratio = 1 - q + q * mpmath.exp((2 * z - 1) / (2 * sigma**2))
            power = 1 - alpha if other_direction else alpha
            return mpmath.npdf(z, 0, sigma) * (ratio**power - 1)

        low, high = -14 * sigma, alpha + 14 * sigma
        pieces = [low + (high - low) * i / 24 for i in range(25)]
        return mpmath.log1p(mpmath.quad(excess, pieces)) / (alpha - 1)


orders = st.integers(20, 16 * 40).map(lambda steps: steps / 16)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.6, 20), st.floats(1e-4, 0.9), orders)
def test_a_sampled_gaussian_costs_its_integral_rounded_up(noise_multiplier, sampling_rate, order):
    exact = integrated(noise_multiplier, sampling_rate, order) * RENYI_UNITS
    assume(exact < 2**52)
    units = renyi_cost(gaussian(noise_multiplier, sampling_rate), order).renyi
    # Low orders that are not whole stop the series early, at most a ten-thousandth above.
    assert exact <= units <= exact * (1 + 1e-4) + 1


@settings(max_examples=8, deadline=None)
@given(st.floats(0.8, 10), st.floats(1e-3, 0.9), orders)
def test_the_other_direction_costs_less(noise_multiplier, sampling_rate, order):
    # Mironov, Talwar and Zhang 2019, Theorem 5
    forward = integrated(noise_multiplier, sampling_rate, order)
    assert integrated(noise_multiplier, sampling_rate, order, other_direction=True) <= forward * (
        1 + mpmath.mpf("1e-9")
    )


@settings(max_examples=60, deadline=None)
@given(st.floats(0.6, 50), st.floats(1e-4, 1), st.integers(2, 256))
def test_whole_orders_agree_with_dp_accounting(noise_multiplier, sampling_rate, order):
    (reference,) = rdp_privacy_accountant._compute_rdp_poisson_subsampled_gaussian(
        sampling_rate, noise_multiplier, [order]
    )
    assume(reference < 4000)
    assert divergence(gaussian(noise_multiplier, sampling_rate), float(order)) == pytest.approx(
        reference, rel=1e-6, abs=1e-11
    )


@settings(max_examples=60, deadline=None)
@given(st.floats(0.6, 50), st.floats(0.01, 0.4), orders)
def test_real_orders_never_cost_more_than_in_dp_accounting(noise_multiplier, sampling_rate, order):
    # Its series has the absolute values of the alternating terms, so it lies above.
    (reference,) = rdp_privacy_accountant._compute_rdp_poisson_subsampled_gaussian(
        sampling_rate, noise_multiplier, [order]
    )
    assume(reference < 4000)
    assert divergence(gaussian(noise_multiplier, sampling_rate), order) <= reference * (1 + 1e-6) + 1e-11


@pytest.mark.parametrize(
    "noise_multiplier, sampling_rate, steps, epsilon",
    [
        (4.0, 0.01, 10_000, 1.26),  # Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, Section 3.2
        (1.12, 256 / 60_000, 14_063, 2.92),  # TensorFlow Privacy's tutorial on MNIST, order 9
    ],
)
def test_published_values_of_the_moments_accountant(noise_multiplier, sampling_rate, steps, epsilon):
    # Both convert as Mironov 2017, Proposition 3: epsilon = rho + log(1 / delta) / (order - 1), best of whole orders.
    event = gaussian(noise_multiplier, sampling_rate)
    found = min(steps * divergence(event, float(a)) + math.log(1e5) / (a - 1) for a in range(2, 65))
    assert found == pytest.approx(epsilon, abs=0.006)


@given(st.floats(0.05, 1e6), orders)
def test_a_full_batch_gaussian_costs_exactly_its_closed_form_rounded_up(noise_multiplier, order):
    exact = Fraction(order) / (2 * Fraction(noise_multiplier) ** 2) * RENYI_UNITS
    assume(exact < 2**53 - 1)
    assert exact <= renyi_cost(gaussian(noise_multiplier, 1.0), order).renyi < exact + 1


@settings(max_examples=50, deadline=None)
@given(st.floats(2.0**-20, 8), orders, st.integers(1, 5))
def test_a_geometric_count_costs_its_sum_over_all_integers_rounded_up(epsilon, order, cells):
    with mpmath.workdps(50):
        p, alpha = mpmath.exp(-mpmath.mpf(epsilon)), mpmath.mpf(order)

        def terms(k):  # P(noise = k)**alpha * P(noise = k - 1)**(1 - alpha)
            return (1 - p) / (1 + p) * p ** (alpha * abs(k) + (1 - alpha) * abs(k - 1))

        # Both tails are geometric series in p, summed from their first terms.
        moment = terms(1) / (1 - p) + terms(0) / (1 - p)
        exact = cells * mpmath.log(moment) / (alpha - 1) * RENYI_UNITS
    units = renyi_cost(GeometricEvent(epsilon=epsilon, cells=cells), order).renyi
    assert exact <= units <= exact * (1 + mpmath.mpf(2) ** -39) + 1


def test_a_geometric_count_by_hand():
    # epsilon = log 2, order 2: P(noise <= 0) = 2/3, so E = (2/3) * 2 + (1/3) / 2 = 3/2, and the divergence is log(3/2).
    event = GeometricEvent(epsilon=math.log(2), cells=1)
    assert divergence(event, 2.0) == pytest.approx(math.log(1.5), rel=1e-11)
    assert renyi_cost(GeometricEvent(epsilon=math.log(2), cells=3), 2.0).renyi <= 3 * renyi_cost(event, 2.0).renyi
    # At a high order it is almost epsilon, which is the divergence of infinite order.
    assert 0.998 * math.log(2) < divergence(event, 512.0) < math.log(2)


@settings(deadline=None)
@given(st.floats(0.01, 20), st.floats(1e-12, 0.01), orders)
def test_a_cap_is_the_designs_formula_rounded_down_and_converts_back(epsilon, delta, order):
    budget = RenyiBudget(epsilon=epsilon, delta=delta, order=order)
    exact = epsilon - math.log((order - 1) / order) + (math.log(delta) + math.log(order)) / (order - 1)
    # A 1024th of delta is kept for the noise's distance from exact: log(1 - 2**-10) is -0.00098.
    wanted = exact + math.log1p(-(2.0**-10)) / (order - 1)
    if wanted * RENYI_UNITS < 1:
        with pytest.raises(ValueError):
            budget.cap()
        return
    cap = budget.cap()
    assert cap.renyi / RENYI_UNITS == pytest.approx(wanted, rel=1e-9, abs=1e-11)
    assert 0.999 * epsilon - 1e-9 <= renyi_epsilon(cap, delta) <= epsilon * (1 + 1e-12) + 1e-15
    room = Fraction(cap.total_variation, 2**128)
    assert (1 + math.exp(epsilon)) * float(room) <= delta * 2.0**-10


@settings(max_examples=8, deadline=None)
@given(st.floats(1.0, 8), st.floats(0.01, 0.5), st.floats(0.2, 8), st.floats(1e-8, 1e-3))
def test_as_many_rounds_as_fit_keep_epsilon_and_one_more_does_not_fit(noise_multiplier, rate, epsilon, delta):
    event = gaussian(noise_multiplier, rate, total_variation=1e-34)
    budget = RenyiBudget(epsilon=epsilon, delta=delta, order=best_order(epsilon, delta, plan_of([(event, 1)])))
    cap, cost = budget.cap(), budget.cost_of(event)
    rounds = cap.renyi // cost.renyi
    assume(rounds >= 1)
    assert cost.times(rounds).fits(cap) and not cost.times(rounds + 1).fits(cap)
    assert renyi_epsilon(cost.times(rounds), delta) <= epsilon * (1 + 1e-12)
    assert budget.share(cost.times(rounds)) <= 1 < budget.share(cost.times(rounds + 1))


@pytest.mark.parametrize("epsilon, noise_multiplier, rate", [(3.0, 2.0, 0.2), (8.0, 4.0, 0.05), (1.0, 1.0, 0.01)])
def test_the_order_chosen_is_the_best_of_all_multiples_of_a_sixteenth(epsilon, noise_multiplier, rate):
    work = plan_of([(gaussian(noise_multiplier, rate), 1)])

    def repetitions(order):
        try:
            return RenyiBudget(epsilon=epsilon, delta=1e-5, order=order).cap().renyi / plan_cost(work, order).renyi
        except ValueError:
            return 0.0

    best = max(repetitions(steps / 16) for steps in range(20, 16 * 40))
    assert repetitions(best_order(epsilon, 1e-5, work)) >= best * (1 - 1e-6)


def test_the_order_suits_the_declared_work():
    # Full batch: cap(alpha) / (alpha / (2 sigma**2)) is largest at the same alpha whatever sigma is.
    orders = {best_order(3.0, 1e-5, plan_of([(gaussian(sigma, 1.0), 1)])) for sigma in (2.0, 10.0, 100.0)}
    assert max(orders) - min(orders) <= 1 / 16
    # Counts cost at most epsilon however high the order is, so work made of counts wants a higher one.
    counts = best_order(3.0, 1e-5, plan_of([(GeometricEvent(epsilon=0.5, cells=1), 1)]))
    assert counts >= max(orders)
    mixed = best_order(3.0, 1e-5, plan_of([(gaussian(10.0, 1.0), 20), (GeometricEvent(epsilon=0.1, cells=1), 2)]))
    assert mixed in {value / 16 for value in range(20, 8193)}


def test_no_order_is_chosen_where_none_keeps_the_budget():
    with pytest.raises(ValueError):
        best_order(0.01, 1e-12, plan_of([(gaussian(0.02, 1.0), 1)]))


@pytest.mark.parametrize("order", [1.0, 0.0, -2.0, 1.3, 512.0625, math.nan, math.inf])
def test_an_order_off_the_grid_does_not_exist(order):
    with pytest.raises(ValidationError):
        RenyiBudget(epsilon=1.0, delta=1e-5, order=order)
    with pytest.raises(ValueError):
        renyi_cost(gaussian(1.0, 1.0), order)


@pytest.mark.parametrize("units", [0, -1, 1.0, True, 2**53, math.nan])
def test_a_cost_that_is_not_a_positive_integer_does_not_exist(units):
    with pytest.raises(ValidationError):
        RenyiCost(order=2.0, renyi=units, total_variation=0)


@pytest.mark.parametrize("field", ["epsilon", "delta"])
@pytest.mark.parametrize("value", [0.0, -1.0, 5e-324, math.nan, math.inf])
def test_a_budget_is_positive_and_finite(field, value):
    with pytest.raises((ValidationError, ValueError)):
        RenyiBudget(**{"epsilon": 1.0, "delta": 1e-5, "order": 8.0, field: value}).cap()


def test_costs_of_one_order_add_up_and_of_two_never_meet():
    one = RenyiCost(order=4.0, renyi=3, total_variation=5)
    assert one + RenyiCost(order=4.0, renyi=4, total_variation=0) == RenyiCost(order=4.0, renyi=7, total_variation=5)
    assert one.times(4) == RenyiCost(order=4.0, renyi=12, total_variation=20)
    assert one.fits(one) and not one.times(2).fits(one)
    other = RenyiCost(order=8.0, renyi=1, total_variation=0)
    for meeting in (lambda: one + other, lambda: one.fits(other), lambda: other.fits(one)):
        with pytest.raises(ValueError):
            meeting()
    with pytest.raises(ValueError):
        RenyiBudget(epsilon=3.0, delta=1e-5, order=8.0).share(one)


def test_even_the_smallest_cost_is_a_unit_and_the_largest_is_refused():
    assert renyi_cost(gaussian(1e6, 1e-6), 1.25).renyi == 1
    with pytest.raises(ValueError):
        renyi_cost(gaussian(0.01, 1.0), 512.0)  # 512 / (2 * 1e-4) = 2.56 million; an integer holds 8192


def test_the_distance_of_sampled_noise_is_charged_beside():
    mechanism = GridGaussian(noise_multiplier=5.0, l2_clip_norm=1.0, dimension=1000)
    cost = renyi_cost(mechanism.event(0.1), 8.0)
    assert cost.total_variation == gaussian_cost(5.0, mechanism.event(0.1).total_variation).total_variation
    assert cost.renyi == renyi_cost(gaussian(5.0, 0.1), 8.0).renyi


def test_noise_too_far_from_exact_guarantees_nothing():
    assert renyi_epsilon(RenyiCost(order=8.0, renyi=1, total_variation=2**53 - 1), 1e-12) < math.inf
    far = RenyiCost(order=8.0, renyi=1, total_variation=1).model_copy(update={"total_variation": 2**118})
    assert renyi_epsilon(far, 1e-5) == math.inf


def test_at_full_batch_the_order_costs_rounds_that_mu_squared_keeps():
    # The design: mu squared where every mechanism is a full-batch Gaussian. 8-sigma rounds at epsilon 3:
    event = gaussian(8.0, 1.0)
    exact = MuSquaredBudget(epsilon=3.0, delta=1e-5)
    fixed = RenyiBudget(epsilon=3.0, delta=1e-5, order=best_order(3.0, 1e-5, plan_of([(event, 1)])))
    in_mu, in_rho = (
        exact.cap().mu_squared // exact.cost_of(event).mu_squared,
        fixed.cap().renyi // fixed.cost_of(event).renyi,
    )
    assert 0.75 * in_mu <= in_rho < in_mu


def test_more_noise_less_sampling_or_a_lower_order_never_costs_more():
    grid = itertools.product((0.7, 1.0, 2.0, 8.0), (0.01, 0.1, 0.5, 1.0), (1.5, 2.0, 3.5, 8.0, 32.0))
    price = {each: divergence(gaussian(each[0], each[1]), each[2]) for each in grid}
    for (sigma, rate, order), (more, less, lower) in itertools.product(price, price):
        if more >= sigma and less <= rate and lower <= order:
            assert price[more, less, lower] <= price[sigma, rate, order] * (1 + 1e-4) + 1e-12
