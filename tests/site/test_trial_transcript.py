"""Rule 0 for a study that trains nothing: a gate says the same with and without one patient of a trial."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_transcript import (
    RESEARCHER,
    SITE,
    SPLIT_KEY,
    STUDY,
    TABLE,
    WITNESS,
    SteppingClock,
    assert_indistinguishable,
    patient_on,
    transcript,
    with_cells,
    without,
)

from fedhealth.learning.plan import encode_weights
from fedhealth.link.frames import Answer, PutStudy, pack
from fedhealth.simulation.gates import SimulatedSite, open_gate
from fedhealth.study.protocol import Study
from fedhealth.study.signature import sign_study

# The two visits of a trial whose arms are the sexes: what is asked of the gate's table, not what anybody would ask.
TRIAL = Study.model_validate(
    STUDY.model_dump(exclude={"training"})
    | {
        "task": "efficacy",
        "features": [{"kind": "number", "column": "age", "unit": "years", "range": [30, 80], "impute": 55}],
        "endpoint": {
            "kind": "trial",
            "arm_column": "sex",
            "arms": [{"word": "Female"}, {"word": "Male"}],
            "outcomes": ["trestbps", "thalch"],
            "range": [90, 180],
            "unit": "mmHg",
            "measures": "a number",
            "better": "lower",
        },
        "model": {"kind": "mixed-model"},
        "evaluation": {"held_out_fraction": 1},
        "privacy": {"unit": "patient", "delta": 1e-4, "evaluation_epsilon": 3.0},
    }
)
NO_WEIGHTS = encode_weights(np.zeros(0))


@settings(max_examples=6, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["evaluate", "evaluate", "train"]),
            st.integers(1, 3),
            st.one_of(st.just(NO_WEIGHTS), st.binary(max_size=24)),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(
        [
            {},
            {"trestbps": "text"},
            {"thalch": "text"},
            {"trestbps": ""},
            {"thalch": ""},
            {"trestbps": "1e308", "age": "-1e-320"},
            {"sex": "neither"},
            {"age": "inf"},
        ]
    ),
)
def test_a_gate_says_the_same_with_and_without_one_patient_of_a_trial(questions, cells):
    patient = patient_on(True)
    full = with_cells(TABLE, patient, cells)
    assert_indistinguishable(full, without(full, patient), questions, study=TRIAL)


def test_the_only_patient_of_an_arm_is_not_told(tmp_path):
    patient, everybody = patient_on(True), TABLE
    for _, row in TABLE.rows:
        everybody = with_cells(everybody, row[TABLE.columns.index("id")], {"sex": "Male"})
    full = with_cells(everybody, patient, {"sex": "Female"})
    assert_indistinguishable(full, without(full, patient), [("evaluate", 1, NO_WEIGHTS)], study=TRIAL)


@pytest.mark.parametrize(
    "step, number, data, code",
    [
        ("evaluate", 1, NO_WEIGHTS, None),
        ("evaluate", 1, bytes(8), "bad-request"),
        ("evaluate", 2, NO_WEIGHTS, "bad-request"),
        ("train", 1, NO_WEIGHTS, "bad-request"),
    ],
)
def test_one_release_is_given_and_nothing_else(tmp_path, step, number, data, code):
    seen = transcript(TABLE, [("evaluate", 1, NO_WEIGHTS), (step, number, data)], tmp_path, study=TRIAL)
    heads = [place for place, entry in enumerate(seen) if entry[0] == "head"]
    answers = seen[heads[0] + 1 : heads[1]]
    assert answers[-1][:2] == (("release", None) if code is None else ("refused", code))


@pytest.mark.parametrize("step", ["train", "evaluate"])
def test_no_body_is_taken_in_for_a_step_that_has_none(tmp_path, step):
    site = SimulatedSite(SITE, TABLE, SPLIT_KEY, noise_seed=7)
    gate, ledger = open_gate(site, TRIAL, tmp_path, RESEARCHER, WITNESS, SteppingClock().clock())
    gate.handle(pack(PutStudy(), sign_study(TRIAL, RESEARCHER)))
    assert gate.longest_body(pack(Answer(study=TRIAL.digest, step=step, round=1), b"")) == 0
    ledger.close()
