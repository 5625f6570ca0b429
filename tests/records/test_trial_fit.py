"""What the administrator is told of a table before a trial is approved there; nothing of it stops a release."""

from pathlib import Path

import pytest
from made_up_trial import COLUMNS, rows, trial

from fedhealth.records.study_fit import find_giveaways, find_misfits
from fedhealth.records.table import Table
from fedhealth.records.trial_fit import find_trial_problems

TWO = trial(("week_4", "week_8"))
PERSON, DRUG, BEFORE, SEX, FIRST, SECOND = range(1, 7)


def table(found, columns=COLUMNS):
    return Table(Path("made up"), columns, tuple(enumerate((tuple(str(cell) for cell in row) for row in found), 2)))


def with_cells(found, place, word, chosen=lambda row: True):
    return [(*row[:place], word, *row[place + 1 :]) if chosen(row) else row for row in found]


def test_a_table_as_the_trial_wants_it_leaves_no_doubt():
    assert list(find_trial_problems(table(rows()), TWO)) == []
    assert find_misfits(table(rows()), TWO) == ()


DOUBTS = {
    "one arm only": (with_cells(rows(), DRUG, "none"), "drug", "in arm 'low', 'high'"),
    "an arm whose patients have no outcome": (
        with_cells(rows(), FIRST, "", lambda row: row[DRUG] == "low"),
        "drug",
        "in arm 'low'",
    ),
    "one outcome for all": (with_cells(rows(), SECOND, "-5"), "week_8", "the same outcome"),
    "a visit without outcomes": (with_cells(rows(), SECOND, ""), "week_8", "no patient has an outcome"),
    "an outcome beyond the range": (
        with_cells(rows(), FIRST, "-31", lambda row: row[PERSON] == "West-3"),
        "week_4",
        "-30 to 10",
    ),
    "an outcome after a missed visit": (
        with_cells(rows(), FIRST, "", lambda row: row[PERSON] == "West-3"),
        "week_8",
        "not used",
    ),
}


@pytest.mark.parametrize(("found", "column", "what"), DOUBTS.values(), ids=DOUBTS)
def test_a_doubt_is_a_warning_with_a_next_step(found, column, what):
    doubts = [each for each in find_trial_problems(table(found), TWO) if what in each.what]
    (doubt,) = doubts
    assert (doubt.level, doubt.column) == ("warning", column)
    assert doubt.next_step
    assert doubt in find_misfits(table(found), TWO)


def test_rows_are_named_and_no_value_is():
    at = next(number for number, row in enumerate(rows(), 2) if row[PERSON] == "West-3")
    (doubt,) = find_trial_problems(table(DOUBTS["an outcome beyond the range"][0]), TWO)
    assert doubt.rows == (at,)
    assert "-31" not in str(doubt)


def test_an_unknown_arm_is_told():
    found = with_cells(rows(), DRUG, "Low ", lambda row: row[DRUG] == "low")
    (misfit,) = [each for each in find_misfits(table(found), TWO) if "spelled otherwise" in each.what]
    assert misfit.column == "drug"


def test_a_finding_that_tells_the_arm_is_told():
    found = [(*row[:BEFORE], 70 if row[DRUG] != "none" else 30, *row[BEFORE + 1 :]) for row in rows()]
    (giveaway,) = find_giveaways(table(found), trial())
    assert str(giveaway).startswith("column 'before' nearly tells the arm by its value")


def test_nothing_is_said_of_columns_that_are_not_there():
    assert list(find_trial_problems(table([row[:-1] for row in rows()], COLUMNS[:-1]), TWO)) == []
