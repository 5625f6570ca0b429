"""Charges of all patients of a data set: both sides pay the whole, and an asker's share is the ledger's to say."""

import pytest
from pydantic import ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import ApprovalMissing, BudgetExhausted, LedgerDamaged
from fedhealth.privacy.asked_counts import Asker
from fedhealth.privacy.entries import Account, Approved, Created, Reserved
from fedhealth.privacy.events import GeometricEvent
from fedhealth.privacy.mu_squared import MuSquaredBudget

BUDGET = MuSquaredBudget(epsilon=3.0, delta=1e-5)
PRICE = BUDGET.cost_of(GeometricEvent(epsilon=0.1, cells=1))
SEARCH, STUDY = "a" * 64, "b" * 64
ADA, GRACE = Asker(key="1" * 64, quarter="2026-Q4"), Asker(key="2" * 64, quarter="2026-Q4")

CREATED = Created(
    site="w", ledger_key="0" * 64, witness_key="0" * 64, budgets={"ward": BUDGET}, unsafe_test_site=False, at=0
)


def approved(study=SEARCH, **parts):
    values = {
        "study": study,
        "researcher": "c" * 64,
        "data_set": "ward",
        "sides": None,
        "declared_patients": 100,
        "reply_after_ms": {"count": 20},
        "envelope": {"training": PRICE.times(3), "held-out": PRICE.times(3)},
        "counts_of_an_asker": 2,
        "delta": 1e-5,
        "by": "test",
        "at": 1,
    }
    return Approved(**(values | parts))


def counted(number, asker=ADA, **parts):
    values = {"release": f"{number:064x}", "study": SEARCH, "step": "count", "round": 1, "cohort": "everybody"}
    return Reserved(**(values | {"cost": PRICE, "asker": asker, "at": 1} | parts))


@pytest.fixture
def account():
    account = Account()
    account.apply(CREATED)
    account.apply(approved())
    return account


def test_both_sides_pay_the_whole_of_each_count(account):
    account.apply(counted(1))
    account.apply(counted(2))
    assert account.spent(SEARCH, "training") == account.spent(SEARCH, "held-out") == PRICE.times(2)
    assert account.releases(SEARCH, "count") == 2


def test_an_asker_has_a_share_of_each_quarter_and_others_have_their_own(account):
    account.apply(counted(1))
    account.apply(counted(2))
    with pytest.raises(BudgetExhausted, match="an asker of study aaaaaaaaaaaa has spent what one may cause in 2026-Q4"):
        account.apply(counted(3))
    account.apply(counted(3, GRACE))
    assert [(each.key, each.counts) for each in account.asked.of(SEARCH)] == [(ADA.key, 2), (GRACE.key, 1)]


def test_a_hospitals_askers_share_what_it_may_cause_and_none_asks_in_nobodys_name():
    account = Account()
    account.apply(CREATED)
    account.apply(approved(counts_of_a_hospital=2))
    ada, grace = (asker.model_copy(update={"site": "far-away"}) for asker in (ADA, GRACE))
    account.apply(counted(1, ada))
    account.apply(counted(2, grace))
    with pytest.raises(BudgetExhausted, match="a hospital whose people ask under study aaaaaaaaaaaa has spent"):
        account.apply(counted(3, grace))
    with pytest.raises(BudgetExhausted, match="a hospital whose people"):
        account.apply(counted(3, ADA))
    account.apply(counted(3, ADA.model_copy(update={"site": "elsewhere"})))


def test_entries_from_before_hospitals_had_shares_have_the_bytes_that_they_had():
    # Each entry is a leaf of the ledger's tree: a word more in an old one would break every head that was signed.
    assert "hospital" not in canonical_bytes(approved()).decode()
    assert b'"asker":{"key":"' + b"1" * 64 + b'","quarter":"2026-Q4"}' in canonical_bytes(counted(1))


def test_the_envelope_binds_whoever_asks(account):
    for number, asker in enumerate((ADA, ADA, GRACE)):
        account.apply(counted(number, asker))
    with pytest.raises(BudgetExhausted, match="has spent its envelope"):
        account.apply(counted(4, GRACE))
    assert account.spent(SEARCH, "held-out") == PRICE.times(3)


def test_a_refused_charge_changes_nothing(account):
    account.apply(counted(1))
    account.apply(counted(2))
    before = account.spent(SEARCH, "training"), account.asked.of(SEARCH), len(account.reserved)
    with pytest.raises(BudgetExhausted):
        account.apply(counted(3))
    assert (account.spent(SEARCH, "training"), account.asked.of(SEARCH), len(account.reserved)) == before


def test_a_search_stands_beside_any_split_and_no_other_split_beside_the_first(account):
    sides = {"sides": "d" * 64, "counts_of_an_asker": None, "envelope": {"training": PRICE}}
    account.apply(approved(STUDY, **sides))
    with pytest.raises(ApprovalMissing, match="splits the patients"):
        account.apply(approved("e" * 64, **sides | {"sides": "f" * 64}))
    account.apply(approved("e" * 64))


def test_a_study_of_sides_counts_nobody_and_a_search_trains_nothing(account):
    account.apply(approved(STUDY, sides="d" * 64, counts_of_an_asker=None, envelope={"training": PRICE}))
    with pytest.raises(LedgerDamaged, match="of patients that its study does not know"):
        account.apply(counted(1, study=STUDY))
    with pytest.raises(LedgerDamaged, match="of patients that its study does not know"):
        account.apply(counted(1, None, step="train", cohort="training"))


@pytest.mark.parametrize(
    "parts",
    [
        {"cohort": "training"},
        {"asker": None},
        {"step": "train"},
        {"step": "train", "asker": None},
        {"step": "train", "cohort": "training"},
    ],
)
def test_only_counts_are_of_everybody_and_have_an_asker(parts):
    with pytest.raises(ValidationError, match="counts, and nothing else"):
        counted(1, **parts)


@pytest.mark.parametrize("envelope", [{}, {"training": PRICE}, {"training": PRICE, "held-out": PRICE.times(2)}])
def test_an_approval_that_knows_no_sides_charges_both_alike(envelope):
    with pytest.raises(ValidationError, match="charged to both alike"):
        approved(envelope=envelope)
