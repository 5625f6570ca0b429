"""What administrators do beside a running gate, in mid-round: approve, reject, pin keys; and crashes in between.

Real gate processes where the point is that one runs.
"""

import contextlib
import subprocess
import sys
from base64 import urlsafe_b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pair import power_cut
from test_administration import charges, code_of, forget_instruction, question_of

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
    NeedWitness,
    PutStudy,
    ReleaseReply,
    Witnessed,
    pack,
    unpack_reply,
)
from fedhealth.privacy.acts import PolicyChanged
from fedhealth.privacy.entries import Approved
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.verify import read_ledger, verify_ledger
from fedhealth.signing import public_key_hex
from fedhealth.site import approval
from fedhealth.site.acts import distrust_researcher, reject_study, trust_researcher
from fedhealth.site.administration import tell_gate
from fedhealth.site.approval import approve_study, examine_study
from fedhealth.site.gate_process import SYSTEM_CLOCK
from fedhealth.site.instructions import Approve, Distrust, Trust
from fedhealth.site.running_site import RunningSite
from fedhealth.site.state import local_user
from fedhealth.study.signature import sign_study

processes = pytest.mark.processes


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


@pytest.mark.parametrize(("owner", "name", "written"), [(Ledger, "append", False), (approval, "create_file", True)])
def test_a_crash_in_an_approval_leaves_none_or_one_that_is_completed_when_it_is_given_again(
    ward, make_protocol, steps, owner, name, written
):
    here, study = ward(epsilon=20.0), make_protocol()
    compute = {"train": steps["noise_only"], "evaluate": steps["noise_only"]}
    proposal = examine_study(here.folder, here.state, sign_study(study, here.researcher), compute)
    gate, ledger = here.open_gate(steps["noise_only"])
    site = RunningSite(here.folder, here.state, gate, ledger, SYSTEM_CLOCK)
    with power_cut(owner, name, "before"):
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
