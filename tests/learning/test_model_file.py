"""A released model as a file: what it says of its inputs is what the gate's training did with them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors import safe_open

from fedhealth.errors import DataUnusable
from fedhealth.learning.model_file import load_model, model_bytes, read_model
from fedhealth.records.table import prepare_records, read_table
from fedhealth.study.protocol import load_study
from fedhealth.study.signature import sign_study

ROOT = Path(__file__).resolve().parents[2]
STUDY = load_study(ROOT / "protocols" / "heart-disease-diagnosis.toml")
WEIGHTS = np.random.default_rng(3).normal(0, 1, STUDY.dimension + 1)


@pytest.fixture
def results(tmp_path):
    (tmp_path / "study.signed").write_bytes(sign_study(STUDY, Ed25519PrivateKey.generate()))
    (tmp_path / "model.safetensors").write_bytes(model_bytes(WEIGHTS, STUDY, 20))
    return tmp_path


@pytest.fixture(scope="module")
def patients():
    """Return the cells of some patients, with gaps and values out of range among them, and their model inputs."""
    table = read_table(ROOT / "sites" / "hungary" / "patients.csv", strict=True)
    training, held_out = prepare_records(table, STUDY, "id", bytes(32), strict=True)
    by_name = [dict(zip(table.columns, row, strict=True)) for _, row in table.rows]
    rows = [row for row in by_name if row["num"]]
    return rows, np.concatenate([training.features, held_out.features])


def by_hand(inputs, row):
    """Return the inputs of a record as the file's own notes describe them, without any of our functions."""
    values = []
    for each in inputs:
        cell = row[each["column"]]
        if "range" in each:
            low, high = each["range"]
            number = each["impute"] if cell == "" or float(cell) in each["missing_values"] else float(cell)
            values.append(2 * (min(max(number, low), high) - low) / (high - low) - 1)
        else:
            values.append(float(cell == each["category"]))
    return values


def test_the_file_alone_says_how_to_use_it(results, patients):
    rows, features = patients
    with safe_open(results / "model.safetensors", "numpy") as file:
        weights, notes = file.get_tensor("weights"), json.loads(file.metadata()["fedhealth"])
    assert len(notes["inputs"]) == len(weights) - 1
    made = np.array([by_hand(notes["inputs"], row) for row in rows])
    assert len(made) > 250
    assert sorted(map(tuple, made)) == sorted(map(tuple, features))  # the gate has them in another order
    model = load_model(results)
    for row, inputs in zip(rows, made, strict=True):
        assert model.chance_of(row) == pytest.approx(1 / (1 + math.exp(-(inputs @ weights[:-1] + weights[-1]))))


def test_a_chance_takes_numbers_and_blanks_as_they_come(results, patients):
    model, row = load_model(results), patients[0][0]
    assert model.chance_of(row | {"age": 63.0}) == model.chance_of(row | {"age": "63"})
    assert (
        model.chance_of(row | {"chol": None})
        == model.chance_of(row | {"chol": "0"})
        == model.chance_of(row | {"chol": 200})
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: {"age": 50}, "has no 'trestbps'"),
        (lambda row: row | {"age": "old"}, "'age' of the record cannot be used"),
        (lambda row: row | {"age": math.nan}, None),
        (lambda row: row | {"age": math.inf}, "'age' of the record cannot be used"),
    ],
    ids=["a column is missing", "text", "not a number is a blank", "without end"],
)
def test_a_record_that_cannot_be_used_is_refused_without_its_values(results, patients, change, said):
    model, row = load_model(results), patients[0][0]
    if said is None:
        assert model.chance_of(change(row)) == model.chance_of(row | {"age": None})
        return
    with pytest.raises(DataUnusable, match=said) as refusal:
        model.chance_of(change(row))
    assert "old" not in str(refusal.value)


def test_a_chance_stays_a_number_however_far_out_the_weights_are(tmp_path):
    for weight, chance in ((1e6, 1.0), (-1e6, 0.0)):
        model = read_model(model_bytes(np.full(STUDY.dimension + 1, weight), STUDY, 1), STUDY)
        assert np.isfinite(model.weights).all()
        (tmp_path / "model.safetensors").write_bytes(model_bytes(np.full(STUDY.dimension + 1, weight), STUDY, 1))
        (tmp_path / "study.signed").write_bytes(sign_study(STUDY, Ed25519PrivateKey.generate()))
        row = {feature.column: None for feature in STUDY.features} | {"age": 80, "trestbps": 180, "chol": 300}
        row |= {"thalch": 200, "oldpeak": 3}
        assert load_model(tmp_path).chance_of(row) == chance


def test_equal_models_are_equal_bytes():
    assert len({model_bytes(WEIGHTS, STUDY, 20) for _ in range(10)}) == 1


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(DataUnusable, match=r"study\.signed cannot be read"):
        load_model(tmp_path)
