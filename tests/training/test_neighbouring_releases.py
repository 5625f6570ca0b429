"""The two steps of a diagnosis on neighbouring data, under equal noise: one patient changes what the proof allows."""

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.learning.plan import (
    decode_release,
    decode_weights,
    encode_weights,
    envelope_of,
    model_update,
    plan_study,
)
from fedhealth.learning.steps import STEPS
from fedhealth.privacy.mu_squared import MuSquaredBudget, epsilon_of
from fedhealth.privacy.stream import UnsafeFixedNoiseSecret
from fedhealth.records.table import Records
from fedhealth.study.protocol import Study

STUDY = Study.model_validate(
    {
        "format": 1,
        "name": "heart",
        "title": "t",
        "task": "diagnosis",
        "purpose": "p",
        "legal_basis": "l",
        "data_set": "icu",
        "max_records_per_patient": 9,
        "features": [
            {"kind": "number", "column": f"c{number}", "unit": "1", "range": [0, 1], "impute": 0} for number in range(4)
        ],
        "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0.5, "positive": "ill"},
        "model": {"kind": "logistic-regression"},
        "training": {"rounds": 10, "learning_rate": 0.5, "l2_clip_norm": 0.7},
        "evaluation": {"held_out_fraction": 0.25, "table": 1, "scores": None},
        "privacy": {"unit": "patient", "delta": 1e-5, "training_epsilon": 2.0, "evaluation_epsilon": 1.0},
    }
)
PLAN = plan_study(STUDY)
SECRET = UnsafeFixedNoiseSecret(1)
WEIGHTS = st.lists(
    st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, 5e-324, -2e-308, 1e-300, 1.0, -1e150, 1e300, -1.7e308]),
    min_size=5,
    max_size=5,
)


def without(records, patient):
    rows = records.patients != patient
    left = records.patients[rows]
    return Records(records.features[rows], records.labels[rows], left - (left > patient), records.patient_count - 1)


def people(seed, broken=None):
    generator = np.random.default_rng(seed)
    patients = np.repeat(np.arange(6), [1, 3, 1, 2, 1, 1])
    records = Records(generator.uniform(-1, 1, (9, 4)), generator.integers(0, 2, 9).astype(np.float64), patients, 6)
    if broken is not None:
        records.features[patients == broken, 0] = np.nan
    return records


def release(name, weights, records):
    payload, zeroed = STEPS[name](PLAN[name], weights, records, partial(SECRET.stream, "0" * 64))
    return [int(value) for value in np.frombuffer(payload, dtype="<i8")], zeroed


@pytest.mark.parametrize("name", ["train", "evaluate"])
@settings(max_examples=80, deadline=None)
@given(weights=WEIGHTS, seed=st.integers(0, 50), patient=st.integers(0, 5), broken=st.none() | st.integers(0, 5))
def test_one_patient_changes_a_release_by_the_proven_bound(name, weights, seed, patient, broken):
    mechanism = PLAN[name].mechanism
    records = people(seed, broken)
    one, zeroed = release(name, np.array(weights), records)
    other, _ = release(name, np.array(weights), without(records, patient))
    change = sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
    reach = Fraction(mechanism.l2_clip_norm) * (1 + Fraction(1, 2**30)) / Fraction(mechanism.grid)
    rounding = Fraction(math.nextafter(math.sqrt(mechanism.dimension), 9)) * (1 + Fraction(1, 2**21))
    assert change <= (reach + rounding) ** 2
    if broken == patient:
        assert zeroed >= 1 and change == 0, "a patient who cannot be read counts as zero, and nobody can tell"


def test_an_evaluation_puts_each_patient_in_one_cell():
    # Scores are the only input: patients 0..3 score 1, 1, -1, -1 and are ill yes, no, no, yes; 4 is called and ill
    # with records of 3 and -1 (mean 1) of which one says ill; 5 has a mean of exactly 0 and is not called.
    records = Records(
        features=np.array([[1.0], [1], [-1], [-1], [3], [-1], [1], [-1]]) * np.array([[1, 0, 0, 0]]),
        labels=np.array([1.0, 0, 0, 1, 0, 1, 0, 0]),
        patients=np.array([0, 1, 2, 3, 4, 4, 5, 5]),
        patient_count=6,
    )
    noised, _ = release("evaluate", np.array([1.0, 0, 0, 0, 0]), records)
    empty = Records(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64), 0)
    noise, _ = release("evaluate", np.array([1.0, 0, 0, 0, 0]), empty)
    cells = [round((a - b) * PLAN["evaluate"].mechanism.grid, 2) for a, b in zip(noised, noise, strict=True)]
    # true positive: 0 and 4; false positive: 1; true negative: 2 and 5; false negative: 3. One step is below 0.01.
    assert cells == pytest.approx([2, 1, 2, 1], abs=0.02)


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_the_same_key_gives_the_same_release_and_nobody_gives_noise_alone(name):
    weights = np.array([1.0, 2, 3, 4, 5])
    assert release(name, weights, people(1)) == release(name, weights, people(1))
    empty = Records(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64), 0)
    noise, zeroed = release(name, weights, empty)
    assert len(noise) == PLAN[name].mechanism.dimension and any(noise) and zeroed == 0


def test_the_order_of_patients_does_not_change_a_release():
    records = people(3)
    turned = Records(records.features[::-1].copy(), records.labels[::-1].copy(), 5 - records.patients[::-1], 6)
    weights = np.array([1.0, -2, 3, -4, 5])
    # Two or more records of one patient may be added up in another order; each patient here moves less than a step.
    one, other = release("train", weights, records)[0], release("train", weights, turned)[0]
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1


def test_the_plan_costs_what_the_protocol_says_and_fits_a_budget_of_the_same_size():
    envelope = envelope_of(STUDY, MuSquaredBudget(epsilon=3.0, delta=1e-4))
    for cohort, epsilon in (("training", 2.0), ("held-out", 1.0)):
        assert 0.995 * epsilon <= epsilon_of(envelope[cohort], 1e-5) <= epsilon
        assert envelope[cohort].fits(MuSquaredBudget(epsilon=epsilon, delta=1e-5).cap())
    assert (PLAN["train"].rounds, PLAN["evaluate"].rounds) == (12, 1), "spare rounds are priced"


def test_weights_go_over_the_wire_and_come_back_and_nothing_else_does():
    weights = np.array([1.5, -0.0, 5e-324, 1.7e308, 3])
    assert decode_weights(encode_weights(weights), 5).tobytes() == weights.tobytes()
    for bad in (np.array([1, 2, 3, 4, np.nan]), np.array([1, 2, 3, 4, np.inf]), np.ones(4), np.ones(6)):
        assert decode_weights(encode_weights(bad), 5) is None
    assert decode_weights(b"x" * 39, 5) is None


def test_a_model_update_divides_by_the_public_number_of_training_patients():
    mechanism = PLAN["train"].mechanism
    payload = np.array([100, -200, 0, 1, 2], dtype="<i8").tobytes()
    # 100 steps of the grid, times the learning rate 0.5, over (1 - 0.25) * 400 = 300 patients, downhill.
    update = model_update(payload, STUDY, 400)
    assert update[0] == pytest.approx(-0.5 * 100 * mechanism.grid / 300)
    assert update[1] == pytest.approx(-2 * update[0])
    for length in (39, 41, 0):
        with pytest.raises(ValueError):
            decode_release(b"\0" * length, mechanism)
