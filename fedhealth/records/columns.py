"""What the columns of a table hold, for the administrator who connects it: types, gaps, and what looks wrong.

Everything here rests on patients and is for the hospital's own terminal. A type is all that is written down; of a
problem the rows are named, never a value.

Leaves to others: whether a study can use the table (`fedhealth.records.study_fit`).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from fedhealth.records.cells import is_blank, is_text, is_unreadable, number_of
from fedhealth.records.images import name_files
from fedhealth.records.molecules import look_like_smiles
from fedhealth.records.split import SIDE_WORDS, stated_sides
from fedhealth.records.table import Table, patients_per_row
from fedhealth.table_source import ColumnType

NEARLY_UNIQUE = 0.95
"""New values per row from which on a column may well number visits, or name persons."""

_MOSTLY = 0.9
_MOST_CATEGORIES = 50
_FEW_ROWS = 20
_FEW_CODES = 3
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}(:?\d{2})?)?)?", re.ASCII)
_OTHER_DATE = re.compile(r"\d{1,2}([./-])\d{1,2}\1\d{2}(\d{2})?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_PATIENT = re.compile(
    r"(patient|pat|pid|mrn|subject|subj|person|case|participant|individual)(_?(id|nr|no|num|number|key|code))?|id|nr"
)
_NOT_MEASURED = frozenset({-9.0, -99.0, -999.0, -9999.0, 99.0, 999.0, 9999.0, 99999.0})


@dataclass(frozen=True)
class Problem:
    """Something about a table that a person should deal with, or know.

    Attributes:
        level: an error keeps a study from being approved, or rows from being read.
        column: where; empty for the whole table.
        what: in words, without a value of a patient.
        next_step: what to do.
        rows: the rows it is about, by the table's own numbers.
    """

    level: Literal["error", "warning"]
    column: str
    what: str
    next_step: str
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Attributes:
        name: as in the header.
        type: what nearly all of its cells are.
        blank_share: of the rows, in [0, 1].
        doubts: what looks wrong.
    """

    name: str
    type: ColumnType
    blank_share: float
    doubts: tuple[str, ...]


def describe_columns(table: Table, patient_column: str) -> tuple[Column, ...]:
    """Return what each column of a table holds.

    Args:
        table: the whole table.
        patient_column: one of its columns.
    """
    found = []
    for name in table.columns:
        filled = Counter({cell: count for cell, count in _counts(table, name).items() if not is_blank(cell)})
        kind: ColumnType = "patient" if name == patient_column else _type_of(filled)
        files = kind == "text" and name_files(table.folder, filled)
        share = 1 - filled.total() / len(table.rows) if table.rows else 1.0
        doubts = _patient_doubts(table, name) if kind == "patient" else _doubts(filled, kind, names_files=files)
        found.append(Column(name, kind, share, tuple(doubts)))
    return tuple(found)


def patient_candidates(table: Table) -> tuple[str, ...]:
    """Return the columns that may name the patient, the likeliest first.

    A column may if its name says so and it has no blank; where none is named so, every column without a blank that
    repeats no more than a patient's records do and is no measured quantity.
    """
    gapless = [name for name in table.columns if _is_gapless(table, name)]
    named = [name for name in gapless if _PATIENT.fullmatch(re.sub(r"[\s.-]+", "_", name.strip().lower()))]
    likeliest = sorted(named, key=lambda name: (name.lower() in ("id", "nr"), table.columns.index(name)))
    return tuple(likeliest or [name for name in gapless if _may_be_an_identifier(table, name)])


def find_problems(
    table: Table, patient_column: str, declared: Mapping[str, ColumnType], split_column: str | None = None
) -> tuple[Problem, ...]:
    """Return all that is wrong with a table, or may be.

    Args:
        table: read without `strict`, so that everything wrong can be told at once.
        patient_column: as site.toml names it.
        declared: the columns that site.toml lists, and their types; none if it lists none.
        split_column: as site.toml names it, if it does.
    """
    return (*_problems(table, patient_column, declared), *_split_problems(table, patient_column, split_column))


def cells_of(table: Table, column: str) -> Iterator[tuple[int, str]]:
    """Yield the number of each row and its cell in a column."""
    place = table.columns.index(column)
    return ((line, row[place]) for line, row in table.rows)


def _problems(table: Table, patient_column: str, declared: Mapping[str, ColumnType]) -> Iterator[Problem]:
    if not table.rows:
        yield Problem("error", "", "the table has no rows", "Export it again, or correct `query`.")
    if table.ragged:
        yield Problem(
            "error",
            "",
            f"lines that do not have {len(table.columns)} cells as the header does",
            "Correct the lines or export the file again; after an approval they are left out.",
            table.ragged,
        )
    for name in (patient_column, *declared):
        if name not in table.columns and (name != patient_column or name not in declared):
            yield Problem("error", name, "there is no such column", "Put it back, or correct site.toml.")
    for column in describe_columns(table, patient_column):
        yield from _column_problems(table, column, declared)


def _split_problems(table: Table, patient_column: str, split_column: str | None) -> Iterator[Problem]:
    if split_column is None:
        return
    if split_column not in table.columns:
        yield Problem("error", split_column, "there is no such column", "Put it back, or correct site.toml.")
        return
    patients, words = cells_of(table, patient_column), cells_of(table, split_column)
    named = [(line, patient, word) for (line, patient), (_, word) in zip(patients, words, strict=True) if patient]
    stated = stated_sides((patient, word) for _, patient, word in named)
    if nowhere := tuple(line for line, patient, _ in named if patient not in stated):
        yield Problem(
            "error",
            split_column,
            f"patients of whom it does not say one of {' and '.join(map(repr, SIDE_WORDS))}",
            "Correct the cells; after an approval the patients are left out.",
            nowhere,
        )


def _counts(table: Table, column: str) -> Counter[str]:
    """Return how often each cell occurs in a column: each is looked at once, however many rows there are."""
    return Counter(cell for _, cell in cells_of(table, column))


def _rows_with(table: Table, column: str, is_meant: Callable[[str], bool]) -> tuple[int, ...]:
    meant = {cell for cell in _counts(table, column) if is_meant(cell)}
    return tuple(line for line, cell in cells_of(table, column) if cell in meant) if meant else ()


def _column_problems(table: Table, column: Column, declared: Mapping[str, ColumnType]) -> Iterator[Problem]:
    name, listed = column.name, declared.get(column.name)
    kind = listed or column.type
    if declared and listed is None:
        yield Problem("warning", name, "a column that site.toml does not list", "List it, or leave it out.")
    if broken := _rows_with(table, name, lambda cell: not is_text(cell)):
        yield Problem("error", name, "bytes that are not UTF-8", "Export it again in UTF-8.", broken)
    if kind == "number":
        if text := _rows_with(table, name, is_unreadable):
            yield Problem(
                "error",
                name,
                "text, or a number that is not finite, among numbers",
                "Correct the cells; after an approval each counts its patient as zero.",
                text,
            )
    elif listed and column.type not in (listed, "blank") and listed != "blank":
        yield Problem("warning", name, f"was {listed} and looks like {column.type} now", "Find out what changed.")
    if kind == "patient" and (nobody := _rows_with(table, name, lambda cell: not cell)):
        yield Problem("warning", name, "rows that name no patient; they are left out", "Complete them.", nobody)
    for doubt in column.doubts:
        yield Problem("warning", name, doubt, "Look at the column.")


def _type_of(filled: Counter[str]) -> ColumnType:
    if not filled:
        return "blank"
    total = filled.total()
    if sum(count for cell, count in filled.items() if not is_unreadable(cell)) >= _MOSTLY * total:
        return "number"
    if sum(count for cell, count in filled.items() if _is_date(cell)) >= _MOSTLY * total:
        return "date"
    return "category" if len(filled) <= _MOST_CATEGORIES and 2 * len(filled) <= total else "text"


def _is_date(cell: str) -> bool:
    return bool(_DATE.fullmatch(cell) or _OTHER_DATE.fullmatch(cell))


def _patient_doubts(table: Table, name: str) -> Iterator[str]:
    if patients_per_row(table, name) >= NEARLY_UNIQUE:
        yield "nearly every row has a new value: right only if each patient has one row; else it numbers visits"


def _doubts(filled: Counter[str], kind: ColumnType, *, names_files: bool) -> Iterator[str]:
    values, total = set(filled), filled.total()
    if kind == "blank":
        yield "nothing in it"
    elif len(values) == 1:
        yield "one value only"
    if sum(count for cell, count in filled.items() if _DECIMAL_COMMA.fullmatch(cell)) * 2 > total:
        yield "decimal commas: to a study that is text"
    if kind == "date" and any(not _DATE.fullmatch(cell) for cell in values):
        yield "dates that are not written YYYY-MM-DD"
    if kind == "category" and len({" ".join(value.casefold().split()) for value in values}) < len(values):
        yield "one word in several spellings"
    if total >= _FEW_ROWS and len(values) >= NEARLY_UNIQUE * total:
        if kind == "text" and not look_like_smiles(values) and not names_files:
            yield "nearly every row has its own text: names, or another number of the person? leave it out"
        if kind == "number" and all(cell.isdecimal() for cell in values):
            yield "nearly every row has its own whole number: another number of the person? leave it out"
    if kind == "number":
        yield from _codes(filled)


def _codes(filled: Counter[str]) -> Iterator[str]:
    """Name numbers such as -9 or 999 that stand apart from all others and so may mean "not measured"."""
    numbers = sorted({number for number in map(number_of, filled) if number is not None and number == number})
    for code in (numbers[0], numbers[-1]) if len(numbers) > 2 else ():
        rest = [number for number in numbers if number != code]
        apart = min(abs(code - rest[0]), abs(code - rest[-1])) > 2 * (rest[-1] - rest[0])
        negative = code < 0 <= rest[0]
        if code in _NOT_MEASURED and (apart or negative):
            yield f"{code:g} stands apart: does it mean `not measured`? a study can name it in missing_values"


def _is_gapless(table: Table, name: str) -> bool:
    return bool(table.rows) and not any(map(is_blank, _counts(table, name)))


def _may_be_an_identifier(table: Table, name: str) -> bool:
    cells = _counts(table, name)
    quantity = all(not is_unreadable(cell) for cell in cells) and any("." in cell or "-" in cell for cell in cells)
    often = len(cells) <= _FEW_CODES or 10 * len(cells) < len(table.rows)
    return not quantity and not often and not all(map(_is_date, cells))
