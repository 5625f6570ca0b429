"""What a release costs, and what a sum of costs means as (epsilon, delta).

The currency for full-batch Gaussians is **mu squared** of Gaussian differential privacy: the costs of releases add
up, also when each release was chosen after seeing the earlier ones, and the sum converts to (epsilon, delta) without
slack. Counts with geometric noise have a price in it too. Sampled rounds have none: their currency is in `renyi`.
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
from typing import Annotated, Literal

import mpmath
from pydantic import BaseModel, ConfigDict, Field

from fedhealth.privacy.events import Event, GaussianEvent, checked

MU_SQUARED_UNITS = 2**40
"""Units of `Cost.mu_squared` in 1.0 of mu squared."""

TOTAL_VARIATION_UNITS = 2**128
"""Units of `Cost.total_variation` in a distance of 1.0."""

SAMPLING_SHARE_OF_DELTA = 2.0**-10
"""The part of a budget's delta that is kept for the distance between sampled and exact noise."""

_EXACT_INTEGER = 2**53 - 1


class Cost(BaseModel):
    """What a release, or a sum of releases, costs each patient it used.

    Attributes:
        mu_squared: mu squared in units of 2**-40, rounded up.
        total_variation: distance of the sampled noise from the exact, in units of 2**-128, rounded up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    mu_squared: Annotated[int, Field(gt=0, le=_EXACT_INTEGER)]
    total_variation: Annotated[int, Field(ge=0, le=_EXACT_INTEGER)]

    def __add__(self, other: "Cost") -> "Cost":
        """Costs of two releases on the same patients add up."""
        return Cost(
            mu_squared=self.mu_squared + other.mu_squared,
            total_variation=self.total_variation + other.total_variation,
        )

    def times(self, releases: int) -> "Cost":
        """Return the cost of `releases` (at least 1) releases of this cost."""
        return Cost(mu_squared=self.mu_squared * releases, total_variation=self.total_variation * releases)

    def fits(self, cap: "Cost") -> bool:
        """Say whether this cost stays within `cap` in both parts."""
        return self.mu_squared <= cap.mu_squared and self.total_variation <= cap.total_variation


class Budget(BaseModel):
    """The most that all studies together may ever cost one patient of a data set; nothing refills it.

    Attributes:
        epsilon: the cap for the life of the data.
        delta: the cap for the life of the data; keep it below one over the number of patients.
        currency: what costs are counted in; "mu-squared" admits full-batch Gaussians and geometric counts only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    epsilon: Annotated[float, Field(gt=0, le=50, allow_inf_nan=False)]
    delta: Annotated[float, Field(ge=1e-12, le=0.01, allow_inf_nan=False)]
    currency: Literal["mu-squared"] = "mu-squared"

    def cap(self) -> Cost:
        """Return the largest cost that keeps (epsilon, delta), rounded down.

        If every release is within total variation t_i of an exact mechanism whose composition is
        (epsilon, delta'), then for neighbours P'(S) <= P(S) + t <= e^eps Q(S) + delta' + t
        <= e^eps Q'(S) + delta' + (1 + e^eps) t with t = sum t_i. So a share of delta, divided by
        1 + e^eps, is the room for t.
        """
        mu = mu_of(self.epsilon, self.delta * (1 - SAMPLING_SHARE_OF_DELTA))
        room = self.delta * SAMPLING_SHARE_OF_DELTA / (1 + math.exp(self.epsilon))
        return Cost(
            mu_squared=math.floor(mu * mu * MU_SQUARED_UNITS),
            total_variation=min(_EXACT_INTEGER, math.floor(room * TOTAL_VARIATION_UNITS)),
        )

    def cost_of(self, event: Event) -> Cost:
        """Return the price of an event in this budget's currency.

        Raises:
            ValueError: the event is unknown, out of its ranges, or samples patients, which has no price in mu squared.
        """
        event = checked(event)
        if not isinstance(event, GaussianEvent):
            return geometric_cost(event.epsilon).times(event.cells)
        if event.sampling_rate != 1:
            raise ValueError(f"mu squared prices full-batch rounds only, got a sampling rate of {event.sampling_rate}")
        return gaussian_cost(event.noise_multiplier, event.total_variation)


def gaussian_cost(noise_multiplier: float, total_variation: float) -> Cost:
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
    return Cost(
        # In exact arithmetic: a quotient of floats can round below the true one, and its ceiling with it.
        mu_squared=math.ceil(MU_SQUARED_UNITS / Fraction(noise_multiplier) ** 2),
        total_variation=math.ceil(total_variation * TOTAL_VARIATION_UNITS),
    )


def geometric_cost(epsilon: float) -> Cost:
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
    return Cost(mu_squared=units, total_variation=0)


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


def mu_of(epsilon: float, delta: float) -> float:
    """Return the largest mu (rounded down) whose Gaussian mechanism is (epsilon, delta)-DP."""
    low, high = 0.0, 64.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, epsilon) <= delta else (low, middle)
    return low


def epsilon_of(cost: Cost, delta: float) -> float:
    """Return the smallest epsilon (rounded up) that a sum of costs guarantees at `delta`.

    Returns:
        Infinity where the noise's distance from exact alone exceeds `delta`.
    """
    mu = math.sqrt(cost.mu_squared / MU_SQUARED_UNITS)
    distance = cost.total_variation / TOTAL_VARIATION_UNITS

    def holds(epsilon: float) -> bool:
        return delta_of(mu, epsilon) + (1 + math.exp(epsilon)) * distance <= delta

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
