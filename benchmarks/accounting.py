"""What the adaptive filter costs in rounds, and what accounting costs in time.

Rounds: how many rounds a budget allows that is enforced by a filter valid for studies chosen adaptively, over how many
the PLD of dp-accounting allows one plan committed in advance. Sampled rounds are counted in the fixed-order currency,
its order chosen for these rounds; full-batch rounds in mu squared.

Time: one charge and one mask of the eligible for a million patients, in few cohorts and in as many as make every
other patient a cell of its own; beside it, one durable commit of a ledger on this disk.

Run: .venv/bin/python benchmarks/accounting.py
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dp_accounting.pld import privacy_loss_distribution

from fedhealth.privacy.cohorts import Cohorts, Spending
from fedhealth.privacy.entries import Created
from fedhealth.privacy.events import GaussianEvent, plan_of
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.mu_squared import MuSquaredBudget
from fedhealth.privacy.noise_table import TOTAL_VARIATION_PER_COORDINATE
from fedhealth.privacy.renyi import RenyiBudget, best_order

DELTA = 1e-5
SIGMAS, EPSILONS, RATES = (2.0, 4.0, 8.0), (3.0, 8.0), (0.01, 0.05, 0.2, 1.0)
WEIGHTS = 100_000
"""Length of a release, whose noise is that far from exact."""

GRIDS = {0.01: 3e-5, 0.05: 5e-5, 0.2: 1e-4, 1.0: 1e-4}
"""Width of the PLD's grid at each rate: a finer one moves no number of rounds here by 0.3 %."""

FEWEST_COUNTED = 10
PATIENTS = 1_000_000


def main() -> None:
    """Print both tables, and whether the targets are met."""
    logging.disable(logging.WARNING)
    rounds_table()
    timings()


def rounds_table() -> None:
    """Print rounds of the filter over rounds of a non-adaptive PLD."""
    print(f"rounds within (epsilon, {DELTA:g}), add or remove one patient, releases of {WEIGHTS} weights")
    print("currency        q  sigma  epsilon   order    filter       PLD   share")
    shares: dict[str, list[float]] = {"rho(alpha)": [], "mu squared": []}
    for rate in RATES:
        for sigma in SIGMAS:
            one = privacy_loss_distribution.from_gaussian_mechanism(
                sigma, sampling_prob=rate, value_discretization_interval=GRIDS[rate]
            )
            event = GaussianEvent(
                noise_multiplier=sigma,
                sampling_rate=rate,
                total_variation=WEIGHTS * TOTAL_VARIATION_PER_COORDINATE,
            )
            for epsilon in EPSILONS:
                currency = "mu squared" if rate == 1 else "rho(alpha)"
                order, filtered = rounds_of_filter(event, epsilon)
                planned = rounds_of_plan(one, epsilon, filtered)
                share = filtered / planned
                counted = planned >= FEWEST_COUNTED
                if counted:
                    shares[currency].append(share)
                print(
                    f"{currency} {rate:6g} {sigma:6g} {epsilon:8g} {order:>7} {filtered:9d} {planned:9d}  {share:6.1%}"
                    + ("" if counted else f"  fewer than {FEWEST_COUNTED}: not counted")
                )
    for currency, median_goal, least_goal in (("rho(alpha)", 0.85, 0.75), ("mu squared", 0.95, 0.95)):
        median, least = statistics.median(shares[currency]), min(shares[currency])
        met = median >= median_goal and least >= least_goal
        print(
            f"{currency}: median {median:.1%}, least {least:.1%} of {len(shares[currency])} cells "
            f"(target: median {median_goal:.0%}, least {least_goal:.0%}) {met}"
        )


def rounds_of_filter(event: GaussianEvent, epsilon: float) -> tuple[str, int]:
    """Return the order, if the currency has one, and how many such rounds fit a budget."""
    if event.sampling_rate == 1:
        budget = MuSquaredBudget(epsilon=epsilon, delta=DELTA)
        cost, cap = budget.cost_of(event), budget.cap()
        return "", min(cap.mu_squared // cost.mu_squared, cap.total_variation // cost.total_variation)
    order = best_order(epsilon, DELTA, plan_of([(event, 1)]))
    sampled = RenyiBudget(epsilon=epsilon, delta=DELTA, order=order)
    price, most = sampled.cost_of(event), sampled.cap()
    return f"{order:g}", min(most.renyi // price.renyi, most.total_variation // price.total_variation)


def rounds_of_plan(one: privacy_loss_distribution.PrivacyLossDistribution, epsilon: float, at_least: int) -> int:
    """Return how many rounds the PLD allows, by bisection, to 0.05 %."""

    def holds(rounds: int) -> bool:
        return bool(one.self_compose(rounds).get_delta_for_epsilon(epsilon) <= DELTA)

    low, high = max(1, at_least), 2 * at_least + 2
    while not holds(low):
        low, high = low // 2, low
    while holds(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 2000):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def timings() -> None:
    """Print the time of a charge and of a mask for a million patients, and of a durable commit."""
    print(f"\n{PATIENTS} patients, median of 100")
    print("cohorts     cells    charge (target: at most 1 ms)    mask (target: at most 100 ms)")
    generator = np.random.default_rng(0)
    for count in (2, 8, 20):
        cohorts = Cohorts.of_patients(PATIENTS)
        for number in range(count):
            cohorts = cohorts.with_cohort(f"cohort-{number}", generator.random(PATIENTS) < 0.5)
        spending = Spending(cohorts, 2**52)
        charge = median_seconds(lambda spending=spending: spending.charge("cohort-0", 1_000_000))
        mask = median_seconds(lambda spending=spending: spending.eligible("cohort-1", 1_000_000))
        cells = cohorts.contains.shape[1]
        met = charge <= 1e-3 and mask <= 0.1
        print(f"{count:7d} {cells:9d} {charge * 1e3:9.3f} ms {mask * 1e3:29.2f} ms   {met}")
    print(f"one durable commit of a ledger: {commit_seconds() * 1e3:.2f} ms (median of 100)")
    event = GaussianEvent(noise_multiplier=3.0, sampling_rate=0.05, total_variation=0.0)
    start = time.perf_counter()
    order = best_order(3.0, DELTA, plan_of([(event, 1)]))
    print(f"choice of the order, once per budget: {time.perf_counter() - start:.2f} s (order {order:g})")
    budget = RenyiBudget(epsilon=3.0, delta=DELTA, order=order)
    price = median_seconds(lambda: budget.cost_of(event))
    print(f"price of an event that was priced before: {price * 1e6:.0f} microseconds")


def median_seconds(call: Callable[[], object]) -> float:
    """Return the median seconds of 100 calls, after one that is not timed."""
    call()
    seconds = []
    for _ in range(100):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def commit_seconds() -> float:
    """Return the median seconds of one durable commit in a real ledger."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw().hex()
    created = Created(
        site="north",
        ledger_key=public,
        witness_key=public,
        budgets={"icu": MuSquaredBudget(epsilon=3.0, delta=DELTA)},
        unsafe_test_site=True,
        at=1,
    )
    with tempfile.TemporaryDirectory(prefix="fedhealth-bench-") as folder:
        ledger = Ledger.create(Path(folder) / "ledger.sqlite", created, key)
        note = JournalNote(kind="alert", text="benchmark", at=2)
        seconds = median_seconds(lambda: ledger.note(note))
        ledger.close()
    return seconds


if __name__ == "__main__":
    main()
