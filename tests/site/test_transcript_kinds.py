"""The transcript test of Rule 0 for networks, classes, quantities, modalities, and records that are left out.

One patient with records as an attacker would wish them, weights from nothing to the largest number, and NaN: what a
gate says with that patient and without must be the same.
"""

from dataclasses import replace

import numpy as np
import pytest
from test_transcript import EXTREMES, STUDY, TABLE, assert_indistinguishable, patient_on, with_cells, without

from fedhealth.learning.plan import encode_weights, plan_study
from fedhealth.learning.steps import STEPS
from fedhealth.study.protocol import Study

GRADES = {
    "kind": "classes",
    "column": "num",
    "classes": ["0", "1", "2", "3", "4"],
    "outcome": "the grade of narrowing",
}
HEART_RATE = {
    "kind": "number",
    "column": "thalch",
    "unit": "beats a minute",
    "range": [60, 200],
    "outcome": "the highest heart rate",
}


def study_of(model, endpoint=None):
    parts = STUDY.model_dump() | {"model": model}
    features = [each for each in parts["features"] if endpoint is not HEART_RATE or each["column"] != "thalch"]
    excluding = features[1] | {"missing": "exclude", "impute": None}  # resting blood pressure
    parts["features"] = [features[0], excluding, *features[2:]]
    if endpoint is not None:
        parts |= {"endpoint": endpoint, "evaluation": {"held_out_fraction": STUDY.evaluation.held_out_fraction}}
    return Study.model_validate(parts)


FUSED = {
    "kind": "fusion",
    "modalities": [
        {"name": "heart", "columns": ["thalch", "exang", "oldpeak", "restecg"], "hidden": [3]},
        {"name": "blood", "columns": ["chol", "fbs"], "may_be_absent": True},
        {"name": "person", "columns": ["age", "sex", "cp", "trestbps"]},
    ],
}
STUDIES = {
    "network": study_of({"kind": "mlp", "hidden": [4]}),
    "classes": study_of({"kind": "logistic-regression"}, GRADES),
    "classes, network": study_of({"kind": "mlp", "hidden": [3, 3]}, GRADES),
    "quantity": study_of({"kind": "linear-regression"}, HEART_RATE),
    "quantity, network": study_of({"kind": "mlp", "hidden": [5]}, HEART_RATE),
    "fused": study_of(FUSED),
    "fused, a modality absent": study_of(FUSED),
}
CELLS = [
    {},
    {"trestbps": ""},  # left out
    {"trestbps": "text"},
    {"num": "4", "thalch": "1e308"},
    {"num": "odd", "thalch": "0", "age": "inf"},
]


def lacking(table, *columns):
    kept = [at for at, column in enumerate(table.columns) if column not in columns]
    rows = tuple((line, tuple(row[at] for at in kept)) for line, row in table.rows)
    return replace(table, columns=tuple(table.columns[at] for at in kept), rows=rows)


def questions(study, seed):
    draw, size = np.random.default_rng(seed), plan_study(study)["evaluate"].input_length
    scale = EXTREMES[1 + seed % (len(EXTREMES) - 1)]
    with np.errstate(over="ignore"):
        ordinary = [encode_weights(draw.uniform(-1, 1, size) * scale) for _ in range(2)]
    broken = encode_weights(np.where(draw.random(size) < 0.5, np.nan, 1.0))
    return [("train", 1, ordinary[0]), ("evaluate", 1, ordinary[1]), ("train", 2, broken), ("train", 3, b"")]


@pytest.mark.parametrize("held_out", [False, True], ids=["training", "held out"])
@pytest.mark.parametrize("case", STUDIES)
@pytest.mark.parametrize("number", range(len(CELLS)))
def test_a_gate_says_the_same_with_and_without_one_patient(case, held_out, number):
    study, patient = STUDIES[case], patient_on(held_out)
    table = lacking(TABLE, "chol", "fbs") if case.endswith("absent") else TABLE
    full = with_cells(table, patient, CELLS[number])
    asked = questions(study, 7 * number + 3 * held_out)
    assert_indistinguishable(full, without(full, patient), asked, study=study)


def counts_classes_that_somebody_is_in(step, weights, records, streams):
    payload, zeroed = STEPS[step.name](step, weights, records, streams)
    return payload[: 8 * len(np.unique(records.labels)) ** 2], zeroed


def divides_by_the_spread(step, weights, records, streams):
    with np.errstate(all="raise"):
        records.labels / np.ptp(records.labels)
    return STEPS[step.name](step, weights, records, streams)


@pytest.mark.parametrize(
    ("case", "mistake", "others", "own"),
    [
        ("classes", counts_classes_that_somebody_is_in, {"num": "0"}, {"num": "4"}),
        ("quantity", divides_by_the_spread, {"thalch": "100"}, {"thalch": "101"}),
    ],
)
def test_the_comparison_finds_a_planted_violation(case, mistake, others, own):
    study, patient, table = STUDIES[case], patient_on(True), TABLE
    column = TABLE.columns.index("id")
    for _, row in TABLE.rows:
        table = with_cells(table, row[column], others)
    table = with_cells(table, patient, own)
    asked = [("evaluate", 1, encode_weights(np.zeros(plan_study(study)["evaluate"].input_length)))]
    with pytest.raises(AssertionError):
        assert_indistinguishable(
            table, without(table, patient), asked, study=study, compute={**STEPS, "evaluate": mistake}
        )
    assert_indistinguishable(table, without(table, patient), asked, study=study)
