"""What an evaluation counts: the lines of its vector, each patient's cells in them, and what their shares cost."""

import math

import numpy as np
import pytest

from fedhealth.learning.binary_cells import CONFUSION_CELLS, score_edges
from fedhealth.learning.evaluation import counts_of, lines_of, noise_of
from fedhealth.learning.plan import decode_release, plan_study
from fedhealth.learning.steps import STEPS
from fedhealth.privacy.stream import SECRET_BYTES, SiteNoiseSecret
from fedhealth.records.table import Records
from fedhealth.study.protocol import Study

PROTOCOL = {
    "format": 1,
    "name": "lines",
    "title": "Lines",
    "task": "diagnosis",
    "purpose": "To test what is counted.",
    "legal_basis": "Made-up records.",
    "data_set": "ward",
    "max_records_per_patient": 4,
    "features": [
        {
            "kind": "number",
            "column": "age",
            "unit": "years",
            "range": [0, 100],
            "impute": 50,
            "missing_indicator": True,
        },
        {"kind": "category", "column": "sex", "categories": ["f", "m"], "missing_indicator": True},
    ],
    "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0, "positive": "is ill"},
    "model": {"kind": "logistic-regression"},
    "training": {"rounds": 1, "learning_rate": 0.5, "l2_clip_norm": 1.0},
    "evaluation": {
        "held_out_fraction": 0.5,
        "table": 0.5,
        "scores": {"share": 0.25, "bins": 4},
        "subgroups": {"share": 0.25, "columns": ["sex"]},
    },
    "privacy": {"unit": "patient", "delta": 1e-5, "training_epsilon": 1.0, "evaluation_epsilon": 2.0},
}
STUDY = Study.model_validate(PROTOCOL)
STEP = plan_study(STUDY)["evaluate"]
WEIGHTS = np.array([1.0, 0, 0, 0, 0, 0])  # the score is the first input: age, its indicator, f, m, indicator, bias
SECRET = SiteNoiseSecret(bytes(SECRET_BYTES))


def released(records):
    payload, zeroed = STEPS["evaluate"](STEP, WEIGHTS, records, lambda purpose: SECRET.stream("one", purpose))
    return decode_release(payload, STEP.mechanism), zeroed


def counted(records):
    """Return what is counted, by subtracting the same noise without anybody."""
    nobody = Records(np.zeros((0, 5)), np.zeros(0), np.zeros(0, dtype=np.int64), 0)
    counts = counts_of(STUDY, released(records)[0] - released(nobody)[0])
    return {cell: round(count, 1) for cell, count in counts.items() if abs(count) > 0.05}


def patient(*records):
    """Return one patient with records of (score, sex input f, sex input m, ill)."""
    return Records(
        features=np.array([[score, 0, f, m, 0] for score, f, m, _ in records], dtype=float),
        labels=np.array([ill for *_, ill in records], dtype=float),
        patients=np.zeros(len(records), dtype=np.int64),
        patient_count=1,
    )


# Chances between the bins of four are 1/4, 1/2 and 3/4, whose log odds are -log 3, 0 and log 3.
PATIENTS = {
    "ill and called": ([(1.0, 1, 0, 1)], {"true-positive", "ill 3/4", "sex=f true-positive"}),
    "well and called": ([(2.0, 0, 1, 0)], {"false-positive", "well 4/4", "sex=m false-positive"}),
    "well and not called": ([(-2.0, 0, 1, 0)], {"true-negative", "well 1/4", "sex=m true-negative"}),
    "ill and not called": ([(-1.0, 1, 0, 1)], {"false-negative", "ill 2/4", "sex=f false-negative"}),
    "no word for a group": ([(1.0, 0, 0, 1)], {"true-positive", "ill 3/4"}),
    "exactly between": ([(0.0, 0, 0, 0)], {"true-negative", "well 2/4"}),
    "records are averaged": ([(4.0, 0, 0, 0), (-2.0, 0, 1, 1)], {"true-positive", "ill 3/4", "sex=m true-positive"}),
    "two groups count as the first": (
        [(1.0, 0, 1, 0), (1.0, 1, 0, 0)],
        {"false-positive", "well 3/4", "sex=f false-positive"},
    ),
    "a score without end": ([(1e308, 0, 0, 0)], {"false-positive", "well 4/4"}),
}


@pytest.mark.parametrize("case", PATIENTS)
def test_a_patient_counts_once_in_each_line(case):
    records, cells = PATIENTS[case]
    assert counted(patient(*records)) == dict.fromkeys(cells, 1.0)


def test_a_patient_whose_records_cannot_be_computed_counts_nowhere():
    records = patient((math.nan, 0, 1, 0))
    assert counted(records) == {}
    assert released(records)[1] == 1


def test_a_patient_with_a_cell_in_every_line_measures_one_and_is_not_clipped():
    # 0.5 + 0.25 + 0.25 = 1: whatever the lines, the sensitivity of the vector is the clip's own.
    assert sum(line.weight**2 for line in lines_of(STUDY)) == pytest.approx(1)
    assert STEP.mechanism.l2_clip_norm == 1
    assert STEP.mechanism.dimension == 4 + 8 + 8


def test_a_line_has_as_much_more_noise_as_its_share_says():
    alone = Study.model_validate(PROTOCOL | {"evaluation": {"held_out_fraction": 0.5, "table": 1, "scores": None}})
    mechanism = plan_study(alone)["evaluate"].mechanism
    assert mechanism.noise_multiplier == STEP.mechanism.noise_multiplier, "the lines together cost what one would"
    noise = noise_of(STUDY, STEP.mechanism.standard_deviation)
    assert noise["table"] / mechanism.standard_deviation == pytest.approx(math.sqrt(2), rel=1e-2)
    assert noise["scores"] / noise["table"] == pytest.approx(math.sqrt(2))
    assert noise["subgroup sex"] == noise["scores"]


def test_the_edges_of_bins_are_chances_of_equal_width():
    assert 1 / (1 + np.exp(-score_edges(10))) == pytest.approx(np.arange(1, 10) / 10)


def test_cells_have_names_of_their_own():
    names = [cell for line in lines_of(STUDY) for cell in line.cells]
    assert len(set(names)) == len(names) == STEP.mechanism.dimension
    assert tuple(names[:4]) == CONFUSION_CELLS


def test_more_patients_than_are_held_at_once_are_all_counted():
    people = 10_000
    records = Records(
        features=np.tile([[1.0, 0, 1, 0, 0], [-2.0, 0, 0, 1, 0]], (people // 2, 1)),
        labels=np.tile([1.0, 0.0], people // 2),
        patients=np.arange(people),
        patient_count=people,
    )
    counts = {cell: round(count) for cell, count in counted(records).items()}
    called, not_called = (
        {"true-positive", "ill 3/4", "sex=f true-positive"},
        {"true-negative", "well 1/4", "sex=m true-negative"},
    )
    assert counts == dict.fromkeys(called | not_called, people // 2)
