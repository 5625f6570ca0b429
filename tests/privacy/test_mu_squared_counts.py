import math

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.privacy.mu_squared import MU_SQUARED_UNITS, delta_of, geometric_cost

EPSILONS = st.floats(2.0**-20, 16)


@settings(deadline=None)
@given(EPSILONS)
def test_a_count_costs_the_mu_whose_total_variation_it_has_rounded_up(epsilon):
    # The other way round: a mu-GDP pair is at distance 2 Phi(mu / 2) - 1, a count's neighbours at tanh(epsilon / 2).
    with mpmath.workdps(60):
        mu = mpmath.findroot(
            lambda x: mpmath.erfc(x / (2 * mpmath.sqrt(2))) - 2 / (1 + mpmath.exp(epsilon)),
            mpmath.mpf(epsilon) * mpmath.sqrt(mpmath.pi / 2) if epsilon < 2 else 2 * math.sqrt(2 * epsilon) - 1,
            tol=1e-90,
        )
        exact = mu**2 * MU_SQUARED_UNITS
        assert exact <= geometric_cost(epsilon).mu_squared <= exact * (1 + mpmath.mpf(2) ** -50) + 1


@settings(deadline=None)
@given(EPSILONS, st.floats(0, 1))
def test_a_gaussian_of_that_mu_hides_at_every_epsilon_less_than_the_count(epsilon, part):
    # Randomized response with odds e^E: delta(epsilon) = (e^E - e^epsilon) / (1 + e^E).
    mu = math.sqrt(geometric_cost(epsilon).mu_squared / MU_SQUARED_UNITS)
    count = (math.exp(epsilon) - math.exp(part * epsilon)) / (1 + math.exp(epsilon))
    assert delta_of(mu, part * epsilon) >= count * (1 - 1e-9) - 1e-15
    if 1e-3 < epsilon < 15:  # between the rounding of mu and that of a tail in double precision
        assert delta_of(mu * 0.999, 0.0) < math.tanh(epsilon / 2), "no smaller mu does"


def test_a_count_by_hand():
    # epsilon = log 3: a = 1/4, and Phi(-0.67449) = 1/4, so mu = 1.34898 and mu squared 1.81975 (tables of Phi).
    assert geometric_cost(math.log(3)).mu_squared / MU_SQUARED_UNITS == pytest.approx(1.34898**2, rel=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 5e-324, 1e-310, math.nan, math.inf, 17.0])
def test_no_cost_is_stated_for_an_epsilon_that_is_none(epsilon):
    with pytest.raises(ValueError):
        geometric_cost(epsilon)
