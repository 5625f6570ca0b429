import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.errors import DataUnusable
from fedhealth.records.split import is_held_out
from fedhealth.records.table import Table, made_up_records, prepare_records, read_table
from fedhealth.study.protocol import Study

KEY = bytes(range(32))
STUDY = Study.model_validate(
    {
        "format": 1,
        "name": "heart",
        "title": "t",
        "task": "diagnosis",
        "purpose": "p",
        "legal_basis": "l",
        "data_set": "icu",
        "max_records_per_patient": 3,
        "features": [
            {"kind": "number", "column": "age", "unit": "years", "range": [20, 100], "impute": 60},
            {
                "kind": "number",
                "column": "chol",
                "unit": "mg/dl",
                "range": [0, 400],
                "impute": 200,
                "missing_values": [0],
                "missing_indicator": True,
            },
            {"kind": "category", "column": "sex", "categories": ["f", "m"], "missing_indicator": True},
        ],
        "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0.5, "positive": "ill"},
        "model": {"kind": "logistic-regression"},
        "training": {"rounds": 3, "learning_rate": 1.0, "l2_clip_norm": 1.0},
        "evaluation": {"held_out_fraction": 0.25},
        "privacy": {"unit": "patient", "delta": 1e-5, "training_epsilon": 1.0, "evaluation_epsilon": 1.0},
    }
)
HEADER = "id,age,chol,sex,ill\n"
COLUMNS = ("id", "age", "chol", "sex", "ill")


def read(tmp_path, text, *, strict=True, encoding="utf-8"):
    file = tmp_path / "data.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return read_table(file, strict=strict)


def prepare(tmp_path, text, *, strict=True):
    return prepare_records(read(tmp_path, text, strict=strict), STUDY, "id", KEY, strict=strict)


def one_row(tmp_path, row, *, strict=True):
    """The inputs and label of a single patient, whichever side it is on."""
    sides = prepare(tmp_path, HEADER + row + "\n", strict=strict)
    (side,) = [side for side in sides if side.patient_count]
    return side.features[0].tolist(), float(side.labels[0])


def test_numbers_are_scaled_from_the_public_range_and_words_become_ones(tmp_path):
    # age 80 of 20..100 is 3/4 of the way: 2 * 0.75 - 1; chol 100 of 0..400: 2 * 0.25 - 1, not missing; m is second.
    assert one_row(tmp_path, "p,80,100,m,1") == ([0.5, -0.5, 0.0, 0.0, 1.0, 0.0], 1.0)


@pytest.mark.parametrize(
    "row, inputs, label",
    [
        ("p,20,400,f,0", [-1, 1, 0, 1, 0, 0], 0),
        ("p,-5,1e9,f,0", [-1, 1, 0, 1, 0, 0], 0),  # clamped
        ("p,,0,,0.5", [0, 0, 1, 0, 0, 1], 0),  # age 60 is the middle; chol 0 means missing, 200 is the middle
        ("p,NA,?,x,0.51", [0, 0, 1, 0, 0, 1], 1),  # an unknown word counts as missing
        ("p, 60 , null , f , 7 ", [0, 0, 1, 1, 0, 0], 1),
        ("p,None,nan,F,1", [0, 0, 1, 0, 0, 1], 1),  # words are spelled as in the data set
    ],
)
def test_clamping_imputing_and_indicators_follow_the_protocol(tmp_path, row, inputs, label):
    assert one_row(tmp_path, row) == (inputs, label)


@pytest.mark.parametrize("row", ["p,50,1,f,", "p,50,1,f,NA", ",50,1,f,1", " ,50,1,f,1"])
def test_a_row_without_endpoint_or_patient_is_left_out(tmp_path, row):
    training, held_out = prepare(tmp_path, HEADER + row + "\n")
    assert training.patient_count == held_out.patient_count == 0
    assert training.features.shape == held_out.features.shape == (0, 6)


PRIVATE_VALUE = "Sicca-9731"
BROKEN_CELLS = {
    "age": f"p,{PRIVATE_VALUE},1,f,1",
    "chol": f"p,1,{PRIVATE_VALUE},f,1",
    "ill": f"p,1,1,f,{PRIVATE_VALUE}",
}


@pytest.mark.parametrize("column", BROKEN_CELLS)
def test_text_for_a_number_is_refused_with_line_and_column_and_never_the_value(tmp_path, column):
    with pytest.raises(DataUnusable) as refusal:
        prepare(tmp_path, HEADER + "q,50,1,f,1\n" + BROKEN_CELLS[column] + "\n")
    assert "line 3" in str(refusal.value) and f"'{column}'" in str(refusal.value)
    chain = [refusal.value, refusal.value.__cause__, refusal.value.__context__]
    assert PRIVATE_VALUE not in str(refusal.value)
    assert all(PRIVATE_VALUE not in str(error) for error in chain[:2])


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e999", "1,5", "0x10", "1 0", "--1", "1e", "١٢x"])
def test_what_is_no_finite_number_is_refused(tmp_path, cell):
    with pytest.raises(DataUnusable, match="line 2"):
        prepare(tmp_path, HEADER + f'p,"{cell}",1,f,1\n')


@pytest.mark.parametrize("column", BROKEN_CELLS)
def test_after_approval_a_broken_cell_is_nan_for_its_patient_and_changes_nobody_else(tmp_path, column):
    others = "".join(f"q{number},{20 + number},{number},f,{number % 2}\n" for number in range(30))
    broken = prepare(tmp_path, HEADER + BROKEN_CELLS[column] + "\n" + others, strict=False)
    without = prepare(tmp_path, HEADER + others, strict=False)
    held_out = is_held_out(KEY, "p", 0.25)
    side, same = broken[held_out], without[held_out]
    place = {"age": 0, "chol": 1}.get(column)
    assert math.isnan(side.labels[0] if place is None else side.features[0, place])
    assert (side.features[1:] == same.features).all() and (side.labels[1:] == same.labels).all()
    assert (side.patients[1:] - 1 == same.patients).all()
    other, unchanged = broken[1 - held_out], without[1 - held_out]
    assert (other.features == unchanged.features).all() and (other.patients == unchanged.patients).all()


BAD_FILES = {
    "an empty file": (b"", "header"),
    "a blank header": (b"\nid\n", "header"),
    "a header alone": (b"id,age\n", "no rows"),
    "a column twice": (b"id,id\n1,2\n", "names a column twice"),
    "a short row": (b"id,age\n1,2\n3\n", "line 3"),
    "a long row": (b"id,age\n1,2,3\n", "line 2"),
    "another encoding": ("id,age\nJürgen,2\n".encode("latin-1"), "UTF-8"),
    "a quote that never ends": (b'id,age\n"1,2\n3,4\n', "quotes that do not pair"),
    "an Excel file": (b"PK\x03\x04\x14\x00\x06\x00\xff\xfe", "UTF-8"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_no_table_is_refused_with_its_reason(tmp_path, case):
    content, reason = BAD_FILES[case]
    with pytest.raises(DataUnusable, match=reason):
        read(tmp_path, content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataUnusable, match=r"cannot be read.*No such file"):
        read_table(tmp_path / "none.csv", strict=True)
    with pytest.raises(DataUnusable, match="cannot be read"):
        read_table(tmp_path, strict=True)


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    with pytest.raises(DataUnusable, match="also chol, ill"):
        prepare(tmp_path, "id,age,sex\n1,2,f\n")


def test_a_ragged_row_is_left_out_after_approval_and_counted(tmp_path):
    table = read(tmp_path, HEADER + "p,1,1,f,1\nq,1\nr,1,1,f,1,9\ns,1,1,f,1\n", strict=False)
    assert [row[0] for _, row in table.rows] == ["p", "s"] and table.ragged == (3, 4)


@pytest.mark.parametrize("text", ["id,age\r\n1,2\r\n3,4\r\n", "id,age\n1,2\n\n3,4", "\ufeffid,age\n1,2\n3,4\n"])
def test_line_ends_blank_lines_and_a_byte_order_mark_do_not_matter(tmp_path, text):
    table = read(tmp_path, text)
    assert table.columns == ("id", "age") and [row for _, row in table.rows] == [("1", "2"), ("3", "4")]


def test_only_the_first_records_of_a_patient_are_read_and_nobody_else_loses_any(tmp_path):
    rows = "".join(f"{patient},{age},1,f,1\n" for age in (20, 30, 40, 50, 60) for patient in "pq")
    sides = prepare(tmp_path, HEADER + rows)
    for side in sides:
        for patient in range(side.patient_count):
            ages = side.features[side.patients == patient, 0]
            assert ages.tolist() == [-1.0, -0.75, -0.5]  # 20, 30, 40 of 20..100
    assert sum(side.patient_count for side in sides) == 2


CELLS = st.sampled_from(["", "1", "0", "50", "text", "1e308", "-7", "f", "nan"])
ROWS = st.lists(st.tuples(st.sampled_from("abcdefgh"), CELLS, CELLS, CELLS, CELLS), min_size=1, max_size=12)


@settings(max_examples=200)
@given(ROWS)
def test_a_patient_less_moves_and_changes_nobody_and_nobody_is_on_both_sides(rows):
    def by_patient(rows):
        table = Table(Path("made-up.csv"), COLUMNS, tuple(enumerate(rows)))
        result = {}
        for number, side in enumerate(prepare_records(table, STUDY, "id", KEY, strict=False)):
            assert set(side.patients.tolist()) == set(range(side.patient_count))
            for patient in range(side.patient_count):
                mine = side.patients == patient
                key = (number, side.features[mine].tobytes(), side.labels[mine].tobytes())
                result.setdefault(key, 0)
                result[key] += 1
            assert np.nanmax(np.abs(side.features), initial=0) <= 1
        return result

    whole = by_patient(rows)
    for patient in {row[0] for row in rows}:
        without = by_patient([row for row in rows if row[0] != patient])
        gone = {key: count - without.get(key, 0) for key, count in whole.items() if count != without.get(key, 0)}
        assert set(without) <= set(whole)
        assert sum(gone.values()) in (0, 1), "exactly the patient's own records are gone, from one side"


BROKEN_LINES = {
    "a byte that is no text": b"x,1,\xff,f,1\n",
    "a cell with a line break that looks like a row": b'x,1,"1\np,9,9,f,0\n",f,1\n',
    "separators of other alphabets": "x,1,1\u2028p,9,9,f,0\n".encode(),
    "a very long cell": b"x,1," + b"9" * 200_000 + b",f,1\n",
    "a cell of digits that are no number to us": b"x,1,1_0,f,1\n",
}


@pytest.mark.parametrize("name", BROKEN_LINES)
def test_after_approval_one_broken_line_changes_nobody_else(tmp_path, name):
    others = b'p,1,1,f,1\nq,2,2,m,0\nr,"3",3,f,1\n'
    path = tmp_path / "data.csv"

    def rows(data):
        path.write_bytes(HEADER.encode() + data)
        return [row for _, row in read_table(path, strict=False).rows]

    alone = rows(others)
    for place in (0, 10, 20):
        mixed = rows(others[:place] + BROKEN_LINES[name] + others[place:])
        assert [row for row in mixed if row[0] != "x"] == alone


@pytest.mark.parametrize("cell", ["1_0", "１２", "0x10", "1e", "--1", "1,5", "infinity"])
def test_what_only_python_calls_a_number_is_text(tmp_path, cell):
    path = tmp_path / "data.csv"
    path.write_text(HEADER + f'p,1,"{cell}",f,1\n', encoding="utf-8")
    with pytest.raises(DataUnusable, match="line 2"):
        prepare_records(read_table(path, strict=True), STUDY, "id", KEY, strict=True)


@pytest.mark.parametrize("strict", [True, False])
def test_quotes_that_do_not_pair_are_refused_because_no_row_can_be_told_from_the_next(tmp_path, strict):
    path = tmp_path / "data.csv"
    path.write_bytes(HEADER.encode() + b'p,1,"1,f,1\nq,2,2,m,0\n')
    with pytest.raises(DataUnusable, match="quotes"):
        read_table(path, strict=strict)


def test_names_in_another_encoding_stay_different_patients(tmp_path):
    path = tmp_path / "data.csv"
    rows = "".join(f"{name},1,1,f,1\n" for name in ("Müller", "Möller", "Mäller"))
    path.write_bytes(HEADER.encode() + rows.encode("latin-1"))
    sides = prepare_records(read_table(path, strict=False), STUDY, "id", KEY, strict=False)
    assert sum(side.patient_count for side in sides) == 3


def test_made_up_records_are_as_many_as_the_public_figures_allow():
    # What a reply may take is measured on them, so nobody's number of records can make a real step longer.
    many = STUDY.model_copy(update={"max_records_per_patient": 7})
    records = made_up_records(many, 30)
    assert (len(records.labels), records.patient_count) == (210, 30)
    assert np.bincount(records.patients).tolist() == [7] * 30
    with pytest.raises(DataUnusable, match="max_records_per_patient"):
        made_up_records(STUDY.model_copy(update={"max_records_per_patient": 1000}), 10**6)


def cohort(tmp_path, rows, **changes):
    """The patients of a study with these changes, whichever side they are on."""
    study = Study.model_validate(STUDY.model_dump(mode="json") | changes)
    sides = prepare_records(read(tmp_path, HEADER + rows), study, "id", KEY, strict=False)
    return sum(side.patient_count for side in sides), np.concatenate([side.labels for side in sides])


AGES = {"kind": "number", "column": "age", "range": [40, 60]}
WOMEN = {"kind": "category", "column": "sex", "any_of": ["f"]}


@pytest.mark.parametrize(
    "row, conditions, is_in",
    [
        ("p,40,1,f,1", [AGES], True),
        ("p,60,1,f,1", [AGES], True),
        ("p,60.1,1,f,1", [AGES], False),
        ("p,,1,f,1", [AGES], False),  # a blank meets nothing
        ("p,forty,1,f,1", [AGES], False),  # and a cell that cannot be read neither
        ("p,40,1,f,1", [AGES, WOMEN], True),
        ("p,40,1,m,1", [AGES, WOMEN], False),
        ("p,39,1,f,1", [AGES, WOMEN], False),
        ("p,40,1,,1", [WOMEN], False),
    ],
)
def test_a_record_is_in_the_cohort_when_it_meets_every_condition(tmp_path, row, conditions, is_in):
    assert cohort(tmp_path, row + "\n", include=conditions)[0] == int(is_in)


def test_a_record_outside_the_cohort_takes_no_place_of_those_that_count(tmp_path):
    # Three records a patient are read: the four of age 10 come first and are not in the cohort.
    rows = "p,10,1,f,0\n" * 4 + "p,50,1,f,1\n" * 4
    patients, labels = cohort(tmp_path, rows, include=[AGES])
    assert patients == 1 and labels.tolist() == [1, 1, 1]


def test_a_condition_may_look_at_a_column_that_is_no_feature_and_must_exist(tmp_path):
    with pytest.raises(DataUnusable, match="also ward"):
        cohort(tmp_path, "p,50,1,f,1\n", include=[WOMEN | {"column": "ward"}])


def test_an_endpoint_of_words_is_yes_no_or_left_out(tmp_path):
    endpoint = {
        "kind": "category",
        "column": "ill",
        "positive_categories": ["yes", "likely"],
        "negative_categories": ["no"],
        "positive": "ill",
    }
    rows = "a,50,1,f,yes\nb,50,1,f,likely\nc,50,1,f,no\nd,50,1,f,\ne,50,1,f,unsure\n"
    patients, labels = cohort(tmp_path, rows, endpoint=endpoint)
    assert patients == 3 and sorted(labels) == [0, 1, 1]
