"""Rounds that draw patients by secret coins: who is drawn, what is summed, how it is scaled and what it costs."""

from functools import partial

import numpy as np
import pytest

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.plan import decode_release, envelope_of, model_update, plan_study
from fedhealth.learning.steps import STEPS
from fedhealth.privacy.mu_squared import MuSquaredBudget
from fedhealth.privacy.pld import informative_epsilon
from fedhealth.privacy.renyi import RenyiBudget
from fedhealth.privacy.stream import SiteNoiseSecret
from fedhealth.records.table import Records
from fedhealth.study.protocol import Study

PROTOCOL = {
    "format": 1,
    "name": "sampled",
    "title": "t",
    "task": "diagnosis",
    "purpose": "p",
    "legal_basis": "l",
    "data_set": "icu",
    "max_records_per_patient": 9,
    "features": [{"kind": "number", "column": "c", "unit": "1", "range": [0, 1], "impute": 0}],
    "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0.5, "positive": "ill"},
    "model": {"kind": "logistic-regression"},
    "training": {"rounds": 40, "learning_rate": 0.5, "l2_clip_norm": 1.0, "sampling_rate": 0.25},
    "evaluation": {"held_out_fraction": 0.2},
    "privacy": {"unit": "patient", "delta": 1e-5, "training_epsilon": 2.0, "evaluation_epsilon": 1.0},
}
STUDY = Study.model_validate(PROTOCOL)
STEP = plan_study(STUDY)["train"]
SECRET = SiteNoiseSecret(bytes(range(32)))
START = np.zeros(2)


def people(count):
    """Return patients of one record each; at a weight of zero each has the gradient (-1/2 x, -1/2) or (x/2, 1/2)."""
    generator = np.random.default_rng(3)
    return Records(generator.uniform(-1, 1, (count, 1)), np.ones(count), np.arange(count, dtype=np.int64), count)


def release(records, key="k"):
    payload, zeroed = STEPS["train"](STEP, START, records, partial(SECRET.stream, key))
    assert zeroed == 0
    return decode_release(payload, STEP.mechanism)


def noise(key="k"):
    return release(Records(np.zeros((0, 1)), np.zeros(0), np.zeros(0, np.int64), 0), key)


def drawn(key, count):
    """Return whose coins fall below a quarter, read from the same stream."""
    coins = SECRET.stream(key, "sampling").words(count) < np.uint64(2**62)
    return np.flatnonzero(coins)


def test_a_release_is_the_sum_over_the_patients_whose_coins_fell_and_over_nobody_else():
    records = people(50)
    chosen = drawn("k", 50)
    assert 0 < len(chosen) < 50
    # At weights of zero the logistic gradient of a positive is -(x, 1) / 2; norms are below the clip of 1.
    expected = -0.5 * np.array([records.features[chosen, 0].sum(), len(chosen)])
    assert release(records) - noise() == pytest.approx(expected, abs=2 * STEP.mechanism.grid)


def test_each_release_draws_anew_and_the_same_release_draws_the_same():
    draws = {tuple(drawn(f"k{number}", 40)) for number in range(20)}
    assert len(draws) == 20
    for key in ("k1", "k2"):
        assert release(people(40), key).tobytes() == release(people(40), key).tobytes()


def test_patients_are_drawn_at_the_rate_the_event_claims():
    # The second coordinate minus its noise is -1/2 for each patient drawn.
    counts = [-2 * (release(people(400), f"r{number}") - noise(f"r{number}"))[1] for number in range(100)]
    # 40,000 coins at 1/4: standard deviation 86.6 of 10,000; 5 of them.
    assert abs(sum(counts) - 10_000) < 433


def test_coins_and_noise_are_independent_streams():
    assert SECRET.stream("k", "sampling").words(8).tobytes() != SECRET.stream("k", "noise").words(8).tobytes()


def test_all_records_of_a_patient_come_or_stay_away_together():
    one = people(50)
    twice = Records(np.repeat(one.features, 2, axis=0), np.ones(100), np.repeat(one.patients, 2), 50)
    # The mean over two equal records is the record's own gradient, so nothing changes but rounding.
    assert release(twice) == pytest.approx(release(one), abs=2 * STEP.mechanism.grid)


def test_the_update_divides_by_the_public_rate_and_number_and_never_by_who_was_drawn():
    payload, _ = STEPS["train"](STEP, START, people(50), partial(SECRET.stream, "k"))
    total = decode_release(payload, STEP.mechanism)
    # 0.25 of 80 % of 1,000 declared patients are 200, whoever was drawn.
    assert model_update(payload, STUDY, 1000) == pytest.approx(-0.5 * total / 200)


def test_the_plan_has_the_epsilon_that_the_protocol_asks():
    assert 0.995 * 2.0 <= informative_epsilon(STEP.plan(), 1e-5).epsilon <= 2.0
    full = Study.model_validate({**PROTOCOL, "training": {**PROTOCOL["training"], "sampling_rate": 1.0}})
    assert STEP.mechanism.noise_multiplier < 0.5 * plan_study(full)["train"].mechanism.noise_multiplier


def test_the_envelope_is_in_the_currency_of_the_budget_and_mu_squared_has_no_price_for_it():
    budget = RenyiBudget(epsilon=5.0, delta=1e-5, order=8.0)
    envelope = envelope_of(STUDY, budget)
    assert envelope["training"] == budget.cost_of(STEP.event).times(42)  # 40 rounds and 2 spare ones
    assert informative_epsilon(STEP.plan(), 1e-5).epsilon <= budget.epsilon_of(envelope["training"])
    with pytest.raises(ConfigInvalid, match="no price"):
        envelope_of(STUDY, MuSquaredBudget(epsilon=5.0, delta=1e-5))
