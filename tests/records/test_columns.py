from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.records.columns import describe_columns, find_problems, patient_candidates
from fedhealth.records.table import Table, read_table


def table(columns, rows, **more):
    return Table(Path("data.csv"), tuple(columns), tuple(enumerate(map(tuple, rows), 2)), **more)


def one_column(cells):
    """What is found in a column 'x' beside a patient column of as many patients."""
    found = describe_columns(table(("id", "x"), [(f"p{n}", cell) for n, cell in enumerate(cells)]), "id")
    return found[1]


TYPES = {
    "number": ["1", "2.5", "-3e4", "", "NA"] * 8,
    "number, one text in twenty": [*(["1", "2", "3", "4", "5"] * 4)[:-1], "x"],
    "category": ["f", "m", "f", "", "m"] * 4,
    "date": ["2020-01-31", "2021-12-01", ""] * 7,
    "date, with time": ["2020-01-31 10:00:00", "2020-01-31T10:00Z"] * 7,
    "date, of another country": ["31.01.2020", "1/2/20"] * 7,
    "text": [f"word {number}" for number in range(20)],
    "text, of 51 words": [f"word {number}" for number in range(51)] * 3,
    "category, of 50 words": [f"word {number}" for number in range(50)] * 3,
    "blank": ["", "NA", "?"] * 5,
}


@pytest.mark.parametrize("case", TYPES)
def test_a_column_has_the_type_that_nearly_all_its_cells_have(case):
    assert one_column(TYPES[case]).type == case.partition(",")[0]


def test_the_share_of_blanks_counts_the_words_for_nothing():
    assert one_column(["1", "", "NA", "null"]).blank_share == 0.75
    assert describe_columns(table(("id",), []), "id")[0].blank_share == 1.0


DOUBTS = {
    "nothing in it": ["", "NA"],
    "one value only": ["7"] * 5,
    "decimal commas": ["1,5", "2,25", "3"],
    "not written YYYY-MM-DD": ["31.01.2020", "2020-01-31"] * 3,
    "several spellings": ["Male", "male", "Female", "male "] * 3,
    "its own text": [f"name {number}" for number in range(20)],
    "its own whole number": [str(4000 + 7 * number) for number in range(20)],
    "-9 stands apart": ["1", "2", "3", "-9"],
    "999 stands apart": ["80", "85", "93", "999"],
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_column_that_looks_wrong_is_doubted(doubt):
    assert [each for each in one_column(DOUBTS[doubt]).doubts if doubt in each]


@pytest.mark.parametrize(
    "cells", [["1", "2.5", "3", ""], ["f", "m"] * 5, ["2020-01-31", "2021-01-31"], ["97", "98", "99"]]
)
def test_an_ordinary_column_is_not_doubted(cells):
    assert one_column(cells).doubts == ()


def test_a_patient_column_with_a_new_value_in_every_row_is_doubted():
    of_visits = table(("id",), [(f"v{number}",) for number in range(20)])
    assert "numbers visits" in describe_columns(of_visits, "id")[0].doubts[0]
    of_patients = table(("id",), [(f"p{number // 2}",) for number in range(20)])
    assert describe_columns(of_patients, "id")[0].doubts == ()


ROWS = [(f"v{n}", f"p{n // 2}", str(n % 3), "2020-01-01", f"{n}.5") for n in range(12)]
CANDIDATES = {
    ("visit", "patient_id", "sex", "day", "age"): ("patient_id",),
    ("id", "Patient-Nr", "sex", "day", "age"): ("Patient-Nr", "id"),  # 'id' may as well number the rows
    ("visit", "MRN", "sex", "day", "age"): ("MRN",),
    ("a", "b", "c", "d", "e"): ("a", "b"),  # not 3 codes, no date, no measured quantity
}


@pytest.mark.parametrize("columns", CANDIDATES)
def test_the_patient_column_is_looked_for_by_name_and_then_by_its_pattern(columns):
    assert patient_candidates(table(columns, ROWS)) == CANDIDATES[columns]


def test_a_column_with_a_blank_is_no_candidate():
    assert patient_candidates(table(("patient", "id"), [("", "1"), ("p", "2")])) == ("id",)


def test_everything_wrong_with_a_file_is_told_at_once_with_its_lines_and_no_value(tmp_path):
    file = tmp_path / "data.csv"
    file.write_bytes(
        b"id,age,sex,note\n"
        b"p1,50,f,a\n"
        b"p2,fifty,m,b\n"  # line 3: text
        b"p1,51\n"  # line 4: short
        b",52,f,c\n"  # line 5: nobody
        b"p3,53,\xe9,d\n"  # line 6: no UTF-8
        b"p3,inf,m,d\n"  # line 7: not finite
    )
    declared = {"id": "patient", "age": "number", "sex": "category", "dose": "number", "note": "blank"}
    problems = find_problems(read_table(file, strict=False), "id", declared)
    found = {(each.level, each.column, each.rows) for each in problems if each.rows or each.level == "error"}
    assert found == {
        ("error", "", (4,)),
        ("error", "age", (3, 7)),
        ("warning", "id", (5,)),
        ("error", "sex", (6,)),
        ("error", "dose", ()),
    }
    said = " ".join(each.what + each.next_step for each in problems)
    assert "fifty" not in said and "p1" not in said


def test_a_column_that_changed_or_came_since_is_told():
    now = table(("id", "age", "new"), [("p", "old", "x"), ("p", "young", "y"), ("q", "old", "x"), ("q", "old", "x")])
    said = {each.column: each.what for each in find_problems(now, "id", {"id": "patient", "age": "date"})}
    assert said["age"] == "was date and looks like category now"
    assert "does not list" in said["new"]
    assert find_problems(now, "id", {"id": "patient", "age": "category", "new": "blank"}) == ()


@given(st.lists(st.lists(st.text(max_size=4), min_size=2, max_size=2), max_size=8))
def test_any_table_can_be_described(rows):
    found = describe_columns(table(("id", "x"), rows), "id")
    assert [column.name for column in found] == ["id", "x"] and 0 <= found[1].blank_share <= 1
    find_problems(table(("id", "x"), rows), "id", {"id": "patient", "x": "number"})
