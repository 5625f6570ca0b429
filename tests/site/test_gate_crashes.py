"""Crashes before and after every write: the same release has the same bytes and one charge, whatever happened."""

import hashlib
from importlib.metadata import PackageNotFoundError

import apsw
import pytest

from fedhealth.errors import RefusalCode
from fedhealth.link.frames import AskHead, ReleaseReply, pack
from fedhealth.privacy.entries import Stored
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.ledger_logs import LedgerLogs
from fedhealth.privacy.verify import verify_ledger
from fedhealth.site import prepared_studies


class PowerCut(BaseException):
    """Ends the process wherever it is."""


def cut(monkeypatch, name, moment):
    """Make the ledger's next call of `name` end the process before or after it."""
    whole = getattr(Ledger, name)

    def broken(self, *arguments, **named):
        if moment == "after":
            whole(self, *arguments, **named)
        raise PowerCut

    monkeypatch.setattr(Ledger, name, broken)


CRASHES = [(name, moment) for name in ("reserve", "witness", "store") for moment in ("before", "after")]
STORED = ("store", "after")


def crash(site, monkeypatch, name, moment):
    with monkeypatch.context() as patched:
        cut(patched, name, moment)
        with pytest.raises(PowerCut):
            site.ask()


@pytest.mark.parametrize(("name", "moment"), CRASHES)
def test_after_a_crash_the_release_has_the_same_bytes_and_one_charge(hospital, steps, monkeypatch, name, moment):
    calm, crashed = hospital("calm", compute=steps["counting"]), hospital("crashed", compute=steps["counting"])
    wanted = calm.ask()
    crash(crashed, monkeypatch, name, moment)
    crashed.reopen(steps["counting"])
    found = crashed.ask()
    assert isinstance(found[0], ReleaseReply)
    assert found == wanted
    assert (crashed.charges(), crashed.entries) == (calm.charges(), calm.entries) == (1, 4)
    crashed.close()
    assert verify_ledger(crashed.path).releases == 1


@pytest.mark.parametrize(("name", "moment"), CRASHES)
def test_a_second_crash_at_the_same_place_changes_nothing_either(hospital, steps, monkeypatch, name, moment):
    calm, crashed = hospital("calm"), hospital("crashed")
    wanted = calm.ask()
    crash(crashed, monkeypatch, name, moment)
    crashed.reopen(confirm=False)
    if (name, moment) not in (("reserve", "after"), ("witness", "after"), STORED):
        crash(crashed, monkeypatch, name, moment)  # the write did not happen, so it is tried again
        crashed.reopen()
    if (name, moment) == ("store", "before"):  # begun twice and never stored: now its administrator decides
        assert crashed.ask()[0].code == RefusalCode.BUSY
        crashed.resume()
        crashed.reopen()
    assert crashed.ask() == wanted
    assert crashed.charges() == 1


@pytest.mark.parametrize(("name", "moment"), [each for each in CRASHES if each != STORED])
def test_data_that_changed_before_anything_left_get_other_noise_under_one_charge(
    hospital, make_csv, monkeypatch, name, moment
):
    # The step releases noise alone, so that other bytes mean other noise.
    calm, crashed = hospital("calm"), hospital("crashed")
    wanted = calm.ask()
    crash(crashed, monkeypatch, name, moment)
    crashed.csv.write_text(make_csv(ill=lambda patient: int(patient != 7)))
    crashed.reopen()
    found = crashed.ask()
    assert isinstance(found[0], ReleaseReply)
    assert found[0].release == wanted[0].release
    assert found[1] != wanted[1]
    assert (crashed.charges(), crashed.entries) == (1, 4)


def test_what_was_stored_comes_back_although_the_data_changed(hospital, steps, make_csv, monkeypatch):
    calm, crashed = hospital("calm", compute=steps["counting"]), hospital("crashed", compute=steps["counting"])
    wanted = calm.ask()
    crash(crashed, monkeypatch, *STORED)
    crashed.csv.write_text(make_csv(ill=lambda patient: 1))
    crashed.reopen(steps["counting"])
    assert crashed.ask() == wanted
    assert crashed.charges() == 1


def test_data_that_changed_and_changed_back_are_a_new_version(hospital, make_csv, monkeypatch):
    calm, crashed = hospital("calm"), hospital("crashed")
    wanted = calm.ask()
    crash(crashed, monkeypatch, "witness", "before")
    before = crashed.csv.read_text()
    for text in (make_csv(ill=lambda patient: 1), before):
        crashed.csv.write_text(text)
        crashed.reopen()
    found = crashed.ask()
    assert found[0].release == wanted[0].release
    assert found[1] != wanted[1]
    assert [note.version for note in crashed.ledger.journal() if note.kind == "data"] == [1, 2, 3]


def test_the_version_of_the_data_never_crosses(hospital):
    site = hospital()
    mark = next(note.content for note in site.ledger.journal())
    replies = [site.gate.handle(frame).frame for frame in (site.question(), site.witnessed(), pack(AskHead(since=0)))]
    assert all(mark.encode() not in reply and bytes.fromhex(mark) not in reply for reply in replies)
    # Not as a plain hash of the file either: the mark is keyed.
    assert mark != hashlib.sha256(site.csv.read_bytes()).hexdigest()


def test_a_release_once_sent_stays_sent_over_a_restart(hospital):
    site = hospital()
    release = site.ask()[0].release
    site.acknowledge(release)
    site.reopen()
    reply, body, _ = site.send(site.question())
    assert (reply.kind, reply.code, body) == ("refused", RefusalCode.BAD_REQUEST, b"")


def test_a_restarted_gate_wants_the_question_again_and_charges_nothing_for_it(hospital):
    site = hospital()
    site.send(site.question())
    site.reopen(confirm=False)
    receipt = site.witnessed()
    assert site.send(receipt)[0].code == RefusalCode.BAD_REQUEST  # it waits for nothing
    assert isinstance(site.send(site.question())[0], ReleaseReply)  # but the receipt counted
    assert site.charges() == 1


FAILURES = [MemoryError(), RuntimeError("patient 17 is odd"), OSError(28, "No space left"), ValueError()]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_failure_after_the_charge_stops_the_study_at_the_public_time(hospital, caplog, failure):
    site = hospital()

    def fail(*_):
        site.time.now += 0.030  # an overrun: the public time is 20 ms
        raise failure

    site.reopen(fail)
    site.send(site.question())
    reply, body, wait = site.send(site.witnessed())
    assert (reply.kind, reply.code, body) == ("refused", RefusalCode.BUSY, b"")
    assert wait == pytest.approx(0.040, abs=1e-9)
    assert "patient 17" not in caplog.text
    # From now on `busy`, for this round and for others, also after a restart, and without another charge.
    for _ in range(2):
        for number in (1, 2):
            assert site.ask(number=number)[0].code == RefusalCode.BUSY
        site.reopen()
    assert site.charges() == 1
    assert [note.text for note in site.ledger.journal() if note.kind == "failure"] == [site.study.digest]


def test_a_failure_looks_as_a_release_does_in_time(hospital):
    ok, failing = hospital("ok"), hospital("failing", compute=lambda *_: 1 / 0)
    assert ok.ask()[2] == failing.ask()[2] == pytest.approx(0.020, abs=1e-9)


def test_with_a_full_disk_nothing_leaves_and_the_gate_is_busy(hospital, monkeypatch):
    calm, full = hospital("calm"), hospital("full")
    wanted = calm.ask()
    full.send(full.question())
    frame = full.witnessed()
    with monkeypatch.context() as patched:
        whole = LedgerLogs.append

        def no_space(self, entry, notes=()):
            position = whole(self, entry, notes)
            if isinstance(entry, Stored):
                raise apsw.FullError("database or disk is full")
            return position

        patched.setattr(LedgerLogs, "append", no_space)
        reply, body, wait = full.send(frame)
    assert (reply.kind, reply.code, body) == ("refused", RefusalCode.BUSY, b"")
    assert wait == pytest.approx(0.020, abs=1e-9)
    # The ledger is closed for good: nothing new is charged or computed until the gate is started again.
    for number in (1, 2):
        assert full.ask(number=number)[0].code == RefusalCode.BUSY
    full.reopen()
    assert full.ask() == wanted
    assert full.charges() == 1


def test_with_a_full_disk_nothing_is_charged_and_nothing_computed(hospital, monkeypatch):
    computed = []
    site = hospital(compute=lambda *_: computed.append(1))
    with monkeypatch.context() as patched:

        def no_space(self, entry, notes=()):
            raise apsw.FullError("database or disk is full")

        patched.setattr(LedgerLogs, "append", no_space)
        assert site.send(site.question())[0].code == RefusalCode.BUSY
    assert site.send(site.question())[0].code == RefusalCode.BUSY
    site.reopen()
    assert (site.charges(), site.entries, computed) == (0, 2, [])


def test_a_release_that_another_version_computes_has_noise_of_its_own(hospital, monkeypatch):
    # Another torch may round another last bit, and two sums under one noise would tell their difference; so may another
    # MONAI, which only a site whose studies read images has installed.
    payloads = []
    for name, own in (("before", {}), ("same", {}), ("torch", {"torch": "2"}), ("monai", {"monai": "2"}), ("none", {})):

        def version_of(package, name=name, own=own):
            if (name, package) == ("none", "monai"):
                raise PackageNotFoundError(package)
            return own.get(package, "1")

        monkeypatch.setattr("fedhealth.site.prepared_studies.version", version_of)
        prepared_studies._versions.cache_clear()  # a process has loaded one of each for good
        payloads.append(hospital(name).ask()[1])
    prepared_studies._versions.cache_clear()
    assert payloads[0] == payloads[1] and len(set(payloads[1:])) == 4
