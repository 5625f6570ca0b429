"""Where a hospital's table comes from: a file, its format, and the query that a database is asked.

What a query may be is decided on its words alone, without a database: one `SELECT` whose rows each rest on the records
of one patient. That last part no program can see in full. Found here are the usual ways to break it (`LIMIT`, samples,
windows over everybody, random numbers); the rest is attested by whoever connects the data set.

Leaves to others: reading (`fedhealth.records.source`), and that the file lies in the site's folder
(`fedhealth.policy.site_file`).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

TableFormat = Literal["csv", "parquet", "duckdb", "sqlite"]

TABLE_FORMATS: tuple[TableFormat, ...] = get_args(TableFormat)

ColumnType = Literal["patient", "number", "category", "date", "text", "blank"]
"""What a column holds: who the patient is, numbers, words of a short list, dates, other text, nothing yet."""

QUERIED: frozenset[TableFormat] = frozenset({"duckdb", "sqlite"})
"""Formats that hold many tables, so that a query says which rows are meant."""

_SUFFIXES: dict[str, TableFormat] = {
    ".parquet": "parquet",
    ".duckdb": "duckdb",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".db": "sqlite",
}

_NO_WORDS = re.compile(
    r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\$\$.*?\$\$",
    re.DOTALL,
)
_CUTS = re.compile(r"\b(limit|offset|fetch|sample|tablesample)\b", re.IGNORECASE)
_CHANCE = re.compile(r"\b(random|randomblob|uuid|gen_random_uuid|nextval)\s*\(", re.IGNORECASE)
_WINDOW = re.compile(r"\bover\b(?!\s*\(\s*partition\s+by\b)", re.IGNORECASE)


@dataclass(frozen=True)
class TableSource:
    """One table to be read.

    Attributes:
        file: where it is, absolute.
        format: how it is written.
        query: what is asked of a database; None for a file that is one table.
    """

    file: Path
    format: TableFormat
    query: str | None = None


def format_of(file: Path) -> TableFormat:
    """Return the format that a file's name says; CSV where it says none."""
    return _SUFFIXES.get(file.suffix.lower(), "csv")


def check_query(query: str | None, table_format: TableFormat) -> None:
    """Refuse a query that cannot be one of a data set's.

    Args:
        query: SQL in the database's own dialect.
        table_format: of the file that is asked.

    Raises:
        ValueError: missing or not wanted; or its rows would rest on more than one patient, or change by chance.
    """
    if (query is not None) != (table_format in QUERIED):
        raise ValueError("query is given exactly where the format is duckdb or sqlite")
    words = _NO_WORDS.sub(" ", query or "")
    if found := _CUTS.search(words):
        raise ValueError(
            f"query uses {found[1].upper()}: where one patient leaves, another's rows would come in "
            f"(a column of that name is written in double quotes)"
        )
    if found := _CHANCE.search(words):
        raise ValueError(f"query uses {found[1]}(): it must give the same rows each time")
    if _WINDOW.search(words):
        raise ValueError("query uses OVER without PARTITION BY: a row would rest on other patients' records")
