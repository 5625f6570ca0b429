"""Tables of `search.toml`: what a data set's table may be, and CSV as hospitals' programs write it.

A program in French writes semicolons, because its numbers have commas, and often Windows-1252. Between which signs the
cells stand is not guessed from how often a sign occurs: it is the one by which the header has the columns that
`search.toml` names. Where no sign gives all of them, nothing is read. A file that is no UTF-8 is read cell by cell by
whoever knows what the cell is, unless its encoding is stated; names of columns are decoded by their letters.

Invariants: of a table only the columns asked for are held; of an error, nothing of a cell is shown.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from fedhealth.errors import DataUnusable
from fedhealth.records.cells import is_text
from fedhealth.records.source import read_source
from fedhealth.records.table import Table
from fedhealth.search.readers.encoding import decode
from fedhealth.search.search_file import TableFile
from fedhealth.secret_file import read_plain_file

MAX_TABLE_BYTES = 512 * 2**20
"""Of a CSV file, which is held as text some four times over while it is read."""

_SIGNS = (",", ";", "\t", "|")
_CALLED = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_NEXT = "Correct `search.toml` or export the table again."


def read_columns(file: TableFile, folder: Path, columns: Sequence[str]) -> Table:
    """Read columns of a table.

    Args:
        file: how it is named and written.
        folder: the site's folder.
        columns: those asked for; of a CSV file no others are held.

    Raises:
        DataUnusable: it cannot be read, or has not all of these columns, or one of them twice.
    """
    source = file.table_source(folder)
    table = _read(source.file, file, columns) if source.format == "csv" else read_source(source, strict=False)
    if missing := [column for column in columns if column not in table.columns]:
        raise DataUnusable(f"the table has no column {', '.join(map(repr, missing))}", next_step=_NEXT)
    return table


def _read(path: Path, file: TableFile, columns: Sequence[str]) -> Table:
    lines = io.StringIO(_text(path, file.encoding), newline="")
    sign, header = _header(lines, file.delimiter, columns)
    places = [header.index(column) for column in columns]
    rows: list[tuple[int, tuple[str, ...]]] = []
    ragged: list[int] = []
    reader = csv.reader(lines, delimiter=sign, strict=True)
    try:
        next(reader)
        for row in reader:
            if len(row) == len(header):
                rows.append((reader.line_num, tuple(row[place].strip() for place in places)))
            elif row:
                ragged.append(reader.line_num)
    except csv.Error as error:
        raise DataUnusable(
            "it is not a CSV file", got=f"quotes that do not pair, near line {reader.line_num}", next_step=_NEXT
        ) from error
    return Table(path, tuple(columns), tuple(rows), tuple(ragged))


def _text(path: Path, encoding: str | None) -> str:
    try:
        raw = read_plain_file(path, MAX_TABLE_BYTES)
    except OSError as error:
        raise DataUnusable("it cannot be read", got=error.strerror or "an error", next_step=_NEXT) from error
    if encoding is not None:
        try:
            return raw.decode(encoding).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            raise DataUnusable(
                f"it is not in {encoding}", got=f"other bytes near line {line}", next_step=_NEXT
            ) from error
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:1000]:  # UTF-16, as Excel's "Unicode text" is
        if (decoded := decode(raw)) is None:
            raise DataUnusable("it is no text in an encoding that is known", next_step=_NEXT)
        return decoded.text
    return raw.decode("utf-8-sig", "surrogateescape")


def _header(lines: io.StringIO, delimiter: str | None, columns: Sequence[str]) -> tuple[str, list[str]]:
    """Return the sign between cells, and the header, and leave the lines at its beginning."""
    first = lines.readline().strip()
    begin = 0
    if first.lower().startswith("sep=") and len(first) == 5:  # Excel's own way of saying it
        begin, delimiter = lines.tell(), delimiter or first[4]
    best: tuple[int, str, list[str]] = (-1, ",", [])
    for sign in (delimiter,) if delimiter else _SIGNS:
        lines.seek(begin)
        try:
            header = [_named(cell) for cell in next(csv.reader(lines, delimiter=sign, strict=True), [])]
        except csv.Error:
            continue
        best = max(best, (len(set(columns) & set(header)), sign, header), key=lambda each: each[0])
    lines.seek(begin)
    found, sign, header = best
    if missing := [column for column in columns if column not in header]:
        called = _CALLED.get(sign, f"'{sign}'")
        raise DataUnusable(
            f"the table has no column {', '.join(map(repr, missing))}",
            got=f"{len(header)} columns, {found} of them asked for, with {called} between",
            next_step=_NEXT,
        )
    if twice := [column for column in columns if header.count(column) > 1]:
        raise DataUnusable(f"the table has column {twice[0]!r} twice", next_step=_NEXT)
    return sign, header


def _named(cell: str) -> str:
    """Return a column's name, also where the file is not UTF-8."""
    if not is_text(cell) and (decoded := decode(cell.encode("utf-8", "surrogateescape"))):
        cell = decoded.text
    return cell.strip()
