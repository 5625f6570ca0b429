"""A patient adds what the patient adds alone where the model sees images: as `test_neighbouring_kinds`.

Weights go up to where 32 bits end; images that cannot be read are among the records.
"""

from functools import partial

import numpy as np
import pytest
import torch
from image_studies import image_records, image_study, of_patients

from fedhealth.learning import image_models
from fedhealth.learning.models import cnn
from fedhealth.learning.plan import plan_study
from fedhealth.learning.steps import STEPS
from fedhealth.privacy.stream import UnsafeFixedNoiseSecret
from fedhealth.training import image_gradients as engine
from fedhealth.training.exact_sum import ExactSummer
from fedhealth.training.image_network import ImageNetwork
from fedhealth.training.per_patient import deterministic_here

SECRET = UnsafeFixedNoiseSecret(3)
SCALES = [0.0, 5e-324, 1e-30, 1.0, 20.0, 1e15, 1e30, 3e38, 1.7e308]
STUDIES = {
    "side by side": image_study(records=2),
    "augmented": image_study((8, 8), "number", augment=[{"mirror": True}]),
    "volumes": image_study((8, 9, 10), "binary", (4,)),
    "few at once": image_study(records=2, augment=[{"shift": [1, 1]}]),
    "two sides": image_study((8, 9), sides=True),
    "in pieces": image_study(records=3, augment=[{"mirror": True}]),
}
ROWS = {"few at once": 4, "in pieces": 1}
"""Where a batch has fewer rows than usual; a patient has up to four and six."""


@pytest.fixture(autouse=True)
def as_in_a_gate():
    with deterministic_here():
        yield


@pytest.fixture(params=STUDIES)
def study(request, monkeypatch):
    image_models.image_gradients.cache_clear()
    chosen = STUDIES[request.param]
    if request.param in ROWS:
        monkeypatch.setattr(engine, "NUMBERS_AT_ONCE", ROWS[request.param] * cnn.numbers_of_a_record(chosen))
    yield chosen
    image_models.image_gradients.cache_clear()


def weights_of(study, seed):
    draw = np.random.default_rng(seed)
    weights = cnn.start(study) + draw.normal(scale=0.3, size=cnn.size(study))
    scale = SCALES[seed % len(SCALES)]
    return np.where(draw.random(len(weights)) < 0.9, weights, draw.uniform(-1, 1, len(weights)) * scale)


def release(study, name, weights, records, kept):
    step = plan_study(study)[name]
    payload, _ = STEPS[name](step, weights, of_patients(records, kept), partial(SECRET.stream, "0" * 64))
    return np.frombuffer(payload, dtype="<i8")


def reach_of_others(study, name, seed, patients=7):
    """Return how many steps a patient's presence moves what the others add, where it is most; and the patient."""
    weights, records = weights_of(study, seed), image_records(study, seed, patients, broken=0.1)
    patient, everybody = seed % patients, np.arange(patients)
    others = everybody[everybody != patient]
    whole, without, alone, nobody = (
        release(study, name, weights, records, kept) for kept in (everybody, others, [patient], [])
    )
    return int(np.abs((whole - without) - (alone - nobody)).max()), int(np.abs(alone - nobody).max())


# Three sums that are not nothing, each off by at most half a step: 1.5, and so one whole step.
@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_patient_adds_what_the_patient_adds_alone(study, name):
    found = [reach_of_others(study, name, seed) for seed in range(12)]
    assert max(others for others, _ in found) <= 1
    assert max(own for _, own in found) > 100, "somebody must count"


FORWARD = ImageNetwork.forward


@pytest.fixture
def planted(monkeypatch):
    """Plant another forward pass; what was found out of the network before is forgotten."""

    def plant(forward):
        image_models.image_gradients.cache_clear()
        monkeypatch.setattr(ImageNetwork, "forward", forward)

    yield plant
    image_models.image_gradients.cache_clear()


def over_the_largest(self, x):
    return FORWARD(self, x / x.abs().amax().clamp(min=1e-3))


def ends_otherwise(self, x):
    """Compute the last record by other code, as kernels do with the end of a tensor, and much more so."""
    outputs = FORWARD(self, x)
    return torch.cat([outputs[:-1], 1.5 * outputs[-1:]]) if len(x) > 1 else outputs


def test_a_network_that_mixes_records_is_refused_before_a_patient_is_read(planted):
    planted(over_the_largest)
    with pytest.raises(ValueError, match="depends on the other records"):
        reach_of_others(STUDIES["side by side"], "train", 3)


def test_a_place_that_is_computed_otherwise_is_found_out_and_not_taken(planted, monkeypatch):
    study = image_study(records=1)
    planted(ends_otherwise)
    assert max(reach_of_others(study, "train", seed, patients=64)[0] for seed in (3, 12, 21)) <= 1
    # Were it taken, whoever stands there would add something else when somebody before is not there.
    monkeypatch.setattr(ExactSummer, "_alike_places_of", lambda self, losses, batch, each, draw: np.arange(self.rows))
    planted(ends_otherwise)
    assert max(reach_of_others(study, "train", seed, patients=64)[0] for seed in (3, 12, 21)) > 1
