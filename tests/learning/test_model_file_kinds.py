"""Files of all kinds of model, used without any of our functions: as their notes and the model card say."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from test_neighbouring_kinds import STUDIES, weights_of

from fedhealth.errors import ConfigInvalid, DataUnusable
from fedhealth.learning.model_file import ReleasedModel, model_bytes, read_model

RECORDS = [
    {"age": "45", "dose": "2.5", "sex": "f", "ward": "A"},
    {"age": "90", "dose": "", "sex": "d", "ward": "C"},  # clamped, imputed, an unknown word
    {"age": "20", "dose": "11", "sex": "", "ward": "B"},
]
METHODS = {"category": "chance_of", "classes": "chances_of", "number": "value_of"}


def inputs_by_hand(inputs, record):
    values = []
    for each in inputs:
        cell = record[each["column"]]
        if "range" in each:
            low, high = each["range"]
            number = each["impute"] if cell == "" else float(cell)
            values.append(2 * (min(max(number, low), high) - low) / (high - low) - 1)
        elif "category" in each:
            values.append(float(cell == each["category"]))
        else:
            words = [
                other["category"] for other in inputs if other.get("category") and other["column"] == each["column"]
            ]
            values.append(float(cell not in words if words else cell == ""))
    return np.array(values)


def outputs_by_hand(tensors, values):
    """Follow the model card: one vector with the bias last, or layer by layer, x / (1 + |x|) between them."""
    if list(tensors) == ["weights"]:
        return np.array([tensors["weights"][:-1] @ values + tensors["weights"][-1]])
    if "weights" in tensors:
        return tensors["weights"] @ values + tensors["biases"]
    for number in range(1, len(tensors) // 2 + 1):
        values = values / (1 + np.abs(values)) if number > 1 else values
        values = tensors[f"layer {number} weights"] @ values + tensors[f"layer {number} biases"]
    return values


@pytest.mark.parametrize("case", STUDIES)
def test_the_file_alone_says_how_to_use_it(case, tmp_path):
    study, path = STUDIES[case], tmp_path / "model.safetensors"
    weights = weights_of(study, 5, 1.0).clip(-2, 2)
    path.write_bytes(model_bytes(weights, study, 2))
    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        notes = json.loads(file.metadata()["fedhealth"])
    model = ReleasedModel(study, read_model(path.read_bytes(), study).weights)
    assert np.array_equal(model.weights, weights)
    for record in RECORDS:
        outputs = outputs_by_hand(tensors, inputs_by_hand(notes["inputs"], record))
        said = getattr(model, METHODS[study.endpoint.kind])(record)
        if notes["output"]["meaning"] == "log odds":
            assert said == pytest.approx(1 / (1 + np.exp(-outputs[0])))
        elif notes["output"]["meaning"] == "softmax scores":
            assert list(said) == notes["output"]["classes"]
            assert list(said.values()) == pytest.approx(np.exp(outputs) / np.exp(outputs).sum())
        else:
            low, high = notes["output"]["range"]
            assert said == pytest.approx(np.interp(outputs[0], [-1, 1], [low, high]))
    assert ("x / (1 + |x|)" in notes["reading"]) == bool(study.model.hidden)


@pytest.mark.parametrize("case", STUDIES)
def test_a_record_that_the_study_left_out_is_refused(case):
    study = STUDIES[case]
    model = ReleasedModel(study, np.zeros_like(weights_of(study, 0, 1.0)))
    for change in ({"age": None}, {"ward": "Z"}):
        with pytest.raises(DataUnusable, match="the record has no value of"):
            getattr(model, METHODS[study.endpoint.kind])(RECORDS[0] | change)


@pytest.mark.parametrize("case", STUDIES)
def test_a_model_is_not_asked_for_what_it_does_not_give(case):
    study = STUDIES[case]
    model = ReleasedModel(study, weights_of(study, 0, 1.0))
    for kind in set(METHODS) - {study.endpoint.kind}:
        with pytest.raises(ConfigInvalid, match="does not give") as refused:
            getattr(model, METHODS[kind])(RECORDS[0])
        assert METHODS[study.endpoint.kind] in refused.value.next_step


@pytest.mark.parametrize("case", STUDIES)
def test_a_file_of_another_study_is_refused(case):
    study = STUDIES[case]
    other = next(each for name, each in STUDIES.items() if name != case)
    with pytest.raises(DataUnusable, match="is not of study"):
        read_model(model_bytes(weights_of(other, 0, 1.0), other, 1), study)
    with pytest.raises(ValueError, match="wanted"):
        model_bytes(np.zeros(3), study, 1)
    broken = weights_of(study, 0, 1.0)
    broken[-1] = np.nan
    with pytest.raises(DataUnusable, match="finite"):
        read_model(model_bytes(broken, study, 1), study)
