"""A convolutional network of a protocol: its weights, what it computes, further images, and what is refused."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from image_studies import image_records, image_study, of_patients

from fedhealth.errors import ConfigInvalid
from fedhealth.learning import image_models
from fedhealth.learning.models import cnn
from fedhealth.learning.models.table import model_of
from fedhealth.learning.plan import plan_study
from fedhealth.learning.steps import STEPS
from fedhealth.privacy.stream import UnsafeFixedNoiseSecret
from fedhealth.training import image_gradients as engine
from fedhealth.training.per_patient import deterministic_here, model_outputs

ALL = {
    "an image": image_study(),
    "a volume": image_study((8, 9, 10), "binary", (4,)),
    "three levels": image_study((9, 8), "number", (8, 6, 3)),
    "two sides": image_study((9, 12), sides=True),
    "two sides of a volume": image_study((8, 9, 10), "binary", (4,), sides=True),
}


@pytest.fixture(autouse=True)
def as_in_a_gate():
    with deterministic_here():
        image_models.image_gradients.cache_clear()
        yield
        image_models.image_gradients.cache_clear()


def weights_of(study, seed=1):
    """Return weights of which none is 0, so that everything counts."""
    return cnn.start(study) + np.random.default_rng(seed).normal(scale=0.3, size=cnn.size(study))


@pytest.mark.parametrize("case", ALL)
def test_what_a_protocol_says_of_weights_is_what_the_module_has(case):
    study = ALL[case]
    own = dict(cnn.module(study).named_parameters())
    assert [tuple(each.shape) for each in own.values()] == list(cnn.tensors(study).values())
    assert sum(each.numel() for each in own.values()) == cnn.size(study) == len(cnn.start(study))
    assert [type(module).__name__ for module in cnn.module(study).modules() if "Norm" in type(module).__name__] == [
        "GroupNorm"
    ] * len(study.model.hidden)


def test_planning_and_starting_load_neither_torch_nor_monai():
    script = (
        "import sys; sys.path.insert(0, 'tests/learning'); from image_studies import image_study;"
        "from fedhealth.learning.models import cnn; from fedhealth.learning.plan import plan_study;"
        "study = image_study(); plan_study(study); cnn.start(study); cnn.reading(study);"
        "sys.exit(bool({'torch', 'monai'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_start_is_of_its_study_alone():
    study = image_study()
    assert cnn.start(study).tobytes() == cnn.start(image_study()).tobytes()
    assert cnn.start(study).tobytes() != cnn.start(image_study(learning_rate=0.25)).tobytes()
    # Of each of the 4 filters of the first level, 9 inputs: within sqrt(6 / 9), and uniform has deviation 1 / sqrt(3).
    first = cnn.start(study)[:36]
    assert np.abs(first).max() <= np.sqrt(6 / 9) and 0.35 < first.std() < 0.6
    assert not cnn.start(study)[-3 * (8 + 3) - 3 :].any(), "every output starts from zero"


def by_its_reading(study, weights, record):
    """Compute a record as the model card says, in NumPy and 64 bits."""
    tensors, at = {}, 0
    for name, shape in cnn.tensors(study).items():
        tensors[name] = weights[at : at + np.prod(shape)].reshape(shape)
        at += np.prod(shape)
    image, first = cnn.image_of(study)
    pixels = int(np.prod(image.shape))
    seen = record[first : first + pixels].reshape(1, *image.shape)
    for number in range(1, len(study.model.hidden) + 1):
        filters = tensors[f"level {number} filters"]
        padded = np.pad(seen, [(0, 0)] + [(1, 1)] * len(image.shape))
        windows = np.lib.stride_tricks.sliding_window_view(padded, filters.shape[2:], tuple(range(1, padded.ndim)))
        windows = windows[(slice(None), *[slice(None, None, 2)] * len(image.shape))]
        axes = [0, *range(1 + len(image.shape), windows.ndim)]
        out = np.tensordot(filters, windows, ([1, *range(2, filters.ndim)], axes))
        out += tensors[f"level {number} biases"].reshape(-1, *[1] * len(image.shape))
        groups = out.reshape(cnn.groups_of(len(out)), -1)
        groups = (groups - groups.mean(1, keepdims=True)) / np.sqrt(groups.var(1, keepdims=True) + 1e-5)
        wide = (-1, *[1] * len(image.shape))
        out = groups.reshape(out.shape) * tensors[f"level {number} scales"].reshape(wide)
        seen = np.maximum(out + tensors[f"level {number} shifts"].reshape(wide), 0)
    means = [seen.reshape(len(seen), -1).mean(1)]
    if study.model.compare_sides:
        means.append(np.abs(seen - seen[..., ::-1]).reshape(len(seen), -1).mean(1))
    last = np.concatenate([*means, record[:first], record[first + pixels :]])
    return tensors["weights"] @ last + tensors["biases"]


@pytest.mark.parametrize("case", ALL)
def test_it_computes_what_its_model_card_says(case):
    study = ALL[case]
    weights, records = weights_of(study), image_records(study, 3)
    outputs = model_outputs(cnn.module(study), weights, records.features)
    wanted = [by_its_reading(study, weights, record) for record in records.features]
    assert np.abs(outputs - wanted).max() < 1e-5  # of 32 bits
    assert "conv2d or conv3d" in cnn.reading(
        study
    ) and f"to {1 + np.prod(cnn.image_of(study)[0].shape)}" in cnn.reading(study)


def total_of(study, weights, records):
    step = plan_study(study)["train"]
    data = (records.features, records.labels, records.patients, records.patient_count)
    return image_models.image_gradients(study, step.mechanism).sum(weights, *data), step.mechanism


def alone(study, weights, records):
    """Return each patient's gradient by plain autograd over that patient's records."""
    every = (of_patients(records, [patient]) for patient in range(records.patient_count))
    data = ((each.features, each.labels, each.patients) for each in every)
    return np.stack([image_models.unclipped_image_sum(study, weights, *each) for each in data])


TRANSFORMS = [{"mirror": True}, {"shift": [2, -3]}, {"mirror": True, "shift": [0, 5]}]


# The oracle computes each patient alone by plain autograd, and sums with the mechanism of all other models; both round,
# so that a coordinate may be a step further.
@pytest.mark.parametrize("augment", [[], TRANSFORMS], ids=["as they are", "augmented"])
def test_patients_side_by_side_are_summed_as_each_alone(augment):
    study = image_study(records=3, augment=augment)
    weights, records = weights_of(study), image_records(study, 5, patients=40, broken=0.1)
    (total, zeroed), mechanism = total_of(study, weights, records)
    wanted, left_out = mechanism.clip_and_sum(alone(study, weights, records))
    assert np.abs(total - wanted).max() <= 1 and np.abs(wanted).max() > 1000
    assert zeroed == left_out > 0


def test_a_patient_that_does_not_fit_is_split_and_clipped_once(monkeypatch):
    study = image_study(records=3, augment=TRANSFORMS)
    weights, records = weights_of(study), image_records(study, 5, patients=10)
    (whole, _), _ = total_of(study, weights, records)
    image_models.image_gradients.cache_clear()
    monkeypatch.setattr(engine, "NUMBERS_AT_ONCE", 2 * cnn.numbers_of_a_record(study) + 1)  # two rows, of up to twelve
    (split, _), _ = total_of(study, weights, records)
    assert np.abs(whole - split).max() <= 1
    # Each image has a gradient of its own direction: clipped image by image, they would add up to something else.
    one = alone(study, weights, records)[:1]
    assert np.linalg.norm(one) > study.training.l2_clip_norm


def test_the_images_of_a_record_are_moved_pixels_and_their_gradients_a_mean():
    study = image_study((8, 8), records=1, augment=[{"mirror": True}, {"shift": [1, -2]}])
    weights, records = weights_of(study), image_records(study, 2, patients=3)
    image = records.features[:, 1:-2].reshape(-1, 8, 8)
    plain, total = image_study((8, 8), records=1), 0
    for moved in (image, image[:, :, ::-1], np.roll(image, (1, -2), (1, 2))):
        features = np.concatenate([records.features[:, :1], moved.reshape(-1, 64), records.features[:, -2:]], axis=1)
        total = total + alone(plain, weights, type(records)(features, records.labels, records.patients, 3))
    assert np.abs(alone(study, weights, records) - total / 3).max() < 1e-6


def test_an_image_is_seen_by_one_model_that_has_one():
    pixels = {"kind": "pixels"}
    image = {"kind": "image", "column": "scan", "shape": (8, 8), "window": [0, 1], "inputs": pixels}
    age = {"kind": "number", "column": "age", "unit": "years", "range": [20, 70], "impute": 45}
    cases = {
        "sees one image": image_study(features=[age]),
        "sees one image, and": image_study(features=[image, image | {"column": "other"}]),
        "its model sees none": image_study(model="mlp", augment=[{"mirror": True}]),
        "compares the sides of an image": image_study(model="mlp", sides=True),
        "along axes": image_study((8, 8), augment=[{"shift": [1]}]),
        "to where they are": image_study((8, 8), augment=[{"shift": [8, -16]}]),
        "more memory than a gate": image_study((512, 512), hidden=(4096,)),
    }
    for words, study in cases.items():
        with pytest.raises(ConfigInvalid, match=words):
            plan_study(study)


def test_without_monai_its_administrator_is_told_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "fedhealth.training.image_network", raising=False)
    monkeypatch.setitem(sys.modules, "monai.networks.blocks.convolutions", None)
    with pytest.raises(ConfigInvalid, match=r"fedhealth\[imaging\]"):
        model_of(image_study()).module(image_study())


def test_a_transform_is_another_image_and_each_is_there_once():
    for augment in ([{}], [{"shift": [0, 0]}], [{"mirror": True}, {"mirror": True}]):
        with pytest.raises(ValueError, match=r"another image|repeat"):
            image_study(augment=augment)


@pytest.mark.parametrize("endpoint", ["binary", "category", "classes", "number"])
def test_each_kind_of_endpoint_is_trained_and_judged(endpoint):
    study = image_study(endpoint=endpoint)
    records = image_records(study, 4)
    secret = UnsafeFixedNoiseSecret(3)
    for name, step in plan_study(study).items():
        payload, zeroed = STEPS[name](step, weights_of(study), records, partial(secret.stream, "0" * 64))
        assert len(payload) == 8 * step.mechanism.dimension and zeroed == 0
