"""The currency of a budget that admits full-batch rounds only: mu squared of Gaussian differential privacy.

The costs of releases add up, also when each release was chosen after seeing the earlier ones, and the sum converts to
(epsilon, delta) without slack. Counts with geometric noise have a price in it too. Sampled rounds have none: their
currency is in `renyi`.
Gaussian noise is sampled within a proven total-variation distance of the exact; those distances add up beside mu
squared and are charged to delta.

Unit: one patient, added or removed, with all of the patient's records.

Invariants: costs are integers rounded up; budgets are integers rounded down; zero, negative and non-finite
costs do not exist.

Sources: Dong, Roth and Su, "Gaussian Differential Privacy", JRSS B 2022 (Corollary 2.13, Corollary 3.3);
Koskela, Tobaben and Honkela, "Individual Privacy Accounting with Gaussian Differential Privacy", ICLR 2023
(fully adaptive composition).
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Literal, Self

import mpmath

from fedhealth.privacy.currency import (
    MAX_AMOUNT,
    SAMPLING_SHARE_OF_DELTA,
    TOTAL_VARIATION_UNITS,
    Amount,
    Budget,
    Cost,
)
from fedhealth.privacy.events import Event, GaussianEvent, checked

MU_SQUARED_UNITS = 2**40
"""Units of `MuSquaredCost.mu_squared` in 1.0 of mu squared."""


class MuSquaredCost(Cost):
    """What a release, or a sum of releases, costs each patient it used.

    Attributes:
        mu_squared: mu squared in units of 2**-40, rounded up.
    """

    mu_squared: Amount

    @property
    def currency(self) -> str:
        """What the amount is counted in."""
        return "mu-squared"

    @property
    def amount(self) -> int:
        """Mu squared in units of 2**-40."""
        return self.mu_squared

    def _of(self, amount: int, total_variation: int) -> Self:
        return type(self)(mu_squared=amount, total_variation=total_variation)


class MuSquaredBudget(Budget):
    """A budget that admits full-batch Gaussians and geometric counts.

    Attributes:
        currency: what costs are counted in.
    """

    currency: Literal["mu-squared"] = "mu-squared"

    def cap(self) -> MuSquaredCost:
        """Return the largest cost that keeps (epsilon, delta), rounded down.

        If every release is within total variation t_i of an exact mechanism whose composition is
        (epsilon, delta'), then for neighbours P'(S) <= P(S) + t <= e^eps Q(S) + delta' + t
        <= e^eps Q'(S) + delta' + (1 + e^eps) t with t = sum t_i. So a share of delta, divided by
        1 + e^eps, is the room for t.
        """
        return _cap_of(self.epsilon, self.delta)

    def cost_of(self, event: Event) -> MuSquaredCost:
        """Return the price of an event.

        Raises:
            ValueError: the event is unknown, out of its ranges, or samples patients, which has no price in mu squared.
        """
        event = checked(event)
        if not isinstance(event, GaussianEvent):
            return geometric_cost(event.epsilon).times(event.cells)
        if event.sampling_rate != 1:
            raise ValueError(f"mu squared prices full-batch rounds only, got a sampling rate of {event.sampling_rate}")
        return gaussian_cost(event.noise_multiplier, event.total_variation)

    def epsilon_of(self, cost: Cost) -> float:
        """Return the epsilon (rounded up) that a sum of costs guarantees at this budget's delta."""
        if not isinstance(cost, MuSquaredCost):
            raise ValueError(f"a cost in {cost.currency} has no epsilon in a budget counted in mu squared")
        return epsilon_of(cost, self.delta)


@lru_cache(maxsize=256)
def _cap_of(epsilon: float, delta: float) -> MuSquaredCost:
    mu = mu_of(epsilon, delta * (1 - SAMPLING_SHARE_OF_DELTA))
    room = delta * SAMPLING_SHARE_OF_DELTA / (1 + math.exp(epsilon))
    return MuSquaredCost(
        mu_squared=math.floor(mu * mu * MU_SQUARED_UNITS),
        total_variation=min(MAX_AMOUNT, math.floor(room * TOTAL_VARIATION_UNITS)),
    )


def gaussian_cost(noise_multiplier: float, total_variation: float) -> MuSquaredCost:
    """Return the cost of one full-batch Gaussian release.

    Args:
        noise_multiplier: standard deviation over L2 sensitivity, finite and > 0.
        total_variation: distance of the sampled noise from the exact Gaussian, in [0, 1).

    Raises:
        ValueError: an argument is out of its range, so that no cost can be stated.
    """
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
        raise ValueError(f"noise multiplier must be finite and > 0, got {noise_multiplier}")
    if not 0 <= total_variation < 1:
        raise ValueError(f"total variation must be in [0, 1), got {total_variation}")
    return MuSquaredCost(
        # In exact arithmetic: a quotient of floats can round below the true one, and its ceiling with it.
        mu_squared=math.ceil(MU_SQUARED_UNITS / Fraction(noise_multiplier) ** 2),
        total_variation=math.ceil(total_variation * TOTAL_VARIATION_UNITS),
    )


def geometric_cost(epsilon: float) -> MuSquaredCost:
    """Return the cost of one count with exact two-sided geometric noise.

    It is epsilon-DP, so its trade-off function lies above the two straight lines from (0, 1) to (a, a) to (1, 0) with
    a = 1 / (1 + e^epsilon). The trade-off function of a mu-GDP mechanism is convex and runs from (0, 1) to (1, 0), so
    it lies below those lines as soon as it passes below (a, a): Phi(-mu / 2) = a, or
    mu = 2 sqrt(2) erfinv(tanh(epsilon / 2)). No smaller mu holds, because the mechanism attains (a, a).

    Args:
        epsilon: noise k has a probability proportional to exp(-epsilon * |k|), one patient changes the count by one;
            in [2**-20, 16].

    Raises:
        ValueError: epsilon is out of its range.
    """
    if not 2.0**-20 <= epsilon <= 16:
        raise ValueError(f"epsilon must be in [2**-20, 16], got {epsilon}")
    with mpmath.workprec(160):
        mu_squared = 8 * mpmath.erfinv(mpmath.tanh(mpmath.mpf(epsilon) / 2)) ** 2
        # At 160 bits erfinv is good to far more than 2**-60 here, where 1 - tanh >= 2**-23.
        units = int(mpmath.ceil(mu_squared * (1 + mpmath.mpf(2) ** -60) * MU_SQUARED_UNITS))
    return MuSquaredCost(mu_squared=units, total_variation=0)


def delta_of(mu: float, epsilon: float) -> float:
    """Return the smallest delta such that a mu-GDP mechanism is (epsilon, delta)-DP.

    Args:
        mu: > 0.
        epsilon: >= 0.

    Source: Dong, Roth and Su 2022, Corollary 2.13; Balle and Wang 2018, Theorem 8.
    """
    a, b = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    # e^eps * Phi(-b) in logarithms, because e^eps overflows before the product does.
    tail = _upper_tail(b)
    second = math.exp(epsilon + math.log(tail)) if tail > 0 else 0.0
    return max(0.0, _upper_tail(a) - second)


def _most_delta_of(mu: float, epsilon: float) -> float:
    """Return no less than the exact `delta_of`.

    Computing a and b moves each tail by a few (a**2 + 1) * 2**-52 of itself, the exponent by 2**-42 at most, and the
    second tail is the smaller one. Where tails are not zero a is below 39, so 2**-38 of the first covers all of it.
    """
    return delta_of(mu, epsilon) + 2.0**-38 * _upper_tail(epsilon / mu - mu / 2)


def mu_of(epsilon: float, delta: float) -> float:
    """Return the largest mu (rounded down) whose Gaussian mechanism is (epsilon, delta)-DP."""
    low, high = 0.0, 64.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _most_delta_of(middle, epsilon) <= delta else (low, middle)
    return low


def epsilon_of(cost: MuSquaredCost, delta: float) -> float:
    """Return the smallest epsilon (rounded up) that a sum of costs guarantees at `delta`.

    Returns:
        Infinity where the noise's distance from exact alone exceeds `delta`.
    """
    return epsilon_at(
        math.sqrt(cost.mu_squared / MU_SQUARED_UNITS), cost.total_variation / TOTAL_VARIATION_UNITS, delta
    )


def epsilon_at(mu: float, distance: float, delta: float) -> float:
    """Return the smallest epsilon (rounded up) at `delta` of what lies within a distance of a mu-GDP mechanism.

    Args:
        mu: > 0.
        distance: in total variation, in [0, 1).
        delta: in (0, 1).

    Returns:
        Infinity where the distance alone exceeds `delta`.
    """

    def holds(epsilon: float) -> bool:
        # The product and the sum lose less than 2**-50 of what they come to.
        return _most_delta_of(mu, epsilon) + (1 + math.exp(epsilon)) * distance <= delta * (1 - 2.0**-50)

    # The left side of `holds` has the derivative e^eps * (distance - Phi(-eps / mu - mu / 2)): it falls up to one
    # epsilon and rises from there on, so that the smallest epsilon lies below that one, or nowhere.
    low, turn = 0.0, 700.0
    for _ in range(100):
        middle = (low + turn) / 2
        low, turn = (middle, turn) if _upper_tail(middle / mu + mu / 2) > distance else (low, middle)
    if not holds(turn):
        return math.inf
    low, high = 0.0, turn
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def noise_multiplier_for(epsilon: float, delta: float, releases: int) -> float:
    """Return the noise multiplier of each of `releases` full-batch Gaussians that together cost (epsilon, delta).

    The whole is priced like a budget, in its units: a share of delta is kept for the noise's distance from exact,
    and the rounded-up costs of all releases fit the rounded-down cap of a budget of the same (epsilon, delta).

    Args:
        epsilon: > 0.
        delta: in (0, 1).
        releases: at least 1.

    Raises:
        ValueError: so little for so many releases that no cost can be stated.
    """
    mu = mu_of(epsilon, delta * (1 - SAMPLING_SHARE_OF_DELTA))
    each = math.floor(mu * mu * MU_SQUARED_UNITS) // releases
    if each < 1:
        raise ValueError(f"{releases} releases at epsilon {epsilon} cost less each than one unit of mu squared")
    # 2**-50 covers the rounding of the root, so that the cost is `each` and not one unit more.
    return math.sqrt(MU_SQUARED_UNITS / each) * (1 + 2.0**-50)


def _upper_tail(x: float) -> float:
    """Return P(standard normal > x)."""
    return math.erfc(x / math.sqrt(2)) / 2
