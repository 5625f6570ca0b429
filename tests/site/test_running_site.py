"""What administrators do beside a running gate: approving and consent, in mid-round; what the other side sees of it.

Real gate processes where the point is that one runs; the comparison of Rule 0 drives the same parts with a clock that
ticks at each look.
"""

import contextlib
import itertools
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gate_by_socket import HEAD, Running, receive_frame
from test_administration import charges, code_of, command, forget_instruction, question_of

from fedhealth.canonical import canonical_bytes
from fedhealth.compliance.acts import acts_of
from fedhealth.compliance.history import read_gate
from fedhealth.errors import (
    ApprovalMissing,
    BudgetExhausted,
    ConfigInvalid,
    FedHealthError,
    IdentityInvalid,
    PolicyForbids,
    RefusalCode,
)
from fedhealth.learning.steps import STEPS
from fedhealth.link.frames import (
    Accepted,
    Answer,
    Head,
    NeedWitness,
    Outgoing,
    PutStudy,
    ReleaseReply,
    Witnessed,
    pack,
    unpack_reply,
)
from fedhealth.privacy.acts import PolicyChanged
from fedhealth.privacy.entries import Approved
from fedhealth.privacy.journal import ConsentNote, DataNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.verify import read_ledger, verify_ledger
from fedhealth.records.members import MemberHistory
from fedhealth.records.split import is_held_out
from fedhealth.signing import public_key_hex
from fedhealth.site import approval
from fedhealth.site.acts import distrust_researcher, reject_study, trust_researcher
from fedhealth.site.administration import AdministratorPort, tell_gate
from fedhealth.site.approval import approve_study, examine_study
from fedhealth.site.consent import studies_of
from fedhealth.site.gate import Gate
from fedhealth.site.gate_inputs import Clock
from fedhealth.site.gate_process import SYSTEM_CLOCK, open_gate, serve_gate
from fedhealth.site.instructions import Approve, Distrust, Pause, Trust
from fedhealth.site.running_site import RunningSite, quiet_seconds
from fedhealth.site.state import local_user
from fedhealth.study.signature import sign_study

TRAINING = [f"p{number}" for number in range(24) if not is_held_out(bytes(32), f"p{number}", 0.25)]
processes = pytest.mark.processes


@pytest.fixture(scope="module")
def start(make_protocol, make_csv):
    started = []

    def make():
        folder = Path(tempfile.mkdtemp(prefix="fh-"))
        started.append(Running(folder, make_protocol(), make_csv()))
        return started[-1]

    yield make
    for each in started:
        each.stop()
        shutil.rmtree(each.root)


@pytest.fixture(scope="module")
def running(start):
    return start()


def small(make_protocol, name, epsilon=0.5):
    return make_protocol(name=name, privacy={"training_epsilon": epsilon, "evaluation_epsilon": epsilon})


def approve_by_command(running, signed, name="signed"):
    file = running.root / name
    file.write_bytes(signed)
    program = [sys.executable, "-m", "fedhealth.cli.main", "site", "approve", str(running.folder), str(file), "--yes"]
    return subprocess.run([*program, "--state", str(running.state.root)], capture_output=True, text=True, timeout=60)


def approve(running, signed):
    """Approve as the command does; True if the running gate did it."""
    proposal = examine_study(running.folder, running.state, signed, STEPS)
    return approve_study(running.folder, running.state, proposal)


# Approving beside a running gate


@processes
def test_a_study_is_approved_in_the_middle_of_a_round_of_another_and_runs_at_once(start, make_protocol):
    running, second = start(), small(make_protocol, "second")
    signed = sign_study(second, running.researcher)
    waiting = running.charge(question_of(running))
    assert code_of(running.say(pack(PutStudy(), signed))) == RefusalCode.NOT_APPROVED
    done = approve_by_command(running, signed)
    assert (done.returncode, "the gate serves it\n" in done.stdout) == (0, True), done.stderr
    accepted = running.say(pack(PutStudy(), signed))[0]
    assert isinstance(accepted, Accepted)
    # The round that waited goes on under its charge; the new study's first release is served as well.
    assert isinstance(running.say(running.sign(waiting))[0], ReleaseReply)
    question = pack(Answer(study=second.digest, step="train", round=1), bytes(24))
    charged = running.say(question)[0]
    assert isinstance(charged, NeedWitness)
    running.study = second
    assert isinstance(running.say(running.sign(charged))[0], ReleaseReply)
    assert charges(running) == 2
    contents = read_ledger(running.state.gate)
    approval = contents.account.approved[second.digest]
    assert (approval.by, approval.reply_after_ms) == (local_user(), accepted.reply_after_ms)
    assert (running.state.studies / f"{second.digest}.json").read_bytes() == signed


@processes
def test_what_may_not_be_approved_is_refused_beside_a_running_gate_and_leaves_no_trace(running, make_protocol):
    signed = sign_study(small(make_protocol, "other"), running.researcher)
    # The budget is epsilon 5 and the study that was approved took epsilon 2 of it; epsilons of studies add up to less
    # than their sum, so 2.5 and 2.5 more may fit, and a third one does not.
    for name in ("dear-1", "dear-2"):
        with contextlib.suppress(BudgetExhausted):
            approve(running, sign_study(small(make_protocol, name, 2.5), running.researcher))
    cases = {
        "approved here before, by": (running.signed, ApprovalMissing),
        "cannot be trusted": (signed.replace(b'"rounds":3', b'"rounds":2'), IdentityInvalid),
        "rule 'researchers'": (sign_study(small(make_protocol, "o"), Ed25519PrivateKey.generate()), PolicyForbids),
        "does not fit the privacy budget": (
            sign_study(small(make_protocol, "dear", 2.5), running.researcher),
            BudgetExhausted,
        ),
    }
    size, kept = verify_ledger(running.state.gate).head.size, sorted(running.state.studies.iterdir())
    for words, (data, error) in cases.items():
        with pytest.raises(error, match=words):
            approve(running, data)
    assert (verify_ledger(running.state.gate).head.size, sorted(running.state.studies.iterdir())) == (size, kept)


@processes
def test_the_gate_checks_an_approval_itself(running, make_protocol):
    """Whatever a command says: what an approval costs and whether it may be given is worked out by the gate."""

    before = verify_ledger(running.state.gate).head.size
    for data, durations, error in (
        (running.signed, {"train": 20, "evaluate": 20}, ApprovalMissing),
        (b"no study", {"train": 20, "evaluate": 20}, IdentityInvalid),
        (sign_study(small(make_protocol, "o"), Ed25519PrivateKey.generate()), {"train": 20}, PolicyForbids),
        (sign_study(small(make_protocol, "p", 0.1), running.researcher), {"train": 20}, ApprovalMissing),
        (sign_study(make_protocol(name="q", data_set="elsewhere"), running.researcher), {}, FedHealthError),
    ):
        instruction = Approve(site="ward-a", signed_study=urlsafe_b64encode(data), reply_after_ms=durations)
        with pytest.raises(error):
            tell_gate(running.state.administrators_socket, instruction)
    assert verify_ledger(running.state.gate).head.size == before


@pytest.mark.parametrize("people", [1, 2])
def test_an_approval_that_does_not_fit_any_more_leaves_the_policy_as_the_gate_has_it(
    ward, make_protocol, steps, people
):
    here = ward(epsilon=2.5)
    gate, ledger = here.open_gate(steps["noise_only"])
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)
    compute = {"train": steps["noise_only"], "evaluate": steps["noise_only"]}
    # Two people look at two studies, of which the budget holds one.
    looked_at = [
        examine_study(here.folder, here.state, sign_study(study, here.researcher), compute)
        for study in (make_protocol(), make_protocol(name="second"))
    ]
    site.administer(instruction_of(looked_at[0]), "ann")
    file, size = here.folder / "policy.toml", ledger.size
    file.write_text(f"approvals_needed = {people}\n{file.read_text()}# as of today\n")
    with pytest.raises(BudgetExhausted):
        site.administer(instruction_of(looked_at[1]), "ben")
    assert ledger.size == size


def test_an_approval_writes_down_what_the_policy_of_its_day_says_of_the_witness(ward, make_protocol, steps):
    here, study = ward(epsilon=20.0), make_protocol()
    here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(steps["noise_only"])
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)
    assert isinstance(here.ask(gate, ledger, study)[0], ReleaseReply)  # the coordinator has signed for this gate
    assert ledger.account.witness == "required"
    file = here.folder / "policy.toml"
    file.write_text(f'witness = "best-effort"\nwitness_wait_seconds = 7\n{file.read_text()}')
    compute = {"train": steps["noise_only"], "evaluate": steps["noise_only"]}
    second = sign_study(small(make_protocol, "second"), here.researcher)
    site.administer(instruction_of(examine_study(here.folder, here.state, second, compute)), "ann")
    assert (ledger.account.witness, ledger.account.witness_wait) == ("best-effort", 7)


def test_two_studies_that_were_looked_at_side_by_side_do_not_exceed_the_year(ward, make_protocol, steps):
    here = ward(epsilon=20.0)
    file = here.folder / "policy.toml"
    # Two studies of epsilon 2 cost a patient more than 2.5 together: about 2 times the root of 2.
    file.write_text(f"max_epsilon_a_year = 2.5\n{file.read_text()}")
    gate, ledger = here.open_gate(steps["noise_only"])
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)
    compute = {"train": steps["noise_only"], "evaluate": steps["noise_only"]}
    signed = [sign_study(study, here.researcher) for study in (make_protocol(), make_protocol(name="second"))]
    looked_at = [examine_study(here.folder, here.state, each, compute) for each in signed]
    site.administer(instruction_of(looked_at[0]), "ann")
    size = ledger.size
    with pytest.raises(PolicyForbids, match="max_epsilon_a_year"):
        site.administer(instruction_of(looked_at[1]), "ben")
    assert ledger.size == size
    with pytest.raises(PolicyForbids, match="max_epsilon_a_year"):
        examine_study(here.folder, here.state, signed[1], compute)


def test_an_approval_brings_the_policy_of_its_day_into_force_and_says_by_whom(ward, make_protocol, steps):
    here, study = ward(epsilon=20.0), make_protocol()
    compute = {"train": steps["noise_only"], "evaluate": steps["noise_only"]}
    here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(steps["noise_only"])
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)
    second = small(make_protocol, "second")
    proposal = examine_study(here.folder, here.state, sign_study(second, here.researcher), compute)
    file = here.folder / "policy.toml"
    file.write_text(file.read_text().replace("max_epsilon_a_study = 2.5", "max_epsilon_a_study = 1.5"))
    site.administer(instruction_of(proposal), "ann")
    tail = [entry for entry, _ in ledger.history()][-2:]
    assert [(type(entry), entry.by) for entry in tail] == [(PolicyChanged, "ann"), (Approved, "ann")]
    # The new policy forbids the first study, which asks epsilon 2, and allows the second.
    assert here.ask(gate, ledger, study)[0].code == RefusalCode.POLICY
    assert isinstance(here.ask(gate, ledger, second)[0], ReleaseReply)
    # One that cannot be read stops an approval and changes nothing.
    file.write_text("tasks = [")
    size = ledger.size
    third = sign_study(small(make_protocol, "third"), here.researcher)

    broken = Approve(site="ward-a", signed_study=urlsafe_b64encode(third), reply_after_ms={"train": 20, "evaluate": 20})
    with pytest.raises(ConfigInvalid):
        site.administer(broken, "ann")
    assert ledger.size == size
    assert isinstance(here.ask(gate, ledger, second, number=2)[0], ReleaseReply)
    ledger.close()


def instruction_of(proposal):

    return Approve(
        site="ward-a",
        signed_study=urlsafe_b64encode(canonical_bytes(proposal.signed)),
        reply_after_ms=proposal.approval.reply_after_ms,
    )


# Consent beside a running gate


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


# Crashes, before each write and after it


class PowerCut(BaseException):
    """Ends the process wherever it is."""


def cut(*_, **__):
    raise PowerCut


@pytest.mark.parametrize(("owner", "name", "written"), [(Ledger, "append", False), (approval, "create_file", True)])
def test_a_crash_in_an_approval_leaves_none_or_one_that_is_completed_when_it_is_given_again(
    ward, make_protocol, steps, monkeypatch, owner, name, written
):
    here, study = ward(epsilon=20.0), make_protocol()
    compute = {"train": steps["noise_only"], "evaluate": steps["noise_only"]}
    proposal = examine_study(here.folder, here.state, sign_study(study, here.researcher), compute)
    gate, ledger = here.open_gate(steps["noise_only"])
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)
    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr(owner, name, cut)
        site.administer(instruction_of(proposal), "ann")
    ledger.close()
    gate, ledger = here.open_gate(steps["noise_only"])
    assert (study.digest in ledger.account.approved) is written
    assert here.ask(gate, ledger, study)[0].code == (RefusalCode.BUSY if written else RefusalCode.NOT_APPROVED)
    ledger.close()
    if written:
        with pytest.raises(ApprovalMissing, match="approved here before"):
            here.approve(study, steps["noise_only"])
    else:
        here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(steps["noise_only"])
    assert isinstance(here.ask(gate, ledger, study)[0], ReleaseReply)
    assert [type(entry) for entry, _ in ledger.history()].count(Approved) == 1
    ledger.close()


@pytest.mark.parametrize(("owner", "name", "written"), [(Ledger, "note", False), (Gate, "renew", True)])
def test_a_crash_while_a_patient_is_forgotten_leaves_the_patient_in_or_out_for_good(
    ward, make_protocol, steps, monkeypatch, owner, name, written
):
    here, study, seen = ward(epsilon=20.0), make_protocol(), Seen(steps["noise_only"])
    here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(seen)
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)
    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr(owner, name, cut)
        site.administer(forget_instruction(here.state, TRAINING[0]), "ann")
    ledger.close()
    gate, ledger = here.open_gate(seen)
    assert isinstance(here.ask(gate, ledger, study)[0], ReleaseReply)
    assert seen.patients == [len(TRAINING) - written]
    ledger.close()


# Keys, people and hours beside a running gate


@processes
def test_a_running_gate_rejects_pins_a_key_and_serves_its_study(running, make_protocol):
    bob = Ed25519PrivateKey.generate()
    study, unwanted = small(make_protocol, "bobs", 0.2), small(make_protocol, "unwanted", 0.2)
    signed = sign_study(study, bob)
    policy = running.folder / "policy.toml"
    before = policy.read_text()
    policy.write_text(before.replace('["alice"]', '["alice", "bob"]'))
    with pytest.raises(PolicyForbids, match="researchers"):
        approve(running, signed)
    assert trust_researcher(running.folder, running.state, "bob", public_key_hex(bob.public_key()))
    assert reject_study(running.folder, running.state, unwanted.digest, "purpose")
    with pytest.raises(ApprovalMissing, match="rejected here by"):
        approve(running, sign_study(unwanted, bob))
    # Enough of the budget is left, whatever else was approved here: an epsilon of 0.2 is a small part of 5.
    assert approve(running, signed)
    assert isinstance(running.say(pack(PutStudy(), signed))[0], Accepted)
    assert code_of(running.say(pack(PutStudy(), sign_study(unwanted, bob)))) == RefusalCode.NOT_APPROVED
    assert distrust_researcher(running.folder, running.state, "bob")
    assert code_of(running.say(pack(PutStudy(), signed))) == RefusalCode.POLICY
    policy.write_text(before)
    acts = [line.what for line in acts_of(read_gate(running.state.gate))]
    for words in ("pinned key", "rejected study", "approved study 'bobs'", "let the key of researcher 'bob' go"):
        assert any(words in each for each in acts), acts


def test_a_researcher_who_is_let_go_is_refused_in_the_middle_of_a_round_and_served_again(ward, make_protocol, steps):
    here, study = ward(epsilon=20.0), make_protocol()
    here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(steps["noise_only"])
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)
    waiting = charged(here, gate, ledger, study)
    site.administer(Distrust(site="ward-a", name="alice"), "ann")
    for frame in (waiting, question_of(Asked(study)), pack(PutStudy(), sign_study(study, here.researcher))):
        assert unpack_reply(gate.handle(frame).frame)[0].code == RefusalCode.POLICY
    site.administer(Trust(site="ward-a", name="alice", key=public_key_hex(here.researcher.public_key())), "ann")
    assert isinstance(here.ask(gate, ledger, study)[0], ReleaseReply)
    assert ledger.account.releases(study.digest, "train") == 1
    ledger.close()


class Asked:
    """What `question_of` reads of a site."""

    def __init__(self, study):
        self.study = study


def charged(here, gate, ledger, study):
    """Have a release charged and return the frame that it waits for."""

    def answer(header):
        return pack(Witnessed(study=study.digest, receipt=here.receipt_of(ledger, header.challenge)))

    started = unpack_reply(gate.handle(question_of(Asked(study))).frame)[0]
    waiting = unpack_reply(gate.handle(answer(started)).frame)[0]
    assert ledger.account.releases(study.digest, "train") == 1
    return answer(waiting)


def test_a_study_whose_records_cannot_be_read_any_more_is_busy_in_mid_round_and_uses_up_no_attempt(
    ward, make_protocol, make_csv, steps
):
    here, study = ward(epsilon=20.0), make_protocol()
    here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(steps["noise_only"])
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)
    second = small(make_protocol, "second")
    compute = {"train": steps["noise_only"], "evaluate": steps["noise_only"]}
    proposal = examine_study(here.folder, here.state, sign_study(second, here.researcher), compute)
    waiting = charged(here, gate, ledger, study)
    here.csv.write_text(make_csv().replace("id,age,dose,ill", "id,age,dosis,ill"))  # read anew by the approval
    site.administer(instruction_of(proposal), "ann")
    for frame in (waiting, question_of(Asked(study))):
        assert unpack_reply(gate.handle(frame).frame)[0].code == RefusalCode.BUSY
    here.csv.write_text(make_csv())
    site.administer(forget_instruction(here.state, "p99"), "ann")  # by itself it reads no file
    assert here.ask(gate, ledger, study)[0].code == RefusalCode.BUSY
    ledger.close()
    gate, ledger = here.open_gate(steps["noise_only"])
    assert isinstance(here.ask(gate, ledger, study)[0], ReleaseReply)
    assert ledger.account.releases(study.digest, "train") == 1
    ledger.close()


def test_two_people_approve_beside_a_running_gate_which_serves_after_the_second(ward, make_protocol, steps):
    here, study = ward(epsilon=20.0), make_protocol()
    compute = {"train": steps["noise_only"], "evaluate": steps["noise_only"]}
    file = here.folder / "policy.toml"
    file.write_text("approvals_needed = 2\n" + file.read_text())
    proposal = examine_study(here.folder, here.state, sign_study(study, here.researcher), compute)
    gate, ledger = here.open_gate(steps["noise_only"])
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)
    site.administer(instruction_of(proposal), "ann")
    assert here.ask(gate, ledger, study)[0].code == RefusalCode.NOT_APPROVED
    with pytest.raises(ApprovalMissing, match="first of two people"):
        site.administer(instruction_of(proposal), "ann")
    site.administer(instruction_of(proposal), "bob")
    assert isinstance(here.ask(gate, ledger, study)[0], ReleaseReply)
    assert ledger.account.approved[study.digest].by == "bob"
    ledger.close()


def test_outside_the_hours_of_the_policy_nothing_is_charged_or_computed(hospital, steps):
    computed = []

    def compute(*arguments):
        computed.append(1)
        return steps["noise_only"](*arguments)

    # The clock of this hospital stands at 2023-11-14 22:13:20 UTC.
    here = hospital(compute=compute)
    here.send(here.question())
    here.rules = {"hours": [21, 23]}
    here.reopen(compute)
    assert here.send(here.question())[0].code == RefusalCode.POLICY
    assert (here.charges(), computed) == (1, [])
    here.rules = {"hours": [23], "time_zone": "Europe/Paris"}
    here.reopen(compute)
    assert isinstance(here.ask()[0], ReleaseReply)
    assert (here.charges(), computed) == (1, [1])


# Quiet


def test_a_gate_is_quiet_for_a_time_of_public_figures_alone():
    # 1 s, and 100 microseconds for each declared patient, once for reading and once for each study:
    # 1 + 0.0001 * 300 * (1 + 1) = 1.06; 1 + 0.0001 * 1,000,000 * (1 + 2) = 301.
    assert quiet_seconds(300, 1) == pytest.approx(1.06)
    assert quiet_seconds(10**6, 2) == pytest.approx(301.0)


class Echo:
    """A gate whose every reply may leave a moment after the frame came."""

    def __init__(self, after=0.0):
        self.after, self.frames = after, []

    def longest_body(self, start):
        return 0

    def handle(self, frame, digest=None):
        self.frames.append(bytes(frame))
        return Outgoing(b"reply", time.monotonic() + self.after)


@contextlib.contextmanager
def served(gate):
    """Serve a gate that falls quiet for 0.3 s whenever an administrator says anything."""
    folder, quiet = Path(tempfile.mkdtemp(prefix="fh-")), [0.0]
    read, write = os.pipe()

    def fall_quiet(*_):
        quiet[0] = time.monotonic() + 0.3

    port = AdministratorPort(folder / "admin.sock", {os.geteuid()}, fall_quiet, lambda: quiet[0])
    arguments = (gate, folder / "gate.sock", {os.geteuid()}, read, lambda *_: None, port)
    thread = threading.Thread(target=serve_gate, args=arguments)
    thread.start()
    try:
        while not (folder / "gate.sock").exists():
            time.sleep(0.005)
        with socket.socket(socket.AF_UNIX) as node:
            node.settimeout(10)
            node.connect(str(folder / "gate.sock"))
            yield node, folder / "admin.sock", quiet
    finally:
        os.close(write)
        thread.join(20)
        port.close()
        os.close(read)
        shutil.rmtree(folder)
    assert not thread.is_alive()


FRAME = struct.pack("!I", 5) + b"frame"
QUIET = {
    "a frame that comes meanwhile": (b"", FRAME),
    "the rest of a frame that had begun": (FRAME[:6], FRAME[6:]),
    "the rest of a length that had begun": (FRAME[:2], FRAME[2:]),
}


@pytest.mark.parametrize(("before", "after"), QUIET.values(), ids=QUIET)
def test_a_quiet_gate_reads_and_says_nothing_before_its_time(before, after):

    gate = Echo()
    with served(gate) as (node, administrators, quiet):
        assert exchange_raw(node, FRAME) == b"reply"
        node.sendall(before)
        assert tell_gate(administrators, Pause(site="ward-a"))
        node.sendall(after)
        assert receive_frame(node) == b"reply"
        assert time.monotonic() >= quiet[0] > 0
        assert exchange_raw(node, FRAME) == b"reply", "the same connection goes on"
    assert gate.frames == [b"frame"] * 3


def exchange_raw(node, data):
    node.sendall(data)
    return receive_frame(node)


def test_a_reply_that_waits_for_its_public_time_leaves_no_earlier_than_the_quiet_ends():

    with served(Echo(after=0.1)) as (node, administrators, quiet):
        node.sendall(FRAME)
        assert tell_gate(administrators, Pause(site="ward-a"))
        assert tell_gate(administrators, Pause(site="ward-a")), "administrators are heard meanwhile"
        assert receive_frame(node) == b"reply"
        assert time.monotonic() >= quiet[0] > 0


# Rule 0


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
