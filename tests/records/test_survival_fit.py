"""What an administrator is told of times and endings before a study of survival is approved, and what stops it."""

from pathlib import Path

import pytest
from survival_study import survival_study

from fedhealth.errors import DataUnusable
from fedhealth.records.study_fit import find_giveaways, find_misfits
from fedhealth.records.survival_fit import find_follow_up_problems
from fedhealth.records.table import Table, prepare_records

STUDY = survival_study()
WELL = [("well", str(weeks)) for weeks in range(1, 21)]
RELAPSED = [("relapse", str(weeks)) for weeks in range(1, 8)]


def table_of(endings, columns=("person", "age", "drug", "status", "weeks")):
    rows = [(str(number), "50", "a", status, weeks) for number, (status, weeks) in enumerate(endings)]
    return Table(Path("ward.csv"), columns, tuple(enumerate(rows, start=2)))


@pytest.mark.parametrize(
    ("endings", "said"),
    [
        (RELAPSED + WELL, []),
        (WELL, [("warning", "status", "nobody has the event")]),
        ([("relapse", "60")] * 9 + WELL, [("warning", "status", "nobody has the event")]),  # all after the horizon
        (RELAPSED[:4] + WELL, [("warning", "status", "fewer than 5")]),
        (RELAPSED, [("warning", "status", "everybody has the event")]),
        ([("moved", "3"), ("well", "")], [("warning", "status", "nobody has a time")]),
        ([*RELAPSED, ("well", "-2"), ("well", "-0.5"), *WELL], [("error", "weeks", "before it began")]),
    ],
    ids=["fit", "all censored", "events too late", "few events", "no one censored", "no endings", "negative times"],
)
def test_times_and_endings_that_do_not_fit_are_told(endings, said):
    found = find_follow_up_problems(table_of(endings), STUDY)
    assert [(each.level, each.column) for each in found] == [each[:2] for each in said]
    assert all(words in each.what for each, (*_, words) in zip(found, said, strict=True))
    assert set(found) <= set(find_misfits(table_of(endings), STUDY))


def test_rows_with_a_negative_time_are_named_and_stop_an_approval_but_never_a_run():
    table = table_of([*RELAPSED, ("well", "-2"), *WELL])
    assert find_follow_up_problems(table, STUDY)[0].rows == (9,)
    with pytest.raises(DataUnusable, match="line 9, column 'weeks'") as refused:
        prepare_records(table, STUDY, "person", bytes(32), strict=True)
    assert "-2" not in str(refused.value)
    running = prepare_records(table, STUDY, "person", bytes(32), strict=False)
    without = prepare_records(table_of([*RELAPSED, *WELL]), STUDY, "person", bytes(32), strict=False)
    # Named by place, so that who is held out differs; together they are as many as without the row.
    assert sum(side.patient_count for side in running) == sum(side.patient_count for side in without)


def test_a_table_without_the_time_is_said_once():
    table = table_of(RELAPSED, ("person", "age", "drug", "status", "days"))
    assert find_follow_up_problems(table, STUDY) == ()
    assert find_giveaways(table, STUDY) == ()
    assert [each.column for each in find_misfits(table, STUDY) if each.level == "error"] == ["weeks"]
