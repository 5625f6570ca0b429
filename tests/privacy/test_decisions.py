"""Decisions about studies and pinned keys, as entries: which may follow which, and that an audit verifies them."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hospital_ledger import Hospital

from fedhealth.errors import LedgerDamaged
from fedhealth.privacy.acts import ResearcherDistrusted, ResearcherTrusted
from fedhealth.privacy.decisions import FirstApproval, Rejected
from fedhealth.privacy.entries import Account, Withdrawn
from fedhealth.privacy.verify import read_ledger
from fedhealth.signing import public_key_hex

STUDY = Hospital.study
ADAS, BOBS = (
    public_key_hex(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key()) for number in (1, 2)
)


def first(by="ada"):
    return FirstApproval(study=STUDY, researcher="c" * 64, by=by, at=1)


def rejected(reason=None):
    return Rejected(study=STUDY, reason=reason, by="ada", at=2)


def withdrawn():
    return Withdrawn(study=STUDY, by="ada", at=3)


def trusted(name="alice", key=ADAS):
    return ResearcherTrusted(name=name, key=key, by="ada", at=4)


def distrusted(name="alice"):
    return ResearcherDistrusted(name=name, by="ada", at=5)


APPROVED = "an approval, in the place of which the one of the hospital stands"
# name: (entries before, the entry, words of the refusal or None); an approval is by "ada"
CASES = {
    "a first approval": ([], first(), None),
    "a first approval again": ([first()], first("bob"), "has a first approval already"),
    "an approval by another": ([first("bob")], APPROVED, None),
    "an approval by the same person": ([first("ada")], APPROVED, "twice by the same person"),
    "a first approval of what is approved": ([APPROVED], first(), "was approved"),
    "a first approval of what was withdrawn": ([APPROVED, withdrawn()], first(), "was approved"),
    "a rejection": ([], rejected("cost"), None),
    "a rejection again": ([rejected()], rejected(), "rejected twice"),
    "a rejection after a first approval": ([first()], rejected(), None),
    "a rejection of what is approved": ([APPROVED], rejected(), "was approved"),
    "a rejection of what was withdrawn": ([APPROVED, withdrawn()], rejected(), "was approved"),
    "an approval after a rejection": ([rejected()], APPROVED, None),
    "a first approval after a rejection": ([rejected()], first(), None),
    "an approval by the same person after a rejection of the first": ([first("ada"), rejected()], APPROVED, None),
    "a rejection after an approval after a rejection": ([rejected(), APPROVED], rejected(), "was approved"),
    "a key": ([], trusted(), None),
    "another key under the name": ([trusted()], trusted(key=BOBS), "is pinned already"),
    "the key under another name": ([trusted()], trusted("bob"), "under another name"),
    "a key again after it was let go": ([trusted(), distrusted()], trusted(), None),
    "a key that nobody pinned is let go": ([], distrusted(), "no key"),
    "a key is let go twice": ([trusted(), distrusted()], distrusted(), "no key"),
}


@pytest.mark.parametrize(("before", "entry", "words"), CASES.values(), ids=CASES)
def test_a_decision_follows_or_is_refused_and_leaves_the_account_as_it_was(tmp_path, before, entry, words):
    hospital, account = Hospital(tmp_path), Account()
    approval = hospital.approval()

    def entry_of(each):
        return approval if each is APPROVED else each

    account.apply(hospital.created())
    for each in before:
        account.apply(entry_of(each))

    def state():
        decisions = account.decisions
        return account.entries, dict(decisions.first), dict(decisions.rejected), dict(account.acts.researchers)

    was = state()
    if words is None:
        account.apply(entry_of(entry))
        assert account.entries == was[0] + 1
        assert not (STUDY in account.approved and (account.decisions.first or account.decisions.rejected))
    else:
        with pytest.raises(LedgerDamaged, match=words):
            account.apply(entry_of(entry))
        assert state() == was


def test_decisions_and_keys_come_back_after_a_restart_and_are_verified(hospital):
    ledger = hospital.create()
    for entry in (trusted(), trusted("bob", BOBS), distrusted(), first(), rejected("purpose")):
        ledger.append(entry)
    ledger.close()
    hospital.open().close()
    account = read_ledger(hospital.path).account
    assert account.acts.researchers == {"bob": BOBS}
    assert (account.decisions.first, list(account.decisions.rejected)) == ({}, [STUDY])
    assert account.decisions.rejected[STUDY].reason == "purpose"
