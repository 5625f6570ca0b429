"""Older copies and other histories of a ledger: found, refused on both sides, recovered only by an administrator.

Everything is the real thing but the link: a site's state folder, its gate, the coordinator's asker and witness.
"""

import asyncio
import shutil
import tempfile
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from ward import Ward

from fedhealth.cli.audit import app as audit_app
from fedhealth.cli.site import app
from fedhealth.coordinator.asking import LEDGER_BEHIND, LEDGER_DAMAGED, Asker, NoRelease
from fedhealth.coordinator.witness import PinnedSite, Witness
from fedhealth.errors import LedgerBehind, LedgerDamaged, LedgerForked, LinkUnavailable
from fedhealth.link.frames import pack, unpack_request
from fedhealth.privacy.anchor import AnchorFile, AnchorMissing, JournalBehind
from fedhealth.privacy.copies import page_of, read_page
from fedhealth.privacy.entries import Recovered, Reserved, Stored, WitnessRule
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import ReleaseIdentity, input_digest
from fedhealth.privacy.verify import verify_ledger
from fedhealth.records.split import is_held_out
from fedhealth.site.acts import withdraw_study
from fedhealth.site.consent import forget_patient, studies_of
from fedhealth.site.gate_process import SYSTEM_CLOCK, open_gate
from fedhealth.site.held_gate import HeldGate
from fedhealth.site.hold import LedgerHold
from fedhealth.site.recovery import describe_recovery, examine_recovery, recover_ledger
from fedhealth.site.status import status_of

DATA = bytes(24)  # three weights of zero


class Pair:
    """One site and one coordinator in this process; each can be stopped, copied, put back and started again."""

    def __init__(self, here, study, root, compute):
        self.here, self.study, self.root, self.compute = here, study, root, compute
        self.gate = None
        here.approve(study, compute)
        self.home = root / "witnessed"
        self.home.mkdir()
        self.cut = lambda kind: False
        self.start_coordinator()
        self.start_gate()

    def start_coordinator(self):
        pinned = {"ward-a": PinnedSite(ledger_key=self.ledger_key)}
        self.asker = Asker(self.carry, Witness(self.home, pinned, self.here.witness))

    @property
    def ledger_key(self):
        return self.here.state.ledger_key().public_key().public_bytes_raw().hex()

    def start_gate(self):
        self.stop_gate()
        self.gate, self.ledger = open_gate(
            self.here.folder, self.here.state, {"train": self.compute, "evaluate": self.compute}, SYSTEM_CLOCK
        )

    def stop_gate(self):
        if self.gate is not None:
            self.ledger.close()
            self.gate = None

    async def carry(self, site, frame):
        if self.cut(unpack_request(frame)[0].kind):
            raise LinkUnavailable("cut")
        return self.gate.handle(frame).frame

    def meet(self):
        return asyncio.run(self.asker.head("ward-a"))

    def ask(self, number=1, step="train"):
        identity = ReleaseIdentity(
            site="ward-a", study=self.study.digest, step=step, round=number, input_digest=input_digest(DATA)
        )
        return asyncio.run(self.asker.ask(identity, DATA))

    def refused(self, what):
        with pytest.raises(NoRelease) as caught:
            what()
        return caught.value.code

    # Copies of the state, and putting them back

    def copy(self, name, *files):
        """Keep files of the stopped gate as they are now; the ledger alone if none is named."""
        kept = self.root / name
        kept.mkdir()
        for file in files or ("ledger.sqlite",):
            if (self.here.state.gate / file).exists():
                shutil.copy2(self.here.state.gate / file, kept)
        return kept

    def put_back(self, kept):
        self.stop_gate()
        for suffix in ("-wal", "-shm"):
            self.here.state.ledger.with_name("ledger.sqlite" + suffix).unlink(missing_ok=True)
        for file in kept.iterdir():
            shutil.copy2(file, self.here.state.gate)

    def recover(self):
        self.stop_gate()
        found = examine_recovery(self.here.folder, self.here.state)
        if found is not None:
            recover_ledger(self.here.folder, self.here.state, found)
        return found

    def entries(self):
        self.stop_gate()
        ledger = Ledger.open(self.here.state.ledger, "ward-a", self.here.state.ledger_key())
        found = (
            [entry for entry, _ in ledger.history()],
            {each: ledger.row(each).state for each in ledger.account.reserved},
        )
        ledger.close()
        return found

    def spent(self):
        return {(line.cohort, line.share_spent) for line in verify_ledger(self.here.state.gate).spending}


ALL = ("ledger.sqlite", "ledger.anchor", "members")


@contextmanager
def in_memory():
    """A folder where a flush costs nothing, if there is one: what is durable is what was written before the cut."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def pair(make_protocol, make_csv, steps):
    with in_memory() as folder:
        made = Pair(Ward(folder, make_csv(), epsilon=20.0), make_protocol(), folder, steps["noise_only"])
        yield made
        made.stop_gate()


def rolled_back(pair, files=(), rounds=2):
    """Let a pair go through rounds, and put back what it had after the first."""
    pair.ask(1)
    pair.meet()
    pair.stop_gate()
    kept = pair.copy("older", *files)
    pair.start_gate()
    for number in range(2, 2 + rounds):
        pair.ask(number)
    pair.meet()
    spent = pair.spent()
    pair.put_back(kept)
    return spent


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


# Ahead


def test_a_coordinator_that_was_restored_goes_on_from_there_and_has_every_copy_again(pair):
    pair.ask(1)
    older = shutil.copytree(pair.home, pair.root / "older-coordinator")
    pair.ask(2)
    pair.ask(3)
    for files in (older, None):
        shutil.rmtree(pair.home)
        if files is None:
            pair.home.mkdir()
        else:
            shutil.copytree(files, pair.home)
        pair.start_coordinator()
        pair.meet()
        assert pair.asker._witness.seen("ward-a") == pair.ledger.size
    assert pair.ask(3)
    pair.ask(1, "evaluate")


# Another history


def test_another_history_is_refused_on_both_sides_for_good(pair):
    pair.ask(1)
    pair.stop_gate()
    kept = pair.copy("older", *ALL)
    pair.start_gate()
    pair.ask(2)
    pair.meet()
    pair.put_back(kept)
    # Something writes to the older copy behind the gate's back: now there are two histories.
    ledger = Ledger.open(pair.here.state.ledger, "ward-a", pair.here.state.ledger_key())
    for wait in (1, 2, 3, 4, 5):
        ledger.append(WitnessRule(witness="required", wait_seconds=wait, at=0))
    ledger.close()
    pair.start_gate()
    assert pair.refused(pair.meet) == LEDGER_DAMAGED
    assert pair.refused(lambda: pair.ask(3)) in ("busy", LEDGER_DAMAGED)
    for _ in range(2):  # neither forgets
        pair.start_gate()
        pair.start_coordinator()
        assert isinstance(pair.gate, HeldGate)
        assert pair.refused(pair.meet) == LEDGER_DAMAGED
    with pytest.raises(LedgerForked, match="nothing repairs this by itself"):
        pair.recover()


def test_another_history_that_is_shorter_is_found_when_the_entries_come_back(pair):
    pair.ask(1)
    pair.stop_gate()
    kept = pair.copy("older", *ALL)
    pair.start_gate()
    pair.ask(2)
    pair.ask(3)
    pair.meet()
    pair.put_back(kept)
    ledger = Ledger.open(pair.here.state.ledger, "ward-a", pair.here.state.ledger_key())
    ledger.append(WitnessRule(witness="required", wait_seconds=1, at=0))
    ledger.close()
    pair.start_gate()
    assert pair.refused(pair.meet) == LEDGER_BEHIND
    with pytest.raises(LedgerForked):
        pair.recover()
    with pytest.raises(LedgerForked):
        pair.recover()


# The anchor


def test_a_missing_anchor_is_refused_with_what_to_do_and_made_only_by_hand(pair):
    pair.ask(1)
    pair.stop_gate()
    anchor = pair.here.state.gate / "ledger.anchor"
    for harm in (anchor.unlink, lambda: anchor.write_bytes(b"x" * 2048)):
        harm()
        with pytest.raises(AnchorMissing, match="recover-ledger"):
            pair.start_gate()
        size = verify_ledger(pair.here.state.gate).head.size
        assert not verify_ledger(pair.here.state.gate).anchored
        found = pair.recover()
        assert (found.grows, found.entries) == (False, ())
        assert verify_ledger(pair.here.state.gate).head.size == size
    pair.start_gate()
    pair.ask(2)


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
    assert forget_patient(pair.here.folder, pair.here.state, "p0") == 1
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


# Crashes while recovering


class PowerCut(BaseException):
    """Ends the process wherever it is."""


CRASHES = [
    (owner, name, moment)
    for owner, name in ((Ledger, "recover"), (AnchorFile, "create"), (LedgerHold, "clear"))
    for moment in ("before", "after")
]


@pytest.mark.parametrize("files", [(), ALL], ids=["the ledger alone", "the whole folder"])
@pytest.mark.parametrize(("owner", "name", "moment"), CRASHES)
def test_a_recovery_that_was_cut_off_goes_on_and_writes_nothing_twice(pair, monkeypatch, files, owner, name, moment):
    spent = rolled_back(pair, files)
    pair.start_gate()
    pair.refused(pair.meet)
    whole = getattr(owner, name)

    def cut(*arguments):
        if moment == "after":
            whole(*arguments)
        raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, cut)
        with pytest.raises(PowerCut):
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


# Any history, any copies


class History:
    """A pair that goes through anything, and what must hold whatever it goes through."""

    def __init__(self, pair):
        self.pair, self.received, self.copies, self.number = pair, {}, [], 0

    def ask(self, again):
        if again and self.received:
            number = sorted(self.received)[-1]
        else:
            self.number += 1
            number = self.number
        try:
            payload = self.pair.ask(number)
        except NoRelease as refusal:
            assert refusal.code in ("bad-request", "budget-spent", "away")
        else:
            assert self.received.setdefault(number, payload) == payload

    def copy(self, whole):
        self.pair.stop_gate()
        self.copies.append(self.pair.copy(f"copy-{len(self.copies)}", *(ALL if whole else ())))
        self.pair.start_gate()

    def put_back(self, which):
        if not self.copies:
            return
        before = self.pair.asker._witness._logs["ward-a"].head
        self.pair.stop_gate()
        newest = self.pair.copy(f"newest-{len(list(self.pair.root.glob('newest-*')))}", *ALL)
        self.pair.put_back(self.copies[which % len(self.copies)])
        self.pair.start_gate()
        with suppress(NoRelease):
            self.pair.meet()
        try:
            found = self.pair.recover()
            event("nothing to recover" if found is None else f"{len(found.entries)} entries came back")
        except LedgerForked:  # the copy ends with entries that were given up by an earlier recovery
            event("another history")
            self.pair.start_gate()
            assert isinstance(self.pair.gate, HeldGate)
            self.pair.put_back(newest)
            found = self.pair.recover()
            assert found is None or not found.grows
        self.pair.start_gate()
        self.pair.meet()
        if before is not None:
            assert self.pair.ledger.root(before.size) == before.root
        self.check()

    def lose(self, kind):
        self.pair.cut = lambda found: found == kind
        self.ask(again=False)
        self.pair.cut = lambda found: False

    def check(self):
        """No charge of anything that left is gone, and the file adds up."""
        charged = self.pair.ledger.account.reserved.values()
        assert {entry.round for entry in charged} >= self.received.keys()
        self.pair.stop_gate()
        found = verify_ledger(self.pair.here.state.gate)
        assert found.releases >= len(self.received)
        self.pair.start_gate()
        self.pair.meet()


STEPS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from([False, False, True])),
    st.tuples(st.just("ask"), st.just(False)),
    st.tuples(st.just("copy"), st.booleans()),
    st.tuples(st.just("put_back"), st.integers(0, 5)),
    st.tuples(st.just("lose"), st.sampled_from(["answer", "witnessed"])),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=6, max_size=12))
def test_whatever_is_put_back_no_budget_is_regained_and_no_release_has_two_payloads(
    make_protocol, make_csv, steps, sequence
):
    with in_memory() as folder:
        pair = Pair(
            Ward(folder, make_csv(), epsilon=20.0), make_protocol(training={"rounds": 12}), folder, steps["noise_only"]
        )
        history = History(pair)
        try:
            for name, argument in sequence:
                getattr(history, name)(argument)
            history.check()
        finally:
            pair.stop_gate()


# The commands


def run(*arguments, answer=""):
    return CliRunner().invoke(app, [str(each) for each in arguments], input=answer)


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
