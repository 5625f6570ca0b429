"""Read a data set's table, whatever it is kept in: CSV, Parquet, or a query on a DuckDB or SQLite file.

All four give the same `Table` of text cells, so that what follows is one code path. A cell of text is stripped, as in
a CSV file; NULL and a number that is none (NaN) are blank; a number is written so that reading it back gives the same
bits, and a whole one without a point, because databases turn a column of whole numbers with gaps into 12.0, and the
patient "12" must stay on the same side; a truth value is 1 or 0, bytes are hexadecimal. So no two patients of a
column become one.

A file's rows keep their order. A query has none: its rows are sorted by its columns from left to right, blanks first,
so that the same data have the same version, and the same records of a patient are the first.

Invariants: a file is opened for reading only; nothing but this one file can be reached by a query, no network and no
extension; nothing of a value is in a message.
"""

import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from fedhealth.errors import ConfigInvalid, DataUnusable
from fedhealth.records.cells import is_text
from fedhealth.records.table import MAX_TABLE_CELLS, Table, checked_header, read_table, too_many_cells
from fedhealth.table_source import QUERIED, TableFormat, TableSource, format_of

Plain = bool | int | float | Decimal | str | bytes
Value = Plain | None
Rows = tuple[tuple[str, ...], Iterable[tuple[Value, ...]]]
"""Names of the columns, and the rows as the database gives them."""


@dataclass(frozen=True)
class Hidden:
    """A patient who is taken away from a database before it is asked, to see whose rows change.

    Attributes:
        column: the column that names the patient, in each table that has one of this name.
        patient: as a cell of the table says it.
    """

    column: str
    patient: str


_WHOLE = 2.0**53
"""Below it, a whole number as a float is that number and no other."""


def read_source(source: TableSource, *, strict: bool, hidden: Hidden | None = None) -> Table:
    """Read a data set's table.

    Args:
        source: where it is.
        strict: refuse what `read_table` refuses, and text that is not UTF-8.
        hidden: a patient to be left out of the tables that a query is asked of.

    Raises:
        DataUnusable: missing, unreadable, without a header, too large, or in the middle of a change; or the query
            fails; or `strict` and there are no rows, or there is text that is not UTF-8.
    """
    _check_file(source)
    if source.format == "csv":
        return read_table(source.file, strict=strict)
    with _OPENED[source.format](source, hidden) as (names, values):
        columns = checked_header(names, source.file)
        rows = tuple(_numbered(values, columns, source, strict))
    if strict and not rows:
        raise DataUnusable(f"the data file {source.file} has no rows", next_step="Export it again, or correct `query`.")
    return Table(source.file, columns, rows, row_word="row")


def read_table_file(file: Path) -> Table:
    """Read a table that somebody may look at, from a file that holds no other: CSV or Parquet, strictly.

    Raises:
        ConfigInvalid: the file holds many tables.
        DataUnusable: as `read_source`.
    """
    if format_of(file) in QUERIED:
        raise ConfigInvalid(
            f"{file} holds many tables", wanted="a CSV or Parquet file", next_step="Export the one table you mean."
        )
    return read_source(TableSource(file.resolve(), format_of(file)), strict=True)


def cell_of(value: Value) -> str:
    """Return a database's value as the cell of a table; see the module for how."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) < _WHOLE else repr(value)
    if isinstance(value, Decimal):
        digits = f"{value:f}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    return f"x'{value.hex()}'" if isinstance(value, bytes) else str(int(value))


def quoted(name: str) -> str:
    """Return the name of a table or column as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def _numbered(
    values: Iterable[tuple[Value, ...]], columns: tuple[str, ...], source: TableSource, strict: bool
) -> Iterator[tuple[int, tuple[str, ...]]]:
    for number, row in enumerate(values, 1):
        if number * len(columns) > MAX_TABLE_CELLS:
            raise too_many_cells(source.file)
        cells = tuple(map(cell_of, row))
        if strict and (broken := [column for column, cell in zip(columns, cells, strict=True) if not is_text(cell)]):
            raise DataUnusable(
                f"row {number}, column '{broken[0]}' of {source.file} is not in UTF-8",
                next_step="Correct the cell, or write the database again in UTF-8.",
            )
        yield number, cells


def _check_file(source: TableSource) -> None:
    """Refuse early, and in the same words for every format, a file that cannot be read."""
    try:
        plain, why = stat.S_ISREG(source.file.stat().st_mode), "a folder, a pipe or a device"
        if plain:
            source.file.open("rb").close()
    except OSError as error:
        plain, why = False, error.strerror or "an error"
    if not plain:
        raise DataUnusable(
            f"the data file {source.file} cannot be read",
            got=why,
            next_step="Check `file` in site.toml and the permissions of the gate's user.",
        )


def _opened_by_duckdb(source: TableSource, hidden: Hidden | None) -> AbstractContextManager[Rows]:
    # Loaded where a data set needs it alone: a gate with a CSV file runs no database's native code.
    from fedhealth.records.duckdb_file import opened_file

    return opened_file(source, hidden)


def _opened_by_sqlite(source: TableSource, hidden: Hidden | None) -> AbstractContextManager[Rows]:
    from fedhealth.records.sqlite_file import opened_file

    return opened_file(source, hidden)


_OPENED: dict[TableFormat, Callable[[TableSource, Hidden | None], AbstractContextManager[Rows]]] = {
    "parquet": _opened_by_duckdb,
    "duckdb": _opened_by_duckdb,
    "sqlite": _opened_by_sqlite,
}
