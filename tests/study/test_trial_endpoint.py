"""A trial's part of a protocol: what is refused, and what each rule of its outcome says."""

import pytest
from made_up_trial import ARMS, trial
from pydantic import ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import ConfigInvalid
from fedhealth.learning.plan import plan_study
from fedhealth.learning.trial_moments import covariates_of
from fedhealth.records.cells import label_of
from fedhealth.study.protocol import Study

ENDPOINT = trial().endpoint.model_dump()


def with_endpoint(**changes):
    return lambda: trial(endpoint=ENDPOINT | changes)


@pytest.mark.parametrize(
    "made, words",
    [
        (with_endpoint(range=[5, 5]), "lower value first"),
        (with_endpoint(range=[-1e308, 1e308]), "wider, or farther from 0"),
        (with_endpoint(range=[1e308, 1.5e308]), "wider, or farther from 0"),  # their middle overflows
        (with_endpoint(range=[0, 5e-324]), "too narrow"),  # half of it is 0, and nothing can be divided by it
        (with_endpoint(range=[1, 1 + 2**-52]), "too narrow"),  # its end would be 2 of a scaled outcome
        (with_endpoint(arms=[ARMS[0]]), "at least 2"),
        (with_endpoint(arms=[ARMS[0], ARMS[1], ARMS[1]]), "repeat a word"),
        (with_endpoint(arms=[ARMS[0], {"word": "low"}]), "wanted all or none"),
        (with_endpoint(arms=[{"word": "none"}, {"word": "low"}]), "go together"),
        (with_endpoint(dose_unit=None), "go together"),
        (with_endpoint(arms=[{"word": "none", "dose": 1}, {"word": "low", "dose": 1}]), "same dose"),
        (with_endpoint(outcomes=["week_8", "week_8"]), "a column twice"),
        (with_endpoint(outcomes=["week_8", "drug"]), "a column twice"),
        (with_endpoint(outcomes=["before"]), "among the features"),
        (with_endpoint(arm_column="sex"), "among the features"),
        (with_endpoint(restated_by=["before"]), "restate the endpoint"),
        (lambda: trial(max_records_per_patient=2), "one row a patient"),
        (lambda: trial(evaluation={"held_out_fraction": 0.5}), "wanted 1 where nothing is trained"),
        (lambda: trial(evaluation={"held_out_fraction": 1, "table": 1.0, "scores": None}), "yes or no"),
    ],
)
def test_what_is_no_trial_is_refused(made, words):
    with pytest.raises(ValidationError, match=words):
        made()


def test_a_trial_that_is_trained_is_refused():
    training = {"rounds": 2, "learning_rate": 0.5, "l2_clip_norm": 1.0}
    privacy = {"unit": "patient", "delta": 1e-4, "evaluation_epsilon": 3.0, "training_epsilon": 3.0}
    with pytest.raises(ValidationError, match="estimated, not trained"):
        trial(training=training, privacy=privacy, evaluation={"held_out_fraction": 0.5})


@pytest.mark.parametrize("kind, visits", [("ancova", ("week_4", "week_8")), ("mixed-model", ("week_8",))])
def test_a_model_for_another_number_of_visits_has_no_plan(kind, visits):
    with pytest.raises(ConfigInvalid, match="another number of visits") as refused:
        plan_study(trial(visits, model={"kind": kind}))
    assert refused.value.got and refused.value.wanted and refused.value.next_step


def test_its_canonical_bytes_are_the_same_study():
    study = trial(("week_4", "week_8"))
    assert Study.model_validate_json(canonical_bytes(study)) == study


@pytest.mark.parametrize(
    "cells, label",
    [
        # The range is from -30 to 10: its middle is -10, and 20 points are 1.
        (("none", "-10", "0"), (0.0, 2.0, 0.0, 0.5)),
        (("high", "-20", "-30"), (2.0, 2.0, -0.5, -1.0)),
        (("low", "-10", ""), (1.0, 1.0, 0.0, 0.0)),
        (("low", "-400", "400"), (1.0, 2.0, -1.0, 1.0)),
        (("low", "", "0"), None),  # not seen at the first visit
        (("low", "na", ""), None),
        (("", "-10", "0"), None),
        (("High", "-10", "0"), None),  # another word
    ],
)
def test_a_record_is_read_by_the_rules_of_the_protocol(cells, label):
    found = label_of(trial(("week_4", "week_8")).endpoint, cells)
    assert found == (None if label is None else pytest.approx(label))


def test_a_visit_after_one_that_was_missed_is_not_used():
    three = trial(("week_4", "week_8", "week_12")).endpoint
    assert label_of(three, ("none", "-10", "", "0")) == (0.0, 1.0, 0.0, 0.0, 0.0)
    assert label_of(three, ("none", "-10", "", "text")) == (0.0, 1.0, 0.0, 0.0, 0.0)


def test_an_unreadable_outcome_is_not_a_number():
    label = label_of(trial(("week_4", "week_8")).endpoint, ("none", "-10", "text"))
    assert label[:3] == (0.0, 2.0, 0.0) and label[3] != label[3]


MOLECULE = {
    "kind": "molecule",
    "column": "smiles",
    "descriptors": [{"name": "logp", "range": [-4, 7]}, {"name": "rings", "range": [0, 8]}],
    "missing_indicator": True,
}


def test_each_input_of_a_molecule_is_a_covariate_of_its_own():
    feature = {"kind": "category", "column": "sex", "categories": ["f", "m"]}
    fingerprint = {"radius": 1, "size": 64}
    study = trial(features=[MOLECULE, feature])
    assert covariates_of(study) == (
        ("smiles: logp", 0),
        ("smiles: rings", 1),
        ("smiles missing", 2),
        ("sex=m", 4),  # 3 is 'f', with which the others are compared
    )
    hashed = covariates_of(trial(features=[MOLECULE | {"fingerprints": [fingerprint]}]))
    assert [hashed[at] for at in (0, 63, 64, 66)] == [
        ("smiles: fingerprint 1", 0),
        ("smiles: fingerprint 64", 63),
        ("smiles: logp", 64),
        ("smiles missing", 66),
    ]


def test_a_trial_of_more_columns_than_a_release_can_pair_is_refused():
    words = [str(number) for number in range(100)]
    with pytest.raises(ValidationError, match="inputs and visits are 101 columns, wanted at most 100"):
        trial(features=[{"kind": "category", "column": "ward", "categories": words}])


@pytest.mark.parametrize(
    "changes",
    [
        # The sum of 'x' over the arm 'low' would be named as the count of the arm 'low, sum of x'.
        {"arms": [{"word": "low, sum of x"}, {"word": "low"}], "dose_unit": None},
        # The sum of the column 'x x y' would be named as that of the products of 'x' and 'y'.
        {"outcomes": ["y"]},
    ],
)
def test_names_that_would_run_into_each_other_have_no_plan(changes):
    number = {"kind": "number", "unit": "points", "range": [0, 1], "impute": 0}
    numbers = [number | {"column": column} for column in ("x", "x x y")]
    with pytest.raises(ConfigInvalid, match="run into each other"):
        plan_study(trial(features=numbers, endpoint=ENDPOINT | changes))
