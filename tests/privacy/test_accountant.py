"""Two currencies, one ledger: each budget has one for ever, and amounts of different currencies never meet."""

import contextlib

import pytest
from hospital_ledger import Hospital
from pydantic import TypeAdapter, ValidationError

from fedhealth.errors import BudgetExhausted, LedgerDamaged
from fedhealth.privacy.accountant import AnyBudget, AnyCost, open_budget
from fedhealth.privacy.currency import total_of
from fedhealth.privacy.entries import Created
from fedhealth.privacy.events import GaussianEvent, plan_of
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.mu_squared import MuSquaredBudget, MuSquaredCost
from fedhealth.privacy.pld import informative_epsilon, noise_multiplier_for_plan
from fedhealth.privacy.renyi import RenyiBudget, RenyiCost
from fedhealth.privacy.verify import verify_ledger

MU = MuSquaredCost(mu_squared=5, total_variation=1)
RENYI = RenyiCost(order=8.0, renyi=5, total_variation=1)
OTHER_ORDER = RenyiCost(order=8.5, renyi=5, total_variation=1)
SAMPLED = GaussianEvent(noise_multiplier=2.0, sampling_rate=0.05, total_variation=0.0)


@pytest.mark.parametrize(("one", "other"), [(MU, RENYI), (RENYI, MU), (RENYI, OTHER_ORDER)])
def test_amounts_of_different_currencies_never_meet(one, other):
    for together in (
        lambda: one + other,
        lambda: one.fits(other),
        lambda: one.fits(one, other),
        lambda: sum_of(one, other),
    ):
        with pytest.raises(ValueError, match="do not meet"):
            together()


def sum_of(*costs):
    return total_of(costs)


def test_nothing_adds_up_to_none_and_equal_currencies_add_up():
    assert total_of([]) is None
    assert total_of([RENYI, RENYI, RENYI]) == RENYI.times(3)


def test_what_is_held_already_counts_even_where_the_sum_could_not_be_written_down():
    most = MuSquaredCost(mu_squared=2**53 - 1, total_variation=0)
    assert most.fits(most)
    assert not MU.fits(most, most)


@pytest.mark.parametrize("value", [MU, RENYI, MuSquaredBudget(epsilon=1, delta=1e-5)])
def test_what_was_written_is_read_back_in_its_own_currency(value):
    adapter = TypeAdapter(AnyBudget if isinstance(value, MuSquaredBudget) else AnyCost)
    assert adapter.validate_json(value.model_dump_json()) == value


@pytest.mark.parametrize(
    "body",
    [
        '{"mu_squared": 1, "renyi": 1, "order": 8.0, "total_variation": 0}',
        '{"total_variation": 0}',
        '{"renyi": 1, "total_variation": 0}',
        '{"mu_squared": 0, "total_variation": 0}',
        '{"mu_squared": -1, "total_variation": 0}',
        '{"mu_squared": 5e-324, "total_variation": 0}',
        '{"mu_squared": NaN, "total_variation": 0}',
        '{"renyi": -1, "order": 8.0, "total_variation": 0}',
        '{"renyi": 1, "order": 8.01, "total_variation": 0}',
    ],
)
def test_what_is_no_cost_in_exactly_one_currency_is_refused(body):
    with pytest.raises(ValidationError):
        TypeAdapter(AnyCost).validate_json(body)


def test_full_batch_work_is_counted_without_loss():
    assert open_budget(3.0, 1e-5, 1.0, 1000) == MuSquaredBudget(epsilon=3.0, delta=1e-5)


@pytest.mark.parametrize(("epsilon", "rate", "rounds"), [(3.0, 0.05, 500), (8.0, 0.01, 2000), (1.0, 0.2, 50)])
def test_sampled_work_gets_an_order_that_keeps_most_of_the_rounds_it_was_chosen_for(epsilon, rate, rounds):
    budget = open_budget(epsilon, 1e-5, rate, rounds)
    assert isinstance(budget, RenyiBudget)
    noise = noise_multiplier_for_plan(epsilon, 1e-5, sampling_rate=rate, steps=rounds, total_variation=0.0)
    event = GaussianEvent(noise_multiplier=noise, sampling_rate=rate, total_variation=0.0)
    kept = budget.cap().amount // budget.cost_of(event).amount
    assert 0.7 * rounds <= kept <= rounds
    # The binding currency promises at least what the plan of so many rounds, committed in advance, costs.
    assert informative_epsilon(plan_of([(event, kept)]), 1e-5).epsilon <= epsilon
    for factor in (0.7, 1.5):
        other = RenyiBudget(epsilon=epsilon, delta=1e-5, order=round(factor * budget.order * 16) / 16)
        with contextlib.suppress(ValueError):  # at some orders nothing at all fits
            assert other.cap().amount // other.cost_of(event).amount <= kept


def test_a_budget_too_small_for_any_order_is_refused():
    with pytest.raises(ValueError, match="no"):
        open_budget(1e-6, 1e-12, 0.5, 10**6)


def renyi_ledger(folder):
    hospital = Hospital(folder)
    budget = RenyiBudget(epsilon=3.0, delta=1e-5, order=8.0)
    created = Created.model_validate(hospital.created().model_dump() | {"budgets": {"icu": budget.model_dump()}})
    return hospital, budget, Ledger.create(hospital.path, created, hospital.key)


def test_a_renyi_budget_is_filled_to_its_cap_and_not_one_unit_further(tmp_path):
    hospital, budget, ledger = renyi_ledger(tmp_path)
    each = budget.cost_of(SAMPLED)
    rounds = budget.cap().amount // each.amount
    approval = hospital.approval().model_copy(update={"envelope": {"training": each.times(rounds)}})
    with pytest.raises(BudgetExhausted):
        ledger.append(approval.model_copy(update={"envelope": {"training": each.times(rounds + 1)}}))
    ledger.append(approval)
    for number in range(rounds):
        ledger.reserve(hospital.charge(number).model_copy(update={"cost": each}))
        if number == 10:
            break
    assert ledger.account.spent(hospital.study, "training") == each.times(11)
    ledger.close()
    found = next(each for each in verify_ledger(hospital.path).spending if each.cohort == "training")
    assert found.share_spent == pytest.approx(11 * each.amount / budget.cap().amount)
    assert 0 < found.epsilon_spent < 3.0


@pytest.mark.parametrize("wrong", [MU, OTHER_ORDER], ids=["mu squared", "another order"])
def test_an_entry_in_another_currency_cannot_stand_in_the_ledger(tmp_path, wrong):
    hospital, _, ledger = renyi_ledger(tmp_path)
    with pytest.raises(LedgerDamaged, match="currency"):
        ledger.append(hospital.approval().model_copy(update={"envelope": {"training": wrong}}))
    ledger.append(hospital.approval().model_copy(update={"envelope": {"training": RENYI.times(100)}}))
    with pytest.raises(LedgerDamaged, match="currency"):
        ledger.reserve(hospital.charge(1).model_copy(update={"cost": wrong}))
    assert ledger.account.spent(hospital.study, "training") is None
    ledger.close()
