"""Rule 0 for a study of survival: a gate says the same with and without one patient, whatever weights it is asked with.

Whose follow-up ended before it began, in a word that nobody knows, or without a time is not in the study; an unreadable
time counts as zero. None of it may show.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_transcript import EXTREMES, STUDY, TABLE, assert_indistinguishable, patient_on, with_cells, without

from fedhealth.learning.plan import encode_weights, plan_study
from fedhealth.study.protocol import Study

# A "time" of the heart table, up to which half of its patients have the "event" of being women: nobody would ask that.
COX = Study.model_validate(
    STUDY.model_dump()
    | {
        "task": "survival",
        "max_records_per_patient": 1,
        "features": [{"kind": "number", "column": "age", "unit": "years", "range": [30, 80], "impute": 55}],
        "endpoint": {
            "kind": "survival",
            "column": "sex",
            "event_words": ["Female"],
            "censored_words": ["Male"],
            "event": "an event",
            "time_column": "trestbps",
            "time_unit": "weeks",
            "interval_ends": [100, 130, 160],
            "expected_share": 0.5,
        },
        "model": {"kind": "cox"},
        "evaluation": {
            "held_out_fraction": STUDY.evaluation.held_out_fraction,
            "survival": {"risk_edges": [0.3, 0.6], "group_edges": [0.6]},
        },
    }
)
NETWORK = Study.model_validate(COX.model_dump() | {"model": {"kind": "discrete-time-survival", "hidden": [2]}})
CELLS = [
    {},
    {"trestbps": "text"},
    {"trestbps": ""},
    {"trestbps": "-1"},
    {"trestbps": "0"},
    {"trestbps": "1e308", "age": "-1e-320"},
    {"trestbps": "1e-320"},
    {"sex": "neither"},
    {"age": "inf"},
]


def questions(study):
    size = plan_study(study)["train"].input_length
    values = st.lists(st.one_of(st.sampled_from(EXTREMES), st.floats(width=64)), min_size=size, max_size=size)
    weights = values.map(lambda drawn: encode_weights(np.array(drawn)))
    asked = st.tuples(st.sampled_from(["train", "evaluate"]), st.integers(1, 2), weights)
    return st.lists(asked, min_size=1, max_size=3)


@pytest.mark.parametrize("study", [COX, NETWORK], ids=["cox", "network"])
@pytest.mark.parametrize("held_out", [False, True])
@settings(max_examples=5, deadline=None)
@given(data=st.data(), cells=st.sampled_from(CELLS))
def test_a_gate_says_the_same_with_and_without_one_patient(study, held_out, data, cells):
    patient = patient_on(held_out)
    full = with_cells(TABLE, patient, cells)
    assert_indistinguishable(full, without(full, patient), data.draw(questions(study)), study=study)


def test_the_only_event_of_a_hospital_is_not_told():
    patient, everybody = patient_on(False), TABLE
    for _, row in TABLE.rows:
        everybody = with_cells(everybody, row[TABLE.columns.index("id")], {"sex": "Male"})
    full = with_cells(everybody, patient, {"sex": "Female"})
    weights = encode_weights(np.zeros(plan_study(COX)["train"].input_length))
    assert_indistinguishable(full, without(full, patient), [("train", 1, weights), ("evaluate", 1, weights)], study=COX)
