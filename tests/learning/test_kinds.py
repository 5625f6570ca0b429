"""Task, endpoint and model must fit each other: a study that cannot be computed is nobody's to approve."""

import tomllib
from pathlib import Path

import pytest

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.models.table import MODELS, model_of
from fedhealth.learning.outcomes.table import OUTCOMES, TASKS
from fedhealth.learning.plan import plan_study
from fedhealth.study.protocol import Study

HEART = tomllib.loads((Path(__file__).resolve().parents[2] / "protocols" / "heart-disease-diagnosis.toml").read_text())


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


def test_a_model_starts_with_as_many_weights_as_it_has():
    study = heart()
    assert model_of(study).start(study).shape == (model_of(study).size(study),) == (study.dimension + 1,)
