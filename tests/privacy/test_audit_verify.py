# ruff: noqa: S311, S608 - places are drawn by a seed, and the statements are our own
import random
import shutil

import apsw
import pytest
from hospital_ledger import Hospital

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import FedHealthError, IdentityInvalid, LedgerDamaged
from fedhealth.privacy.checkpoint import Checkpoint, sign_checkpoint, sign_receipt
from fedhealth.privacy.entries import ENTRY
from fedhealth.privacy.journal import DataNote, JournalNote
from fedhealth.privacy.ledger_database import PAGE_BYTES, connect
from fedhealth.privacy.merkle import MerkleTree, leaf_hash
from fedhealth.privacy.mu_squared import MU_SQUARED_UNITS, MuSquaredBudget, delta_of
from fedhealth.privacy.verify import verify_ledger

CAP = MuSquaredBudget(epsilon=3.0, delta=1e-5).cap().mu_squared
STATES = ("sent", "stored", "witnessed", "reserved")


def fill(hospital, unsafe=False):
    """A small ledger with a release in each state, and a journal with a line after the last entry."""
    ledger = hospital.create(unsafe)
    ledger.append(hospital.approval(training=CAP // 2))
    for number in range(3):
        ledger.reserve(hospital.charge(number, mu_squared=CAP // 16))
    ledger.note(DataNote(version=1, content="e" * 64, members="f" * 64, at=1))
    ledger.witness(hospital.receipt(ledger))
    ledger.store(hospital.charge(0).release, b"first", [JournalNote(kind="alert", text="x", at=1)])
    ledger.store(hospital.charge(1).release, b"second")
    ledger.witness(hospital.receipt(ledger, checkpointed=(hospital.charge(0).release,)))
    ledger.reserve(hospital.charge(3, mu_squared=CAP // 16))
    ledger.note(JournalNote(kind="failure", text=hospital.study, at=1))
    rows = [ledger.row(hospital.charge(number).release).state for number in range(4)]
    assert rows == list(STATES)
    head = ledger.head()
    ledger.close()
    return head


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    hospital = Hospital(tmp_path_factory.mktemp("original"))
    fill(hospital)
    return hospital


@pytest.fixture
def copy(original, tmp_path):
    shutil.copy(original.path, tmp_path)
    return Hospital(tmp_path)


def test_an_intact_ledger_verifies_and_says_what_was_spent(original):
    found = verify_ledger(original.path)
    assert found == verify_ledger(original.path.parent), "its folder will do as well"
    # created, approved, three charges, two stored, one charge
    assert (found.head.size, found.releases, found.witnessed) == (8, 4, 7)
    assert not found.unsafe_test_site
    assert found.ledger_key == original.key.public_key().public_bytes_raw().hex()
    training, held_out = found.spending
    assert training.share_spent == pytest.approx(1 / 4, rel=1e-6)  # four releases of a sixteenth
    assert training.share_set_aside == pytest.approx(1 / 2, rel=1e-6)
    mu = (4 * (CAP // 16) / MU_SQUARED_UNITS) ** 0.5
    assert delta_of(mu, training.epsilon_spent) == pytest.approx(1e-5, rel=1e-6)
    assert (training.epsilon_cap, training.delta) == (3.0, 1e-5)
    assert (held_out.epsilon_spent, held_out.share_spent, held_out.share_set_aside) == (0.0, 0.0, 0.0)


def test_verification_changes_nothing(original):
    before = original.path.read_bytes()
    verify_ledger(original.path)
    assert original.path.read_bytes() == before
    assert [file.name for file in original.path.parent.iterdir()] == ["ledger.sqlite"]


def test_a_ledger_in_use_and_one_whose_gate_was_killed_verify_with_their_last_entry(hospital, tmp_path):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    assert verify_ledger(hospital.path).head.size == 2
    (tmp_path / "after").mkdir()
    for file in tmp_path.glob("ledger.sqlite*"):  # what a kill leaves: the file and its write-ahead log
        shutil.copy(file, tmp_path / "after")
    ledger.close()
    assert verify_ledger(tmp_path / "after").head.size == 2


def test_a_page_that_a_power_cut_tore_while_the_log_still_holds_it_is_no_damage(hospital, tmp_path):
    ledger = hospital.create()
    before = hospital.path.read_bytes()
    ledger.append(hospital.approval())
    (tmp_path / "after").mkdir()
    for file in tmp_path.glob("ledger.sqlite*"):
        shutil.copy(file, tmp_path / "after")
    ledger.close()
    whole = bytearray((tmp_path / "after" / "ledger.sqlite").read_bytes())
    # What the entry changed was in the log and synced before it went into the pages of the file.
    page = PAGE_BYTES
    changed = [start for start in range(0, len(before), page) if before[start:][:page] != whole[start:][:page]]
    assert len(changed) >= 3
    for start in changed:
        whole[start + page // 2 : start + page] = before[start + page // 2 : start + page]
    (tmp_path / "after" / "ledger.sqlite").write_bytes(whole)
    assert verify_ledger(tmp_path / "after").head.size == 2
    (tmp_path / "after" / "ledger.sqlite-wal").unlink()
    with pytest.raises(LedgerDamaged):
        verify_ledger(tmp_path / "after")


def test_an_unsafe_test_site_is_said_to_be_one_for_ever(hospital):
    fill(hospital, unsafe=True)
    assert verify_ledger(hospital.path).unsafe_test_site


def test_a_missing_ledger_is_named(tmp_path):
    with pytest.raises(LedgerDamaged, match="there is no ledger"):
        verify_ledger(tmp_path)


def test_every_changed_byte_is_found_and_an_entry_named(copy):
    whole = copy.path.read_bytes()
    generator = random.Random(1)
    places = [*range(200), *generator.sample(range(200, len(whole)), 450)]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= generator.randrange(1, 256)
        copy.path.write_bytes(changed)
        with pytest.raises(LedgerDamaged, match=r"first bad entry is number [0-9]+"):
            verify_ledger(copy.path)


def test_every_truncation_and_every_addition_is_found(copy):
    whole = copy.path.read_bytes()
    generator = random.Random(2)
    lengths = [0, 1, 100, 511, 4096, len(whole) - 4096, len(whole) - 1, *generator.sample(range(len(whole)), 60)]
    for changed in [*(whole[:length] for length in lengths), whole + b"\0", whole + b"x" * 4096]:
        copy.path.write_bytes(changed)
        with pytest.raises(LedgerDamaged, match=r"first bad entry is number [0-9]+"):
            verify_ledger(copy.path)


def edit(place, *statements):
    """Change a ledger as somebody would who can write SQL: every page checksum stays right."""
    database = connect(place.path, apsw.SQLITE_OPEN_READWRITE)
    triggers = database.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        database.execute(f"DROP TRIGGER {name}")
    for statement, *values in statements:
        database.execute(statement, values)
        assert database.changes() or not statement.startswith(("UPDATE", "DELETE", "INSERT")), statement
    for _, sql in triggers:
        database.execute(sql)
    database.close()


def test_the_editing_itself_is_not_what_is_found(copy):
    edit(copy)
    verify_ledger(copy.path)


CHEAPER = "replace(CAST(body AS TEXT), '\"mu_squared\":', '\"mu_squared\":1')"
OTHER_RELEASE = "f" * 64
EDITS = {
    "body of an entry": ("UPDATE entry SET body = CAST(body || ' ' AS BLOB) WHERE log = 'ledger' AND position = 3", 3),
    "leaf of an entry": ("UPDATE entry SET leaf = zeroblob(32) WHERE log = 'ledger' AND position = 3", 3),
    "cost in an entry": (
        f"UPDATE entry SET body = CAST({CHEAPER} AS BLOB) WHERE log = 'ledger' AND position = 2",
        2,
    ),
    "last entry gone": ("DELETE FROM entry WHERE log = 'ledger' AND position = 7", 7),
    "middle entry gone": ("DELETE FROM entry WHERE log = 'ledger' AND position = 4", 4),
    "first entry gone": ("DELETE FROM entry WHERE log = 'ledger' AND position = 0", 0),
    "all entries gone": ("DELETE FROM entry WHERE log = 'ledger'", 0),
    "entry far beyond the end": (
        "INSERT INTO entry SELECT log, 1000000000000, body, leaf FROM entry WHERE log = 'ledger' AND position = 7",
        8,
    ),
    "salt of a commitment": ("UPDATE opening SET salt = zeroblob(32) WHERE position = 4", 4),
    "size of the journal": ("UPDATE opening SET journal_size = 0 WHERE position = 7", 7),
    "opening of no entry": ("INSERT INTO opening VALUES (8, zeroblob(32), 0)", 8),
    "opening gone": ("DELETE FROM opening WHERE position = 5", 5),
    "first line of the journal": (
        "UPDATE entry SET body = CAST(body || ' ' AS BLOB) WHERE log = 'journal' AND position = 0",
        5,
    ),
    "first line of the journal gone": ("DELETE FROM entry WHERE log = 'journal' AND position = 0", 5),
    "whole journal gone": ("DELETE FROM entry WHERE log = 'journal'", 5),
    "last line of the journal, under no commitment yet": (
        "UPDATE entry SET body = CAST(body || ' ' AS BLOB) WHERE log = 'journal' AND position = 2",
        8,
    ),
    "last line of the journal gone": ("DELETE FROM entry WHERE log = 'journal' AND position = 2", 8),
    "signature of the journal gone": ("DELETE FROM journal_head", 8),
    "signature of the journal cut": ("UPDATE journal_head SET signature = x'00'", 8),
    "head gone": ("DELETE FROM head", 8),
    "row gone": (f"DELETE FROM release WHERE release = '{3:064x}'", 7),
    "row of a release that never was": (
        f"INSERT INTO release VALUES ('{OTHER_RELEASE}', 6, 'reserved', NULL, 0)",
        6,
    ),
    "row at another position": (f"UPDATE release SET position = 1 WHERE release = '{3:064x}'", 7),
    "row at a position that cannot be": (f"UPDATE release SET position = -1 WHERE release = '{3:064x}'", 7),
    "unwitnessed called witnessed": (f"UPDATE release SET state = 'witnessed' WHERE release = '{3:064x}'", 7),
    "witnessed called reserved": (f"UPDATE release SET state = 'reserved' WHERE release = '{2:064x}'", 4),
    "unwitnessed called begun": (f"UPDATE release SET attempts = 1 WHERE release = '{3:064x}'", 7),
    "stored called witnessed": (
        f"UPDATE release SET state = 'witnessed', payload = NULL WHERE release = '{1:064x}'",
        3,
    ),
    "witnessed called stored": (f"UPDATE release SET state = 'stored', payload = x'00' WHERE release = '{2:064x}'", 4),
    "payload changed": (f"UPDATE release SET payload = x'736563636e64' WHERE release = '{1:064x}'", 3),
    "payload gone": (f"UPDATE release SET payload = NULL WHERE release = '{1:064x}'", 3),
    "payload kept after it was sent": (f"UPDATE release SET payload = x'00' WHERE release = '{0:064x}'", 2),
    "receipt gone": ("DELETE FROM receipt", 2),
    "receipt unreadable": ("UPDATE receipt SET body = x'7b7d'", 8),
    "a trigger gone": ("CREATE TABLE extra (x)", 0),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edit_with_right_checksums_is_found_and_names_the_entry(copy, case):
    statement, entry = EDITS[case]
    edit(copy, (statement,))
    with pytest.raises(LedgerDamaged, match=rf"first bad entry is number {entry}\b"):
        verify_ledger(copy.path)


def test_a_dropped_trigger_is_found(copy):
    database = connect(copy.path, apsw.SQLITE_OPEN_READWRITE)
    database.execute("DROP TRIGGER entry_is_never_deleted")
    database.close()
    with pytest.raises(LedgerDamaged, match="schema"):
        verify_ledger(copy.path)


def bodies_of(place):
    database = connect(place.path, apsw.SQLITE_OPEN_READWRITE)
    rows = database.execute("SELECT body FROM entry WHERE log = 'ledger' ORDER BY position").fetchall()
    database.close()
    return [body for (body,) in rows]


def rewrite(place, position, key=None, **changes):
    """Change an entry with its leaf and, given a key, the head: all that can be made to fit."""
    bodies = bodies_of(place)
    bodies[position] = canonical_bytes(ENTRY.validate_json(bodies[position]).model_copy(update=changes))
    statements = [
        (
            "UPDATE entry SET body = ?, leaf = ? WHERE log = 'ledger' AND position = ?",
            bodies[position],
            leaf_hash(bodies[position]),
            position,
        )
    ]
    if key is not None:
        tree = MerkleTree()
        for body in bodies:
            tree.append(leaf_hash(body))
        note = sign_checkpoint(Checkpoint(site=place.site, size=tree.size, root=tree.root().hex()), key)
        statements.append(("UPDATE head SET note = ?", note))
    edit(place, *statements)


def test_an_entry_rewritten_with_its_hash_does_not_fit_the_signed_head(copy):
    rewrite(copy, 3, at=99)
    with pytest.raises(LedgerDamaged, match="do not add up to the signed head"):
        verify_ledger(copy.path)


def test_an_entry_of_the_same_meaning_in_another_form_is_found(copy):
    spaced = bodies_of(copy)[3] + b" "
    edit(
        copy,
        (
            "UPDATE entry SET body = ?, leaf = ? WHERE log = 'ledger' AND position = 3",
            spaced,
            leaf_hash(spaced),
        ),
    )
    with pytest.raises(LedgerDamaged, match="number 3; got it is not in canonical form"):
        verify_ledger(copy.path)


def test_a_history_rewritten_under_another_key_is_refused(copy):
    rewrite(copy, 3, Hospital.witness_key, at=99)
    with pytest.raises(IdentityInvalid):
        verify_ledger(copy.path)


def test_a_history_rewritten_with_the_sites_own_key_does_not_fit_the_receipt(copy):
    rewrite(copy, 3, Hospital.key, at=99)
    with pytest.raises(LedgerDamaged, match="receipt is for another history"):
        verify_ledger(copy.path)


def test_a_charge_that_the_account_refuses_is_named_even_if_signed(copy):
    rewrite(copy, 1, Hospital.key, envelope={"training": ENTRY.validate_json(bodies_of(copy)[2]).cost})
    with pytest.raises(LedgerDamaged, match="first bad entry is number 3"):  # the second charge does not fit any more
        verify_ledger(copy.path)


def test_the_head_or_receipt_of_an_earlier_time_is_found(hospital, copy, tmp_path):
    edit(copy, ("UPDATE head SET note = ?", sign_checkpoint(Checkpoint(site="north", size=7, root="0" * 64), copy.key)))
    with pytest.raises(LedgerDamaged, match="8 entries stand under a signed head of 7"):
        verify_ledger(copy.path)


@pytest.mark.parametrize("change", [{"size": 6}, {"size": 9}, {"root": "0" * 64}, {"site": "south"}])
def test_a_receipt_for_another_history_is_found(copy, change):
    database = connect(copy.path, apsw.SQLITE_OPEN_READWRITE)
    body = database.execute("SELECT body FROM receipt").get
    database.close()
    from fedhealth.privacy.checkpoint import SignedReceipt

    receipt = SignedReceipt.model_validate_json(body).receipt.model_copy(update=change)
    edit(copy, ("UPDATE receipt SET body = ?", canonical_bytes(sign_receipt(receipt, copy.witness_key))))
    with pytest.raises(LedgerDamaged, match="receipt"):
        verify_ledger(copy.path)


def test_garbage_is_refused_without_a_traceback(tmp_path):
    generator = random.Random(3)
    for size in (0, 1, 511, 512, 4096, 8192):
        (tmp_path / "ledger.sqlite").write_bytes(generator.randbytes(size))
        with pytest.raises(FedHealthError):
            verify_ledger(tmp_path)


def test_a_zero_page_behind_the_last_is_found(copy):
    with copy.path.open("ab") as file:
        file.write(bytes(4096))
    with pytest.raises(LedgerDamaged, match="first bad entry"):
        verify_ledger(copy.path)


def test_a_receipt_signed_by_another_key_is_found(copy):
    database = connect(copy.path, apsw.SQLITE_OPEN_READWRITE)
    body = database.execute("SELECT body FROM receipt").get
    forged = body.replace(b'"signature":"', b'"signature":"00')[:-4] + b'"}'
    database.execute("UPDATE receipt SET body = ?", (forged,))
    database.close()
    with pytest.raises(LedgerDamaged, match="receipt"):
        verify_ledger(copy.path)


def test_an_older_copy_of_the_whole_file_is_found_by_a_head_from_outside(hospital, tmp_path):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    early = ledger.head()
    ledger.close()
    older = tmp_path / "older.sqlite"
    shutil.copy(hospital.path, older)
    ledger = hospital.open()
    ledger.reserve(hospital.charge(1))
    late = ledger.head()
    ledger.close()
    assert verify_ledger(hospital.path, early).head.size == verify_ledger(hospital.path, late).head.size == 3
    assert verify_ledger(older).head.size == 2, "by itself it is as good as any"
    with pytest.raises(LedgerDamaged, match="older"):
        verify_ledger(older, late)


def test_a_head_of_another_history_or_key_is_found(hospital, tmp_path):
    hospital.create().close()
    other = Hospital(tmp_path / "other")
    other.path.parent.mkdir()
    ledger = other.create()
    with pytest.raises(LedgerDamaged, match="not those under the head"):
        verify_ledger(hospital.path, ledger.head())
    ledger.close()
    note = sign_checkpoint(Checkpoint(site="north", size=1, root="0" * 64), hospital.witness_key)
    with pytest.raises(IdentityInvalid):
        verify_ledger(hospital.path, note)
