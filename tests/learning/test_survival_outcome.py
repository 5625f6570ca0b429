"""Survival: labels, what a protocol may ask, what a patient adds to an evaluation, and what the counts say."""

import math

import numpy as np
import pytest
from pydantic import ValidationError
from survival_study import NETWORK, survival_study, survivors

from fedhealth.learning.evaluation import counts_of, lines_of
from fedhealth.learning.models.table import model_of, own_weights_of
from fedhealth.learning.outcomes import survival
from fedhealth.learning.plan import decode_release, plan_study
from fedhealth.learning.raw_survival import harrell_concordance
from fedhealth.learning.steps import STEPS
from fedhealth.learning.time_grid import grid_of
from fedhealth.privacy.stream import UnsafeFixedNoiseSecret
from fedhealth.records.cells import label_of
from fedhealth.records.table import Records
from fedhealth.training.per_patient import model_outputs

STUDY = survival_study()
MODELS = {"cox": {"kind": "cox"}, "network": NETWORK}


def records_of(rows, study=STUDY):
    """Return the rows as one side, scaled by hand: age 20 to 80 becomes -1 to 1, and a word 1 or 0."""
    features = [[(age - 50) / 30, float(drug == "a"), float(drug == "b")] for _, _, age, drug, *_ in rows]
    labels = [label_of(study.endpoint, (status, str(weeks))) for *_, status, weeks in rows]
    shaped = np.array(features).reshape(-1, 3), np.array(labels).reshape(-1, 2)
    return Records(*shaped, np.arange(len(rows)), len(rows))


def outputs_of(study, weights, records):
    return model_outputs(model_of(study).module(study), weights, records.features)


def vectors_of(study, weights, records):
    return np.concatenate(list(survival.vectors(study, outputs_of(study, weights, records), records)))


@pytest.mark.parametrize(
    ("status", "weeks", "label"),
    [
        ("relapse", "3.5", (1.0, 3.5)),
        ("death", "52", (1.0, 52.0)),
        ("death", "52.1", (0.0, 52.0)),  # after the horizon: free of the event then
        ("well", "80", (0.0, 52.0)),
        ("well", "0", (0.0, 0.0)),
        ("relapse", "-1", None),  # not in the study, and an error at approval
        ("lost", "3", None),
        ("", "3", None),
        ("well", "", None),
    ],
)
def test_the_label_is_the_event_by_the_horizon_and_the_time_up_to_it(status, weeks, label):
    assert label_of(STUDY.endpoint, (status, weeks)) == label


def test_a_time_that_nobody_can_read_is_nobody_s_number():
    assert all(math.isnan(number) for number in label_of(STUDY.endpoint, ("well", "long")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_records_per_patient": 2}, "one time and one ending"),
        ({"endpoint": {"interval_ends": [4, 2]}}, "do not ascend"),
        ({"endpoint": {"interval_ends": [0, 2]}}, "greater than 0"),
        ({"endpoint": {"censored_words": ["death"]}}, "repeat one"),
        ({"endpoint": {"time_column": "status"}}, "column and time_column"),
        ({"endpoint": {"time_column": "age"}}, "among the features"),
        ({"endpoint": {"expected_share": 1}}, "less than 1"),
        ({"evaluation": {"survival": None}}, "go together"),
        ({"evaluation": {"table": 0.4, "scores": {"share": 0.6}}}, "endpoints that are yes or no"),
        ({"evaluation": {"survival": {"risk_edges": [0.5, 0.4]}}}, "risk_edges do not ascend"),
        ({"evaluation": {"survival": {"risk_edges": [0.5], "group_edges": [0.4]}}}, "not among risk_edges"),
        ({"evaluation": {"survival": {"risk_edges": [0.5], "expected": 0.3}}}, "add up to 1.1"),
    ],
)
def test_a_protocol_that_makes_no_sense_is_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        survival_study(**changes)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_training_starts_at_the_share_that_the_protocol_expects(model):
    study = survival_study(model=model)
    weights = model_of(study).start(study)
    if model is NETWORK:  # without its inputs
        assert 0 < np.abs(weights[:9]).max() < 1
        weights[12:24] = 0
    middle = Records(np.zeros((1, 3)), np.array([[0.0, 52.0]]), np.zeros(1, dtype=np.int64), 1)
    outputs = outputs_of(study, weights, middle)
    hazards = survival._HAZARDS[study.model.kind](study, outputs)
    assert hazards.sum() == pytest.approx(math.log(2))
    assert hazards[0] / hazards.sum() == pytest.approx([4 / 52, 8 / 52, 14 / 52, 26 / 52])


def test_only_coxs_baseline_is_each_sites_own():
    assert own_weights_of(STUDY) == 4
    assert own_weights_of(survival_study(model=NETWORK)) == 0


# Cumulative hazard over 52 weeks: 0.5 a + ..., by hand. No effects; baseline 0.01 a week: 0.52 by the horizon, a risk
# of 1 - e^-0.52 = 0.405: the second bin (0.4 to 0.5), the first group (to 0.5), whose most is log 2.
@pytest.mark.parametrize(
    ("status", "weeks", "cell", "observed", "expected"),
    [
        ("relapse", "4", "risk 2/4: event in 1/4", 1, 0.04),
        ("relapse", "4.5", "risk 2/4: event in 2/4", 1, 0.045),
        ("well", "12.5", "risk 2/4: censored in 3/4", 0, 0.125),
        ("well", "70", "risk 2/4: free at the horizon", 0, 0.52),
        ("death", "52", "risk 2/4: event in 4/4", 1, 0.52),
        ("well", "52", "risk 2/4: free at the horizon", 0, 0.52),
    ],
)
def test_what_a_patient_adds_worked_by_hand(status, weeks, cell, observed, expected):
    weights = np.array([0.0, 0.0, 0.0, *[math.log(0.01)] * 4])
    counts = counts_of(STUDY, vectors_of(STUDY, weights, records_of([("", "", 50, "a", status, weeks)]))[0])
    amounts = {cell: 1.0, "events of group 1": float(observed)}
    amounts["expected events of group 1, as a part of the most"] = expected / math.log(2)
    assert counts == pytest.approx({name: amounts.get(name, 0.0) for name in counts})


def test_no_patient_adds_more_than_the_clip_whatever_the_weights():
    records = records_of(survivors(40))
    for scale in (0.1, 1.0, 5.0, 50.0):
        weights = np.random.default_rng(1).normal(0, scale, model_of(STUDY).size(STUDY))
        found = vectors_of(STUDY, weights, records)
        norms = np.sqrt(np.nansum(found**2, axis=1))
        assert norms.max() <= 1 + 1e-12
    assert plan_study(STUDY)["evaluate"].mechanism.l2_clip_norm == 1.0


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e154, 1.7e308])
def test_whoever_else_is_there_a_patient_adds_the_same_bits(model, scale):
    study, records = survival_study(model=model), records_of(survivors(23))
    weights = np.random.default_rng(3).uniform(-1, 1, model_of(study).size(study)) * scale
    whole = vectors_of(study, weights, records)
    for first, last in [(0, 1), (68, 69), (0, 68), (1, 69), (5, 12), (16, 33), (30, 37)]:
        rows = slice(first, last)
        part = Records(records.features[rows], records.labels[rows], np.arange(last - first), last - first)
        assert vectors_of(study, weights, part).tobytes() == whole[rows].tobytes()


def test_a_patient_whose_time_cannot_be_read_counts_as_nobody():
    records = records_of([("", "", 50, "a", "well", "soon"), ("", "", 50, "a", "well", "9")])
    found = vectors_of(STUDY, model_of(STUDY).start(STUDY), records)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


def test_without_noise_the_counts_say_what_the_patients_do():
    weights = np.array([0.9, -0.2, 0.4, *[math.log(0.01)] * 52])
    edges = [number / 40 for number in range(1, 40)]
    study = survival_study(
        endpoint={"interval_ends": list(range(1, 53))},
        evaluation={"survival": {"risk_edges": edges, "group_edges": [0.5]}},
    )
    records = records_of(survivors(200))
    counts = counts_of(study, vectors_of(study, weights, records).sum(axis=0))
    found = survival.figures(study, [counts], {line.name: 0.0 for line in lines_of(study)})
    concordance, ratio = found.rows[0].figure, found.rows[1].figure
    hazard = np.exp(records.features @ weights[:3])[:, None] * np.exp(weights[3:])
    events, times = records.labels[:, 0], records.labels[:, 1]
    exact = harrell_concordance(hazard[:, 0], times, events > 0)
    assert concordance.estimate == pytest.approx(exact, abs=0.01)
    expected = (hazard * grid_of(study).lived(times)).sum()  # nobody is cut off: no hazard by the horizon is above 2
    assert (hazard * grid_of(study).widths).sum(axis=1).max() < 2
    assert ratio.estimate == pytest.approx(events.sum() / expected)
    assert [row.group for row in found.rows[2:]] == ["predicted risk 0% to 50%", "predicted risk 50% to 100%"]
    assert found.headline.name == survival.HEADLINE


def test_two_sites_counts_add_up_and_so_does_their_noise():
    study, weights = STUDY, model_of(STUDY).start(STUDY)
    one, two = (records_of(survivors(150, hospitals=(name,))) for name in ("east", "north"))
    counts = [counts_of(study, vectors_of(study, weights, side).sum(axis=0)) for side in (one, two)]
    noise = {line.name: 1.0 for line in lines_of(study)}
    whole = {cell: counts[0][cell] + counts[1][cell] for cell in counts[0]}
    together = survival.figures(study, counts, noise)
    assert together == survival.figures(study, [whole], {name: math.sqrt(2) for name in noise})


def test_an_administrator_is_told_how_many_have_the_event():
    records = records_of(survivors(50))
    assert survival.composition(STUDY, records) == {"with the event by the horizon": int(records.labels[:, 0].sum())}


def test_what_is_foreseen_is_narrower_with_more_patients_and_nothing_with_few():
    noise = {line.name: 3.0 for line in lines_of(STUDY)}
    assert survival.half_width(STUDY, noise, 4000, 4) < survival.half_width(STUDY, noise, 1000, 4)
    assert survival.half_width(STUDY, noise, 20, 4) is None


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("step", ["train", "evaluate"])
@pytest.mark.parametrize("scale", [0.5, 40.0, 1e200])
def test_a_release_without_a_patient_differs_by_that_patient_alone(model, step, scale):
    study, rows = survival_study(model=model), [*survivors(9), ("", "", 50, "a", "well", "soon")]
    plan, secret = plan_study(study)[step], UnsafeFixedNoiseSecret(3)
    weights = np.random.default_rng(5).uniform(-1, 1, model_of(study).size(study)) * scale

    def release(kept):
        streams = lambda purpose: secret.stream("0" * 64, purpose)  # noqa: E731
        payload, _ = STEPS[step](plan, weights, records_of(kept, study), streams)
        return np.rint(decode_release(payload, plan.mechanism) / plan.mechanism.grid)

    whole, nobody = release(rows), release([])
    for left_out in range(len(rows)):
        change = whole - release(rows[:left_out] + rows[left_out + 1 :])
        alone = release([rows[left_out]]) - nobody
        assert np.abs(change - alone).max() <= 1  # sums are rounded to the grid after they are added
        assert (
            np.linalg.norm(alone) * plan.mechanism.grid
            <= plan.mechanism.l2_clip_norm * (1 + 1e-9) + math.sqrt(plan.mechanism.dimension) * plan.mechanism.grid
        )
