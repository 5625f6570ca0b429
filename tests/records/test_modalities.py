"""Three kinds of modality in one record: a structure, an image, and what a physician wrote down; any may be missing."""

import itertools

import numpy as np
import pytest
from small_study import PROTOCOL

from fedhealth.learning.models.table import model_of
from fedhealth.records.table import Table, prepare_records
from fedhealth.study.protocol import Study
from fedhealth.training.per_patient import model_outputs

pytest.importorskip("rdkit", reason="RDKit is not installed (extra `molecules`)")

DRUG = {
    "kind": "molecule",
    "column": "smiles",
    "fingerprints": [{"size": 64}],
    "descriptors": [{"name": "logp", "range": [-4, 7]}],
}
SCAN = {
    "kind": "image",
    "column": "scan",
    "shape": [16, 16],
    "window": [0, 255],
    "inputs": {"kind": "descriptors", "foreground": 20, "descriptors": [{"name": "mean", "range": [0, 255]}]},
}
AGE = {"kind": "number", "column": "age", "unit": "years", "range": [0, 100], "impute": 50}
NAMES = ("molecular", "imaging", "clinical")
STUDY = Study.model_validate(
    PROTOCOL
    | {
        "features": [DRUG, SCAN, AGE],
        "model": {
            "kind": "fusion",
            "modalities": [
                {"name": name, "columns": [part["column"]], "may_be_absent": True}
                for name, part in zip(NAMES, (DRUG, SCAN, AGE), strict=True)
            ],
        },
    }
)
CELLS = {"smiles": "OCC", "scan": "bright.npy", "age": "75"}
SUBSETS = [each for size in (1, 2, 3) for each in itertools.combinations(CELLS, size)]


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "bright.npy", np.full((16, 16), 204, dtype=np.uint8))
    (tmp_path / "broken.npy").write_bytes(b"no image")
    return tmp_path


def features_of(folder, columns, row, strict=True):
    table = Table(folder / "table.csv", ("id", "ill", *columns), ((2, ("p", "1", *row)),))
    training, held_out = prepare_records(table, STUDY, "id", bytes(32), strict=strict)
    return np.concatenate([training.features, held_out.features])


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_a_record_with_any_of_the_modalities_has_the_mean_of_their_towers(folder, subset):
    blanks = features_of(folder, tuple(CELLS), [CELLS[each] if each in subset else "" for each in CELLS])
    absent = features_of(folder, subset, [CELLS[each] for each in subset])
    assert absent.tobytes() == blanks.tobytes()
    assert blanks[0, -3:].tolist() == [float(each in subset) for each in CELLS]
    # Only the biases say something: 1 of molecules (65 inputs before), 10 of images, 100 of the physician's.
    weights = np.zeros(model_of(STUDY).size(STUDY))
    weights[[65, 67, 69]] = says = [1.0, 10.0, 100.0]
    wanted = np.mean([value for value, each in zip(says, CELLS, strict=True) if each in subset])
    assert model_outputs(model_of(STUDY).module(STUDY), weights, blanks)[0, 0] == pytest.approx(wanted)


def test_each_tower_takes_its_own_inputs(folder):
    (record,) = features_of(folder, tuple(CELLS), CELLS.values())
    weights = np.zeros(model_of(STUDY).size(STUDY))
    weights[66], weights[68] = 3.0, 30.0
    # The image is 204 of 255 everywhere, which is 0.6; an age of 75 is 0.5: (0 + 3 * 0.6 + 30 * 0.5) / 3.
    assert model_outputs(model_of(STUDY).module(STUDY), weights, record[None])[0, 0] == pytest.approx(5.6)


def test_an_image_that_cannot_be_read_is_there_and_unreadable_and_a_structure_is_missing(folder):
    (record,) = features_of(folder, tuple(CELLS), ("C1CC(", "broken.npy", "75"), strict=False)
    assert record[-3:].tolist() == [0, 1, 1]
    assert np.isnan(record[65]) and np.isfinite(np.delete(record, 65)).all()
