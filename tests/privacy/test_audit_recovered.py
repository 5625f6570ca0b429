# ruff: noqa: S608 - the statements are our own
"""What the offline audit makes of a ledger that was recovered, and of releases that left without a witness."""

import shutil

import apsw
import pytest
from hospital_ledger import Hospital

from fedhealth.errors import LedgerDamaged, LedgerForked
from fedhealth.privacy.checkpoint import SignedReceipt
from fedhealth.privacy.entries import GivenUp, Recovered, Unwitnessed, WitnessRule
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.ledger_database import connect
from fedhealth.privacy.verify import verify_ledger


def recovered(hospital, tmp_path):
    """A ledger of ten entries, of which number 4 to 7 were given back: 0 and 1 stored, 2 charged and open."""
    ledger = hospital.create()
    ledger.append(hospital.approval())
    ledger.reserve(hospital.charge(0))
    ledger.reserve(hospital.charge(3))
    ledger.close()
    older = shutil.copy(hospital.path, tmp_path / "older")
    ledger = hospital.open()
    ledger.note(JournalNote(kind="alert", text="lost with the newer copy", at=1))
    ledger.witness(hospital.receipt(ledger))
    ledger.store(hospital.charge(0).release, b"first")
    ledger.reserve(hospital.charge(1))
    ledger.reserve(hospital.charge(2))
    ledger.witness(hospital.receipt(ledger))
    ledger.store(hospital.charge(1).release, b"second")
    receipt = hospital.receipt(ledger)
    bodies = [body for _, body in ledger.bodies(4)]
    ledger.close()
    shutil.copy(older, hospital.path)
    ledger = hospital.open()
    ledger.recover(bodies, entry(4), receipt)
    ledger.reserve(hospital.charge(9))
    ledger.close()
    return bodies, receipt


def entry(first, given_up=None):
    return Recovered(first=first, given_up=given_up, by="ada", at=5)


def test_it_is_intact_and_says_how_much_was_given_back(hospital, tmp_path):
    recovered(hospital, tmp_path)
    found = verify_ledger(hospital.path)
    # created, approved, two charges | stored, two charges, stored | recovered, one charge
    assert (found.head.size, found.releases, found.recovered, found.witnessed) == (10, 5, 4, 8)
    ledger = hospital.open()
    states = [ledger.row(hospital.charge(number).release).state for number in (0, 1, 2, 3, 9)]
    ledger.close()
    assert states == ["sent", "sent", "closed", "closed", "reserved"]


EDITS = {
    "an entry before them without its opening": ("DELETE FROM opening WHERE position = 3", 3),
    "an entry after them without its opening": ("DELETE FROM opening WHERE position = 9", 9),
    "the entry that says so without its opening": ("DELETE FROM opening WHERE position = 8", 8),
    "an opening made up for one of them": ("INSERT INTO opening VALUES (5, zeroblob(32), 0)", 5),
    "an opening of no entry": ("INSERT INTO opening VALUES (77, zeroblob(32), 0)", 10),
    "one of them gone": ("DELETE FROM entry WHERE log = 'ledger' AND position = 6", 6),
    "the entry that says so gone": ("DELETE FROM entry WHERE log = 'ledger' AND position = 8", 4),
    "a closed release called witnessed": (f"UPDATE release SET state = 'witnessed' WHERE release = '{2:064x}'", 6),
    "a closed release called sent": (f"UPDATE release SET state = 'sent' WHERE release = '{2:064x}'", 6),
    "a sent release called closed": (f"UPDATE release SET state = 'closed' WHERE release = '{1:064x}'", 5),
    "a reserved release called closed": (f"UPDATE release SET state = 'closed' WHERE release = '{9:064x}'", 9),
}


@pytest.mark.parametrize("case", EDITS)
def test_what_it_tolerates_is_exactly_what_was_given_back(hospital, tmp_path, case):
    recovered(hospital, tmp_path)
    statement, position = EDITS[case]
    database = connect(hospital.path, apsw.SQLITE_OPEN_READWRITE)
    triggers = database.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        database.execute(f"DROP TRIGGER {name}")
    database.execute(statement)
    assert database.changes() == 1
    for _, sql in triggers:
        database.execute(sql)
    database.close()
    with pytest.raises(LedgerDamaged, match=rf"first bad entry is number {position}\b"):
        verify_ledger(hospital.path)


def test_what_is_given_back_must_lead_to_the_receipt_and_follow_the_ledger(hospital, tmp_path):
    bodies, receipt = recovered(hospital, tmp_path)
    other = Hospital(tmp_path / "other")
    other.path.parent.mkdir()
    for given, error in ((bodies[:-1], LedgerForked), (bodies[1:], LedgerDamaged), ([], LedgerForked)):
        shutil.copy(tmp_path / "older", other.path)
        before = other.path.read_bytes()
        ledger = other.open()
        with pytest.raises(error):
            ledger.recover(given, entry(4), receipt)
        ledger.close()
        ledger = other.open()
        assert ledger.size == 4
        ledger.close()
        assert len(before) == len(other.path.read_bytes())


def test_a_head_that_was_given_up_is_named_by_the_ledger_for_ever(hospital):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    given_up = GivenUp(size=9, root="e" * 64)
    ledger.recover([], entry(2, given_up), None)
    assert ledger.account.recovered[0].given_up == given_up
    ledger.close()
    found = verify_ledger(hospital.path)
    assert (found.head.size, found.recovered) == (3, 0)


def test_entries_cannot_be_said_to_be_recovered_that_do_not_stand_there(hospital):
    ledger = hospital.create()
    with pytest.raises(LedgerDamaged, match="do not stand before it"):
        ledger.append(entry(2))
    ledger.close()


# Without a witness


def let_go(hospital):
    """A ledger with a release that left without the coordinator's signature, and one that waits for it."""
    ledger = hospital.create()
    ledger.append(hospital.approval())
    ledger.append(WitnessRule(witness="best-effort", wait_seconds=30, at=2))
    for number in (0, 1, 2):
        ledger.reserve(hospital.charge(number))
    for number in (0, 1):
        ledger.release_unwitnessed(Unwitnessed(release=hospital.charge(number).release, at=4))
    ledger.store(hospital.charge(0).release, b"payload")
    return ledger


def test_releases_without_a_witness_are_counted_and_the_policy_is_named(hospital):
    let_go(hospital).close()
    found = verify_ledger(hospital.path)
    assert (found.witness, found.unwitnessed, found.witnessed, found.releases) == ("best-effort", 2, 0, 3)


def test_a_receipt_that_comes_later_covers_them(hospital):
    ledger = let_go(hospital)
    ledger.witness(hospital.receipt(ledger))
    states = [ledger.row(hospital.charge(number).release).state for number in (0, 1, 2)]
    ledger.close()
    assert states == ["stored", "witnessed", "witnessed"]
    assert verify_ledger(hospital.path).witnessed == 9


@pytest.mark.parametrize(
    ("number", "state", "position"), [(1, "witnessed", 4), (1, "reserved", 4), (2, "unwitnessed", 5)]
)
def test_a_row_that_says_otherwise_is_found(hospital, number, state, position):
    let_go(hospital).close()
    database = connect(hospital.path, apsw.SQLITE_OPEN_READWRITE)
    database.execute("UPDATE release SET state = ?, attempts = 0 WHERE release = ?", (state, f"{number:064x}"))
    database.close()
    with pytest.raises(LedgerDamaged, match=rf"first bad entry is number {position}\b"):
        verify_ledger(hospital.path)


REFUSED = [
    ("under a policy that requires the witness", lambda h: h.charge(2).release, "required"),
    ("a release that was never charged", lambda h: "f" * 64, "best-effort"),
    ("a release that left already", lambda h: h.charge(0).release, "best-effort"),
    ("a release let go before", lambda h: h.charge(1).release, "best-effort"),
]


@pytest.mark.parametrize(("name", "release_of", "rule"), REFUSED, ids=[row[0] for row in REFUSED])
def test_nothing_else_leaves_without_a_witness(hospital, name, release_of, rule):
    ledger = let_go(hospital)
    ledger.append(WitnessRule(witness=rule, wait_seconds=30, at=5))
    size = ledger.size
    with pytest.raises(LedgerDamaged):
        ledger.release_unwitnessed(Unwitnessed(release=release_of(hospital), at=6))
    assert ledger.size == size
    ledger.close()


def test_a_receipt_without_a_challenge_answers_no_process():
    body = b'{"receipt":{"kind":"fedhealth/receipt/1","root":"%s","site":"a","size":1},"signature":"%s"}'
    assert SignedReceipt.model_validate_json(body % (b"0" * 64, b"0" * 128)).receipt.challenge == "0" * 64
