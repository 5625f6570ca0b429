"""An approval: what stops it, that a stopped one leaves no trace, and what the administrator is shown."""

import dataclasses
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.errors import (
    ApprovalMissing,
    BudgetExhausted,
    ConfigInvalid,
    DataUnusable,
    FedHealthError,
    IdentityInvalid,
    PolicyForbids,
    RefusalCode,
)
from fedhealth.link.frames import ReleaseReply
from fedhealth.privacy.entries import Created
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.mu_squared import epsilon_of
from fedhealth.privacy.stream import SiteNoiseSecret, UnsafeFixedNoiseSecret
from fedhealth.privacy.verify import verify_ledger
from fedhealth.site.acts import resume_study, withdraw_study
from fedhealth.site.approval import examine_study
from fedhealth.site.gate import Gate
from fedhealth.site.state import init_site
from fedhealth.study.signature import sign_study

IN_A_CELL = "whiskey"


def replaced(text, line, cells):
    lines = text.splitlines()
    lines[line - 1] = cells
    return "\n".join(lines) + "\n"


# Under the split key of these tests "p3" is held out and "p1" is not.
ONE_A_SIDE = "id,age,dose,ill\np1,50,5,1\np3,50,5,1\n"
STOPPED = [
    ("too few patients", {}, {"least": 20}, {}, DataUnusable, "too few patients"),
    ("no patients at all", {"text": "id,age,dose,ill\np1,50,5,\n"}, {}, {}, DataUnusable, "got 0 patients"),
    (
        "one patient only",
        {"text": "id,age,dose,ill\np1,50,5,1\n"},
        {},
        {},
        DataUnusable,
        "got 1 patients on the training",
    ),
    ("one patient a side", {"text": ONE_A_SIDE}, {}, {}, DataUnusable, "got 1 patients on"),
    ("a missing column", {"text": "id,age,ill\np1,50,1\n"}, {}, {}, DataUnusable, "also dose"),
    ("epsilon above the policy's", {}, {}, {"privacy": {"training_epsilon": 2.6}}, PolicyForbids, "max_epsilon"),
    ("no researcher allowed", {}, {"researchers": "[]"}, {}, PolicyForbids, "researchers"),
    ("another data set", {}, {}, {"data_set": "lab"}, PolicyForbids, "budget"),
    ("larger sites wanted", {}, {}, {"min_declared_patients": 31}, ApprovalMissing, "larger sites"),
    ("more than the budget", {}, {"epsilon": 1.9}, {}, BudgetExhausted, "does not fit the privacy budget"),
    ("sampled rounds, counted in mu squared", {}, {}, {"training": {"sampling_rate": 0.5}}, ConfigInvalid, "no price"),
    (
        "no such mechanism",
        {},
        {},
        {"privacy": {"training_epsilon": 1e-9, "delta": 1e-12}},
        FedHealthError,
        "a mechanism that does not exist",
    ),
]


@pytest.mark.parametrize(
    ("text", "site", "study", "error", "says"), [each[1:] for each in STOPPED], ids=[each[0] for each in STOPPED]
)
def test_refuses_to_approve_and_leaves_no_trace(ward, make_protocol, steps, text, site, study, error, says):
    here = ward(**text, **site)
    before = here.traces
    with pytest.raises(error, match=says):
        here.approve(make_protocol(**study), steps["noise_only"])
    assert here.traces == before == (2, [])


@pytest.mark.parametrize("broken", [f"p3,{IN_A_CELL},5,1", "p3,inf,5,1", "p3,1e999,5,1", f"p3,50,5,{IN_A_CELL}"])
def test_text_for_a_number_is_named_by_line_and_column_and_never_shown(ward, make_csv, make_protocol, steps, broken):
    here = ward(replaced(make_csv(), 5, broken))
    with pytest.raises(DataUnusable) as caught:
        here.approve(make_protocol(), steps["noise_only"])
    message = str(caught.value)
    assert "line 5" in message
    assert ("'ill'" if broken.endswith(IN_A_CELL) else "'age'") in message
    for value in (IN_A_CELL, "inf,", "1e999", "p3"):
        assert value not in message
    assert here.traces == (2, [])


def test_a_ragged_line_stops_an_approval(ward, make_csv, make_protocol, steps):
    here = ward(replaced(make_csv(), 7, f"p5,{IN_A_CELL},50,5,1"))
    with pytest.raises(DataUnusable, match="line 7") as caught:
        here.approve(make_protocol(), steps["noise_only"])
    assert IN_A_CELL not in str(caught.value)


def test_a_study_signed_by_a_stranger_or_changed_after_signing_is_refused(ward, make_protocol, steps):
    here = ward()
    with pytest.raises(PolicyForbids, match="researchers"):
        here.approve(make_protocol(), steps["noise_only"], key=Ed25519PrivateKey.generate())
    changed = sign_study(make_protocol(), here.researcher).replace(b'"rounds":3', b'"rounds":2')
    with pytest.raises(IdentityInvalid):
        examine_study(here.folder, here.state, changed, {})
    assert here.traces == (2, [])


def test_an_approval_is_given_once(ward, make_protocol, steps):
    here = ward(epsilon=20.0)
    here.approve(make_protocol(), steps["noise_only"])
    before = here.traces
    with pytest.raises(ApprovalMissing, match="approved here before"):
        here.approve(make_protocol(), steps["noise_only"])
    assert here.traces == before
    assert before[0] == 3


def test_an_approval_whose_study_file_was_lost_in_a_crash_is_completed(ward, make_protocol, steps):
    here = ward(epsilon=20.0)
    here.approve(make_protocol(), steps["noise_only"])
    _, (file,) = here.traces
    whole = file.read_bytes()
    file.unlink()  # as if the power was cut between the ledger's entry and the file
    with pytest.raises(ApprovalMissing, match="approved here before"):
        here.approve(make_protocol(), steps["noise_only"])
    assert file.read_bytes() == whole
    assert here.traces[0] == 3


def test_a_study_file_that_was_lost_comes_back_from_nobody_but_the_researcher_who_was_approved(
    ward, make_protocol, steps
):
    here = ward(epsilon=20.0)
    here.approve(make_protocol(), steps["noise_only"])
    _, (file,) = here.traces
    file.unlink()
    with pytest.raises(PolicyForbids, match="researchers"):  # the same protocol, signed by another key
        here.approve(make_protocol(), steps["noise_only"], key=Ed25519PrivateKey.generate())
    assert not file.exists()


def test_a_second_study_gets_what_the_first_left_and_no_more(ward, make_protocol, steps):
    # Two studies of epsilon 2 each together cost less than epsilon 4, and more than epsilon 2.5.
    enough, not_enough = 4.0, 2.5
    here = ward(epsilon=not_enough)
    here.approve(make_protocol(), steps["noise_only"])
    with pytest.raises(BudgetExhausted, match="does not fit"):
        here.approve(make_protocol(name="second"), steps["noise_only"])
    assert here.traces[0] == 3
    assert enough > not_enough


def test_two_studies_fit_a_budget_of_the_sum_of_their_epsilons(ward, make_protocol, steps):
    here = ward(epsilon=4.0)
    for name in ("first", "second"):
        here.approve(make_protocol(name=name), steps["noise_only"])
    spending = verify_ledger(here.state.gate).spending
    assert all(line.share_set_aside <= 1 for line in spending)
    assert here.traces[0] == 4


def test_a_site_that_expects_sampled_work_can_approve_it_and_full_batch_too(ward, make_protocol, steps):
    here = ward(work="expected_work = { sampling_rate = 0.5, rounds = 10 }\n")
    sampled, seen = here.approve(make_protocol(training={"sampling_rate": 0.5}), steps["noise_only"])
    assert sampled.envelope["training"].currency == sampled.envelope["held-out"].currency
    assert "renyi" in sampled.envelope["training"].currency
    # The plan's own epsilon is what the protocol asks, 2.0; what it takes of the budget is shown beside it and binds.
    assert seen.epsilon["training"] == pytest.approx(2.0, rel=0.005)
    assert 0 < seen.share["training"] < 1
    full, _ = here.approve(make_protocol(name="full"), steps["noise_only"])
    assert full.envelope["held-out"] == sampled.envelope["held-out"]  # evaluation is full batch in both


def test_expected_work_that_no_budget_holds_is_refused_at_init(ward):
    with pytest.raises(ConfigInvalid, match="expected"):
        ward(epsilon=0.0001, work="expected_work = { sampling_rate = 0.9, rounds = 1000000 }\n")


def test_the_administrator_is_shown_patients_and_not_records(ward, make_protocol, steps):
    # Every patient twice: first well, then ill; 24 patients are ill, not 24 of 48.
    rows = [f"p{patient},50,5,{ill}" for patient in range(24) for ill in (0, 1)]
    # And the first patient ill in three more records.
    rows += ["p0,50,5,1"] * 2
    here = ward("id,age,dose,ill\n" + "\n".join(rows) + "\n", epsilon=5.0)
    approved, seen = here.approve(make_protocol(), steps["noise_only"])
    assert sum(seen.patients.values()) == 24
    assert {side: what["with the condition"] for side, what in seen.composition.items()} == seen.patients
    assert approved.declared_patients == 30
    # What the study costs, by the accountant, is what the protocol asks: 2.0 for each side.
    for side in ("training", "held-out"):
        assert seen.epsilon[side] == pytest.approx(epsilon_of(approved.envelope[side], 1e-4))
        assert 1.99 < seen.epsilon[side] <= 2.0
        assert 0 < seen.share[side] < 1


def rows_of(patients, visits):
    """A table of so many patients with so many rows each; a column names the visit."""
    rows = [f"v{n},p{n // visits},{20 + n % 60},{n % 10},{n // visits % 2}" for n in range(patients * visits)]
    return "id,person,age,dose,ill\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (rows_of(24, 2), "100%"),  # the column named in site.toml is `id`, one value a visit
        (rows_of(24, 1), "100%"),  # one row per patient: right, and still for a person to say
        (rows_of(40, 1) + "v1,p1,50,5,1\nv2,p2,50,5,1\n", "95%"),  # 40 values in 42 rows
        (rows_of(40, 1) + "v1,p1,50,5,1\nv2,p2,50,5,1\nv3,p3,50,5,1\n", None),  # 40 values in 43 rows: 93 %
        (rows_of(24, 2).replace("id,person", "visit,id"), None),  # every patient twice
    ],
    ids=["visits", "one row a patient", "nearly all rows", "not so many", "patients with visits"],
)
def test_a_patient_column_that_is_nearly_unique_is_warned_of_and_nothing_of_it_is_written(
    ward, make_protocol, steps, text, warned
):
    here = ward(text)
    approved, seen = here.approve(make_protocol(), steps["noise_only"])
    assert len(seen.warnings) == (warned is not None)
    for warning in seen.warnings:
        assert f"column 'id' has a new value in {warned} of the rows" in warning
        assert "looks like a visit number, not a patient, and protection would be per visit" in warning
    assert "visit" not in approved.model_dump_json()


def test_a_table_of_far_more_patients_than_are_declared_is_warned_of(ward, make_protocol, steps):
    here = ward(rows_of(100, 2).replace("id,person", "visit,id"))
    approved, seen = here.approve(make_protocol(), steps["noise_only"])
    assert max(seen.patients.values()) > 60
    (warning,) = seen.warnings
    assert "more than 2 times as many patients here as the 30 that are declared" in warning
    assert "implausible" in warning and "declared_patients in site.toml" in warning
    assert "implausible" not in approved.model_dump_json()


def test_what_the_administrator_sees_is_not_in_the_ledger(ward, make_protocol, steps):
    here = ward()
    approved, _ = here.approve(make_protocol(), steps["noise_only"])
    assert set(json.loads(approved.model_dump_json())) == {
        *(
            "journal",
            "kind",
            "study",
            "researcher",
            "sides",
            "data_set",
            "declared_patients",
            "reply_after_ms",
            "envelope",
            "counts_of_an_asker",
            "delta",
        ),
        *("by", "at"),
    }


def test_the_public_duration_covers_the_steps_on_records_of_the_declared_size(ward, make_protocol, steps):
    import time

    here, sizes = ward(), set()

    def slow(step, weights, records, streams):
        sizes.add(records.patient_count)
        time.sleep(0.03 if step.name == "train" else 0)
        return steps["noise_only"](step, weights, records, streams)

    approved, _ = here.approve(make_protocol(), slow)
    assert sizes == {30}  # never the true 24
    assert approved.reply_after_ms["train"] >= 37.5  # 1.25 times 30 ms
    assert approved.reply_after_ms["evaluate"] >= 20
    assert approved.reply_after_ms["train"] % 5 == 0


def test_a_fixed_noise_seed_is_refused_at_a_site_that_is_not_for_tests(ward, make_protocol, steps):
    here = ward()
    here.approve(make_protocol(), steps["noise_only"])
    (here.state.gate / "unsafe-fixed-noise-seed").write_text("7")
    with pytest.raises(ConfigInvalid, match="fixed noise seed"):
        here.open_gate(steps["noise_only"])
    # Even where somebody took the real secret away.
    (here.state.gate / "noise.secret").unlink()
    with pytest.raises(ConfigInvalid, match="fixed noise seed"):
        here.open_gate(steps["noise_only"])
    (here.state.gate / "unsafe-fixed-noise-seed").unlink()
    with pytest.raises(FedHealthError, match=r"noise\.secret"):
        here.open_gate(steps["noise_only"])


def test_only_a_test_site_has_a_fixed_seed_and_its_ledger_says_so(ward, tmp_path):
    here = ward(unsafe_noise_seed=7)
    assert verify_ledger(here.state.gate).unsafe_test_site
    created = Created(site="ward-a", ledger_key="0" * 64, witness_key="0" * 64, budgets={}, unsafe_test_site=True, at=0)
    assert isinstance(here.state.noise_secret(created), UnsafeFixedNoiseSecret)
    assert not (here.state.gate / "noise.secret").exists()


def test_the_secrets_of_a_site_are_independent_and_its_own(ward):
    here = ward()
    assert sorted(here.drawn) == ["copies", "naming", "noise", "split"]
    assert len(set(here.drawn.values())) == 4
    assert all(len(secret) == 32 for secret in here.drawn.values())
    assert {(here.state.gate / f"{name}.secret").stat().st_mode & 0o777 for name in ("noise", "split", "naming")} == {
        0o600
    }
    created = Created(
        site="ward-a", ledger_key="0" * 64, witness_key="0" * 64, budgets={}, unsafe_test_site=False, at=0
    )
    assert type(here.state.noise_secret(created)) is SiteNoiseSecret


def test_a_site_is_made_once(ward):
    here = ward()
    before = here.state.ledger.read_bytes()
    with pytest.raises(ConfigInvalid, match="has state at"):
        init_site(here.folder, here.state, "0" * 64, {})
    assert here.state.ledger.read_bytes() == before


def test_a_study_that_failed_runs_again_only_after_its_administrator_resumed_it(ward, make_protocol, steps):
    here, study, fails = ward(), make_protocol(), [False]
    here.approve(study, steps["noise_only"])

    def compute(*arguments):
        if fails[0]:
            raise MemoryError
        return steps["noise_only"](*arguments)

    gate, ledger = here.open_gate(compute)
    fails[0] = True
    assert here.ask(gate, ledger, study)[0].code == RefusalCode.BUSY
    fails[0] = False
    assert here.ask(gate, ledger, study)[0].code == RefusalCode.BUSY
    ledger.close()

    gate, ledger = here.open_gate(compute)
    assert here.ask(gate, ledger, study)[0].code == RefusalCode.BUSY
    ledger.close()

    with pytest.raises(ApprovalMissing):
        resume_study(here.folder, here.state, "ab" * 32)
    resume_study(here.folder, here.state, study.digest)
    gate, ledger = here.open_gate(compute)
    header, body = here.ask(gate, ledger, study)
    assert isinstance(header, ReleaseReply)
    assert len(body) == 24
    assert ledger.account.releases(study.digest, "train") == 1
    ledger.close()


def test_an_approval_waits_for_no_running_gate(ward, make_protocol, steps):
    here = ward(epsilon=20.0)
    here.approve(make_protocol(), steps["noise_only"])
    _, ledger = here.open_gate(steps["noise_only"])
    try:
        with pytest.raises(FedHealthError, match="in use"):
            here.approve(make_protocol(name="second"), steps["noise_only"])
    finally:
        ledger.close()
    assert here.traces[0] == 3


def test_a_missing_ledger_is_an_error_and_not_an_empty_ledger(ward, make_protocol, steps):
    here = ward()
    here.state.ledger.unlink()
    with pytest.raises(FedHealthError, match="is missing"):
        here.approve(make_protocol(), steps["noise_only"])
    assert not here.state.ledger.exists()
    with pytest.raises(FedHealthError, match="is missing"):
        Ledger.open(here.state.ledger, "ward-a", here.state.ledger_key())


def test_examining_a_study_writes_nothing(ward, make_protocol, steps):
    here = ward()
    data = sign_study(make_protocol(), here.researcher)
    examine_study(here.folder, here.state, data, dict.fromkeys(("train", "evaluate"), steps["noise_only"]))
    assert here.traces == (2, [])


def test_no_patient_can_pay_both_budgets(ward, make_protocol, steps):
    """Two studies with other held-out fractions put the same patient in training of one and evaluation of the other."""
    here = ward(epsilon=20.0)
    here.approve(make_protocol(name="first", evaluation={"held_out_fraction": 0.3}), steps["noise_only"])
    with pytest.raises(ApprovalMissing, match="splits the patients"):
        here.approve(make_protocol(name="second", evaluation={"held_out_fraction": 0.7}), steps["noise_only"])
    here.approve(make_protocol(name="third", evaluation={"held_out_fraction": 0.3}), steps["noise_only"])


def test_changing_the_split_key_after_an_approval_stops_studies_and_approvals(ward, make_protocol, steps):
    here = ward(epsilon=20.0)
    study = make_protocol(name="first")
    here.approve(study, steps["noise_only"])
    (here.state.gate / "split.secret").write_bytes(bytes([9]) * 32)
    with pytest.raises(ApprovalMissing, match="splits the patients"):
        here.approve(make_protocol(name="second"), steps["noise_only"])
    gate, ledger = here.open_gate(steps["noise_only"])
    with pytest.raises(ApprovalMissing, match="other patients on its two sides"):
        gate.prepare(sign_study(study, here.researcher))
    ledger.close()


def test_withdrawing_frees_what_was_not_spent_and_is_done_once(ward, make_protocol, steps):
    here = ward(epsilon=3.0)
    study = make_protocol(name="first", privacy={"training_epsilon": 2.5, "evaluation_epsilon": 2.5})
    here.approve(study, steps["noise_only"])
    second = make_protocol(name="second", privacy={"training_epsilon": 2.5, "evaluation_epsilon": 2.5})
    with pytest.raises(BudgetExhausted):
        here.approve(second, steps["noise_only"])
    withdraw_study(here.folder, here.state, study.digest)
    with pytest.raises(ApprovalMissing):
        withdraw_study(here.folder, here.state, study.digest)
    here.approve(second, steps["noise_only"])


def test_a_study_cannot_evade_the_epsilon_rule_with_a_large_delta(ward, make_protocol, steps):
    here = ward(epsilon=20.0)
    with pytest.raises(PolicyForbids, match="max_epsilon_a_study"):
        here.approve(
            make_protocol(privacy={"training_epsilon": 2.5, "evaluation_epsilon": 2.5, "delta": 0.01}),
            steps["noise_only"],
        )


def test_two_sites_draw_different_secrets(ward):
    one, other = (ward(name=name) for name in ("one", "other"))
    assert set(one.drawn) == {"noise", "split", "naming", "copies"}
    assert len({*one.drawn.values(), *other.drawn.values()}) == 8


def test_a_gate_itself_refuses_known_noise_where_the_ledger_does_not_say_so(ward, steps):
    here = ward()
    gate, ledger = here.open_gate(steps["noise_only"])
    known = dataclasses.replace(gate._inputs, noise_secret=UnsafeFixedNoiseSecret(7))
    with pytest.raises(ConfigInvalid, match="known noise"):
        Gate(known, ledger, gate._compute, gate._clock)
    ledger.close()


def test_a_gate_prepares_no_study_that_is_not_approved(ward, make_protocol, steps):
    here = ward()
    gate, ledger = here.open_gate(steps["noise_only"])
    with pytest.raises(ApprovalMissing, match="not approved"):
        gate.prepare(sign_study(make_protocol(), here.researcher))
    ledger.close()
