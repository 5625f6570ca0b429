"""What a patient adds to a release is what the patient adds alone: with subgroups, scores, conditions and words.

Sums are exact on the fine grid, so a release on D less one on D without a patient is, to one step a coordinate, the
release on that patient alone less the noise. That is more than the bound on what one patient changes: it leaves no
room for a patient's presence to move another patient to another cell, bin, group, cohort or side. Tables are random,
with broken cells, several records a patient and words that no protocol knows. Planted mistakes must be found.
"""

from dataclasses import replace
from functools import partial

import neighbours
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbours import CELLS, only

from fedhealth.learning import steps
from fedhealth.learning.plan import plan_study
from fedhealth.study.protocol import Study

STUDY = Study.model_validate(
    {
        "format": 1,
        "name": "wards",
        "title": "t",
        "task": "diagnosis",
        "purpose": "p",
        "legal_basis": "l",
        "data_set": "icu",
        "max_records_per_patient": 2,
        "include": [
            {"kind": "number", "column": "age", "range": [18, 80]},
            {"kind": "category", "column": "ward", "any_of": ["A", "B", "C"]},
        ],
        "features": [
            {"kind": "number", "column": "age", "unit": "years", "range": [20, 70], "impute": 50},
            {
                "kind": "number",
                "column": "dose",
                "unit": "mg",
                "range": [0, 10],
                "impute": 5,
                "missing_indicator": True,
            },
            {"kind": "category", "column": "sex", "categories": ["f", "m"], "missing_indicator": True},
            {"kind": "category", "column": "ward", "categories": ["C", "A"]},
        ],
        "endpoint": {
            "kind": "category",
            "column": "ill",
            "positive_categories": ["yes", "probably"],
            "negative_categories": ["no"],
            "positive": "is ill",
        },
        "model": {"kind": "logistic-regression"},
        "training": {"rounds": 2, "learning_rate": 0.5, "l2_clip_norm": 0.7},
        "evaluation": {
            "held_out_fraction": 0.5,
            "table": 0.3,
            "scores": {"share": 0.3, "bins": 10},
            "subgroups": {"share": 0.4, "columns": ["ward", "sex"]},
        },
        "privacy": {"unit": "patient", "delta": 1e-5, "training_epsilon": 2.0, "evaluation_epsilon": 2.0},
    }
)
PLAN = plan_study(STUDY)
WIDTH = PLAN["evaluate"].input_length
COLUMNS = ("id", "age", "dose", "sex", "ward", "ill")
WEIGHTS = st.lists(
    st.floats(-20, 20) | st.sampled_from([0.0, 5e-324, -1e-300, 1e154, -1.7e308, 1.7e308]),
    min_size=WIDTH,
    max_size=WIDTH,
).map(np.array)


table_of = partial(neighbours.table_of, columns=COLUMNS)
prepared = partial(neighbours.prepared, STUDY)
release = partial(neighbours.release, STUDY)
reach_of_others = partial(neighbours.reach_of_others, STUDY)


@pytest.mark.parametrize("name", ["train", "evaluate"])
@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS, seed=st.integers(0, 10**6), patient=st.sampled_from(CELLS["id"][:-1]))
def test_a_patient_adds_what_the_patient_adds_alone(name, weights, seed, patient):
    # Three sums that are not nothing, each off by at most half a step: 1.5, and so one whole step.
    assert reach_of_others(name, weights, table_of(seed), patient) <= 1


def test_the_tables_have_patients_in_every_line_and_some_in_none():
    moved, seen = np.zeros(PLAN["evaluate"].mechanism.dimension), []
    for seed in range(150):
        table, weights = table_of(seed), np.random.default_rng(seed).uniform(-5, 5, WIDTH)
        for patient in CELLS["id"][:-1]:
            one = only(table, lambda row, patient=patient: row == patient)
            own = release("evaluate", weights, one) - release("evaluate", weights, only(table, lambda _: False))
            moved += np.abs(own) > 1
            seen.append(np.linalg.norm(own * PLAN["evaluate"].mechanism.grid))
    assert moved.all(), "every cell of every line is somebody's"
    # 0.3 + 0.3 and 0.2 for each group that is named: none, one or both; 0 for who is in training, or cannot be read.
    assert {round(norm**2, 1) for norm in seen} == {0.0, 0.6, 0.8, 1.0}


# Planted mistakes


def conditions_by_the_mean(table):
    ages = [float(row[1]) for _, row in table.rows if row[1].isdigit()]
    mean = sum(ages) / max(1, len(ages))
    old = tuple((line, row) for line, row in table.rows if row[1].isdigit() and float(row[1]) >= mean)
    return prepared(replace(table, rows=old))


def records_of_everybody_together_are_capped(table):
    return prepared(replace(table, rows=table.rows[:20]))


def the_rarer_outcome_counts_as_ill(table):
    rare = [side.labels.sum() * 2 > len(side.labels) for side in prepared(table)]
    return [
        replace(side, labels=np.abs(side.labels - turned)) for side, turned in zip(prepared(table), rare, strict=True)
    ]


def groups_in_the_order_they_are_met(table):
    start = 4  # sex: after age, dose and its indicator, f comes at 3
    sides = []
    for side in prepared(table):
        features = side.features.copy()
        if len(features) and features[0, start]:
            features[:, [start - 1, start]] = features[:, [start, start - 1]]
        sides.append(replace(side, features=features))
    return sides


def centred_inputs(table):
    return [replace(side, features=side.features - np.nansum(side.features, axis=0) / 30) for side in prepared(table)]


def scores_over_the_largest(model, weights, features):
    scores = MODEL_OUTPUTS(model, weights, features)
    return 3 * scores / np.nanmax(np.abs(scores), initial=1e-9)


MODEL_OUTPUTS = steps.model_outputs
MISTAKES = [
    conditions_by_the_mean,
    records_of_everybody_together_are_capped,
    the_rarer_outcome_counts_as_ill,
    groups_in_the_order_they_are_met,
    centred_inputs,
]


def is_found(name, prepare=prepared):
    return any(
        reach_of_others(name, np.random.default_rng(seed).uniform(-3, 3, WIDTH), table_of(seed), patient, prepare) > 1
        for seed in range(20)
        for patient in CELLS["id"][:-1]
    )


@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_planted_mistake_in_what_is_read_is_found(mistake, name):
    assert is_found(name, mistake)


def test_a_planted_mistake_in_what_is_counted_is_found(monkeypatch):
    assert not is_found("evaluate")
    monkeypatch.setattr(steps, "model_outputs", scores_over_the_largest)
    assert is_found("evaluate")
