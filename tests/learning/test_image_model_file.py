"""The model of a study of images: what its file says of its inputs, and what it answers for one record."""

import json
import math

import numpy as np
import pytest
from small_study import protocol

from fedhealth.errors import DataUnusable
from fedhealth.learning.model_file import ReleasedModel, model_bytes, read_model

pytest.importorskip("pydicom", reason="pydicom is not installed (extra `imaging`)")
pytest.importorskip("nibabel", reason="nibabel is not installed (extra `imaging`)")

MEAN = {"kind": "descriptors", "foreground": 10, "descriptors": [{"name": "mean", "range": [0, 100]}]}
SCATTERING = {"kind": "scattering", "scales": 2, "angles": 2, "order": 1, "largest": [1, 0.5]}


def study(inputs, **changes):
    feature = {"kind": "image", "column": "scan", "shape": [8, 8], "window": [0, 200], "inputs": inputs}
    return protocol(features=[feature | {"missing_indicator": True} | changes])


def test_a_record_s_image_is_read_below_the_model_s_folder(tmp_path):
    np.save(tmp_path / "a.npy", np.full((8, 8), 75))
    model = ReleasedModel(study(MEAN), np.array([2.0, 4.0, 1.0]), tmp_path)
    # A mean of 75 is 0.5 of -1 .. 1: 2 x 0.5 + 1 = 2 log odds. Without an image: 4 + 1 = 5.
    assert model.chance_of({"scan": "a.npy"}) == pytest.approx(1 / (1 + math.exp(-2)))
    assert model.chance_of({"scan": None}) == pytest.approx(1 / (1 + math.exp(-5)))


def test_an_image_that_cannot_be_read_is_refused_with_the_reason(tmp_path):
    np.save(tmp_path / "small.npy", np.zeros((7, 8)))
    model = ReleasedModel(study(MEAN), np.zeros(3), tmp_path)
    with pytest.raises(DataUnusable, match="the image in 'scan' of the record cannot be used: it has another size"):
        model.chance_of({"scan": "small.npy"})
    excluding = ReleasedModel(study(MEAN, missing="exclude", missing_indicator=False), np.zeros(2), tmp_path)
    with pytest.raises(DataUnusable, match="no value of 'scan'"):
        excluding.chance_of({"scan": None})


COUNTS = {"pixels": ({"kind": "pixels"}, 64), "scattering": (SCATTERING, 1 + 2 * 2), "descriptor": (MEAN, 1)}


@pytest.mark.parametrize("kind", COUNTS)
def test_the_file_says_of_each_input_what_it_is_of_an_image(kind):
    inputs, count = COUNTS[kind]
    asked = study(inputs)
    notes = read_model(model_bytes(np.zeros(count + 2), asked, 3), asked).notes
    of_image, indicator = notes["inputs"]
    assert of_image["image"] == {"shape": [8, 8], "window": [0.0, 200.0], "spacing": None, "fit": "exact"}
    assert kind in of_image and of_image.get("count", 1) == count and indicator["missing"] is True
    assert json.loads(json.dumps(notes)) == notes
