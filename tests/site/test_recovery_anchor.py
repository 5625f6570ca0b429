"""The anchor beside a ledger: what it finds, and what holds where it is lost.

Without it the coordinator is asked first, and what may have left is never computed again.
"""

from datetime import UTC, datetime

import pytest
from pair import forked, power_cut, run

from fedhealth.coordinator.asking import LEDGER_BEHIND
from fedhealth.errors import LedgerForked
from fedhealth.privacy.anchor import AnchorFile, AnchorMissing, JournalBehind
from fedhealth.privacy.entries import Recovered
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.verify import verify_ledger
from fedhealth.site.consent import forget_patient
from fedhealth.site.held_gate import HeldGate
from fedhealth.site.hold import LedgerHold
from fedhealth.site.recovery import describe_recovery
from fedhealth.site.status import status_of


def test_a_copy_from_before_a_withdrawal_of_consent_lets_nobody_back_in_unsaid(pair):
    pair.ask(1)
    pair.meet()
    pair.stop_gate()
    kept = pair.copy("older")
    forget_patient(pair.here.folder, pair.here.state, "p0")  # a line of the journal, no entry of the ledger
    pair.put_back(kept)
    with pytest.raises(JournalBehind, match="withdrawal of consent"):
        pair.start_gate()
    with pytest.raises(JournalBehind):
        forget_patient(pair.here.folder, pair.here.state, "p0")
    command = ("recover-ledger", pair.here.folder, "--state", pair.here.state.root)
    before = pair.here.state.ledger.read_bytes()
    written = run(*command, "--yes")
    assert written.exit_code == 0
    assert "Enter each withdrawal of consent" in written.output
    assert pair.here.state.ledger.read_bytes() == before  # the ledger itself lacks nothing
    assert forget_patient(pair.here.folder, pair.here.state, "p0").records == 1
    pair.start_gate()
    pair.ask(2)


def test_an_anchor_that_is_behind_after_a_crash_is_normal(pair):
    pair.ask(1)
    pair.stop_gate()
    kept = pair.copy("anchor", "ledger.anchor")
    pair.start_gate()
    pair.ask(2)
    pair.put_back(kept)
    pair.start_gate()
    pair.ask(3)


def test_a_crash_between_ledger_and_anchor_loses_nothing_and_holds_nothing(pair, monkeypatch):
    pair.ask(1)

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(AnchorFile, "move", cut)
        pair.ledger.announce_heads(pair.here.state.anchor.move)
        with pytest.raises(KeyboardInterrupt):
            pair.ask(2)
    pair.start_gate()
    assert pair.ask(2)
    pair.stop_gate()
    assert verify_ledger(pair.here.state.gate).releases == 2


def test_with_no_room_for_the_anchor_nothing_leaves(pair, monkeypatch):
    pair.ask(1)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fdatasync", full)
        assert pair.refused(lambda: pair.ask(2)) == "busy"
    assert pair.refused(lambda: pair.ask(3)) == "busy"  # closed until the gate is started again
    pair.start_gate()
    assert pair.ask(2)
    pair.stop_gate()
    assert verify_ledger(pair.here.state.gate).releases == 2


# Lost


def lose_anchor(pair):
    pair.stop_gate()
    (pair.here.state.gate / "ledger.anchor").unlink()


def change_data(pair):
    """Another record of a patient whom training reads: another noise key, and another sum."""
    text = pair.here.csv.read_text()
    changed = text.replace("p3,", "p3,9", 1)
    assert changed != text
    pair.here.csv.write_text(changed)


def between_witness_and_store(pair, number):
    """Return a copy of the ledger from when a release was charged and countersigned, and not yet computed; it left."""
    kept, whole = [], pair.compute

    def compute(*arguments):
        if asked:
            kept.append(pair.copy(f"charged-{number}"))
        return whole(*arguments)

    asked = False
    pair.compute = compute
    pair.start_gate()  # computes on made-up records first
    asked = True
    pair.ask(number)
    asked, pair.compute = False, whole
    (copy,) = kept
    return copy


def test_a_copy_from_between_charge_and_payload_gives_no_second_sample_of_one_charge(pair):
    pair.ask(1)
    kept = between_witness_and_store(pair, 2)  # its payload left; the coordinator signed for its charge alone
    signed = pair.asker._witness.seen("ward-a")
    pair.put_back(kept)
    (pair.here.state.gate / "ledger.anchor").unlink()
    change_data(pair)
    pair.start_gate()
    assert isinstance(pair.gate, HeldGate)
    assert pair.ledger.size == signed  # nothing that the coordinator has seen is missing
    pair.meet()
    assert pair.refused(lambda: pair.ask(2)) == "busy"
    pair.stop_gate()
    told = run("recover-ledger", pair.here.folder, "--state", pair.here.state.root, "--yes").output
    assert "1 releases were charged and not stored" in told
    assert "Enter each withdrawal of consent" in told
    entries, states = pair.entries()
    assert isinstance(entries[-1], Recovered)
    assert sorted(states.values()) == ["closed", "stored"]
    pair.start_gate()
    pair.meet()
    assert pair.refused(lambda: pair.ask(2)) == "bad-request"
    pair.ask(3)
    pair.stop_gate()
    assert verify_ledger(pair.here.state.gate).releases == 3  # the second stays charged


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_where_nothing_is_open_the_anchor_is_made_again_by_hand_and_nothing_is_written(pair, harm):
    pair.ask(1)
    pair.stop_gate()
    anchor = pair.here.state.gate / "ledger.anchor"
    anchor.unlink() if harm == "gone" else anchor.write_bytes(b"x" * 2048)
    with pytest.raises(AnchorMissing, match=r"let the coordinator connect.*recover-ledger"):
        pair.recover()
    with pytest.raises(AnchorMissing):
        pair.here.state.open_ledger("ward-a")
    size = verify_ledger(pair.here.state.gate).head.size
    assert not verify_ledger(pair.here.state.gate).anchored
    assert "ledger.anchor is missing" in status_of(pair.here.state, datetime.now(UTC)).waits[0]
    pair.start_gate()
    assert pair.refused(lambda: pair.ask(2)) == "busy"
    pair.meet()
    assert pair.ledger.size == size
    found = pair.recover()
    assert (found.grows, found.entries) == (False, ())
    assert any("Enter each withdrawal of consent" in line for line in describe_recovery(found))
    assert verify_ledger(pair.here.state.gate).head.size == size
    assert verify_ledger(pair.here.state.gate).anchored
    pair.start_gate()
    pair.ask(2)


def test_an_older_copy_without_an_anchor_gets_its_entries_back_first_and_becomes_no_other_history(pair):
    pair.ask(1)
    pair.meet()
    kept = between_witness_and_store(pair, 2)
    pair.ask(3)
    pair.meet()
    spent = pair.spent()
    pair.put_back(kept)
    lose_anchor(pair)
    pair.start_gate()
    assert pair.refused(pair.meet) == LEDGER_BEHIND
    assert [entry.kind for entry in pair.recover().entries] == ["stored", "reserved", "stored"]
    assert pair.spent() == spent
    pair.start_gate()
    pair.meet()
    assert pair.refused(lambda: pair.ask(3)) == "bad-request"


def test_another_history_stays_one_without_its_anchor(pair):
    forked(pair)
    lose_anchor(pair)
    pair.start_gate()
    pair.refused(pair.meet)
    with pytest.raises(LedgerForked):
        pair.recover()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("owner", "name"), [(Ledger, "recover"), (AnchorFile, "create"), (LedgerHold, "clear")])
def test_a_recovery_that_was_cut_off_closes_what_is_open_once(pair, owner, name, moment):
    kept = between_witness_and_store(pair, 1)
    pair.put_back(kept)
    lose_anchor(pair)
    pair.start_gate()
    pair.meet()
    with power_cut(owner, name, moment):
        pair.recover()
    pair.recover()
    entries, states = pair.entries()
    assert sum(isinstance(entry, Recovered) for entry in entries) == 1
    assert list(states.values()) == ["closed"]
    pair.start_gate()
    pair.meet()
    assert pair.refused(lambda: pair.ask(1)) == "bad-request"
