"""Rules on missing values, endpoints of classes and of a quantity, and what an administrator is told of both."""

from pathlib import Path

import numpy as np
import pytest
from small_study import PROTOCOL

from fedhealth.errors import DataUnusable
from fedhealth.records.cells import label_of
from fedhealth.records.study_fit import find_giveaways, find_misfits, find_uniform
from fedhealth.records.table import Table, prepare_records
from fedhealth.study.protocol import Study

AGE = {"kind": "number", "column": "age", "unit": "years", "range": [0, 100]}
SEX = {"kind": "category", "column": "sex", "categories": ["f", "m"]}
GRADE = {"kind": "classes", "column": "grade", "classes": ["none", "mild", "severe"], "outcome": "the grade"}
PRESSURE = {
    "kind": "number",
    "column": "pressure",
    "unit": "mmHg",
    "range": [100, 200],
    "missing_values": [0],
    "outcome": "the pressure",
}
COLUMNS = ("id", "age", "sex", "grade", "pressure", "ill")


def study_of(age=None, sex=None, **parts):
    age, sex = age or {"missing": "exclude"}, sex or {"missing": "exclude"}
    changes = {"features": [AGE | age, SEX | sex], "evaluation": {"held_out_fraction": 0.5}, **parts}
    return Study.model_validate({**PROTOCOL, **changes})


def table(*rows):
    return Table(Path("t.csv"), COLUMNS, tuple(enumerate(rows, 2)))


def prepared(study, *rows, strict=True):
    return prepare_records(table(*rows), study, "id", bytes(32), strict=strict)


def kept(study, *rows, strict=True):
    return sum(len(side.labels) for side in prepared(study, *rows, strict=strict))


RULES = {
    "both are there": ("40", "f", 1),
    "no number": ("", "f", 0),
    "a word for nothing": ("NA", "f", 0),
    "no word": ("40", "", 0),
    "a word that the study does not know": ("40", "d", 0),
    "out of range is there": ("140", "m", 1),
}


@pytest.mark.parametrize("case", RULES)
def test_a_record_without_a_value_that_the_study_asks_for_is_not_in_it(case):
    age, sex, count = RULES[case]
    row = ("p", age, sex, "mild", "120", "1")
    assert kept(study_of(), row) == count
    assert kept(study_of(age={"impute": 50}, sex={"missing": "zeros"}), row) == 1


def test_a_number_that_means_not_measured_excludes_too_and_one_that_is_unreadable_does_not():
    study = study_of(age={"missing": "exclude", "missing_values": [-9]})
    assert kept(study, ("p", "-9", "f", "", "", "1")) == 0
    # Before approval an error; later the patient must count as zero, in training or evaluation: not go unseen.
    with pytest.raises(DataUnusable, match="'age'"):
        kept(study, ("p", "old", "f", "", "", "1"))
    sides = prepared(study, ("p", "old", "f", "", "", "1"), strict=False)
    assert sum(np.isnan(side.features).any() for side in sides) == 1


def test_a_record_left_out_does_not_use_up_a_patients_records():
    study = study_of(max_records_per_patient=1)
    rows = [("p", "", "f", "", "", "1"), ("p", "40", "f", "", "", "0"), ("p", "50", "f", "", "", "1")]
    (found,) = [side for side in prepared(study, *rows) if len(side.labels)]
    assert found.labels.tolist() == [0.0] and found.features[0, 0] == pytest.approx(2 * 0.4 - 1)


LABELS = {
    "the first class": (GRADE, "none", (0.0,)),
    "the last class": (GRADE, "severe", (2.0,)),
    "another word": (GRADE, "odd", None),
    "no class": (GRADE, "", None),
    "the middle of the range": (PRESSURE, "150", (0.0,)),
    "a quarter": (PRESSURE, "125", (-0.5,)),
    "beyond the range": (PRESSURE, "1e9", (1.0,)),
    "not measured": (PRESSURE, "0", None),
    "blank": (PRESSURE, "", None),
}


@pytest.mark.parametrize("case", LABELS)
def test_cells_become_labels(case):
    endpoint, cell, label = LABELS[case]
    assert label_of(study_of(endpoint=endpoint).endpoint, [cell]) == label


def test_a_quantity_that_is_text_is_no_number_and_an_error_before_approval():
    study = study_of(endpoint=PRESSURE)
    (label,) = label_of(study.endpoint, ["high"])
    assert np.isnan(label)
    with pytest.raises(DataUnusable, match="'pressure'"):
        kept(study, ("p", "40", "f", "", "high", ""))


def ordinary(count=40):
    """Rows in which each sex and each age has each outcome."""
    return [
        (
            f"p{n}",
            str(40 + n // 2 % 5),
            "fm"[n // 10 % 2],
            ("none", "mild", "severe")[n % 3],
            str(110 + 7 * n % 80),
            str(n % 2),
        )
        for n in range(count)
    ]


def changed(rows, column, value):
    place = COLUMNS.index(column)
    return [(*row[:place], value, *row[place + 1 :]) for row in rows]


@pytest.mark.parametrize("endpoint", [None, GRADE, PRESSURE], ids=["yes or no", "classes", "quantity"])
def test_of_an_ordinary_hospital_nothing_is_said(endpoint):
    study = study_of() if endpoint is None else study_of(endpoint=endpoint)
    assert find_uniform(table(*ordinary()), study) == () == find_misfits(table(*ordinary()), study)


UNIFORM = {
    "one class": (GRADE, changed(ordinary(), "grade", "mild"), "grade", "one and the same outcome"),
    "one outcome": (None, changed(ordinary(), "ill", "1"), "ill", "one and the same outcome"),
    "one value": (PRESSURE, changed(ordinary(), "pressure", "130"), "pressure", "one and the same outcome"),
    "a constant column": (None, changed(ordinary(), "age", "50"), "age", "the same value"),
    "all at one end of the range": (
        None,
        [*changed(ordinary(), "age", "120"), *changed(ordinary(), "age", "130")],
        "age",
        "the same value",
    ),
    "nobody in the study": (GRADE, changed(ordinary(), "grade", "other"), "grade", "no record is in the study"),
    "some left out": (None, [*ordinary(), *changed(ordinary(10), "sex", "")], "sex", "20.0% of the records"),
}


@pytest.mark.parametrize("case", UNIFORM)
def test_what_says_nothing_at_a_hospital_is_named(case):
    endpoint, rows, column, words = UNIFORM[case]
    study = study_of() if endpoint is None else study_of(endpoint=endpoint)
    (problem,) = find_uniform(table(*rows), study)
    assert problem.level == "warning" and problem.column == column and words in problem.what
    assert problem in find_misfits(table(*rows), study)


@pytest.mark.parametrize(("column", "words"), [("age", "nothing is measured"), ("sex", "nothing that the study reads")])
def test_a_feature_that_is_missing_in_all_records_is_named(column, words):
    imputed = study_of(age={"impute": 50}, sex={"missing": "zeros"})
    (problem,) = find_uniform(table(*changed(ordinary(), column, "")), imputed)
    assert problem.column == column and words in problem.what
    everybody, nobody = find_uniform(table(*changed(ordinary(), column, "")), study_of())
    assert "100.0% of the records" in everybody.what and nobody.what == "no record is in the study"


def test_a_feature_that_tells_one_class_or_the_half_of_a_quantity_is_found():
    rows = [(f"p{n}", str(n % 90), "fm"[n % 2], "mild", str(100 + n), "1") for n in range(90)]
    (found,) = find_giveaways(table(*rows), study_of(endpoint=PRESSURE))
    assert found.column == "age" and found.area == 1
    rows = [(f"p{n}", str(n), "fm"[n % 2], ("none", "mild", "severe")[n // 30], "0", "1") for n in range(90)]
    (found,) = find_giveaways(table(*rows), study_of(endpoint=GRADE))
    # 0 to 29 is the first class and 60 to 89 the last; the ages of the middle one lie between.
    assert found.column == "age" and found.area == 1
