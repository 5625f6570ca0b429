"""Withdrawal of consent: out of every later cohort, no trace for the other side, no patient's name anywhere."""

import json
import logging
import sys

import pytest

from fedhealth.cli.main import main
from fedhealth.errors import ConfigInvalid, DataUnusable, LedgerDamaged
from fedhealth.link.frames import ReleaseReply
from fedhealth.privacy.journal import ConsentNote, DataNote
from fedhealth.records.split import is_held_out
from fedhealth.site.acts import resume_study
from fedhealth.site.consent import forget_patient, renew_consent, studies_of

# Under the wards' split key of zeros and a fraction of 1/4.
HELD_OUT = [f"p{number}" for number in range(24) if is_held_out(bytes(32), f"p{number}", 0.25)]
TRAINING = [f"p{number}" for number in range(24) if f"p{number}" not in HELD_OUT]


class Seen:
    """A step that remembers how many patients it was given; made-up records are of 30."""

    def __init__(self, noise_only):
        self.patients, self._noise_only = [], noise_only

    def __call__(self, step, weights, records, stream):
        if records.patient_count != 30:
            self.patients.append((step.cohort, records.patient_count))
        return self._noise_only(step, weights, records, stream)


@pytest.fixture
def seen(steps):
    return Seen(steps["noise_only"])


@pytest.fixture
def approved(ward, make_protocol, steps):
    """A ward with one approved study, and the study."""

    def make(study=None, **arguments):
        here, study = ward(epsilon=20.0, **arguments), study or make_protocol()
        here.approve(study, steps["noise_only"])
        return here, study

    return make


def run(here, study, compute, *questions):
    """Start the gate, ask (step, round) questions, stop it, and return the payloads and the ledger's size."""
    gate, ledger = here.open_gate(compute)
    try:
        replies = [here.ask(gate, ledger, study, step, number) for step, number in questions]
        assert all(isinstance(header, ReleaseReply) for header, _ in replies)
        return [body for _, body in replies], len(tuple(ledger.history()))
    finally:
        ledger.close()


def notes(here):
    with here.state.opened_ledger("ward-a") as ledger:
        return list(ledger.journal())


@pytest.mark.parametrize(("patients", "cohort"), [(TRAINING, "training"), (HELD_OUT, "held-out")])
def test_a_forgotten_patient_is_out_in_the_middle_of_a_study_and_of_a_later_one(
    approved, make_protocol, steps, seen, patients, cohort
):
    here, study = approved()
    step = "train" if cohort == "training" else "evaluate"
    run(here, study, seen, (step, 1))
    assert forget_patient(here.folder, here.state, patients[0]).records == 1
    if step == "train":
        run(here, study, seen, (step, 2))
    later = make_protocol(name="later")
    _, shown = here.approve(later, steps["noise_only"])
    run(here, later, seen, (step, 1))
    rest = len(patients) - 1
    assert seen.patients == [(cohort, count) for count in [rest + 1] + [rest] * (len(seen.patients) - 1)]
    assert len(seen.patients) == (3 if step == "train" else 2)
    assert shown.patients[cohort] == rest, "the administrator who approves is shown the cohort that will be used"


def test_all_records_of_the_patient_are_out_also_those_that_come_later(approved, make_csv, seen):
    here, study = approved()
    assert forget_patient(here.folder, here.state, TRAINING[0]).records == 1
    here.csv.write_text(make_csv() + f"{TRAINING[0]},30,1,1\n{TRAINING[0]},31,1,1\n")
    assert forget_patient(here.folder, here.state, TRAINING[0]).records == 3
    run(here, study, seen, ("train", 1))
    assert seen.patients == [("training", len(TRAINING) - 1)]


def test_a_patient_can_withdraw_before_any_record_arrives(approved, make_csv, seen):
    here, study = approved()
    assert forget_patient(here.folder, here.state, "p99").records == 0
    here.csv.write_text(make_csv() + "p99,30,1,1\n")
    run(here, study, seen, ("train", 1), ("evaluate", 1))
    assert seen.patients == [("training", len(TRAINING)), ("held-out", len(HELD_OUT))]


def test_consent_can_be_recorded_while_the_data_cannot_be_read(approved, make_csv, seen):
    here, study = approved()
    here.csv.unlink()
    assert forget_patient(here.folder, here.state, TRAINING[0]).records is None
    here.csv.write_text(make_csv())
    run(here, study, seen, ("train", 1))
    assert seen.patients == [("training", len(TRAINING) - 1)]


def test_a_broken_record_of_a_forgotten_patient_stops_no_approval(ward, make_csv, make_protocol, steps):
    here = ward(make_csv().replace("p5,25,5,1", "p5,text,5,1"), epsilon=20.0)
    with pytest.raises(DataUnusable):
        here.approve(make_protocol(), steps["noise_only"])
    forget_patient(here.folder, here.state, "p5")
    here.approve(make_protocol(), steps["noise_only"])


def test_the_version_of_the_data_and_with_it_the_noise_changes_only_with_the_cohort(approved, steps):
    here, study = approved(unsafe_noise_seed=5)

    def versions():
        return [note.version for note in notes(here) if isinstance(note, DataNote)]

    run(here, study, steps["noise_only"])
    forget_patient(here.folder, here.state, "p99")  # not in the data
    run(here, study, steps["noise_only"])
    assert versions() == [1]
    forget_patient(here.folder, here.state, TRAINING[0])
    run(here, study, steps["noise_only"])
    assert versions() == [1, 2]
    renew_consent(here.folder, here.state, TRAINING[0])
    run(here, study, steps["noise_only"])
    assert versions() == [1, 2, 3], "the same content again is a version of its own: noise never comes twice"


def test_what_was_stored_before_comes_back_with_the_same_bytes(approved, steps):
    here, study = approved()
    before, _ = run(here, study, steps["counting"], ("train", 1))
    forget_patient(here.folder, here.state, TRAINING[0])
    after, _ = run(here, study, steps["counting"], ("train", 1))
    assert after == before


def test_the_ledger_does_not_grow_by_it(approved, steps):
    here, study = approved()
    _, size = run(here, study, steps["noise_only"])
    forget_patient(here.folder, here.state, TRAINING[0])
    renew_consent(here.folder, here.state, TRAINING[0])
    forget_patient(here.folder, here.state, "p99")
    assert run(here, study, steps["noise_only"])[1] == size


def test_forgetting_twice_and_renewing_consent_leave_one_line_each(approved, seen):
    here, study = approved()
    for _ in range(2):
        forget_patient(here.folder, here.state, f"  {TRAINING[0]} ")  # cells are read without spaces, too
    renew_consent(here.folder, here.state, TRAINING[0])
    with pytest.raises(ConfigInvalid, match="not withdrawn"):
        renew_consent(here.folder, here.state, TRAINING[0])
    assert [note.kind for note in notes(here)] == ["consent-withdrawn", "consent-renewed"]
    run(here, study, seen, ("train", 1))
    assert seen.patients == [("training", len(TRAINING))]


@pytest.mark.parametrize("change", ["naming secret", "patient column"])
def test_a_withdrawal_that_cannot_be_recognised_any_more_stops_gate_and_approval(
    approved, make_csv, make_protocol, steps, change
):
    here, _ = approved()
    forget_patient(here.folder, here.state, TRAINING[0])
    if change == "naming secret":
        (here.state.gate / "naming.secret").write_bytes(bytes(32))
    else:
        site = here.folder / "site.toml"
        site.write_text(site.read_text().replace('"id"', '"age"'))
    with pytest.raises(ConfigInvalid, match="cannot be recognised"):
        here.open_gate(steps["noise_only"])
    with pytest.raises(ConfigInvalid, match="cannot be recognised"):
        here.approve(make_protocol(name="second"), steps["noise_only"])


@pytest.mark.parametrize("call", [forget_patient, renew_consent])
def test_a_gate_that_cannot_be_told_must_be_stopped_first(approved, steps, call):
    here, _ = approved()
    _, ledger = here.open_gate(steps["noise_only"])
    try:
        with pytest.raises(LedgerDamaged, match="Stop the gate of this site first"):
            call(here.folder, here.state, TRAINING[0])
    finally:
        ledger.close()
    assert not any(isinstance(note, ConsentNote) for note in notes(here))


@pytest.mark.parametrize("call", [forget_patient, renew_consent, studies_of])
def test_nobody_is_no_patient(approved, call):
    here, _ = approved()
    with pytest.raises(ConfigInvalid, match="no patient was named"):
        call(here.folder, here.state, " \n")


def uses(here, patient):
    return {use.title: (use.used, use.unknown) for use in studies_of(here.folder, here.state, patient)}


def test_the_studies_that_used_a_patient_are_those_of_the_side_while_the_patient_was_in(
    approved, make_csv, make_protocol, steps
):
    here, study = approved(make_protocol(title="first"))
    second, third = (make_protocol(name=name, title=name) for name in ("second", "third"))
    for each in (second, third):
        here.approve(each, steps["noise_only"])
    noise_only = steps["noise_only"]
    run(here, study, noise_only, ("train", 1), ("evaluate", 1))
    here.csv.write_text(make_csv() + "new,30,1,1\n")  # from the second version of the data on
    new_side = "evaluate" if is_held_out(bytes(32), "new", 0.25) else "train"
    run(here, study, noise_only, ("train", 2))
    forget_patient(here.folder, here.state, TRAINING[0])
    run(here, second, noise_only, (new_side, 1))
    renew_consent(here.folder, here.state, TRAINING[0])
    run(here, second, noise_only, ("train", 2))
    # By hand: TRAINING[0] was in versions 1, 2 and 4. The third study was approved and asked nothing.
    assert uses(here, TRAINING[0]) == {"first": (2, 0), "second": (1, 0)}
    assert uses(here, HELD_OUT[0]) == {"first": (1, 0)} | ({"second": (1, 0)} if new_side == "evaluate" else {})
    assert uses(here, "new") == ({"second": (1, 0)} if new_side == "evaluate" else {"first": (1, 0), "second": (2, 0)})
    assert uses(here, "p99") == {}


def test_a_charge_whose_release_never_was_stored_used_nobody(approved, steps):
    here, study = approved()

    def fail(step, weights, records, stream):
        if records.patient_count != 30:
            raise MemoryError
        return steps["noise_only"](step, weights, records, stream)

    gate, ledger = here.open_gate(fail)
    here.ask(gate, ledger, study)
    ledger.close()
    assert uses(here, TRAINING[0]) == {}
    resume_study(here.folder, here.state, study.digest)
    run(here, study, steps["noise_only"], ("train", 1))
    assert uses(here, TRAINING[0]) == {"A small study": (1, 0)}


@pytest.mark.parametrize("harm", ["members lost", "members of another time", "members cut", "signed study lost"])
def test_what_cannot_be_known_is_said_to_be_unknown(approved, make_csv, steps, harm):
    here, study = approved()
    members = here.state.gate / "members"
    run(here, study, steps["noise_only"], ("train", 1))
    early = members.read_bytes()
    here.csv.write_text(make_csv() + "new,30,1,1\n")
    run(here, study, steps["noise_only"], ("train", 2))
    if harm == "members lost":
        members.unlink()
    elif harm == "members of another time":
        members.write_bytes(early)
    elif harm == "members cut":
        members.write_bytes(members.read_bytes()[:-1])
    else:
        next(here.state.studies.iterdir()).unlink()
    # An earlier file still knows the first version; the second is not what the journal says it is.
    known = 1 if harm == "members of another time" else 0
    title = "" if harm == "signed study lost" else "A small study"
    assert uses(here, TRAINING[0]) == {title: (known, 2 - known)}
    (use,) = studies_of(here.folder, here.state, TRAINING[0])
    assert (use.study, use.approved_by) == (study.digest, next(iter(notes_by(here))))


def notes_by(here):
    with here.state.opened_ledger("ward-a") as ledger:
        return [approval.by for approval in ledger.account.approved.values()]


# The commands


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `fedhealth site ...` and return its exit code, what it printed, and what it printed as an error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedhealth", "site", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_the_commands_forget_list_and_let_back_in(approved, steps, command):
    here, study = approved()
    run(here, study, steps["noise_only"], ("train", 1))
    where, patient = ("--state", here.state.root), TRAINING[0]
    assert command("forget", here.folder, patient, *where)[:2] == (
        0,
        "forgotten from the next start of the gate on; 1 records of this patient are in the data\n",
    )
    ended, said, _ = command("forget", here.folder, "p99", *where)
    assert ended == 0 and "0 records" in said and "check how the column writes it" in said
    ended, said, _ = command("studies-of", here.folder, patient, *where)
    assert ended == 0 and "A small study" in said and "1 releases used the patient" in said
    ended, said, _ = command("studies-of", here.folder, patient, *where, "--json")
    assert [(each["study"], each["used"]) for each in json.loads(said)] == [(study.digest, 1)]
    assert "no release of any study" in command("studies-of", here.folder, "p99", *where)[1]
    assert command("unforget", here.folder, patient, *where)[0] == 0
    assert command("unforget", here.folder, patient, *where)[0] == ConfigInvalid.exit_code


def test_the_patient_can_be_given_on_standard_input(approved, command, monkeypatch, tmp_path):
    here, _ = approved()
    given = tmp_path / "given"
    given.write_text(f"{TRAINING[0]}\n")
    with given.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert "1 records" in command("forget", here.folder, "--state", here.state.root)[1]


def test_the_patients_name_stands_in_no_file_no_log_and_no_output(approved, make_csv, steps, command, caplog):
    caplog.set_level(logging.DEBUG)
    here, study = approved(text=make_csv().replace("p4,", "Zuckermann-1931,"))
    where = ("--state", here.state.root)
    said = []
    for verb in ("forget", "studies-of", "unforget", "unforget", "forget"):
        said += command(verb, here.folder, "Zuckermann-1931", *where)[1:]
        run(here, study, steps["noise_only"])
    _, ledger = here.open_gate(steps["noise_only"])
    said += command("forget", here.folder, "Zuckermann-1931", *where)[1:]  # refused: the gate is running
    ledger.close()
    files = [path for path in here.state.root.rglob("*") if path.is_file()]
    assert here.state.ledger in files and here.state.gate / "members" in files
    for held in (*(path.read_bytes() for path in files), *(text.encode() for text in (*said, caplog.text))):
        assert b"Zuckermann" not in held
