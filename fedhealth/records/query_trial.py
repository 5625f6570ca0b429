"""Try whether each row of a query rests on its own patient alone: take a patient away, ask again, and compare.

The guarantee says what changes when one patient is taken away. A query that subtracts the average of all patients, or
ranks them, changes everybody's rows then, and the guarantee is void. No program can read that off a query's words for
certain; but it can do what the guarantee speaks of, and look. The patient is taken out of all tables of a copy in
memory, and what the query then gives must be what it gave, less that patient's rows.

Leaves to others: a proof. A few patients are tried, and only where tables name the patient by the same column as the
query's result; so whoever connects the data set still attests it.
"""

from fedhealth.errors import DataUnusable
from fedhealth.records.columns import Problem
from fedhealth.records.source import Hidden, read_source
from fedhealth.records.table import Table
from fedhealth.table_source import TableSource

PATIENTS_TRIED = 5
"""Spread over the order of their names, the first and the last among them."""

MOST_BYTES = 2**30
"""Of a database that is tried: the file is copied to memory for it."""


def try_query(source: TableSource, table: Table, patient_column: str) -> Problem | None:
    """Return what is wrong with a query, or None if nothing was found or there is no query.

    Args:
        source: what was read.
        table: what it gave.
        patient_column: names the patient, in the table and in the database.

    Returns:
        An error if rows of other patients change when one is taken away; a warning if that could not be tried.
    """
    if source.query is None or patient_column not in table.columns:
        return None
    place = table.columns.index(patient_column)
    patients = sorted({cells[place] for _, cells in table.rows if cells[place]})
    spread = [(len(patients) - 1) * step // (PATIENTS_TRIED - 1) for step in range(PATIENTS_TRIED)]
    for patient in dict.fromkeys(patients[number] for number in spread if patients):
        left = _without(source, Hidden(patient_column, patient))
        if left is None or any(cells[place] == patient for cells in left):
            return _UNTRIED
        if left != [cells for _, cells in table.rows if cells[place] != patient]:
            return _RESTS_ON_OTHERS
    return None


def check_rows_alone(source: TableSource, table: Table, patient_column: str) -> None:
    """Refuse a query of which it is known that its rows do not each rest on their own patient alone.

    Raises:
        DataUnusable: rows of other patients change when one is taken away.
    """
    problem = try_query(source, table, patient_column)
    if problem is not None and problem.level == "error":
        raise DataUnusable(f"the query on {source.file} cannot be used", got=problem.what, next_step=problem.next_step)


def _without(source: TableSource, hidden: Hidden) -> list[tuple[str, ...]] | None:
    try:
        if source.file.stat().st_size > MOST_BYTES:
            return None
        return [cells for _, cells in read_source(source, strict=False, hidden=hidden).rows]
    except DataUnusable:
        return None


_RESTS_ON_OTHERS = Problem(
    "error",
    "",
    "rows of other patients change when one patient is taken away",
    "Take out of `query` what looks at several patients: averages, ranks, joins between patients. The guarantee "
    "protects nobody otherwise.",
)
_UNTRIED = Problem(
    "warning",
    "",
    "it could not be tried whether each row of the query rests on its own patient alone",
    "Name the patient in `query` as its tables do; or read the query once more, with somebody else.",
)
