"""Task, endpoint and model must fit each other: a study that cannot be computed is nobody's to approve."""

import tomllib
from pathlib import Path

import pytest
from made_up_trial import trial
from small_study import PROTOCOL
from survival_study import survival_study

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.models.table import MODELS, model_of
from fedhealth.learning.outcomes.table import OUTCOMES, TASKS, outcome_of
from fedhealth.learning.plan import plan_study
from fedhealth.study.protocol import Study

HEART = tomllib.loads((Path(__file__).resolve().parents[2] / "protocols" / "heart-disease-diagnosis.toml").read_text())


GRADE = {"kind": "classes", "column": "grade", "classes": ["a", "b", "c"], "outcome": "the grade"}
PAIN = {"kind": "number", "column": "pain", "unit": "points", "range": [0, 60], "outcome": "the pain"}
LINEAR = {"kind": "linear-regression"}


def small(**changes):
    evaluation = PROTOCOL["evaluation"] | changes.pop("evaluation", {})
    return Study.model_validate(PROTOCOL | changes | {"evaluation": evaluation})


def heart(**parts):
    return Study.model_validate(HEART | parts)


@pytest.mark.parametrize(
    "parts, words",
    [
        ({"model": {"kind": "crystal-ball"}}, "cannot be fitted"),
        ({"model": {"kind": "logistic-regression", "hidden": [8]}}, "layers that do not fit"),
        ({"task": "survival"}, "another task's endpoint"),
    ],
)
def test_what_does_not_fit_has_no_plan(parts, words):
    with pytest.raises(ConfigInvalid, match=words) as refused:
        plan_study(heart(**parts))
    assert refused.value.got and refused.value.next_step


def test_every_endpoint_has_a_task_and_a_model_that_can_be_planned():
    assert set().union(*TASKS.values()) == set(OUTCOMES)
    assert all(any(kind in model.ENDPOINTS for model in MODELS.values()) for kind in OUTCOMES)
    assert all(set(OUTCOMES) >= model.ENDPOINTS for model in MODELS.values())


@pytest.mark.parametrize(
    "study, words",
    [
        (small(), "15 percentage points (of a figure that is no share, 0.15)"),
        (small(evaluation={"table": 1, "scores": None, "too_wide": 0.125}), "12.5 percentage points"),
        (small(endpoint=GRADE, model={"kind": "mlp", "hidden": [2]}), "15 percentage points"),
        # An error of half the range counts as the largest: 0.15 * (60 - 0) / 2.
        (small(endpoint=PAIN, model=LINEAR), "4.5 points (of R squared, 0.15)"),
        (small(endpoint=PAIN, model=LINEAR, evaluation={"errors": {"share": 1, "largest": 8}}), "1.2 points"),
        (survival_study(), "0.5 (of a ratio, 0.5)"),
        (trial(), "16 points"),  # 0.4 * (10 - (-30))
    ],
    ids=["binary", "table alone", "classes", "number", "errors alone", "survival", "trial"],
)
def test_a_report_says_in_its_own_unit_how_wide_an_interval_may_be(study, words):
    assert outcome_of(study).widest(study) == words


def test_a_model_starts_with_as_many_weights_as_it_has():
    study = heart()
    assert model_of(study).start(study).shape == (model_of(study).size(study),) == (study.dimension + 1,)
