"""Consent is withdrawn and given again beside a running gate, in mid-round; what the other side sees of it."""

import contextlib
import itertools

import pytest
from gate_by_socket import HEAD
from pair import power_cut
from test_administration import charges, command, forget_instruction, question_of

from fedhealth.errors import (
    ConfigInvalid,
    RefusalCode,
)
from fedhealth.link.frames import (
    Answer,
    Head,
    NeedWitness,
    ReleaseReply,
    Witnessed,
    pack,
    unpack_reply,
)
from fedhealth.privacy.journal import ConsentNote, DataNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.records.members import MemberHistory
from fedhealth.records.split import is_held_out
from fedhealth.site import approval
from fedhealth.site.consent import studies_of
from fedhealth.site.gate import Gate
from fedhealth.site.gate_inputs import Clock
from fedhealth.site.gate_process import SYSTEM_CLOCK, open_gate
from fedhealth.site.running_site import RunningSite
from fedhealth.site.state import local_user

processes = pytest.mark.processes

TRAINING = [f"p{number}" for number in range(24) if not is_held_out(bytes(32), f"p{number}", 0.25)]


@processes
def test_a_patient_is_forgotten_and_let_back_in_in_the_middle_of_a_round(start):
    running = start()
    waiting = running.charge(question_of(running))
    forgotten = command(running, "forget", TRAINING[0])
    assert forgotten.stdout == "forgotten from now on; 1 records of this patient are in the data\n", forgotten.stderr
    assert isinstance(running.say(running.sign(waiting))[0], ReleaseReply)
    assert command(running, "unforget", TRAINING[0]).stdout == "the patient is in again from now on\n"
    again = command(running, "unforget", TRAINING[0])
    assert (again.returncode, "has not withdrawn the consent" in again.stderr) == (ConfigInvalid.exit_code, True)
    assert charges(running) == 1
    # The first release was computed without the patient, so no study used the records; the gate need not be stopped.
    assert studies_of(running.folder, running.state, TRAINING[0]) == ()
    (use,) = studies_of(running.folder, running.state, TRAINING[1])
    assert (use.used, use.unknown) == (1, 0)
    running.end()
    with running.state.opened_ledger("ward-a") as ledger:
        written = [note for note in ledger.journal() if isinstance(note, ConsentNote | DataNote)]
    kinds = [note.kind for note in written]
    assert kinds == ["data", "consent-withdrawn", "data", "consent-renewed", "data"]
    assert {note.by for note in written if isinstance(note, ConsentNote)} == {local_user()}
    assert [note.version for note in written if isinstance(note, DataNote)] == [1, 2, 3]
    assert TRAINING[0].encode() not in running.log.read_bytes()


class Seen:
    """A step that remembers how many patients it was given; made-up records are of 30."""

    def __init__(self, noise_only):
        self.patients, self._noise_only = [], noise_only

    def __call__(self, step, weights, records, stream):
        if records.patient_count != 30:
            self.patients.append(records.patient_count)
        return self._noise_only(step, weights, records, stream)


def test_what_is_computed_next_is_without_the_patient_and_with_noise_of_its_own(ward, make_protocol, steps):
    here, study, seen = ward(epsilon=20.0, unsafe_noise_seed=7), make_protocol(), Seen(steps["noise_only"])
    here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(seen)
    site, versions = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK), []
    for verb in ("forget", "unforget", "forget"):
        site.administer(forget_instruction(here.state, TRAINING[0], verb), "ann")
        versions.append(gate._prepared.data_version)
        assert isinstance(here.ask(gate, ledger, study, number=len(versions))[0], ReleaseReply)
    assert seen.patients == [len(TRAINING) - 1, len(TRAINING), len(TRAINING) - 1]
    assert len(set(versions)) == 3, "each change of the cohort has another key of the noise"
    ledger.close()


def test_a_patient_is_forgotten_also_while_the_data_cannot_be_read(ward, make_protocol, steps):
    here, study, seen = ward(epsilon=20.0), make_protocol(), Seen(steps["noise_only"])
    here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(seen)
    here.csv.unlink()
    (here.folder / "policy.toml").write_text("tasks = [")
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)
    site.administer(forget_instruction(here.state, TRAINING[0]), "ann")
    assert isinstance(here.ask(gate, ledger, study)[0], ReleaseReply)
    assert seen.patients == [len(TRAINING) - 1]
    ledger.close()


def test_a_gate_that_cannot_prepare_its_data_anew_is_busy_and_computes_on_no_older_cohort(
    ward, make_protocol, steps, monkeypatch
):
    here, study, seen = ward(epsilon=20.0), make_protocol(), Seen(steps["noise_only"])
    here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(seen)
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(MemberHistory, "record", full)
        with pytest.raises(OSError, match="No space"):
            site.administer(forget_instruction(here.state, TRAINING[0]), "ann")
    assert here.ask(gate, ledger, study)[0].code == RefusalCode.BUSY
    site.administer(forget_instruction(here.state, TRAINING[0]), "ann")  # once more, with room on the disk
    assert isinstance(here.ask(gate, ledger, study)[0], ReleaseReply)
    assert seen.patients == [len(TRAINING) - 1]
    ledger.close()


def test_a_mark_that_the_gate_would_not_recognise_is_declined(ward, make_protocol, steps):
    here = ward(epsilon=20.0)
    gate, ledger = here.open_gate(steps["noise_only"])
    site, lines = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK), ledger.journal_size
    known = forget_instruction(here.state, TRAINING[0])
    for changes in ({"scheme": "ab" * 32}, {"data_set": "elsewhere"}, {"site": "ward-b"}):
        with pytest.raises(ConfigInvalid):
            site.administer(known.model_copy(update=changes), "ann")
    assert ledger.journal_size == lines
    ledger.close()


@pytest.mark.parametrize(("owner", "name", "written"), [(Ledger, "note", False), (Gate, "renew", True)])
def test_a_crash_while_a_patient_is_forgotten_leaves_the_patient_in_or_out_for_good(
    ward, make_protocol, steps, owner, name, written
):
    here, study, seen = ward(epsilon=20.0), make_protocol(), Seen(steps["noise_only"])
    here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(seen)
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)
    with power_cut(owner, name, "before"):
        site.administer(forget_instruction(here.state, TRAINING[0]), "ann")
    ledger.close()
    gate, ledger = here.open_gate(seen)
    assert isinstance(here.ask(gate, ledger, study)[0], ReleaseReply)
    assert seen.patients == [len(TRAINING) - written]
    ledger.close()


# Rule 0: a clock that ticks at each look.


class Ticking:
    """A clock that advances a millisecond at each look."""

    def __init__(self):
        self._looks = itertools.count()

    def clock(self):
        return Clock(monotonic=lambda: next(self._looks) / 1000, unix_ms=lambda: 1_700_000_000_000)


def transcript(here, study, steps, acts):
    """What the other side sees of a gate beside which these things happen to these patients."""
    ticking = Ticking().clock()
    compute = {"train": steps["counting"], "evaluate": steps["counting"]}
    gate, ledger = open_gate(here.folder, here.state, compute, ticking)
    site, seen = RunningSite(here.folder, here.state, gate, ledger, ticking), []

    def say(frame):
        arrived = ticking.monotonic()
        reply = gate.handle(frame)
        header, body = unpack_reply(reply.frame)
        code = getattr(header, "code", None)
        seen.append((header.kind, code, len(reply.frame), len(body), round(reply.leaves_at - arrived, 6), ledger.size))
        return header

    for number, (verb, patient) in enumerate(acts, 1):
        question = pack(Answer(study=study.digest, step="train", round=number), bytes(24))
        header = say(question)
        began = ticking.monotonic()
        with contextlib.suppress(ConfigInvalid):
            site.administer(forget_instruction(here.state, patient, verb), "ann")
        seen.append(("quiet", round(site.quiet_until - began, 6)))
        while isinstance(header, NeedWitness):
            header = say(pack(Witnessed(study=study.digest, receipt=here.receipt_of(ledger, header.challenge))))
        assert isinstance(header, ReleaseReply)
        assert isinstance(say(HEAD), Head)
    ledger.close()
    return seen


PATIENT, OTHER = TRAINING[0], TRAINING[1]

SAME_TO_THE_OTHER_SIDE = {
    "another patient": [("forget", OTHER), ("unforget", OTHER), ("forget", OTHER)],
    "nobody": [("forget", "p99"), ("unforget", "p99"), ("forget", "p99")],
    "a patient who is forgotten already": [("forget", PATIENT), ("forget", PATIENT), ("forget", PATIENT)],
    "a patient who was never forgotten": [("unforget", PATIENT), ("unforget", OTHER), ("unforget", "p99")],
}


@pytest.mark.parametrize("acts", SAME_TO_THE_OTHER_SIDE.values(), ids=SAME_TO_THE_OTHER_SIDE)
@pytest.mark.parametrize("without", [False, True], ids=["with the patient", "without the patient"])
def test_the_other_side_cannot_tell_whose_consent_changed(
    ward, make_protocol, make_csv, steps, monkeypatch, acts, without
):
    study, here, there = make_protocol(), ward(epsilon=20.0, name="here"), ward(epsilon=20.0, name="there")
    if without:
        rows = [row for row in make_csv().splitlines() if not row.startswith(f"{PATIENT},")]
        there.csv.write_text("\n".join(rows) + "\n")
    # Public, and measured: the same at both.
    monkeypatch.setattr(approval, "measure_replies", lambda *_: {"train": 20, "evaluate": 40})
    for each in (here, there):
        each.approve(study, steps["noise_only"])
    known = [("forget", PATIENT), ("unforget", PATIENT), ("forget", PATIENT)]
    one, other = transcript(here, study, steps, known), transcript(there, study, steps, acts)
    assert [each for each in one if each[0] == "quiet"] == [("quiet", pytest.approx(1.006, abs=0.01))] * 3
    assert one == other
