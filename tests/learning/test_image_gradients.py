"""Images computed in few rows at a time, or one by one: the same figures, and never more than public ones allow."""

import numpy as np
import pytest
from image_studies import image_records, image_study

from fedhealth.errors import DataUnusable
from fedhealth.learning.models import cnn
from fedhealth.learning.plan import plan_study
from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.records.table import made_up_records
from fedhealth.study.augmentation import Transform
from fedhealth.training.image_gradients import ImageGradients
from fedhealth.training.image_network import ImageNetwork
from fedhealth.training.per_patient import deterministic_here, model_outputs


@pytest.fixture(autouse=True)
def as_in_a_gate():
    with deterministic_here():
        yield


@pytest.fixture
def rows(monkeypatch):
    """How many rows each pass took."""
    seen, forward = list[int](), ImageNetwork.forward
    monkeypatch.setattr(ImageNetwork, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    return seen


def test_a_record_is_evaluated_as_if_there_were_no_other(rows):
    # With 16 x 16 pixels, convolutions here round one record otherwise than several.
    study = image_study((16, 16), "number")
    weights = cnn.start(study) + np.random.default_rng(0).normal(scale=0.3, size=cnn.size(study))
    features = image_records(study, 1, 9).features
    together = model_outputs(cnn.module(study), weights, features)
    alone = [model_outputs(cnn.module(study), weights, one[None]) for one in features]
    assert together.tobytes() == np.concatenate(alone).tobytes()
    assert set(rows) == {1}


def test_a_patient_in_pieces_is_the_patient_at_once(rows):
    # Three records of three images are nine rows. Clipped or not, the mean is over all, and no pass in pieces
    # takes more rows than it may. Numbers of 32 bits have 1.2e-7, of gradients of at most 0.7 each.
    study = image_study((8, 8), "number", records=3)
    transforms, records = (Transform(mirror=True), Transform(shift=(1, 2))), image_records(study, 2, 5)
    weights = cnn.start(study) + np.random.default_rng(0).normal(scale=0.3, size=cnn.size(study))
    for clip in (0.7, 1e6):
        mechanism = GridGaussian(noise_multiplier=1.0, l2_clip_norm=clip, dimension=len(weights))
        sums = {}
        for most in (2, 16):
            rows.clear()
            engine = ImageGradients(cnn.module(study), cnn.loss(study), transforms, mechanism, 3, most)
            data = (records.features, records.labels, records.patients, records.patient_count)
            total, zeroed = engine.sum(weights, *data)
            sums[most] = total * mechanism.grid
            assert zeroed == 0 and max(rows) == most
        assert sums[2] == pytest.approx(sums[16], abs=1e-4 + mechanism.grid)


def test_no_more_images_are_made_up_than_a_gate_can_hold():
    # 64 x 64 x 64 pixels and three more inputs: 2**28 numbers hold 1,023 such records.
    study = image_study((64, 64, 64), "number", records=1)
    assert plan_study(study)["train"].input_length < 2**20
    with pytest.raises(DataUnusable, match="more at once than a gate can hold"):
        made_up_records(study, 1024)
