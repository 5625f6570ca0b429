import subprocess
import sys

import apsw
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hospital_ledger import Hospital, payload_of

from fedhealth.errors import BudgetExhausted, FedHealthError, IdentityInvalid, LedgerDamaged
from fedhealth.privacy.checkpoint import open_checkpoint
from fedhealth.privacy.entries import Stored, Withdrawn
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.merkle import is_consistent
from fedhealth.privacy.mu_squared import MuSquaredBudget
from fedhealth.privacy.verify import verify_ledger

OPEN_FROM_OUTSIDE = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fedhealth.privacy.ledger import Ledger
try:
    Ledger.open(Path(sys.argv[1]), "north", Ed25519PrivateKey.from_private_bytes(bytes(32)))
except Exception as error:
    print(type(error).__name__, error)
else:
    print("opened")
"""


def size_of(ledger):
    return open_checkpoint(ledger.head(), "north", Hospital.key.public_key()).size


def test_a_release_goes_from_reserved_to_witnessed_to_stored_to_sent(hospital):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    charge = hospital.charge(0)
    assert ledger.row(charge.release) is None
    row = ledger.reserve(charge)
    assert row == ledger.row(charge.release) == ("reserved", 2, None)
    ledger.witness(hospital.receipt(ledger))
    assert ledger.row(charge.release) == ("witnessed", 2, None)
    ledger.store(charge.release, b"payload", [JournalNote(kind="alert", text="one patient counted as zero", at=4)])
    assert ledger.row(charge.release) == ("stored", 2, len(b"payload"))
    assert payload_of(ledger, charge.release) == b"payload"
    ledger.witness(hospital.receipt(ledger, checkpointed=(charge.release,)))
    assert ledger.row(charge.release) == ("sent", 2, None)
    assert ledger.receipt().checkpointed == (charge.release,)
    assert [note.text for note in ledger.journal()] == ["one patient counted as zero"]
    before = (ledger.head(), ledger.account.spent(hospital.study, "training"))
    ledger.close()
    ledger = hospital.open()
    assert (ledger.head(), ledger.account.spent(hospital.study, "training")) == before
    assert ledger.row(charge.release) == ("sent", 2, None)
    assert ledger.account.releases(hospital.study, "train") == 1
    ledger.close()
    assert verify_ledger(hospital.path).releases == 1


def test_a_receipt_witnesses_only_what_stood_under_its_head_and_drops_only_stored_payloads(hospital):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    first, second = hospital.charge(0), hospital.charge(1)
    ledger.reserve(first)
    receipt = hospital.receipt(ledger, checkpointed=(first.release,))
    ledger.reserve(second)
    ledger.witness(receipt)
    assert ledger.row(first.release).state == "witnessed", "it was not stored, so it cannot have been sent"
    assert ledger.row(second.release).state == "reserved"
    ledger.close()


def test_heads_grow_consistently_from_any_earlier_one(hospital):
    ledger = hospital.create()
    heads = [open_checkpoint(ledger.head(), "north", hospital.key.public_key())]
    ledger.append(hospital.approval())
    for number in range(8):
        ledger.reserve(hospital.charge(number))
        heads.append(open_checkpoint(ledger.head(), "north", hospital.key.public_key()))
    last = heads[-1]
    for head in heads:
        proof = [bytes.fromhex(node) for node in ledger.consistency_proof(head.size)]
        assert is_consistent(head.size, bytes.fromhex(head.root), last.size, bytes.fromhex(last.root), proof)
    ledger.close()


def test_a_missing_ledger_is_an_error_and_not_an_empty_ledger(hospital):
    with pytest.raises(LedgerDamaged, match="missing"):
        hospital.open()
    assert not hospital.path.exists()


@pytest.mark.parametrize("content", [b"", b"x", b"SQLite format 3\0" + bytes(4080)])
def test_a_file_that_is_no_ledger_is_refused(hospital, content):
    hospital.path.write_bytes(content)
    with pytest.raises(LedgerDamaged):
        hospital.open()


def test_a_ledger_is_never_created_over_another(hospital):
    hospital.create().close()
    before = hospital.path.read_bytes()
    with pytest.raises(LedgerDamaged, match="already"):
        hospital.create()
    assert hospital.path.read_bytes() == before


def test_the_ledger_of_another_site_or_key_is_refused_and_let_go(hospital):
    hospital.create().close()
    refusals = []  # kept, so that nothing is cleaned up by accident
    for site, key in (("south", hospital.key), ("north", Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32))):
        with pytest.raises((LedgerDamaged, IdentityInvalid)) as refusal:
            Ledger.open(hospital.path, site, key)
        refusals.append(refusal)
    hospital.open().close()


def test_a_charge_beyond_the_envelope_is_refused_and_nothing_is_written(hospital):
    ledger = hospital.create()
    ledger.append(hospital.approval(training=10))
    ledger.reserve(hospital.charge(0, mu_squared=6))
    before, rest = ledger.head(), ledger.account.spent(hospital.study, "training")
    with pytest.raises(BudgetExhausted):
        ledger.reserve(hospital.charge(1, mu_squared=5))
    assert ledger.head() == before and ledger.account.spent(hospital.study, "training") == rest
    assert ledger.row(hospital.charge(1).release) is None
    ledger.reserve(hospital.charge(2, mu_squared=4))  # 6 + 4 is the whole envelope
    with pytest.raises(BudgetExhausted):
        ledger.reserve(hospital.charge(3, mu_squared=1))
    ledger.close()
    assert verify_ledger(hospital.path).releases == 2


def test_an_approval_beyond_the_cap_is_refused_and_says_how_much_is_left(hospital):
    cap = MuSquaredBudget(epsilon=3.0, delta=1e-5).cap().mu_squared
    ledger = hospital.create()
    ledger.append(hospital.approval(training=cap - 10))
    before = ledger.head()
    with pytest.raises(BudgetExhausted, match=r"at most the 0\.0% that is left"):
        ledger.append(hospital.approval(hospital.other_study, training=11))
    assert ledger.head() == before
    ledger.append(hospital.approval(hospital.other_study, training=10))
    ledger.close()


def test_the_two_sides_of_a_data_set_each_have_the_whole_cap(hospital):
    cap = MuSquaredBudget(epsilon=3.0, delta=1e-5).cap().mu_squared
    ledger = hospital.create()
    ledger.append(hospital.approval(training=cap, held_out=cap))
    with pytest.raises(BudgetExhausted):
        ledger.append(hospital.approval(hospital.other_study, training=1))
    ledger.reserve(hospital.charge(0, mu_squared=cap))
    ledger.reserve(hospital.charge(1, mu_squared=cap, cohort="held-out"))
    with pytest.raises(BudgetExhausted):
        ledger.reserve(hospital.charge(2, cohort="held-out"))
    ledger.close()


def test_a_withdrawn_study_gives_back_what_it_had_not_spent_and_spends_no_more(hospital):
    cap = MuSquaredBudget(epsilon=3.0, delta=1e-5).cap().mu_squared
    ledger = hospital.create()
    ledger.append(hospital.approval(training=cap))
    ledger.reserve(hospital.charge(0, mu_squared=100))
    ledger.append(Withdrawn(study=hospital.study, by="ada", at=5))
    with pytest.raises(LedgerDamaged):
        ledger.reserve(hospital.charge(1))
    with pytest.raises(BudgetExhausted):
        ledger.append(hospital.approval(hospital.other_study, training=cap - 99))
    ledger.append(hospital.approval(hospital.other_study, training=cap - 100))
    ledger.close()


IMPOSSIBLE = {
    "a second first entry": lambda h: h.created(),
    "an approval twice": lambda h: h.approval(),
    "an approval on a data set without a budget": lambda h: h.approval(h.other_study, data_set="eye"),
    "a withdrawal of an unknown study": lambda h: Withdrawn(study=h.other_study, by="ada", at=1),
    "a stored release that was never charged": lambda h: Stored(
        release="9" * 64, payload_sha256="0" * 64, payload_bytes=0
    ),
    "a charge twice": lambda h: h.charge(0),
    "a charge to an unknown study": lambda h: h.charge(1, study=h.other_study),
    "a charge on a side without an envelope": lambda h: h.charge(1, cohort="held-out"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_entry_that_cannot_follow_is_refused_and_the_ledger_goes_on(hospital, case):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    ledger.reserve(hospital.charge(0))
    before = ledger.head()
    with pytest.raises((LedgerDamaged, BudgetExhausted)):
        ledger.append(IMPOSSIBLE[case](hospital))
    assert ledger.head() == before
    ledger.append(hospital.approval(hospital.other_study))
    ledger.close()


def test_a_release_is_not_stored_before_it_is_witnessed(hospital):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    ledger.reserve(hospital.charge(0))
    before = ledger.head()
    with pytest.raises(LedgerDamaged, match="not witnessed"):
        ledger.store(hospital.charge(0).release, b"payload")
    ledger.close()
    ledger = hospital.open()
    assert ledger.head() == before and ledger.row(hospital.charge(0).release).state == "reserved"
    ledger.close()


def test_a_release_is_stored_once(hospital):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    ledger.reserve(hospital.charge(0))
    ledger.witness(hospital.receipt(ledger))
    ledger.store(hospital.charge(0).release, b"payload")
    with pytest.raises(LedgerDamaged):
        ledger.store(hospital.charge(0).release, b"another")
    assert payload_of(ledger, hospital.charge(0).release) == b"payload"
    ledger.close()


def test_receipts_of_another_history_site_or_time_are_refused(hospital, tmp_path):
    ledger = hospital.create()
    early = hospital.receipt(ledger)
    ledger.append(hospital.approval())
    ledger.witness(hospital.receipt(ledger))
    (tmp_path / "elsewhere").mkdir()
    other = Hospital(tmp_path / "elsewhere")
    longer = other.create()
    longer.append(other.approval(training=1))
    longer.append(other.approval(other.other_study))
    ledger.append(hospital.approval(hospital.other_study))  # now both have three entries, and other ones
    own = hospital.receipt(ledger)
    foreign = own.model_copy(update={"receipt": own.receipt.model_copy(update={"site": "south"})})
    for receipt in (early, other.receipt(longer), foreign):
        with pytest.raises(LedgerDamaged):
            ledger.witness(receipt)
    assert ledger.receipt().size == 2, "an older receipt does not take the place of a newer one"
    ledger.close()
    longer.close()


def test_a_second_process_cannot_open_it_even_after_the_first_has_read_its_file(hospital):
    ledger = hospital.create()
    assert "in use" in outside(hospital), "a ledger has one holder"
    # POSIX drops all of a process's locks on a file when it closes any handle on that file, as an audit does.
    verify_ledger(hospital.path)
    hospital.path.read_bytes()
    assert "in use" in outside(hospital)
    with pytest.raises(LedgerDamaged, match="in use"):
        hospital.open()
    assert "in use" in outside(hospital)
    ledger.append(hospital.approval())
    ledger.close()
    assert outside(hospital) == "opened\n"
    ledger = hospital.open()
    assert size_of(ledger) == 2, "the acknowledged entry is there"
    ledger.close()


def outside(hospital):
    return subprocess.run(
        [sys.executable, "-c", OPEN_FROM_OUTSIDE, str(hospital.path)], capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("statement", ["UPDATE entry SET leaf = leaf", "DELETE FROM entry"])
def test_sqlite_itself_refuses_to_change_what_was_written(hospital, statement):
    ledger = hospital.create()
    with pytest.raises(apsw.ConstraintError, match="append-only"):
        ledger._database.execute(statement)
    ledger.close()


def test_the_file_is_for_its_owner_only(hospital):
    hospital.create().close()
    assert hospital.path.stat().st_mode & 0o777 == 0o600


def test_a_closed_ledger_writes_nothing(hospital):
    ledger = hospital.create()
    ledger.close()
    for call in (
        lambda: ledger.append(hospital.approval()),
        lambda: ledger.note(JournalNote(kind="alert", text="", at=1)),
    ):
        with pytest.raises(LedgerDamaged, match="closed"):
            call()


def test_equal_events_give_equal_sizes_whatever_the_journal_says(hospital, tmp_path):
    """Rule 0: what patients cause goes to the journal, and the head that crosses does not grow by it."""
    (tmp_path / "neighbour").mkdir()
    sizes, bodies = [], []
    for place, notes in (
        (hospital, []),
        (Hospital(tmp_path / "neighbour"), [JournalNote(kind="alert", text="x", at=1)]),
    ):
        ledger = place.create()
        ledger.append(place.approval())
        ledger.reserve(place.charge(0))
        ledger.witness(place.receipt(ledger))
        ledger.store(place.charge(0).release, b"payload", notes)
        for note in notes:
            ledger.note(note)
        sizes.append(size_of(ledger))
        rows = ledger._database.execute("SELECT length(body) FROM entry WHERE log = 'ledger' ORDER BY position")
        bodies.append(rows.fetchall())
        ledger.close()
    assert sizes[0] == sizes[1] and bodies[0] == bodies[1]


def test_commitments_to_the_same_journal_differ_from_entry_to_entry(hospital):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    rows = ledger._database.execute("SELECT json_extract(body, '$.journal') FROM entry WHERE log = 'ledger'").fetchall()
    assert len(set(rows)) == 2, "without a fresh salt, equal commitments would say that no patient caused anything"
    ledger.close()


def test_a_damaged_file_is_refused_by_name_or_opens_with_the_head_it_had(hospital):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    head = ledger.head()
    ledger.close()
    whole = hospital.path.read_bytes()
    refused = 0
    for place in range(5, len(whole), 611):  # 611 is prime, so the places differ within the pages
        hospital.path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            ledger = hospital.open()
        except FedHealthError:
            refused += 1
        else:
            assert ledger.head() == head
            ledger.close()
    assert refused >= 15


def test_replacing_an_entry_is_refused_like_deleting_it(hospital):
    ledger = hospital.create()
    with pytest.raises(apsw.ConstraintError, match="append-only"):
        ledger._database.execute("REPLACE INTO entry VALUES ('ledger', 0, x'00', x'00')")
    ledger.close()


def test_a_payload_is_read_in_parts_and_a_reader_that_stops_leaves_the_ledger_usable(hospital):
    ledger, charge = hospital.create(), hospital.charge(0)
    ledger.append(hospital.approval())
    ledger.reserve(charge)
    ledger.witness(hospital.receipt(ledger), charge.release)
    payload = bytes(range(256)) * (3 * 2**12) + b"the end"  # 3 MiB and a little
    ledger.store(charge.release, payload)
    parts = [len(part) for part in ledger.payload_parts(charge.release)]
    assert (parts, payload_of(ledger, charge.release)) == ([2**20] * 3 + [7], payload)
    reading = ledger.payload_parts(charge.release)
    next(reading)
    reading.close()
    ledger.reserve(hospital.charge(1))  # an open reader would keep the commit out of the file
    with pytest.raises(LedgerDamaged, match="cannot be read"):
        next(ledger.payload_parts(hospital.charge(1).release))
