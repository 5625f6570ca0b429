"""The anchor: a ledger behind it is an older copy, one ahead of it is normal, a torn write leaves the one before."""

import hashlib
import shutil

import pytest

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import LedgerBehind, LedgerDamaged, LedgerForked
from fedhealth.privacy.anchor import AnchorFile, AnchorMissing, JournalBehind, tie_anchor
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.verify import verify_ledger


@pytest.fixture
def anchored(hospital):
    """A ledger with an approval, its anchor made by hand."""
    ledger = hospital.create()
    ledger.append(hospital.approval())
    file_of(hospital).create(ledger.size, ledger.root(ledger.size), 0, 0)
    ledger.close()
    return hospital


def file_of(hospital):
    return AnchorFile(hospital.path.with_suffix(".anchor"))


def tied(hospital):
    ledger = hospital.open()
    try:
        tie_anchor(ledger, file_of(hospital))
    except LedgerDamaged:
        ledger.close()
        raise
    return ledger


def release(hospital, ledger, number):
    ledger.reserve(hospital.charge(number))
    ledger.witness(hospital.receipt(ledger))
    ledger.store(hospital.charge(number).release, b"payload")


def test_it_moves_with_each_head_but_a_bare_charge_and_names_what_left_relies_on(anchored):
    ledger = tied(anchored)
    seen = [(file_of(anchored).read().size, file_of(anchored).read().relied_on)]
    ledger.reserve(anchored.charge(0))
    ledger.witness(anchored.receipt(ledger))
    seen.append((file_of(anchored).read().size, file_of(anchored).read().relied_on))
    ledger.store(anchored.charge(0).release, b"payload")
    seen.append((file_of(anchored).read().size, file_of(anchored).read().relied_on))
    ledger.reserve(anchored.charge(1))
    ledger.append(anchored.approval(anchored.other_study))
    seen.append((file_of(anchored).read().size, file_of(anchored).read().relied_on))
    # created, approved | charged: nothing left | stored at 3, charged at 2 | charged, approved
    assert seen == [(2, 0), (2, 0), (4, 3), (6, 3)]
    assert file_of(anchored).read().root == ledger.root(6)
    ledger.close()


def assert_refused_until_the_newer_is_back(anchored, older, error, said):
    newer = shutil.copy(anchored.path, f"{older}-newer")
    shutil.copy(older, anchored.path)
    with pytest.raises(error, match="recover-ledger"):
        tied(anchored)
    with pytest.raises(LedgerDamaged, match=said):
        verify_ledger(anchored.path)
    shutil.copy(newer, anchored.path)
    tied(anchored).close()
    assert verify_ledger(anchored.path).anchored


@pytest.mark.parametrize("entries", [3, 4])
def test_an_older_copy_is_behind_and_the_ledger_itself_is_not(anchored, tmp_path, entries):
    ledger = tied(anchored)
    for number in range(entries - 2):
        release(anchored, ledger, number)
    ledger.close()
    older = shutil.copy(anchored.path, tmp_path / "older")
    ledger = tied(anchored)
    release(anchored, ledger, 8)
    ledger.close()
    assert_refused_until_the_newer_is_back(anchored, older, LedgerBehind, "this ledger is older")


def test_a_copy_that_lacks_lines_of_the_journal_alone_is_found_too(anchored, tmp_path):
    older = shutil.copy(anchored.path, tmp_path / "older")
    ledger = tied(anchored)
    ledger.note(JournalNote(kind="alert", text="a withdrawal of consent, for example", at=1))
    ledger.close()
    assert_refused_until_the_newer_is_back(anchored, older, JournalBehind, "journal: this one is older")


def test_an_anchor_from_before_it_counted_the_journal_is_still_one(anchored):
    text = canonical_bytes({"moves": 0, "size": 2, "root": file_of(anchored).read().root, "relied_on": 0})
    slot = (text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n").ljust(1024)
    anchored.path.with_suffix(".anchor").write_bytes(slot * 2)
    tied(anchored).close()
    assert file_of(anchored).read().journal == 0


def test_another_history_is_told_apart_from_an_older_copy(anchored, tmp_path):
    older = shutil.copy(anchored.path, tmp_path / "older")
    ledger = tied(anchored)
    release(anchored, ledger, 0)
    ledger.close()
    shutil.copy(older, anchored.path)
    ledger = anchored.open()
    for number in (5, 6, 7):
        ledger.reserve(anchored.charge(number))
    ledger.close()
    with pytest.raises(LedgerForked):
        tied(anchored)
    with pytest.raises(LedgerDamaged, match="not those under its anchor"):
        verify_ledger(anchored.path)


def test_no_anchor_is_refused_and_never_made_by_itself(anchored):
    path = anchored.path.with_suffix(".anchor")
    path.unlink()
    with pytest.raises(AnchorMissing, match="recover-ledger"):
        tied(anchored)
    assert not path.exists()
    assert not verify_ledger(anchored.path).anchored


def test_a_move_that_was_cut_off_at_any_byte_leaves_this_anchor_or_the_one_before(tmp_path):
    path = tmp_path / "ledger.anchor"
    file = AnchorFile(path)
    file.create(1, "a" * 64, 0, 0)
    file.move(2, "b" * 64, 1, 0)
    before = path.read_bytes()
    file.move(3, "c" * 64, 2, 0)
    after = path.read_bytes()
    for cut in range(0, len(after) + 1, 5):
        path.write_bytes(after[:cut] + before[cut:])
        assert AnchorFile(path).read().size in (2, 3)
        path.write_bytes(before[:cut] + after[cut:])  # the other way round: blocks in any order
        assert AnchorFile(path).read().size in (2, 3)
    path.write_bytes(after)
    assert (AnchorFile(path).read().size, AnchorFile(path).read().relied_on) == (3, 2)


def test_what_left_relies_on_never_shrinks_and_garbage_is_no_anchor(tmp_path):
    path = tmp_path / "ledger.anchor"
    file = AnchorFile(path)
    assert file.read() is None
    file.create(9, "a" * 64, 7, 0)
    file.move(10, "b" * 64, 3, 0)
    assert file.read().relied_on == 7
    for garbage in (b"", b"x" * 2048, path.read_bytes()[:100]):
        path.write_bytes(garbage)
        assert AnchorFile(path).read() is None
    with pytest.raises(FileNotFoundError):
        AnchorFile(path).move(11, "c" * 64, 0, 0)
