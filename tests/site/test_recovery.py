"""Older copies and other histories of a ledger: found, refused on both sides, recovered only by an administrator.

Everything is the real thing but the link: a site's state folder, its gate, the coordinator's asker and witness.
"""

import shutil
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from pair import ALL, PowerCut, power_cut, rolled_back, run
from typer.testing import CliRunner

from fedhealth.cli.audit import app as audit_app
from fedhealth.coordinator.asking import LEDGER_BEHIND, NoRelease
from fedhealth.errors import LedgerBehind, LedgerDamaged
from fedhealth.link.frames import pack, unpack_request
from fedhealth.privacy.anchor import AnchorFile
from fedhealth.privacy.copies import page_of, read_page
from fedhealth.privacy.entries import Recovered, Reserved, Stored
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.verify import verify_ledger
from fedhealth.records.split import is_held_out
from fedhealth.site.acts import withdraw_study
from fedhealth.site.consent import studies_of
from fedhealth.site.held_gate import HeldGate
from fedhealth.site.hold import LedgerHold
from fedhealth.site.recovery import describe_recovery
from fedhealth.site.status import status_of

# Behind


@pytest.mark.parametrize("files", [(), ALL], ids=["the ledger alone", "the whole folder, its anchor too"])
def test_an_older_copy_is_refused_given_back_and_recovered_with_every_charge(pair, files):
    spent = rolled_back(pair, files)
    pair.start_gate()
    size = pair.ledger.size
    assert isinstance(pair.gate, HeldGate) == (not files)  # without an anchor only the coordinator can tell
    assert pair.refused(pair.meet) == LEDGER_BEHIND
    assert pair.ledger.size == size  # nothing was charged on it
    assert pair.refused(lambda: pair.ask(4)) in ("busy", LEDGER_BEHIND)
    found = pair.recover()
    assert found.size == size
    assert pair.spent() == spent
    entries, states = pair.entries()
    assert entries[-1] == entries[-1].model_copy(update={"first": size, "given_up": None})
    assert isinstance(entries[-1], Recovered)
    assert set(states.values()) == {"sent", "stored"}  # the first round's payload was in the copy
    pair.start_gate()
    pair.meet()
    assert pair.refused(lambda: pair.ask(2)) == "bad-request"  # never computed again
    pair.ask(1, "evaluate")
    pair.meet()
    found = verify_ledger(pair.here.state.gate)
    assert found.recovered == 4  # two rounds: a charge and a payload each
    assert found.anchored


def test_the_coordinators_tree_is_a_prefix_of_the_recovered_one(pair):
    rolled_back(pair)
    seen = pair.asker._witness.seen("ward-a")
    head = pair.asker._witness._logs["ward-a"].head
    pair.start_gate()
    pair.refused(pair.meet)
    pair.recover()
    pair.start_gate()
    assert pair.ledger.root(seen) == head.root
    assert pair.ledger.size == seen + 1


def test_a_gate_that_was_told_stays_held_over_restarts_until_its_administrator_confirms(pair):
    rolled_back(pair, ALL)
    pair.start_gate()
    pair.refused(pair.meet)
    for _ in range(2):
        pair.start_gate()
        assert isinstance(pair.gate, HeldGate)
        assert pair.refused(lambda: pair.ask(9)) == "busy"
    for refused in (lambda: pair.here.state.open_ledger("ward-a"), lambda: pair.here.approve(pair.study, pair.compute)):
        pair.stop_gate()
        with pytest.raises(LedgerBehind, match="recover-ledger"):
            refused()
    pair.recover()
    pair.start_gate()
    pair.meet()


def test_putting_the_newest_ledger_back_is_enough_and_writes_nothing_into_it(pair):
    pair.ask(1)
    pair.stop_gate()
    old = pair.copy("old")
    pair.start_gate()
    pair.ask(2)
    pair.stop_gate()
    new = pair.copy("new")
    pair.put_back(old)
    pair.start_gate()
    pair.refused(pair.meet)
    pair.put_back(new)
    before = pair.here.state.ledger.read_bytes()
    found = pair.recover()
    assert not found.grows
    assert pair.here.state.ledger.read_bytes() == before
    pair.start_gate()
    pair.ask(3)


def test_an_audit_does_not_overlook_what_the_coordinator_said(pair):
    rolled_back(pair, ALL)
    assert verify_ledger(pair.here.state.gate).anchored  # nothing here could tell
    pair.start_gate()
    pair.refused(pair.meet)
    with pytest.raises(LedgerDamaged, match="the coordinator has signed for 9 entries"):
        verify_ledger(pair.here.state.gate)
    assert status_of(pair.here.state, datetime.now(UTC)).waits[0].startswith("the ledger is held (behind)")
    pair.recover()
    assert verify_ledger(pair.here.state.gate).recovered == 4


def test_without_the_coordinator_the_administrator_is_told_what_to_do(pair):
    rolled_back(pair)
    with pytest.raises(LedgerBehind, match="let the coordinator connect"):
        pair.recover()


def test_pages_that_did_not_all_arrive_are_asked_for_again(pair, monkeypatch):
    monkeypatch.setattr("fedhealth.privacy.copies.PAGE_BYTES", 1)  # one entry a page
    rolled_back(pair)
    pair.start_gate()
    answered = []

    def cut(kind):
        answered.append(kind)
        return answered.count("witnessed") > 2

    pair.cut = cut
    pair.refused(pair.meet)
    assert pair.gate._hold.reaches(pair.ledger.size) == pair.ledger.size + 2
    with pytest.raises(LedgerBehind):
        pair.recover()
    pair.cut = lambda kind: False
    pair.start_gate()
    pair.refused(pair.meet)
    assert len(pair.recover().entries) == 4  # two rounds: a charge and a payload each
    pair.start_gate()
    pair.meet()


@pytest.mark.parametrize("harm", ["made up", "of another place"])
def test_copies_that_somebody_between_put_in_are_not_kept(pair, harm):
    rolled_back(pair)
    pair.start_gate()
    honest = pair.carry

    async def carry(site, frame):
        request, body = unpack_request(frame)
        if request.kind == "witnessed" and body:
            copies = read_page(bytes(body))
            other = [bytes(len(copy)) for _, copy in copies] if harm == "made up" else [copies[0][1]] * len(copies)
            frame = pack(request, page_of(zip([place for place, _ in copies], other, strict=True)))
        return await honest(site, frame)

    pair.carry = carry
    pair.start_coordinator()
    assert pair.refused(pair.meet) == LEDGER_BEHIND
    pair.carry = honest
    pair.start_coordinator()
    assert pair.refused(pair.meet) == LEDGER_BEHIND
    assert len(pair.recover().entries) == 4  # the true ones
    pair.start_gate()
    pair.meet()


def test_a_charge_that_may_have_left_under_an_entry_that_nobody_has_is_never_computed_again(pair):
    pair.ask(1)
    pair.meet()
    pair.stop_gate()
    kept = pair.copy("older", *ALL)
    pair.start_gate()
    pair.ask(2)  # countersigned when charged; that it was stored the coordinator has not seen
    pair.put_back(kept)
    pair.start_gate()
    pair.refused(pair.meet)
    found = pair.recover()
    assert [type(entry) for entry in found.entries] == [Reserved]
    _, states = pair.entries()
    assert sorted(states.values()) == ["closed", "stored"]
    trained = next(f"p{n}" for n in range(24) if not is_held_out(bytes(32), f"p{n}", 0.25))
    (use,) = studies_of(pair.here.folder, pair.here.state, trained)
    assert (use.used, use.unknown) == (1, 1)  # the first round, and perhaps the second
    pair.start_gate()
    pair.meet()
    size = pair.ledger.size
    assert pair.refused(lambda: pair.ask(2)) == "bad-request"
    assert pair.ledger.size == size
    pair.ask(3)
    pair.stop_gate()
    assert verify_ledger(pair.here.state.gate).releases == 3


def test_what_was_waiting_in_the_older_copy_is_closed_too(pair):
    pair.meet()
    pair.cut = lambda kind: kind == "witnessed"
    pair.refused(lambda: pair.ask(1))  # charged, and countersigned in vain
    pair.stop_gate()
    kept = pair.copy("older", *ALL)
    pair.cut = lambda kind: False
    pair.start_gate()
    pair.ask(1)
    pair.ask(2)
    pair.put_back(kept)
    pair.start_gate()
    pair.refused(pair.meet)
    pair.recover()
    entries, states = pair.entries()
    assert sorted(states.values()) == ["closed", "sent"]
    assert [type(entry) for entry in entries[-3:]] == [Stored, Reserved, Recovered]


def test_entries_that_only_the_anchor_remembers_are_given_up_where_nothing_left_was_charged(pair):
    pair.ask(1)
    pair.meet()
    pair.stop_gate()
    kept = pair.copy("older")
    withdraw_study(pair.here.folder, pair.here.state, pair.study.digest)
    pair.put_back(kept)  # the withdrawal was not seen by the coordinator
    pair.start_gate()
    assert isinstance(pair.gate, HeldGate)
    pair.meet()  # its head is the newest that the coordinator knows
    assert pair.refused(lambda: pair.ask(2)) == "busy"
    found = pair.recover()
    assert found.given_up.size == found.size + 1
    assert any("do again what you approved, withdrew" in line for line in describe_recovery(found))
    assert verify_ledger(pair.here.state.gate).anchored
    audit = CliRunner().invoke(audit_app, ["verify", str(pair.here.state.gate)])
    assert f"given up    the last of {found.size + 1} entries" in audit.output
    pair.start_gate()
    pair.ask(2)


def test_where_charges_of_what_left_are_lost_nothing_is_recovered(pair):
    rolled_back(pair)
    shutil.rmtree(pair.home)
    pair.home.mkdir()
    pair.start_coordinator()  # and the coordinator has lost its copies as well
    pair.start_gate()
    pair.meet()
    with pytest.raises(LedgerDamaged, match="charges of the ledger of 'ward-a' are lost"):
        pair.recover()
    pair.start_gate()
    assert pair.refused(lambda: pair.ask(4)) == "busy"


# Crashes while recovering


CRASHES = [
    (owner, name, moment)
    for owner, name in ((Ledger, "recover"), (AnchorFile, "create"), (LedgerHold, "clear"))
    for moment in ("before", "after")
]


@pytest.mark.parametrize("files", [(), ALL], ids=["the ledger alone", "the whole folder"])
@pytest.mark.parametrize(("owner", "name", "moment"), CRASHES)
def test_a_recovery_that_was_cut_off_goes_on_and_writes_nothing_twice(pair, files, owner, name, moment):
    spent = rolled_back(pair, files)
    pair.start_gate()
    pair.refused(pair.meet)
    with power_cut(owner, name, moment):
        pair.recover()
    if (name, moment) != ("clear", "after"):
        pair.start_gate()
        assert isinstance(pair.gate, HeldGate)  # until it is finished
        with suppress(NoRelease):
            pair.meet()
        assert pair.refused(lambda: pair.ask(1, "evaluate")) == "busy"
    pair.recover()
    entries, _ = pair.entries()
    assert sum(isinstance(entry, Recovered) for entry in entries) == 1
    assert pair.spent() == spent
    pair.start_gate()
    pair.ask(1, "evaluate")
    pair.stop_gate()
    assert verify_ledger(pair.here.state.gate).recovered == 4


def test_a_coordinator_cut_off_between_its_copies_and_its_signature_goes_on(pair, monkeypatch):
    pair.ask(1)

    def cut(*_):
        raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr("fedhealth.coordinator.witness.sign_receipt", cut)
        with pytest.raises(PowerCut):
            pair.ask(2)
    pair.start_coordinator()
    assert pair.asker._witness.seen("ward-a") == pair.ledger.size
    assert pair.ask(2)


# The commands


def test_the_command_shows_what_it_would_write_and_asks(pair):
    rolled_back(pair, ALL)
    pair.start_gate()
    pair.refused(pair.meet)
    pair.stop_gate()
    command = ("recover-ledger", pair.here.folder, "--state", pair.here.state.root)
    before = pair.here.state.ledger.read_bytes()
    refused = run(*command, answer="n\n")
    assert (refused.exit_code, pair.here.state.ledger.read_bytes()) == (7, before)
    for said in ("older copy", "charged: study", "% of the budget", "withdrawal of consent", "not written"):
        assert said in refused.output
    written = run(*command, "--yes")
    assert (written.exit_code, "written" in written.output) == (0, True)
    again = run(*command, "--yes")
    assert (again.exit_code, again.output) == (0, "the ledger needs no recovery; nothing was written\n")
    audit = CliRunner().invoke(audit_app, ["verify", str(pair.here.state.gate)])
    assert audit.exit_code == 0
    assert "4 entries, which the coordinator gave back" in audit.output
