"""Two histories of a ledger, a coordinator that was restored, and any sequence of copies put back."""

import shutil
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pair import ALL, Pair, forked, in_memory
from ward import Ward

from fedhealth.coordinator.asking import LEDGER_BEHIND, LEDGER_DAMAGED, NoRelease
from fedhealth.errors import LedgerForked
from fedhealth.privacy.entries import WitnessRule
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.verify import verify_ledger
from fedhealth.site.held_gate import HeldGate

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
    forked(pair)
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
