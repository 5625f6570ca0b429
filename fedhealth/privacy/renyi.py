"""The currency of a budget that admits sampled rounds: Renyi divergence at one fixed order.

A release costs rho(alpha), its Renyi divergence of order alpha between neighbours, the larger direction. At one
fixed order the costs of releases add up even when each was chosen after seeing the earlier ones, and a filter that
stops before the sum passes a cap keeps the cap's (epsilon, delta):

    sum rho(alpha) <= epsilon - log((alpha - 1) / alpha) + (log delta + log alpha) / (alpha - 1).

Choosing afterwards the order at which a sum turns out to convert best is not covered, and a PLD meter that stops at
epsilon is no filter (arXiv 2602.06756). So a budget has one order, chosen when it is created for the work the site
declares (`best_order`); other work is still priced soundly, only less well.

Prices:

- *Gaussian, every patient:* alpha / (2 sigma**2), in exact arithmetic.
- *Gaussian, Poisson-sampled at rate q:* log(A) / (alpha - 1) with
  A = E[(1 - q + q exp((2z - 1) / (2 sigma**2)))**alpha], z normal with standard deviation sigma; of the two directions
  this is the larger (Mironov, Talwar and Zhang 2019, Theorem 5). `_log_moment` bounds A from above for real alpha.
- *Two-sided geometric, one cell:* shifting the noise by one changes every probability by exactly e^epsilon one way or
  the other, P(noise <= 0) = e^epsilon / (1 + e^epsilon), so the divergence is that of randomized response:
  log((e^(alpha epsilon) + e^((1 - alpha) epsilon)) / (1 + e^epsilon)) / (alpha - 1), both directions alike. Cells have
  independent noise: k of them cost k times that. A change by zero costs nothing.

Invariants: costs are integers rounded up, caps integers rounded down; costs of different orders never meet.

Sources: Feldman and Zrnic, "Individual Privacy Accounting via a Renyi Filter", NeurIPS 2021, Theorem 4.3; Lecuyer,
"Practical Privacy Filters and Odometers with Renyi Differential Privacy", 2021; Canonne, Kamath and Steinke, "The
Discrete Gaussian for Differential Privacy", 2020, Proposition 12 (conversion); Mironov, Talwar and Zhang, "Renyi
Differential Privacy of the Sampled Gaussian Mechanism", 2019, Section 3.3.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Literal, Self

import mpmath
from pydantic import AfterValidator, Field, TypeAdapter

from fedhealth.privacy.currency import (
    MAX_AMOUNT,
    SAMPLING_SHARE_OF_DELTA,
    TOTAL_VARIATION_UNITS,
    Amount,
    Budget,
    Cost,
)
from fedhealth.privacy.events import Event, GaussianEvent, GeometricEvent, Plan, checked, plan_of

RENYI_UNITS = 2**40
"""Units of `RenyiCost.renyi` in a divergence of 1.0."""

ORDERS_PER_ONE = 16
"""Orders are multiples of 1/16, so that they are the same number in every notation."""

LOWEST_ORDER, HIGHEST_ORDER = 1.25, 512.0

_PRECISION = 256
_ROUNDING = mpmath.mpf(1) + mpmath.mpf(2) ** -40
_MOST_TERMS = 4000


def _on_the_grid(order: float) -> float:
    if order * ORDERS_PER_ONE != math.floor(order * ORDERS_PER_ONE):
        raise ValueError(f"order must be a multiple of 1/{ORDERS_PER_ONE}, got {order}")
    return order


Order = Annotated[float, Field(ge=LOWEST_ORDER, le=HIGHEST_ORDER, allow_inf_nan=False), AfterValidator(_on_the_grid)]

_ORDER = TypeAdapter[float](Order)


class RenyiCost(Cost):
    """What a release, or a sum of releases, costs each patient it used.

    Attributes:
        order: alpha; only costs of one order add up or compare.
        renyi: divergence of that order in units of 2**-40, rounded up.
    """

    order: Order
    renyi: Amount

    @property
    def currency(self) -> str:
        """What the amount is counted in: divergence of this order."""
        return f"renyi divergence of order {self.order:g}"

    @property
    def amount(self) -> int:
        """Divergence in units of 2**-40."""
        return self.renyi

    def _of(self, amount: int, total_variation: int) -> Self:
        return type(self)(order=self.order, renyi=amount, total_variation=total_variation)


class RenyiBudget(Budget):
    """A budget that admits every event of `events`.

    Attributes:
        currency: what costs are counted in.
        order: alpha, fixed for ever; `best_order` chooses it.
    """

    currency: Literal["renyi"] = "renyi"
    order: Order

    def cap(self) -> RenyiCost:
        """Return the largest cost that keeps (epsilon, delta), rounded down.

        Delta is shared between the divergence and the noise's distance from exact as in `mu_squared`.

        Raises:
            ValueError: at this order nothing, however little, keeps (epsilon, delta); a higher order may.
        """
        units = _cap_units(self.epsilon, self.delta, self.order)
        if units < 1:
            raise ValueError(f"order {self.order} is too low for epsilon {self.epsilon} at delta {self.delta}")
        room = self.delta * SAMPLING_SHARE_OF_DELTA / (1 + math.exp(self.epsilon))
        return RenyiCost(
            order=self.order,
            renyi=min(MAX_AMOUNT, units),
            total_variation=min(MAX_AMOUNT, math.floor(room * TOTAL_VARIATION_UNITS)),
        )

    def cost_of(self, event: Event) -> RenyiCost:
        """Return the price of an event.

        Raises:
            ValueError: the event is unknown, out of its ranges, or costs more than any budget has.
        """
        return renyi_cost(event, self.order)

    def epsilon_of(self, cost: Cost) -> float:
        """Return the epsilon (rounded up) that a sum of costs guarantees at this budget's delta."""
        if not isinstance(cost, RenyiCost):
            raise ValueError(f"a cost in {cost.currency} has no epsilon in a budget counted in Renyi divergence")
        return renyi_epsilon(cost, self.delta)


def renyi_cost(event: Event, order: float) -> RenyiCost:
    """Return the price of one event at an order.

    Args:
        event: the release.
        order: alpha, a multiple of 1/16 in [1.25, 512].

    Raises:
        ValueError: the event is unknown, out of its ranges, or costs more than any budget has.
    """
    event, order = checked(event), _ORDER.validate_python(order)
    distance = event.total_variation if isinstance(event, GaussianEvent) else 0.0
    return RenyiCost(
        order=order,
        renyi=_units_of(event.model_copy(update={"total_variation": 0.0}) if distance else event, order),
        total_variation=math.ceil(Fraction(distance) * TOTAL_VARIATION_UNITS),
    )


def plan_cost(plan: Plan, order: float) -> RenyiCost:
    """Return the price of all of a plan's events at an order.

    Raises:
        ValueError: the plan is empty, or an event has no price.
    """
    costs = [renyi_cost(event, order).times(times) for event, times in plan_of(plan)]
    return sum(costs[1:], start=costs[0])


def renyi_epsilon(cost: RenyiCost, delta: float) -> float:
    """Return an epsilon (rounded up) that a sum of costs guarantees at `delta`, whatever was chosen adaptively.

    Args:
        cost: a sum of costs.
        delta: in [1e-12, 0.01]; the same share of it as in a budget pays for the noise's distance from exact.

    Returns:
        Infinity where that share does not suffice.
    """
    with mpmath.workprec(_PRECISION):
        order, kept = mpmath.mpf(cost.order), mpmath.mpf(delta) * (1 - SAMPLING_SHARE_OF_DELTA)
        spent = mpmath.mpf(cost.renyi) / RENYI_UNITS
        exact = spent + mpmath.log((order - 1) / order) - (mpmath.log(kept) + mpmath.log(order)) / (order - 1)
        epsilon = math.nextafter(max(0.0, float(exact)), math.inf)
    distance = cost.total_variation / TOTAL_VARIATION_UNITS
    if epsilon > 700 or (1 + math.exp(epsilon)) * distance > delta * SAMPLING_SHARE_OF_DELTA:
        return math.inf
    return epsilon


def best_order(epsilon: float, delta: float, work: Plan) -> float:
    """Return the order at which a budget of (epsilon, delta) holds the most repetitions of `work`.

    Any order is sound, so the search may be coarse: a grid, then each multiple of 1/16 downhill from its best
    (the ratio has one peak in every case we know of).

    Args:
        epsilon: of the budget, in (0, 50].
        delta: of the budget, in [1e-12, 0.01].
        work: what the site declares it will do, for example one round of the training it plans.

    Raises:
        ValueError: the work has no price, or the budget is too small for any order.
    """
    work = plan_of(work)

    def repetitions(step: int) -> Fraction:
        order = step / ORDERS_PER_ONE
        cap = _cap_units(epsilon, delta, order)
        if cap < 1:
            return Fraction(0)
        try:
            return Fraction(min(MAX_AMOUNT, cap), plan_cost(work, order).renyi)
        except ValueError:  # so much at this order that it cannot be written down: no budget holds it
            return Fraction(0)

    whole = (2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 45, 64, 128, 256, 512)
    grid = [int(LOWEST_ORDER * ORDERS_PER_ONE), 24, *(ORDERS_PER_ONE * each for each in whole)]
    best = max(range(len(grid)), key=lambda index: repetitions(grid[index]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    while high - low > 2:
        third = max(1, (high - low) // 3)
        if repetitions(low + third) >= repetitions(high - third):
            high -= third
        else:
            low += third
    found = max(range(low, high + 1), key=repetitions)
    if repetitions(found) == 0:
        raise ValueError(f"no order keeps epsilon {epsilon} at delta {delta} for this work")
    return found / ORDERS_PER_ONE


@lru_cache(maxsize=4096)
def _cap_units(epsilon: float, delta: float, order: float) -> int:
    with mpmath.workprec(_PRECISION):
        alpha, kept = mpmath.mpf(order), mpmath.mpf(delta) * (1 - SAMPLING_SHARE_OF_DELTA)
        cap = epsilon - mpmath.log((alpha - 1) / alpha) + (mpmath.log(kept) + mpmath.log(alpha)) / (alpha - 1)
        # The logarithms are good to 2**-240 or so; one part in 2**60 is far more and far less than a unit.
        return int(mpmath.floor((cap - mpmath.mpf(2) ** -60) * RENYI_UNITS))


@lru_cache(maxsize=4096)
def _units_of(event: Event, order: float) -> int:
    with mpmath.workprec(_PRECISION):
        divergence = _DIVERGENCES[type(event)](event, order)
        if isinstance(divergence, Fraction):
            units = math.ceil(divergence * RENYI_UNITS)
        else:
            units = int(mpmath.ceil(divergence * _ROUNDING * RENYI_UNITS))
    if units > MAX_AMOUNT:
        raise ValueError(f"at order {order} one release costs more than any budget has")
    return max(1, units)


def _gaussian(event: GaussianEvent, order: float) -> Fraction | mpmath.mpf:
    if event.sampling_rate == 1:
        return Fraction(order) / (2 * Fraction(event.noise_multiplier) ** 2)
    return _log_moment(event.noise_multiplier, event.sampling_rate, order) / (mpmath.mpf(order) - 1)


def _geometric(event: GeometricEvent, order: float) -> mpmath.mpf:
    epsilon, alpha = mpmath.mpf(event.epsilon), mpmath.mpf(order)
    moment = (mpmath.exp(alpha * epsilon) + mpmath.exp((1 - alpha) * epsilon)) / (1 + mpmath.exp(epsilon))
    return event.cells * mpmath.log(moment) / (alpha - 1)


_DIVERGENCES: dict[type, Callable[..., Fraction | mpmath.mpf]] = {GaussianEvent: _gaussian, GeometricEvent: _geometric}


def _log_moment(noise_multiplier: float, sampling_rate: float, order: float) -> mpmath.mpf:
    """Return an upper bound on log E[(1 - q + q exp((2z - 1) / (2 sigma**2)))**alpha], z normal (0, sigma).

    Let z0 be where both summands are equal. Left of it the bracket is (1 - q)**alpha * (1 + x)**alpha with x <= 1,
    right of it (q e^...)**alpha * (1 + 1/x)**alpha; each power is a binomial series whose i-th term, times the
    density, integrates to a normal tail. Beyond i = alpha the coefficients alternate in sign and fall, and 0 <= x <= 1,
    so that what is left out has the sign of the first term left out: stopping before a **negative** coefficient
    leaves out something negative, at each z, wherever we stop. For a whole alpha the series ends by itself.
    In this precision the sum is good to 2**-200 of its largest term, and log A >= 2**-85 within the events' ranges.
    """
    q, sigma, alpha = mpmath.mpf(sampling_rate), mpmath.mpf(noise_multiplier), mpmath.mpf(order)
    middle = sigma**2 * mpmath.log(1 / q - 1) + mpmath.mpf(1) / 2
    q_over_rest = q / (1 - q)

    def term(i: int) -> mpmath.mpf:
        j = alpha - i
        left = q_over_rest**i * (1 - q) ** alpha * mpmath.exp((i * i - i) / (2 * sigma**2))
        right = q_over_rest**j * (1 - q) ** alpha * mpmath.exp((j * j - j) / (2 * sigma**2))
        return left * mpmath.ncdf((middle - i) / sigma) + right * mpmath.ncdf((j - middle) / sigma)

    total, coefficient = mpmath.mpf(0), mpmath.mpf(1)
    for i in range(_MOST_TERMS):
        if coefficient == 0:
            break
        part = coefficient * term(i)
        if i > alpha and coefficient < 0 and (-part < (total - 1) * 1e-9 or i >= _MOST_TERMS - 2):
            break
        total += part
        coefficient *= (alpha - i) / (i + 1)
    return mpmath.log(total)
