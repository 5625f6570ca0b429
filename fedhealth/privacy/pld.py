"""What a plan that was committed in advance costs, for people to read; and the noise such a plan needs.

The privacy loss distribution of a whole plan gives its tightest (epsilon, delta). It holds for a plan **fixed before
its first release** and for nothing else: watching this epsilon and stopping when it is reached is not a valid filter
(arXiv 2602.06756). So nothing here enforces; the share of the cap used, in the budget's currency, binds.

A plan of full-batch Gaussians alone has a closed form, which is exact. Else numbers are rounded against us: the
distribution is the pessimistic one, on a grid that moves epsilon by about 0.1 % (see `_interval`), and a share of delta
pays for the noise's distance from exact.

Library: google dp-accounting 0.6, imported when first used, because it is heavy and the gate's rounds do not need it.
Sources: Koskela, Jälkö and Honkela 2020; Doroshenko et al., "Connect the Dots", 2022 (the discretisation).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from fedhealth.privacy.currency import SAMPLING_SHARE_OF_DELTA
from fedhealth.privacy.events import Event, GaussianEvent, GeometricEvent, NeighbouringRelation, Plan, plan_of
from fedhealth.privacy.mu_squared import epsilon_at

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

INFORMATIVE = "informative: holds for this plan as committed in advance; the share of the cap binds"


@dataclass(frozen=True)
class InformativeEpsilon:
    """The epsilon of a plan that was committed in advance.

    Attributes:
        epsilon: rounded against us; infinity where no guarantee can be stated.
        delta: at which it is stated.
        neighbours: for which neighbours.
        label: to be printed wherever the number is.
    """

    epsilon: float
    delta: float
    neighbours: NeighbouringRelation = "one-patient-added-or-removed"
    label: str = INFORMATIVE


def informative_epsilon(plan: Plan, delta: float) -> InformativeEpsilon:
    """Return the PLD epsilon of a whole plan.

    Args:
        plan: all of a study's releases on the same patients, fixed before the first.
        delta: in [1e-12, 0.01].

    Raises:
        ValueError: the plan is empty, an event is unknown or out of its ranges, or delta is out of its own.
    """
    plan = plan_of(plan)
    if not 1e-12 <= delta <= 0.01:
        raise ValueError(f"delta must be in [1e-12, 0.01], got {delta}")
    full_batch = [1 / each.event.noise_multiplier**2 * each.times for each in plan if _is_full_batch(each.event)]
    if len(full_batch) == len(plan):
        mu_squared = math.fsum(full_batch)
        mu = math.sqrt(mu_squared) * (1 + 2.0**-50)  # rounded up: each quotient, the root and the product lose less
        return InformativeEpsilon(epsilon=epsilon_at(mu, _distance(plan), delta), delta=delta)
    epsilon = _loss_distribution(plan).get_epsilon_for_delta(delta * (1 - SAMPLING_SHARE_OF_DELTA))
    # (1 + e^epsilon) as in `MuSquaredBudget.cap`.
    if epsilon > 700 or (1 + math.exp(epsilon)) * _distance(plan) > delta * SAMPLING_SHARE_OF_DELTA:
        epsilon = math.inf
    return InformativeEpsilon(epsilon=float(epsilon), delta=delta)


def noise_multiplier_for_plan(
    epsilon: float, delta: float, *, sampling_rate: float, steps: int, total_variation: float
) -> float:
    """Return the noise multiplier at which `steps` rounds, committed in advance, have an epsilon just below.

    Args:
        epsilon: what the plan may have, in (0, 50].
        delta: at which it is stated, in [1e-12, 0.01].
        sampling_rate: of each round, in [1e-6, 1].
        steps: how many rounds, at least 1.
        total_variation: distance of one round's sampled noise from the exact Gaussian.

    Returns:
        A noise multiplier above the smallest by 0.1 % at most, whose PLD epsilon is in [0.995 * epsilon, epsilon].

    Raises:
        ValueError: an argument is out of its range, or no noise multiplier in [0.01, 1e6] does it.
    """
    if not 0 < epsilon <= 50:
        raise ValueError(f"epsilon must be in (0, 50], got {epsilon}")

    def reached(noise_multiplier: float) -> float:
        event = GaussianEvent(
            noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, total_variation=total_variation
        )
        return informative_epsilon(plan_of([(event, steps)]), delta).epsilon

    # A guess to bracket from: mu is about q sqrt(steps) / sigma, and about epsilon / sqrt(2 log(1 / delta)).
    guess = max(0.3, sampling_rate * math.sqrt(steps) * math.sqrt(-2 * math.log(delta)) / epsilon)
    high = min(1e6, guess)
    while reached(high) > epsilon:
        if high >= 1e6:
            raise ValueError(f"no noise multiplier up to 1e6 gives epsilon {epsilon} over {steps} steps")
        high = min(1e6, 2 * high)
    low = high / 2
    while low >= 1e-2 and reached(low) <= epsilon:
        low, high = low / 2, low
    if low < 1e-2:
        raise ValueError(f"even a noise multiplier of {high:.3g} stays below epsilon {epsilon} over {steps} steps")
    found = reached(high)
    while high > low * 1.001 or found < 0.995 * epsilon:
        middle = math.sqrt(low * high)
        if middle in (low, high):
            raise ValueError(f"no noise multiplier gives an epsilon within 0.5 % of {epsilon} over {steps} steps")
        now = reached(middle)
        low, high, found = (low, middle, now) if now <= epsilon else (middle, high, found)
    return high


def _is_full_batch(event: Event) -> TypeGuard[GaussianEvent]:
    return isinstance(event, GaussianEvent) and event.sampling_rate == 1


def _distance(plan: Plan) -> float:
    """Return the distance of all sampled noise from exact: those of independent releases add up."""
    return math.fsum(each.event.total_variation * each.times for each in plan if isinstance(each.event, GaussianEvent))


def _loss_distribution(plan: Plan, finer: int = 1) -> "PrivacyLossDistribution":
    """Return the pessimistic privacy loss distribution of a plan, on a grid `finer` times finer than needed."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as library

    interval, whole = _interval(plan) / finer, library.identity(_interval(plan) / finer)
    for event, times in plan:
        if isinstance(event, GeometricEvent):
            one = library.from_discrete_laplace_mechanism(event.epsilon, value_discretization_interval=interval)
            whole = whole.compose(one.self_compose(times * event.cells))
            continue
        together = times if event.sampling_rate == 1 else 1  # full-batch Gaussians on the same patients are one
        one = library.from_gaussian_mechanism(
            event.noise_multiplier / math.sqrt(together),
            sampling_prob=event.sampling_rate,
            value_discretization_interval=interval,
            neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        )
        whole = whole.compose(one.self_compose(times // together))
    return whole


def _interval(plan: Plan) -> float:
    """Return the width of the grid on which losses are added up.

    Putting a loss on two neighbouring points of a grid adds at most a quarter of its square to the variance. The
    width adds about 0.1 % to the variance of the whole plan; it is at most 1e-3, and at least 1e-5 to bound memory:
    below, epsilon is looser and as sound.
    """
    variance, events = 0.0, 0
    for event, times in plan:
        if isinstance(event, GeometricEvent):
            variance, events = variance + times * event.cells * event.epsilon**2, events + times * event.cells
        elif event.sampling_rate == 1:
            variance, events = variance + times / event.noise_multiplier**2, events + 1
        else:
            # The divergence of order 2, which is the variance where losses are small.
            excess = event.sampling_rate**2 * math.expm1(min(500.0, event.noise_multiplier**-2))
            variance, events = variance + times * math.log1p(excess), events + times
    return min(1e-3, max(1e-5, math.sqrt(0.004 * variance / events)))
