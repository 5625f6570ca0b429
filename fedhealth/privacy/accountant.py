"""The currencies there are, and which one a budget should be counted in.

| currency | admits | share of the rounds that a plan fixed in advance could have |
|---|---|---|
| `mu-squared` | full-batch rounds and counts | 100 % |
| `renyi`, at one order | those and Poisson-sampled rounds | 78 % and more: `benchmarks/accounting.py` |

The order of a Renyi budget is chosen once, for the work its site says it expects (`open_budget`).
"""

from typing import Annotated

from pydantic import Field

from fedhealth.privacy.events import GaussianEvent, plan_of
from fedhealth.privacy.mu_squared import MuSquaredBudget, MuSquaredCost
from fedhealth.privacy.pld import noise_multiplier_for_plan
from fedhealth.privacy.renyi import RenyiBudget, RenyiCost, best_order

AnyCost = MuSquaredCost | RenyiCost
AnyBudget = Annotated[MuSquaredBudget | RenyiBudget, Field(discriminator="currency")]


def open_budget(epsilon: float, delta: float, sampling_rate: float, rounds: int) -> AnyBudget:
    """Return the budget that holds the most of the work a site expects.

    Args:
        epsilon: the cap for the life of the data, in (0, 50].
        delta: the cap for the life of the data, in [1e-12, 0.01].
        sampling_rate: of the rounds that are expected, in [1e-6, 1]; 1 is full batch.
        rounds: how many of them in the life of the data, all studies together, at least 1.

    Raises:
        ValueError: the budget is too small for the work at any order.
    """
    if sampling_rate == 1:
        return MuSquaredBudget(epsilon=epsilon, delta=delta)
    noise_multiplier = noise_multiplier_for_plan(
        epsilon, delta, sampling_rate=sampling_rate, steps=rounds, total_variation=0.0
    )
    work = GaussianEvent(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, total_variation=0.0)
    return RenyiBudget(epsilon=epsilon, delta=delta, order=best_order(epsilon, delta, plan_of([(work, 1)])))
