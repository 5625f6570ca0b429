"""A split that the table states itself: which side its words put a patient on, and what it may not say."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_trial import COLUMNS as TRIAL_COLUMNS
from made_up_trial import rows, trial
from small_study import protocol

from fedhealth.errors import DataUnusable
from fedhealth.records.columns import find_problems
from fedhealth.records.split import sides_of, stated_sides
from fedhealth.records.table import Table, prepare_records

COLUMNS = ("id", "age", "dose", "ill", "side")


def table(*rows):
    return Table(Path("wards.csv"), COLUMNS, tuple(enumerate(rows, 2)))


def sides(*rows, key=bytes(32), strict=True):
    """Ages of the records on either side: 50 years are 0 in a range of 0 to 100."""
    found = prepare_records(table(*rows), protocol(), "id", key, "side", strict=strict)
    return tuple((np.round(50 + 50 * side.features[:, 0]).tolist(), side.patient_count) for side in found)


WHOLE = (
    ("p", "10", "1", "1", "train"),
    ("q", "20", "1", "0", "test"),
    ("q", "30", "1", "0", ""),  # what is said of q once holds for all of q
    ("r", "40", "1", "1", "test"),
)


@pytest.mark.parametrize("key", [bytes(32), bytes(range(32))])
def test_the_words_decide_and_not_the_key(key):
    assert sides(*WHOLE, key=key) == (([10.0], 1), ([20.0, 30.0, 40.0], 2))


UNSTATED = {
    "nothing": [("x", "60", "1", "1", "")],
    "another word": [("x", "60", "1", "1", "validation")],
    "another spelling": [("x", "60", "1", "1", "Train")],
    "both sides": [("x", "60", "1", "1", "train"), ("x", "70", "1", "1", "test")],
    "both sides, once where the endpoint is blank": [("x", "60", "1", "1", "train"), ("x", "70", "1", "", "test")],
    "one side and another word": [("x", "60", "1", "1", "train"), ("x", "70", "1", "1", "holdout")],
}


@pytest.mark.parametrize("case", UNSTATED)
def test_a_patient_on_no_side_stops_an_approval_and_after_it_is_left_out_alone(case):
    rows = (*WHOLE, *UNSTATED[case])
    with pytest.raises(
        DataUnusable, match=r"line 6 of wards.csv is of a patient on no side.*'train' or 'test'"
    ) as caught:
        sides(*rows)
    assert "60" not in str(caught.value) and "holdout" not in str(caught.value)
    assert sides(*rows, strict=False) == sides(*WHOLE)
    (problem,) = [each for each in find_problems(table(*rows), "id", {}, "side") if each.level == "error"]
    assert (problem.column, problem.rows) == ("side", tuple(range(6, 6 + len(UNSTATED[case]))))


def test_who_is_not_in_the_study_needs_no_side():
    assert sides(*WHOLE, ("x", "60", "1", "", "")) == sides(*WHOLE)


def test_an_estimate_takes_everybody_whatever_the_words_say():
    found = [(*row, word) for row, word in zip(rows(("North",), each=3), ("train", "test", "?"), strict=True)]
    whole = Table(
        Path("trial.csv"), (*TRIAL_COLUMNS, "side"), tuple(enumerate((tuple(map(str, row)) for row in found), 2))
    )
    training, everybody = prepare_records(whole, trial(), "person", bytes(32), "side", strict=False)
    seen = sum(row[-2] != "" for row in found)  # the outcome at week 8
    assert (training.patient_count, everybody.patient_count) == (0, seen)


def test_a_split_column_that_is_not_there_is_missed():
    with pytest.raises(DataUnusable, match="also fold"):
        prepare_records(table(*WHOLE), protocol(), "id", bytes(32), "fold", strict=False)
    (problem,) = [each for each in find_problems(table(*WHOLE), "id", {}, "fold") if each.level == "error"]
    assert problem.column == "fold" and "no such column" in problem.what


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["train", "test", "", "x"])), max_size=10))
def test_a_patient_less_moves_nobody_and_nobody_is_on_both_sides(cells):
    whole = stated_sides(cells)
    for patient, word in cells:
        without = stated_sides([cell for cell in cells if cell[0] != patient])
        assert without == {other: side for other, side in whole.items() if other != patient}
        if patient in whole and word:
            assert whole[patient] == (word == "test")


def test_the_commitment_changes_with_the_column():
    seen = {sides_of(bytes(32), "id", 0.25, column) for column in (None, "side", "fold")}
    assert len(seen) == 3
