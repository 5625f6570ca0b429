import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.errors import BudgetExhausted
from fedhealth.privacy.cohorts import Cohorts, Spending

NAMES = ("first", "second", "third", "fourth")


def build(members):
    cohorts = Cohorts.of_patients(len(members[0]))
    for name, inside in zip(NAMES, members, strict=False):
        cohorts = cohorts.with_cohort(name, np.array(inside, dtype=np.bool_))
    return cohorts


@st.composite
def some_members(draw):
    patients = draw(st.integers(0, 12))
    row = st.lists(st.booleans(), min_size=patients, max_size=patients)
    return draw(st.lists(row, min_size=1, max_size=4))


@given(some_members())
def test_a_cohort_has_the_patients_it_was_given(members):
    cohorts = build(members)
    for name, inside in zip(NAMES, members, strict=False):
        assert cohorts.members(name).tolist() == inside
    distinct = len(set(zip(*members, strict=True)))
    assert cohorts.contains.shape == (len(members), distinct), "as many cells as patients differ, no empty one"


@settings(max_examples=200)
@given(some_members(), st.data())
def test_spending_is_what_a_loop_over_patients_says(members, data):
    names = NAMES[: len(members)]
    cap = data.draw(st.integers(1, 30))
    spending, by_hand = Spending(build(members), cap), [0] * len(members[0])
    charges = st.lists(st.tuples(st.sampled_from(range(len(names))), st.integers(1, 15)), max_size=12)
    for cohort, amount in data.draw(charges):
        payers = [patient for patient, inside in enumerate(members[cohort]) if inside]
        eligible = [patient in payers and by_hand[patient] + amount <= cap for patient in range(len(by_hand))]
        assert spending.eligible(names[cohort], amount).tolist() == eligible
        if amount <= cap and all(by_hand[patient] + amount <= cap for patient in payers):
            spending.charge(names[cohort], amount)
            for patient in payers:
                by_hand[patient] += amount
        else:
            with pytest.raises(BudgetExhausted):
                spending.charge(names[cohort], amount)
        assert spending.spent().tolist() == by_hand, "a refusal changes nothing"


@given(some_members(), st.data())
def test_a_new_cohort_changes_nobodys_spending(members, data):
    spending = Spending(build(members), 10_000)
    for number, name in enumerate(NAMES[: len(members)]):
        spending.charge(name, 10**number)
    row = data.draw(st.lists(st.booleans(), min_size=len(members[0]), max_size=len(members[0])))
    more = spending.with_cohort("new", np.array(row, dtype=np.bool_))
    assert more.spent().tolist() == spending.spent().tolist()
    more.charge("new", 5)
    assert (more.spent() - spending.spent()).tolist() == [5 * inside for inside in row]


def test_the_patients_that_can_still_pay_go_on_as_a_cohort_of_their_own():
    spending = Spending(build([[True, True, False], [True, True, True]]), 10)
    spending.charge("first", 7)
    with pytest.raises(BudgetExhausted):
        spending.charge("second", 4)
    spending = spending.with_cohort("second, those that can pay 4", spending.eligible("second", 4))
    spending.charge("second, those that can pay 4", 4)
    assert spending.spent().tolist() == [7, 7, 4]


@pytest.mark.parametrize("amount", [0, -1, 1.0, 0.5, 5e-324, math.nan, math.inf, True, None, "1", 2**53, np.int64(1)])
def test_an_amount_that_is_not_a_positive_integer_is_refused(amount):
    spending = Spending(build([[True, False]]), 10)
    for refusal in (
        lambda: spending.charge("first", amount),
        lambda: spending.eligible("first", amount),
        lambda: Spending(spending.cohorts, amount),
    ):
        with pytest.raises(ValueError):
            refusal()
    assert spending.spent().tolist() == [0, 0]


def test_the_largest_amounts_do_not_overflow():
    spending = Spending(build([[True, False]]), 2**53 - 1)
    spending.charge("first", 2**53 - 1)
    assert spending.eligible("first", 2**53 - 1).tolist() == [False, False]
    with pytest.raises(BudgetExhausted):
        spending.charge("first", 2**53 - 1)
    assert spending.spent().tolist() == [2**53 - 1, 0]


def test_unknown_and_repeated_cohorts_and_other_shapes_are_refused():
    cohorts = build([[True, False]])
    spending = Spending(cohorts, 10)
    for refusal in (
        lambda: cohorts.members("second"),
        lambda: spending.charge("second", 1),
        lambda: spending.eligible("second", 1),
        lambda: cohorts.with_cohort("first", np.array([True, False])),
        lambda: cohorts.with_cohort("second", np.array([True])),
        lambda: cohorts.with_cohort("second", np.array([1, 0])),
        lambda: Cohorts.of_patients(-1),
    ):
        with pytest.raises(ValueError):
            refusal()


def test_a_million_patients_are_charged_and_masked_in_time():
    generator, cohorts = np.random.default_rng(0), Cohorts.of_patients(1_000_000)
    for name in NAMES:
        cohorts = cohorts.with_cohort(name, generator.random(1_000_000) < 0.5)
    spending = Spending(cohorts, 10**9)

    def fastest(call):
        seconds = []
        for _ in range(20):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    assert fastest(lambda: spending.charge("first", 1)) < 1e-3
    assert fastest(lambda: spending.eligible("second", 1)) < 0.1
