"""A patient adds what the patient adds alone, whatever is fitted: networks, classes, quantities, records left out.

As `test_neighbouring_evaluations`, for the other kinds of model and endpoint, and rules on missing values.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbours import CELLS, only, reach_of_others, release, table_of

from fedhealth.learning import steps
from fedhealth.learning.outcomes import classes, number
from fedhealth.learning.plan import plan_study
from fedhealth.study.protocol import Study

FEATURES = [
    {"kind": "number", "column": "age", "unit": "years", "range": [20, 70], "missing": "exclude"},
    {"kind": "number", "column": "dose", "unit": "mg", "range": [0, 10], "impute": 5, "missing_indicator": True},
    {"kind": "category", "column": "sex", "categories": ["f", "m"], "missing_indicator": True},
    {"kind": "category", "column": "ward", "categories": ["C", "A", "B"], "missing": "exclude"},
]
ILL = {
    "kind": "category",
    "column": "ill",
    "positive_categories": ["yes", "probably"],
    "negative_categories": ["no"],
    "positive": "is ill",
}
GRADE = {"kind": "classes", "column": "grade", "classes": ["none", "mild", "severe"], "outcome": "the grade"}
PRESSURE = {
    "kind": "number",
    "column": "pressure",
    "unit": "mmHg",
    "range": [90, 180],
    "missing_values": [0],
    "outcome": "the pressure",
}


MODALITIES = [
    {"name": "drugs", "columns": ["dose"], "hidden": [3]},
    {"name": "years", "columns": ["age"]},
    {"name": "words", "columns": ["sex", "ward"], "may_be_absent": True},
]
NOBODY_LEFT_OUT = [
    FEATURES[0] | {"missing": "impute", "impute": 45},
    *FEATURES[1:3],
    FEATURES[3] | {"missing": "zeros"},
]


def study_of(endpoint, kind, hidden=(), **parts):
    evaluation = {"held_out_fraction": 0.5}
    if endpoint is PRESSURE:
        evaluation["errors"] = {"largest": 30, "steps": 4}
    return Study.model_validate(
        {
            "format": 1,
            "name": "wards",
            "title": "t",
            "task": "diagnosis",
            "purpose": "p",
            "legal_basis": "l",
            "data_set": "icu",
            "max_records_per_patient": 3,
            "features": parts.get("features", FEATURES),
            "endpoint": endpoint,
            "model": {"kind": kind, "hidden": hidden, "modalities": parts.get("modalities", ())},
            "training": {"rounds": 2, "learning_rate": 0.5, "l2_clip_norm": 0.7},
            "evaluation": evaluation,
            "privacy": {"unit": "patient", "delta": 1e-5, "training_epsilon": 2.0, "evaluation_epsilon": 2.0},
        }
    )


STUDIES = {
    "yes or no, network": study_of(ILL, "mlp", (5,)),
    "classes": study_of(GRADE, "logistic-regression"),
    "classes, network": study_of(GRADE, "mlp", (4, 3)),
    "quantity": study_of(PRESSURE, "linear-regression"),
    "quantity, network": study_of(PRESSURE, "mlp", (7,)),
}
FUSED = {
    f"{name}, fused": study_of(endpoint, "fusion", modalities=MODALITIES, features=NOBODY_LEFT_OUT)
    for name, endpoint in (("yes or no", ILL), ("classes", GRADE), ("quantity", PRESSURE))
}
PATIENTS = CELLS["id"][:-1]
SCALES = [0.0, 5e-324, 1.0, 20.0, 1e154, 1.7e308]


def weights_of(study, seed, scale):
    """Return weights of a size, among them some that are nothing and some of the largest."""
    draw = np.random.default_rng(seed)
    size = plan_study(study)["evaluate"].input_length
    return draw.uniform(-1, 1, size) * np.where(draw.random(size) < 0.8, scale, draw.choice(SCALES, size))


@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize("case", STUDIES | FUSED)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from(SCALES), patient=st.sampled_from(PATIENTS))
def test_a_patient_adds_what_the_patient_adds_alone(case, name, seed, scale, patient):
    study = (STUDIES | FUSED)[case]
    # Three sums that are not nothing, each off by at most half a step: 1.5, and so one whole step.
    assert reach_of_others(study, name, weights_of(study, seed, scale), table_of(seed), patient) <= 1


@pytest.mark.parametrize("case", ["classes, network", "quantity"])
def test_the_tables_have_patients_in_every_line_and_some_in_none(case):
    study = STUDIES[case]
    mechanism, moved, norms = plan_study(study)["evaluate"].mechanism, 0, []
    for seed in range(60):
        table, weights = table_of(seed), weights_of(study, seed, 3.0)
        nobody = release(study, "evaluate", weights, only(table, lambda _: False))
        for patient in PATIENTS:
            alone = only(table, lambda row, patient=patient: row == patient)
            own = release(study, "evaluate", weights, alone) - nobody
            moved = moved + (np.abs(own) > 1)
            norms.append(float(np.linalg.norm(own * mechanism.grid)))
    # A patient measures at most 1; of classes exactly 1, where the patient counts at all.
    assert max(norms) <= 1.001 and min(norms) == 0
    if case == "classes, network":
        assert {round(norm, 2) for norm in norms} == {0.0, 1.0} and moved.all()
    else:
        assert any(0.5 < norm < 0.99 for norm in norms), "shared between two knots, one is less"


def the_rarest_class_first(study, outputs, records):
    seen = np.bincount(records.labels[np.isfinite(records.labels)].astype(int), minlength=3)
    yield from VECTORS["classes"](study, outputs[:, np.argsort(seen, kind="stable")], records)


def errors_over_the_largest(study, outputs, records):
    yield from VECTORS["number"](study, outputs / np.nanmax(np.abs(outputs), initial=1e-9), records)


VECTORS = {"classes": classes.vectors, "number": number.vectors}


@pytest.mark.parametrize(
    ("case", "module", "mistake"),
    [("classes", classes, the_rarest_class_first), ("quantity", number, errors_over_the_largest)],
)
def test_a_planted_mistake_in_what_is_counted_is_found(monkeypatch, case, module, mistake):
    study = STUDIES[case]

    def is_found():
        return any(
            reach_of_others(study, "evaluate", weights_of(study, seed, 3.0), table_of(seed), patient) > 1
            for seed in range(12)
            for patient in PATIENTS
        )

    assert not is_found()
    monkeypatch.setattr(module, "vectors", mistake)
    assert is_found()


def test_a_planted_mistake_in_a_gradient_is_found(monkeypatch):
    study, whole = STUDIES["classes, network"], steps.gradient_blocks

    def over_the_largest(*arguments):
        for block in whole(*arguments):
            yield 0.2 * block / np.nanmax(np.abs(block), initial=1e-9)

    monkeypatch.setattr(steps, "gradient_blocks", over_the_largest)
    assert any(
        reach_of_others(study, "train", weights_of(study, seed, 1.0), table_of(seed), patient) > 1
        for seed in range(5)
        for patient in PATIENTS
    )
