"""What an administrator sees of studies and decides on them: views, rejections, two people, pinned keys, the budget."""

import json
import os
import pwd
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.canonical import canonical_bytes
from fedhealth.cli.main import main
from fedhealth.compliance.acts import acts_of
from fedhealth.compliance.history import read_gate
from fedhealth.errors import ApprovalMissing, BudgetExhausted, ConfigInvalid, IdentityInvalid, PolicyForbids
from fedhealth.learning.plan import plan_study
from fedhealth.link.frames import Answer, pack, unpack_reply
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import public_key_hex
from fedhealth.site import approval, state
from fedhealth.site.acts import (
    distrust_researcher,
    pinned_researchers,
    reject_study,
    trust_researcher,
    withdraw_study,
)
from fedhealth.site.examination import look_at_site
from fedhealth.site.offers import folder_of, keep_offers
from fedhealth.site.state import local_user
from fedhealth.site.studies import offered_study, studies_at
from fedhealth.study.signature import sign_study


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """How long replies take is of no interest here."""
    monkeypatch.setattr(approval, "measure_replies", lambda *_: {"train": 20, "evaluate": 20})


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedhealth", "site", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


def offer(here, *signed):
    here.state.node.mkdir(exist_ok=True)
    keep_offers(folder_of(here.state.node), signed)


def views(here):
    return {view.name: view for view in studies_at(look_at_site(here.folder, here.state), here.state)}


def small(make_protocol, name, epsilon=1.0, **changes):
    return make_protocol(name=name, privacy={"training_epsilon": epsilon, "evaluation_epsilon": epsilon}, **changes)


def where(here):
    return "--state", here.state.root


# What is seen


def test_a_study_is_seen_on_its_way_from_offer_to_withdrawal(ward, make_protocol, steps):
    here, study = ward(epsilon=20.0), small(make_protocol, "walk", training={"rounds": 2, "spare_rounds": 0})
    offer(here, sign_study(study, here.researcher))
    view = views(here)["walk"]
    assert (view.study, view.standing, view.decided, view.asked_by) == (study.digest, "waits", None, "alice")
    assert (view.purpose, view.legal_basis, view.obstacle) == (study.purpose, study.legal_basis, "")
    # Two features and an intercept: three numbers of 8 bytes a round; of the evaluation as many as its plan has cells.
    cells = plan_study(study)["evaluate"].mechanism.dimension
    seen = [(each.step, each.releases, each.charged, each.numbers, each.bytes) for each in view.leaves]
    assert seen == [("train", 2, 0, 3, 24), ("evaluate", 1, 0, cells, 8 * cells)]
    # 24 patients in the table, every second of them ill: what the hospital alone may see.
    assert (
        sum(view.here.patients.values()) == 24
        and sum(what["with the condition"] for what in view.here.composition.values()) == 12
    )
    for cost in view.costs:
        assert cost.share_left == pytest.approx(1 - cost.share) and cost.share_spent == 0
        assert 0.99 < cost.epsilon <= 1.0 and 0 < cost.share < 1
    here.approve(study, steps["noise_only"])
    assert (views(here)["walk"].standing, views(here)["walk"].decided[0]) == ("approved", local_user())
    gate, ledger = here.open_gate(steps["noise_only"])
    standings = []
    for step, number in (("train", 1), ("train", 2), ("evaluate", 1)):
        here.ask(gate, ledger, study, step, number)
        standings.append(views(here)["walk"].standing)
    ledger.close()
    assert standings == ["running", "running", "complete"]
    view = views(here)["walk"]
    assert [(each.charged, cost.share_spent) for each, cost in zip(view.leaves, view.costs, strict=True)] == [
        (2, pytest.approx(view.costs[0].share)),
        (1, pytest.approx(view.costs[1].share)),
    ]
    assert view.here is None, "patients are counted for a decision alone"
    withdraw_study(here.folder, here.state, study.digest)
    assert views(here)["walk"].standing == "withdrawn"


def test_a_study_is_complete_once_its_evaluation_left_although_spare_rounds_are_left(ward, make_protocol, steps):
    here, study = ward(epsilon=20.0), small(make_protocol, "spare", training={"rounds": 1, "spare_rounds": 2})
    here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(steps["noise_only"])
    standings = []
    for step, number in (("train", 1), ("train", 2), ("train", 3), ("evaluate", 1)):
        here.ask(gate, ledger, study, step, number)
        standings.append(views(here)["spare"].standing)
    ledger.close()
    assert standings == ["running", "running", "running", "complete"]


def test_a_study_whose_evaluation_was_charged_and_has_not_left_is_running(ward, make_protocol, steps):
    here, study = ward(epsilon=20.0), small(make_protocol, "charged", training={"rounds": 1, "spare_rounds": 2})
    here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(steps["noise_only"])
    here.ask(gate, ledger, study)
    question = pack(Answer(study=study.digest, step="evaluate", round=1), bytes(24))
    assert unpack_reply(gate.handle(question).frame)[0].kind == "need-witness"
    ledger.close()
    (view,) = views(here).values()
    assert [each.charged for each in view.leaves] == [1, 1]
    assert view.standing == "running"


def test_a_study_that_a_failure_stopped_is_seen_so(ward, make_protocol, steps):
    here, study = ward(epsilon=20.0), small(make_protocol, "fails")
    here.approve(study, steps["noise_only"])

    def fail(step, weights, records, streams):
        if records.patient_count != 30:
            raise MemoryError
        return steps["noise_only"](step, weights, records, streams)

    gate, ledger = here.open_gate(fail)
    here.ask(gate, ledger, study)
    ledger.close()
    assert views(here)["fails"].standing == "stopped"


OBSTACLES = {
    "an unknown key": (lambda make: small(make, "s"), "stranger", {}, "rule 'researchers'"),
    "too few patients": (lambda make: small(make, "s"), None, {"least": 20}, "too few patients"),
    "too dear": (lambda make: small(make, "s", 2.5), None, {"epsilon": 1.0}, "does not fit the privacy budget"),
    "another data set": (lambda make: small(make, "s", data_set="icu"), None, {}, "icu"),
    "a column that is not there": (
        lambda make: small(make, "s", endpoint={"column": "dead"}),
        None,
        {},
        "dead",
    ),
}


@pytest.mark.parametrize(("study", "key", "site", "words"), OBSTACLES.values(), ids=OBSTACLES)
def test_what_stands_in_the_way_of_an_offer_is_said_and_hides_no_other(ward, make_protocol, study, key, site, words):
    here = ward(**{"epsilon": 20.0, **site})
    stranger = Ed25519PrivateKey.generate()
    offer(here, sign_study(study(make_protocol), stranger if key else here.researcher))
    view = views(here)["s"]
    assert (view.standing, view.here) == ("waits", None) and words in view.obstacle
    assert view.asked_by == (None if key else "alice")
    assert view.researcher == public_key_hex((stranger if key else here.researcher).public_key())


def test_an_offer_that_was_changed_by_a_byte_is_no_offer(ward, make_protocol):
    here = ward(epsilon=20.0)
    good = sign_study(small(make_protocol, "good", purpose="To test the gate."), here.researcher)
    offer(here, good, good.replace(b"To test the gate.", b"To test the gape."))
    assert list(views(here)) == ["good"]


def test_the_commands_show_what_the_views_hold_in_80_columns_and_without_what_a_terminal_obeys(
    ward, make_protocol, command
):
    here, stranger = ward(epsilon=20.0), Ed25519PrivateKey.generate()
    assert command("studies", here.folder, *where(here))[1].startswith("no study is offered and none")
    evil = small(make_protocol, "evil", title="A \x1b[31mred one", purpose="long " * 60)
    offer(here, sign_study(small(make_protocol, "good"), here.researcher), sign_study(evil, stranger))
    ended, said, _ = command("studies", here.folder, *where(here))
    assert ended == 0 and "\x1b" not in said and max(map(len, said.splitlines())) <= 80
    for words in ("asked by   alice", "UNKNOWN KEY", "train: at most 3 times 3 whole numbers", "would be left then"):
        assert words in said, said
    told = json.loads(command("studies", here.folder, *where(here), "--json")[1])["studies"]
    assert {each["name"]: each["standing"] for each in told} == {"good": "waits", "evil": "waits"}
    assert {each["name"]: each["here"] is None for each in told} == {"good": False, "evil": True}


# Approving by digest


def test_an_offer_is_approved_by_its_first_digits_and_once(ward, make_protocol, command):
    here, study = ward(epsilon=20.0), small(make_protocol, "offered")
    offer(here, sign_study(study, here.researcher))
    ended, said, _ = command("approve", here.folder, study.digest[:8], "--yes", *where(here))
    assert ended == 0 and f"approved study {study.digest} by {local_user()}" in said
    before = here.traces
    ended, _, said = command("approve", here.folder, study.digest[:8], "--yes", *where(here))
    assert (ended, here.traces) == (ApprovalMissing.exit_code, before)
    assert "was approved here before" in said and "nothing was charged" in said


NO_OFFERS = {
    "another digest": lambda digest: ("0" if digest[0] != "0" else "1") + digest[1:],
    "one digit is another": lambda digest: digest[:63] + ("0" if digest[63] != "0" else "1"),
}


@pytest.mark.parametrize("given", NO_OFFERS.values(), ids=NO_OFFERS)
def test_a_digest_that_nobody_offers_is_refused(ward, make_protocol, command, given):
    here, study = ward(epsilon=20.0), small(make_protocol, "offered")
    offer(here, sign_study(study, here.researcher))
    ended, _, said = command("approve", here.folder, given(study.digest), "--yes", *where(here))
    assert ended == ApprovalMissing.exit_code and "is offered" in said
    assert here.traces == (2, [])


def test_a_digest_shorter_than_eight_digits_is_taken_for_a_file_and_not_found(ward, command):
    here = ward()
    ended, _, said = command("approve", here.folder, "abcdef0", "--yes", *where(here))
    assert ended == ConfigInvalid.exit_code and "abcdef0 cannot be read" in said


# Rejections


def test_a_rejection_is_kept_shown_and_undone_by_an_express_decision_alone(ward, make_protocol, command, steps):
    here, study = ward(epsilon=20.0), small(make_protocol, "unwanted")
    signed = sign_study(study, here.researcher)
    offer(here, signed)
    ended, said, _ = command("reject", here.folder, study.digest[:8], "--reason", "cost", *where(here))
    assert (ended, said) == (0, f"rejected study {study.digest}\n")
    assert views(here)["unwanted"].standing == "rejected"
    last = acts_of(read_gate(here.state.gate))[-1]
    assert (last.by, last.what) == (local_user(), f"rejected study {study.digest}, because of: cost")
    ended, _, said = command("reject", here.folder, study.digest, *where(here))
    assert ended == ConfigInvalid.exit_code and "rejected here before" in said
    before = here.traces
    ended, _, said = command("approve", here.folder, study.digest[:8], "--yes", *where(here))
    assert ended == ApprovalMissing.exit_code and "rejected here by" in said and "--although-rejected" in said
    with pytest.raises(ApprovalMissing, match="rejected here by"):
        here.approve(study, steps["noise_only"])  # also where the command did not look
    assert here.traces == before
    assert command("approve", here.folder, study.digest[:8], "--yes", "--although-rejected", *where(here))[0] == 0
    assert views(here)["unwanted"].standing == "approved"
    with pytest.raises(ConfigInvalid, match="cannot be rejected"):
        reject_study(here.folder, here.state, study.digest, None)
    verify_ledger(here.state.gate)


def test_a_reason_is_a_word_of_the_list(ward, make_protocol, command):
    here, study = ward(epsilon=20.0), small(make_protocol, "unwanted")
    offer(here, sign_study(study, here.researcher))
    ended, _, said = command("reject", here.folder, study.digest, "--reason", "only 3 such patients", *where(here))
    assert ended == ConfigInvalid.exit_code and "legal-basis" in said
    assert here.traces == (2, [])


# Two people


def as_user(monkeypatch, name):
    """Have this process counted as another Unix user, who need not exist."""
    for module in (state, approval):
        monkeypatch.setattr(module, "local_user", lambda: name)


@pytest.fixture
def careful(ward):
    """A ward whose policy asks for two people."""

    def make(**arguments):
        here = ward(epsilon=20.0, **arguments)
        file = here.folder / "policy.toml"
        file.write_text("approvals_needed = 2\n" + file.read_text())
        return here

    return make


def test_the_first_of_two_approvals_opens_nothing_and_the_second_opens_the_study(
    careful, make_protocol, steps, monkeypatch
):
    here, study = careful(), small(make_protocol, "shared")
    offer(here, sign_study(study, here.researcher))
    as_user(monkeypatch, "ann")
    here.approve(study, steps["noise_only"])
    contents = read_gate(here.state.gate)
    assert study.digest not in contents.account.approved
    assert all(line.share_set_aside == 0 for line in contents.ledger.verified.spending)
    assert "as the first of two people; opened nothing" in acts_of(contents)[-1].what
    assert views(here)["shared"].standing == "waits for a second person"
    before = here.traces
    with pytest.raises(ApprovalMissing, match=r"ann approved study 'shared' .* as the first of two people"):
        here.approve(study, steps["noise_only"])
    assert here.traces == before
    as_user(monkeypatch, "bob")
    here.approve(study, steps["noise_only"])
    account = read_gate(here.state.gate).account
    assert (account.approved[study.digest].by, account.decisions.first) == ("bob", {})
    with pytest.raises(ApprovalMissing, match="approved here before, by bob"):
        here.approve(study, steps["noise_only"])


def test_a_policy_that_asks_for_one_again_does_not_let_the_first_person_finish(
    careful, make_protocol, steps, monkeypatch
):
    here, study = careful(), small(make_protocol, "shared")
    as_user(monkeypatch, "ann")
    here.approve(study, steps["noise_only"])
    file = here.folder / "policy.toml"
    file.write_text(file.read_text().replace("approvals_needed = 2", "approvals_needed = 1"))
    with pytest.raises(ApprovalMissing, match="as the first of two people"):
        here.approve(study, steps["noise_only"])


def test_a_rejection_takes_a_first_approval_back(careful, make_protocol, steps, monkeypatch):
    here, study = careful(), small(make_protocol, "shared")
    as_user(monkeypatch, "ann")
    here.approve(study, steps["noise_only"])
    reject_study(here.folder, here.state, study.digest, "other")
    account = read_gate(here.state.gate).account
    assert (list(account.decisions.first), list(account.decisions.rejected)) == ([], [study.digest])


def test_who_approves_is_whom_the_kernel_names():
    assert local_user() == pwd.getpwuid(os.getuid()).pw_name


# Pinned keys


def test_a_key_is_pinned_and_let_go_and_the_ledger_says_by_whom(ward, make_protocol, command, steps):
    here, bob = ward(epsilon=20.0, researchers='["alice", "bob"]'), Ed25519PrivateKey.generate()
    study, key = small(make_protocol, "bobs"), public_key_hex(bob.public_key())
    with pytest.raises(PolicyForbids, match="researchers"):
        here.approve(study, steps["noise_only"], key=bob)
    ended, said, _ = command("trust", "researcher", here.folder, "bob", key, *where(here))
    assert (ended, said) == (0, "pinned the key of researcher 'bob'\n")
    assert json.loads(command("trust", "list", here.folder, *where(here), "--json")[1]) == {
        "alice": public_key_hex(here.researcher.public_key()),
        "bob": key,
    }
    here.approve(study, steps["noise_only"], key=bob)
    gate, ledger = here.open_gate(steps["noise_only"])
    assert here.ask(gate, ledger, study)[0].kind == "release"
    ledger.close()
    assert command("distrust", here.folder, "bob", *where(here))[0] == 0
    gate, ledger = here.open_gate(steps["noise_only"])
    assert here.ask(gate, ledger, study)[0].code == "policy"
    ledger.close()
    said = [(line.by, line.what) for line in acts_of(read_gate(here.state.gate))]
    assert (local_user(), f"pinned key {key} of researcher 'bob'") in said
    assert said[-1] == (local_user(), "let the key of researcher 'bob' go")


def test_a_name_that_the_policy_does_not_have_is_said(ward, command):
    here, key = ward(), public_key_hex(Ed25519PrivateKey.generate().public_key())
    assert "does not allow 'carl' yet" in command("trust", "researcher", here.folder, "carl", key, *where(here))[1]


NO_PINS = {
    "the same again": ("alice", None, ConfigInvalid, "pinned here already"),
    "another key under the name": ("alice", "ed" * 32, ConfigInvalid, "pinned here already"),
    "the key under another name": ("bob", None, ConfigInvalid, "under the name 'alice'"),
    "no key": ("bob", "abc", ConfigInvalid, "64 hexadecimal digits"),
    "a name with a capital": ("Bob", "ed" * 32, ConfigInvalid, "lower case"),
}


@pytest.mark.parametrize(("name", "key", "error", "words"), NO_PINS.values(), ids=NO_PINS)
def test_what_cannot_be_pinned_is_refused(ward, name, key, error, words):
    here = ward()
    key = key or public_key_hex(here.researcher.public_key())
    with pytest.raises((error, IdentityInvalid), match=words):
        trust_researcher(here.folder, here.state, name, key)
    assert list(pinned_researchers(here.folder, here.state)) == ["alice"]
    assert here.traces == (2, [])


def test_nobody_is_let_go_who_was_not_pinned(ward):
    here = ward()
    for name in ("bob", "No Name"):
        with pytest.raises(ConfigInvalid):
            distrust_researcher(here.folder, here.state, name)
    assert here.traces == (2, [])


# The budget


def test_the_budget_says_what_each_study_may_cost_has_cost_and_what_is_left(ward, make_protocol, steps, command):
    here, study = ward(epsilon=4.0), small(make_protocol, "one", 2.0, training={"rounds": 4, "spare_rounds": 0})
    here.approve(study, steps["noise_only"])
    gate, ledger = here.open_gate(steps["noise_only"])
    here.ask(gate, ledger, study)
    ledger.close()
    told = json.loads(command("budget", here.folder, *where(here), "--json")[1])["budgets"]
    training = next(side for side in told if side["cohort"] == "training")
    (use,) = training["studies"]
    # One of four rounds that cost the same was charged: a quarter of what the study may cost.
    assert use["share_spent"] == training["share_spent"] == pytest.approx(use["share"] / 4)
    assert training["share_left"] == pytest.approx(1 - use["share"])
    assert 1.99 < use["epsilon"] <= 2.0 and training["epsilon_cap"] == 4.0
    ended, said, _ = command("budget", here.folder, *where(here))
    assert ended == 0 and max(map(len, said.splitlines())) <= 80
    assert f"may cost {use['share']:.1%} and has cost {use['share_spent']:.1%}" in said
    # Of one study this year, its envelope; as an epsilon at the budget's delta, which is more than that of its plan.
    assert training["year"]["most"] is None and use["epsilon"] < training["year"]["epsilon"] < 2 * use["epsilon"]
    assert (
        f"{training['year']['year']}     approved: epsilon {training['year']['epsilon']:.3f} together; no limit" in said
    )
    with pytest.raises(BudgetExhausted):
        for name in ("two", "three", "four", "five"):
            here.approve(small(make_protocol, name, 2.0), steps["noise_only"])


def test_an_offer_is_found_as_it_was_signed(ward, make_protocol):
    here = ward()
    signed = sign_study(small(make_protocol, "offered"), here.researcher)
    offer(here, signed)
    digest = next(iter(views(here).values())).study
    assert canonical_bytes(offered_study(here.state, digest[:9])) == signed


def test_before_a_study_is_approved_the_same_is_said_and_nobody_is_asked_in_vain(
    ward, make_protocol, command, monkeypatch
):
    here, study = ward(epsilon=20.0), small(make_protocol, "offered", purpose="long " * 60)
    offer(here, sign_study(study, here.researcher))
    (view,) = views(here).values()
    monkeypatch.setattr("typer.confirm", lambda question: False)
    ended, said, _ = command("approve", here.folder, study.digest[:8], *where(here))
    assert ended == ApprovalMissing.exit_code and "not approved; nothing was written" in said
    assert max(map(len, said.splitlines())) <= 80
    for words in (
        "asked by   alice",
        study.digest,
        "train: at most 3 times 3 whole numbers",
        f"{view.costs[0].share_left:.1%} would be left then",
        f"{view.here.patients['training']} training patients",
    ):
        assert words in said, said
    assert here.traces == (2, [])
