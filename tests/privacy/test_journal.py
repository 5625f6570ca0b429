"""The end of the local journal: lines after the last entry are under a signature of their own."""

import apsw
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import LedgerDamaged
from fedhealth.privacy.journal import JournalNote, sign_journal
from fedhealth.privacy.ledger_database import connect
from fedhealth.privacy.merkle import MerkleTree, leaf_hash
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import sign

ALL = ("one", "two", "three")


def note(text):
    return JournalNote(kind="alert", text=text, at=1)


def tree_of(*texts):
    tree = MerkleTree()
    for text in texts:
        tree.append(leaf_hash(canonical_bytes(note(text))))
    return tree


@pytest.fixture
def tailed(hospital):
    """A ledger whose journal has one line under an entry and two after it; ends with what was signed before them."""
    ledger = hospital.create()
    ledger.append(hospital.approval(), [note(ALL[0])])
    early = signature(ledger._database)
    for text in ALL[1:]:
        ledger.note(note(text))
    ledger.close()
    return hospital, early


def signature(database):
    return database.execute("SELECT signature FROM journal_head").get


def edit(place, statement, *values):
    database = connect(place.path, apsw.SQLITE_OPEN_READWRITE)
    triggers = database.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        database.execute(f"DROP TRIGGER {name}")
    database.execute(statement, values)
    assert database.changes() == 1
    for _, sql in triggers:
        database.execute(sql)
    database.close()


GONE = "DELETE FROM entry WHERE log = 'journal' AND position = 2"
CHANGED = "UPDATE entry SET body = ?, leaf = ? WHERE log = 'journal' AND position = 2"
ADDED = "INSERT INTO entry VALUES ('journal', 3, ?, ?)"
SIGNED = "UPDATE journal_head SET signature = ?"
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)


def line(text):
    body = canonical_bytes(note(text))
    return body, leaf_hash(body)


CASES = {
    "the last line gone": lambda place, early: [(GONE,)],
    "the last line rewritten with its hash": lambda place, early: [(CHANGED, *line("3"))],
    "a line added with its hash": lambda place, early: [(ADDED, *line("four"))],
    "an earlier signature put back": lambda place, early: [(SIGNED, early)],
    "signed by another key": lambda place, early: [(SIGNED, sign_journal("north", tree_of(*ALL), OTHER))],
    "the last line gone, and signed by another key": lambda place, early: [
        (GONE,),
        (SIGNED, sign_journal("north", tree_of("one", "two"), OTHER)),
    ],
    "another site's signature": lambda place, early: [(SIGNED, sign_journal("south", tree_of(*ALL), place.key))],
    "a signature of the same words in another domain": lambda place, early: [
        (SIGNED, sign(place.key, "receipt", canonical_bytes(["north", 3, tree_of(*ALL).root().hex()])))
    ],
    "no signature": lambda place, early: [("DELETE FROM journal_head",)],
}


@pytest.mark.parametrize("case", CASES)
def test_a_changed_end_of_the_journal_is_found_by_the_site_and_by_the_audit(tailed, case):
    place, early = tailed
    verify_ledger(place.path)
    for statement in CASES[case](place, early):
        edit(place, *statement)
    with pytest.raises(LedgerDamaged, match="first bad entry is number 2; got the local journal was changed after"):
        verify_ledger(place.path)
    with pytest.raises(LedgerDamaged, match="or its journal, does not match"):
        place.open()


def test_the_signature_is_the_ledgers_over_site_size_and_root_and_grows_with_every_line(tailed):
    place, early = tailed
    ledger = place.open()
    assert signature(ledger._database) == sign_journal("north", tree_of(*ALL), place.key)
    assert early == sign_journal("north", tree_of("one"), place.key)
    ledger.note(note("four"))
    ledger.append(place.approval(place.other_study), [note("five")])
    ledger.resume(place.study, note("six"))
    wanted = sign_journal("north", tree_of(*ALL, "four", "five", "six"), place.key)
    assert signature(ledger._database) == wanted
    ledger.close()
    verify_ledger(place.path)


def test_a_ledger_without_a_line_has_a_signed_journal_of_none(hospital):
    hospital.create().close()
    edit(hospital, "DELETE FROM journal_head")
    with pytest.raises(LedgerDamaged):
        hospital.open()
    with pytest.raises(LedgerDamaged, match="local journal"):
        verify_ledger(hospital.path)
