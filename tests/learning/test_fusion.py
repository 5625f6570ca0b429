"""Late fusion: one model for whatever a record has of several modalities, and for hospitals that lack one."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small_study import PROTOCOL

from fedhealth.errors import ConfigInvalid, DataUnusable
from fedhealth.learning.model_file import ReleasedModel, model_bytes
from fedhealth.learning.models.table import model_of
from fedhealth.learning.plan import plan_study
from fedhealth.records.study_fit import find_misfits
from fedhealth.records.table import Table, prepare_records
from fedhealth.study.protocol import Study
from fedhealth.training.per_patient import model_outputs, per_patient_gradients

SCAN = {"kind": "number", "column": "lesion", "unit": "ml", "range": [0, 10], "impute": 5}
AGE = {"kind": "number", "column": "age", "unit": "years", "range": [0, 100], "impute": 50}
SEX = {"kind": "category", "column": "sex", "categories": ["f", "m"]}
IMAGING = {"name": "imaging", "columns": ["lesion"], "may_be_absent": True}
CLINICAL = {"name": "clinical", "columns": ["age", "sex"]}


def fusion(modalities=(IMAGING, CLINICAL), features=(AGE, SCAN, SEX), **changes):
    model = {"kind": "fusion", "modalities": list(modalities)}
    return Study.model_validate(PROTOCOL | {"model": model, "features": list(features)} | changes)


STUDY = fusion()
# imaging: weight 2, bias 0.5; clinical: age 1, f -1, m 0, bias 0.
WEIGHTS = np.array([2.0, 0.5, 1.0, -1.0, 0.0, 0.0])
# age 75 is 0.5, a lesion of 6.25 ml is 0.25; f. So imaging says 1, clinical 0.5 - 1 = -0.5.
BOTH = [0.5, 0.25, 1.0, 0.0, 1.0, 1.0]


def outputs(study, weights, *records):
    return model_outputs(model_of(study).module(study), weights, np.array(records))[:, 0].tolist()


def gradient(study, weights, record, label):
    parts = np.array([record]), np.array([label]), np.zeros(1, np.int64), 1
    return per_patient_gradients(model_of(study).module(study), weights, model_of(study).loss(study), *parts)[0]


def records_of(columns, *rows, study=STUDY, strict=True):
    table = Table(Path("t"), tuple(columns.split()), tuple(enumerate((tuple(row.split(",")) for row in rows), 2)))
    training, held_out = prepare_records(table, study, "id", bytes(32), strict=strict)
    return np.concatenate([training.features, held_out.features])


def test_the_output_is_the_mean_over_the_modalities_that_are_there():
    alone = outputs(STUDY, WEIGHTS, BOTH, [*BOTH[:4], 1.0, 0.0], [*BOTH[:4], 0.0, 1.0])
    assert alone == pytest.approx([(1.0 - 0.5) / 2, 1.0, -0.5])


def test_a_tower_may_have_layers_and_starts_as_a_network_does():
    study = fusion((IMAGING | {"hidden": [2]}, CLINICAL))
    start = model_of(study).start(study)
    assert list(model_of(study).tensors(study)) == [
        *("imaging layer 1 weights", "imaging layer 1 biases", "imaging layer 2 weights", "imaging layer 2 biases"),
        *("clinical weights", "clinical biases"),
    ]
    # 1 -> 2 -> 1: two weights drawn, two biases of 0, two weights drawn, one bias of 0; then the linear tower.
    assert (start != 0).tolist() == [True] * 2 + [False] * 2 + [True] * 2 + [False] + [False] * 4
    weights = np.array([1.0, -3.0, 0.0, 0.0, 2.0, 1.0, 0.25, *np.zeros(4)])
    # 0.25 and -0.75 go on as 0.25 / 1.25 = 0.2 and -0.75 / 1.75 = -3/7: 2 * 0.2 - 3/7 + 0.25.
    assert outputs(study, weights, [*BOTH[:4], 1.0, 0.0]) == pytest.approx([0.65 - 3 / 7])


def test_a_record_is_trained_by_all_that_it_has_and_by_each_modality_alone():
    def slope(score):  # of the cross-entropy of a patient who is ill, by the score
        return -1 / (1 + math.exp(score))

    # A third of each loss; in the fused one a tower has half of the say. Inputs: lesion and 1; age, f, m and 1.
    imaging, clinical = slope(1.0) / 3 + slope(0.25) / 6, slope(-0.5) / 3 + slope(0.25) / 6
    wanted = [0.25 * imaging, imaging, 0.5 * clinical, clinical, 0.0, clinical]
    assert gradient(STUDY, WEIGHTS, BOTH, 1.0) == pytest.approx(wanted)


@pytest.mark.parametrize("lesion", [0.0, 0.7, 1e300], ids=str)
def test_a_modality_that_a_record_lacks_is_neither_looked_at_nor_trained(lesion):
    record = [0.5, lesion, 1.0, 0.0, 0.0, 1.0]
    whole = -1 / (1 + math.exp(-0.5))
    assert outputs(STUDY, WEIGHTS, record) == pytest.approx([-0.5])
    assert gradient(STUDY, WEIGHTS, record, 1.0) == pytest.approx([0, 0, 0.5 * whole, whole, 0, whole])


def test_a_patient_s_bits_do_not_depend_on_the_company():
    study, draw = fusion((IMAGING | {"hidden": [5]}, CLINICAL | {"hidden": [3]})), np.random.default_rng(0)
    rows = np.concatenate([draw.uniform(-1, 1, (97, 4)), draw.integers(0, 2, (97, 2))], axis=1)
    weights, labels = draw.uniform(-3, 3, model_of(study).size(study)), draw.integers(0, 2, 97).astype(float)
    parts = model_of(study).module(study), weights, model_of(study).loss(study)
    together = per_patient_gradients(*parts, rows, labels, np.arange(97), 97)
    said = outputs(study, weights, *rows)
    for at in range(0, 97, 8):
        assert gradient(study, weights, rows[at], labels[at]).tobytes() == together[at].tobytes()
        assert outputs(study, weights, rows[at]) == [said[at]]


def test_presence_is_a_value_of_any_column_and_comes_after_all_inputs():
    found = records_of("id age lesion sex ill", "a,75,6.25,f,1", "b,,6.25,,0", "c,75,,?,1", "d,,,x,0")
    # d has nothing: "x" is no word of the study. Of b nothing clinical is known; of c the sex is not.
    assert found.tolist() == [BOTH, [0.0, 0.25, 0, 0, 1, 0], [0.5, 0.0, 0, 0, 0, 1]]


def test_a_table_without_the_columns_of_a_modality_that_may_be_absent_is_one_of_blanks():
    without, blank = records_of("id age sex ill", "a,75,f,1"), records_of("id age lesion sex ill", "a,75,,f,1")
    assert without.tobytes() == blank.tobytes()
    assert without.tolist() == [[0.5, 0.0, 1.0, 0.0, 0.0, 1.0]]


def test_an_unreadable_cell_of_one_modality_makes_the_record_unreadable():
    (found,) = records_of("id age lesion sex ill", "a,75,much,f,1", strict=False)
    assert np.isnan(found[1]) and found[4] == 1
    assert np.isnan(gradient(STUDY, WEIGHTS, found, 1.0)).any()
    with pytest.raises(DataUnusable, match="line 2, column 'lesion'"):
        records_of("id age lesion sex ill", "a,75,much,f,1")


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        ("id age lesion ill", "sex"),  # half of a modality
        ("id lesion ill", "age, sex"),  # one that may not be absent
        ("id ill", "age, sex"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_table_lacks_what_may_not_be_absent(header, missing, strict):
    with pytest.raises(DataUnusable, match="lacks what study") as refused:
        records_of(header, ",".join("1" * len(header.split())), strict=strict)
    assert refused.value.wanted == f"also {missing}"


def test_of_a_hospital_without_any_modality_all_columns_are_asked():
    study = fusion((IMAGING, CLINICAL | {"may_be_absent": True}))
    assert records_of("id lesion ill", "a,6.25,1", study=study).tolist() == [[0.0, 0.25, 0, 0, 1, 0]]
    with pytest.raises(DataUnusable) as refused:
        records_of("id ill", "a,1", study=study)
    assert refused.value.wanted == "also age, lesion, sex"


def problems(columns, *rows):
    table = Table(Path("t"), tuple(columns.split()), tuple(enumerate((tuple(row.split(",")) for row in rows), 2)))
    return [
        (each.level, each.what) for each in find_misfits(table, STUDY) if "modality" in each.what or "no '" in each.what
    ]


def test_an_administrator_sees_which_modalities_are_absent_and_in_how_many_records():
    absent = "modality 'imaging' is absent: the table has no column of it (lesion)"
    assert problems("id age sex ill", "a,40,f,1", "b,50,m,0") == [("warning", absent)]
    assert problems("id age lesion sex ill", "a,40,,f,1", "b,50,3,m,0", "c,,,,1", "d,,2,,") == [
        ("warning", "66.7% of the records have no 'imaging'"),  # d has no outcome
        ("warning", "33.3% of the records have no 'clinical'"),
        ("warning", "33.3% of the records have no modality of the study, and are left out"),
    ]
    assert problems("id age lesion sex ill", "a,40,1,f,1", "b,50,3,m,0") == []


@pytest.mark.parametrize(
    ("modalities", "changes", "words"),
    [
        ([IMAGING], {}, "has one, wanted at least two"),
        ([IMAGING, CLINICAL | {"name": "imaging"}], {}, "one name: imaging"),
        ([IMAGING, CLINICAL | {"columns": ["age", "sex", "dose"]}], {}, "no feature: dose"),
        ([IMAGING, CLINICAL | {"columns": ["age", "sex", "lesion"]}], {}, "a column twice: lesion"),
        ([IMAGING, CLINICAL | {"columns": ["age", "age", "sex"]}], {}, "a column twice: age"),
        ([IMAGING, CLINICAL | {"columns": ["age"]}], {}, "in no modality: sex"),
        ([IMAGING, CLINICAL | {"columns": []}], {}, "at least 1 item"),
        ([IMAGING, CLINICAL | {"hidden": [0]}], {}, "greater than or equal to 1"),
        (
            [IMAGING, CLINICAL],
            {"features": [AGE, SEX, SCAN | {"missing": "exclude", "impute": None}]},
            "that leave out records without a value: lesion",
        ),
        (
            [IMAGING, CLINICAL],
            {"include": [{"kind": "number", "column": "lesion", "range": [1, 9]}]},
            "include looks at columns of a modality that may be absent: lesion",
        ),
    ],
)
def test_modalities_that_do_not_divide_the_features_are_refused(modalities, changes, words):
    with pytest.raises(ValueError, match=words):
        fusion(modalities, **changes)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"kind": "fusion"}, "divides its features"),
        ({"kind": "logistic-regression", "modalities": [IMAGING, CLINICAL]}, "divides its features"),
        ({"kind": "fusion", "modalities": [IMAGING, CLINICAL], "hidden": [3]}, "layers that do not fit"),
    ],
)
def test_modalities_and_the_kind_of_model_go_together(model, words):
    with pytest.raises(ConfigInvalid, match=words) as refused:
        plan_study(fusion(model=model))
    assert refused.value.got and refused.value.wanted and refused.value.next_step


def test_a_study_without_modalities_has_the_digest_that_it_always_had():
    plain = Study.model_validate(PROTOCOL)
    assert "modalities" not in plain.model_dump(mode="json")["model"]
    assert fusion().digest != fusion((IMAGING | {"may_be_absent": False}, CLINICAL)).digest


def test_the_file_alone_says_how_to_use_it(tmp_path):
    study = fusion((IMAGING, CLINICAL | {"hidden": [2]}))
    weights = np.random.default_rng(2).uniform(-2, 2, model_of(study).size(study))
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(weights, study, 2))
    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        notes = json.loads(file.metadata()["fedhealth"])
    assert "clinical takes 1 to 1 and 3 to 4" in notes["reading"] and "imaging takes 2 to 2" in notes["reading"]
    assert notes["inputs"][4:] == [
        {"name": "imaging is there", "modality": "imaging", "any_of": ["lesion"]},
        {"name": "clinical is there", "modality": "clinical", "any_of": ["age", "sex"]},
    ]
    inputs = np.array([0.5, 1.0, 0.0])
    layer = tensors["clinical layer 1 weights"] @ inputs + tensors["clinical layer 1 biases"]
    clinical = tensors["clinical layer 2 weights"] @ (layer / (1 + np.abs(layer))) + tensors["clinical layer 2 biases"]
    imaging = tensors["imaging weights"] @ [0.25] + tensors["imaging biases"]
    model, person = ReleasedModel(study, weights), {"age": "75", "sex": "f"}
    for record, output in (
        (person | {"lesion": "6.25"}, (clinical + imaging) / 2),
        (person | {"lesion": ""}, clinical),
        (person, clinical),  # a hospital without a scanner has no such column
        ({"age": None, "sex": "", "lesion": 6.25}, imaging),
    ):
        assert model.chance_of(record) == pytest.approx(1 / (1 + math.exp(-output[0])))
    with pytest.raises(DataUnusable, match="none of the modalities: imaging, clinical"):
        model.chance_of({"age": "", "sex": "", "lesion": None})
    with pytest.raises(DataUnusable, match="no 'sex'"):
        model.chance_of({"age": "75", "lesion": "6"})


def test_training_gives_each_way_of_being_judged_and_its_weight():
    module = model_of(STUDY).module(STUDY).train()
    shape = module(torch.tensor([BOTH], dtype=torch.float64)).shape
    assert shape == (1, 3, 2)  # fused, imaging, clinical; the output and its weight
    found = module(torch.tensor([[*BOTH[:4], 0.0, 1.0]], dtype=torch.float64))[0, :, 1]
    assert found.tolist() == [0.5, 0.0, 0.5]
