"""A hospital whose public records state who is held out: its approvals, its gate, and what is refused."""

import numpy as np
import pytest

from fedhealth.errors import ApprovalMissing, ConfigInvalid, DataUnusable
from fedhealth.site.consent import studies_of
from fedhealth.site.data_set import check_data_set
from fedhealth.study.signature import sign_study

PATIENTS = 24
HELD_OUT = 9


def stated_csv(words=lambda patient: "test" if patient < HELD_OUT else "train"):
    rows = [f"p{p},{20 + p},{p % 10},{p % 2},{words(p)},{'train' if p % 3 else 'test'}" for p in range(PATIENTS)]
    return "id,age,dose,ill,split,other\n" + "\n".join(rows) + "\n"


def state_the_split(here, column="split", public=True):
    """Have site.toml name a split column, on public data or not."""
    file = here.folder / "site.toml"
    kept = [line for line in file.read_text().splitlines() if not line.startswith(("public", "split"))]
    top = ["public_data = true", f'split_key = "{"0" * 64}"'] if public else []
    file.write_text("\n".join([*top, *kept, *([f'split_column = "{column}"'] if column else [])]) + "\n")


@pytest.fixture
def stated(ward):
    here = ward(text=stated_csv(), epsilon=20.0)
    state_the_split(here)
    return here


def test_the_approval_shows_and_the_gate_uses_the_sides_that_the_column_states(stated, make_protocol, steps):
    seen = []

    def compute(step, weights, records, streams):
        seen.append((step.cohort, records.patient_count, np.round(50 + 50 * records.features[:, 0]).min()))
        return steps["noise_only"](step, weights, records, streams)

    study = make_protocol()
    _, shown = stated.approve(study, steps["noise_only"])
    assert shown.patients == {"training": PATIENTS - HELD_OUT, "held-out": HELD_OUT}
    gate, ledger = stated.open_gate(compute)
    gate.prepare(sign_study(study, stated.researcher))
    del seen[:]  # of warming up
    stated.ask(gate, ledger, study, "train", 1)
    stated.ask(gate, ledger, study, "evaluate", 1)
    ledger.close()
    # The youngest of those who train is the first of them, 20 + 9 years old.
    assert seen == [("training", PATIENTS - HELD_OUT, 29.0), ("held-out", HELD_OUT, 20.0)]


@pytest.mark.parametrize("later", ["other", None])
def test_another_split_column_after_an_approval_stops_studies_and_approvals(stated, make_protocol, steps, later):
    study = make_protocol(name="first")
    stated.approve(study, steps["noise_only"])
    state_the_split(stated, later)
    with pytest.raises(ApprovalMissing, match="splits the patients"):
        stated.approve(make_protocol(name="second"), steps["noise_only"])
    gate, ledger = stated.open_gate(steps["noise_only"])
    with pytest.raises(ApprovalMissing, match="other patients on its two sides"):
        gate.prepare(sign_study(study, stated.researcher))
    ledger.close()


def test_a_split_column_is_another_version_of_the_data(stated, make_protocol, steps):
    # The same noise on two sums would tell their difference.
    stated.approve(make_protocol(), steps["noise_only"])
    versions = []
    for column in ("split", "other", "other", None):
        state_the_split(stated, column)
        _, ledger = stated.open_gate(steps["noise_only"])
        versions.append(len([note for note in ledger.journal() if note.kind == "data"]))
        ledger.close()
    assert versions == [1, 2, 2, 3]


def test_a_split_column_is_refused_where_the_records_are_not_public(stated, make_protocol, steps):
    state_the_split(stated, public=False)
    with pytest.raises(ConfigInvalid, match="split_column is allowed only where public_data is true"):
        stated.approve(make_protocol(), steps["noise_only"])
    with pytest.raises(ConfigInvalid, match="split_column is allowed only where public_data is true"):
        stated.open_gate(steps["noise_only"])


def test_a_patient_on_no_side_stops_the_approval_and_shows_when_the_data_are_checked(stated, make_protocol, steps):
    stated.csv.write_text(
        stated_csv(lambda patient: "test" if patient < HELD_OUT else "train" if patient < 20 else "?")
    )
    with pytest.raises(DataUnusable, match=r"line 22 .* no side of the split"):
        stated.approve(make_protocol(), steps["noise_only"])
    assert stated.traces == (2, [])
    _, problems = check_data_set(stated.folder, None, None)
    assert [each.rows for each in problems if each.level == "error"] == [(22, 23, 24, 25)]


def test_which_releases_used_a_patient_is_not_known_where_the_table_states_the_side(stated, make_protocol, steps):
    # What it said at the time is not kept, so nothing is claimed of it.
    study = make_protocol()
    stated.approve(study, steps["noise_only"])
    gate, ledger = stated.open_gate(steps["noise_only"])
    gate.prepare(sign_study(study, stated.researcher))
    stated.ask(gate, ledger, study, "train", 1)
    ledger.close()
    (use,) = studies_of(stated.folder, stated.state, "p20")
    assert (use.used, use.unknown) == (0, 1)
