"""A study of two weights and sites that answer from a script."""

import numpy as np
import pytest

from fedhealth.coordinator.server_app import StudyCodec
from fedhealth.flower.link_grid import LinkGrid, NotReleased, set_task_identity
from fedhealth.learning.plan import encode_release, plan_study
from fedhealth.study.protocol import Study

DECLARED = {"ward-a": 100, "ward-b": 300}


def make_study(**training):
    return Study.model_validate(
        {
            "format": 1,
            "name": "small",
            "title": "A small study",
            "task": "diagnosis",
            "purpose": "To test the rounds.",
            "legal_basis": "Made-up records.",
            "data_set": "ward",
            "max_records_per_patient": 4,
            "features": [{"kind": "number", "column": "age", "unit": "years", "range": [0, 100], "impute": 50}],
            "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0, "positive": "is ill"},
            "model": {"kind": "logistic-regression"},
            "training": {"rounds": 3, "learning_rate": 0.5, "l2_clip_norm": 1.0, **training},
            "evaluation": {"held_out_fraction": 0.25, "table": 1, "scores": None},
            "privacy": {"unit": "patient", "delta": 1e-4, "training_epsilon": 2.0, "evaluation_epsilon": 2.0},
        }
    )


class Scripted:
    """Answers as sites would: a payload of integers by (site, step, round), or a refusal."""

    def __init__(self, steps=None, refuse=None, delay=None):
        self.steps = {"ward-a": [100, -40], "ward-b": [20, 80]} if steps is None else steps
        self.refuse, self.delay, self.asked = refuse or {}, delay or (lambda site: None), []

    def __call__(self, site, step, number, data):
        self.asked.append((site, step, number, data))
        self.delay(site)
        if (site, step, number) in self.refuse:
            raise NotReleased(self.refuse[site, step, number])
        values = self.steps[site] if step == "train" else [10, 2, 30, 4]
        return values if isinstance(values, bytes) else encode_release(np.array(values))


@pytest.fixture
def scripted():
    return Scripted


@pytest.fixture
def study():
    return make_study


@pytest.fixture
def grid_of():
    """Make grids over scripted sites, and close them."""
    made = []
    set_task_identity(run_id=77)

    def make(study, ask, declared=None):
        declared = declared or DECLARED
        made.append(LinkGrid(list(declared), ask, StudyCodec(study, declared)))
        return made[-1]

    yield make
    for grid in made:
        grid.close()


@pytest.fixture
def unit_of():
    """Return how far one step of the grid of one site moves the common model, over all declared patients.

    A site's update is -learning_rate * grid * steps / (0.75 * its declared patients); Flower weighs it by its
    declared patients over all, so that each site's declared patients cancel.
    """
    return lambda study, total: study.training.learning_rate * plan_study(study)["train"].mechanism.grid / 0.75 / total
