"""Rows of a table as documents: one each, or all rows of one number together; columns as the administrator says."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhealth.errors import DataUnusable
from fedhealth.records.cells import is_blank, is_text
from fedhealth.records.table import Table
from fedhealth.search.documents import Code, Document
from fedhealth.search.readers.delimited import read_columns
from fedhealth.search.readers.encoding import decode
from fedhealth.search.readers.facts import age_in, codes_in, content_key, date_in, key_of, sex_in
from fedhealth.search.readers.problem import Found, Problem, checked, cleaned, made, one_line
from fedhealth.search.search_file import CodeColumn, Tables

_LONG = 60
"""Characters from which a cell is prose: it stands below its column's name and not behind it."""


@dataclass(frozen=True)
class _Row:
    place: str
    cells: Mapping[str, str]


def read_tables(source: Tables, folder: Path) -> Found:
    """Yield the documents of a table.

    Args:
        source: how it is named and read.
        folder: the site's folder.
    """
    try:
        wanted = _columns_of(source)
        table = read_columns(source, folder, wanted)
    except DataUnusable as error:
        yield Problem(source.name, "", f"{error.what}{f' ({error.got})' if error.got else ''}", "source")
        return
    for number in table.ragged:
        yield Problem(source.name, f"{table.row_word} {number}", "it is not as long as the header")
    groups: dict[tuple[str, str], list[_Row]] = {}
    for row in _rows(table, wanted):
        if is_blank(patient := row.cells[source.patient_column]):
            yield Problem(source.name, row.place, "it names no patient")
            continue
        if not is_text(patient):  # a name that is guessed would not be recognised when the patient is forgotten
            yield Problem(source.name, row.place, "it names its patient in an encoding that nothing states")
            continue
        named = row.cells[source.document_column] if source.document_column else row.place
        groups.setdefault((patient, named), []).append(row)
    while groups:
        (patient, named), rows = next(iter(groups.items()))
        del groups[patient, named]  # its text is held once
        yield from _document(source, patient, named, rows)


def _columns_of(source: Tables) -> tuple[str, ...]:
    single = (
        source.patient_column,
        source.document_column,
        source.title_column,
        source.date_column,
        source.age_column,
        source.sex_column,
    )
    codes = [column for code in source.codes for column in (code.column, code.when_column)]
    return tuple(dict.fromkeys(column for column in (*single, *source.text_columns, *codes) if column is not None))


def _rows(table: Table, columns: Sequence[str]) -> Iterator[_Row]:
    places = [(column, table.columns.index(column)) for column in columns]
    for number, cells in table.rows:
        yield _Row(f"{table.row_word} {number}", {column: cells[place] for column, place in places})


def _document(source: Tables, patient: str, named: str, rows: Sequence[_Row]) -> Found:
    place = rows[0].place if len(rows) == 1 else f"{rows[0].place} and {len(rows) - 1} more"
    texts, remarks = [], set[str]()
    for row in rows:
        text, said = _text(source, row, alone=len(rows) == 1)
        texts.append(text)
        remarks |= said
    if "" in remarks:
        yield Problem(
            source.name, place, "no text in an encoding that is known; state `encoding`, or write the table as UTF-8"
        )
        return
    whole = cleaned("\n".join(dict.fromkeys(filter(None, texts))))
    if (why := checked(whole)) is not None:
        yield Problem(source.name, place, why)
        return
    for remark in sorted(remarks):
        yield Problem(source.name, place, remark, "noted")
    first = rows[0].cells
    title = one_line(_decoded(first[source.title_column])[0]) if source.title_column else ""
    dates = [day for row in rows if source.date_column and (day := date_in(row.cells[source.date_column]))]
    yield made(
        lambda: Document(
            key=key_of(patient, named) if source.document_column else content_key(patient, title, whole),
            patient=patient,
            kind=source.kind,
            title=title,
            text=whole,
            date=min(dates, default=None),
            language=source.language,
            age=age_in(first[source.age_column]) if source.age_column else None,
            sex=sex_in(first[source.sex_column]) if source.sex_column else None,
            codes=tuple(dict.fromkeys(code for row in rows for code in _codes(source.codes, row))),
            source=source.name,
        ),
        source.name,
        place,
    )


def _text(source: Tables, row: _Row, *, alone: bool) -> tuple[str, set[str]]:
    """Return a row as text, and what is to be said of how it was read; an empty remark where it cannot be."""
    parts, remarks = [], set[str]()
    for column in source.text_columns:
        cell, said = _decoded(row.cells[column])
        if said is not None:
            remarks.add(said)
        if is_blank(cell):
            continue
        if len(source.text_columns) == 1 or not alone:
            parts.append(cell)
        else:
            parts.append(f"{column}:{chr(10) if len(cell) > _LONG else ' '}{cell}")
    return ("\n" if alone else ", ").join(parts), remarks


def _decoded(cell: str) -> tuple[str, str | None]:
    """Return a cell's text, and what is to be said of how it was read: nothing of UTF-8, "" where it cannot be."""
    if is_text(cell):
        return cell, None
    decoded = decode(cell.encode("utf-8", "surrogateescape"))
    return (decoded.text, decoded.remark) if decoded else ("", "")


def _codes(columns: Sequence[CodeColumn], row: _Row) -> Iterator[Code]:
    for each in columns:
        if each.when_column is None or row.cells[each.when_column] == each.when_value:
            yield from codes_in(row.cells[each.column], each.system)
