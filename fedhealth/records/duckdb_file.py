"""Read a Parquet file, or ask a DuckDB file, by DuckDB with everything switched off that could reach further.

Read-only; no access to other files, the network or the variables of this program; no extension is loaded or fetched;
nothing of it can be changed by the query. One thread, so that a sum inside a query has the same bits each time; times
in UTC, whatever the machine says; nothing is spilled to disk.

Source: duckdb.org/docs, "Securing DuckDB".

Invariants: of an error only what it says about the words of the query is shown: a failed conversion names the value.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import duckdb

from fedhealth.errors import DataUnusable
from fedhealth.records.source import Hidden, Plain, Rows, Value, cell_of, quoted
from fedhealth.table_source import TableSource

_AT_ONCE = 4096
_MEMORY = "4GB"
_AS_THEY_ARE = frozenset(
    {"VARCHAR", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE"}
    | {f"U{kind}INT" for kind in ("TINY", "SMALL", "BIG", "HUGE")}
    | {"UINTEGER", "BLOB"}
)
"""Types whose values Python has too; all others are cast to text by DuckDB, dates as ISO 8601."""

_ABOUT_THE_QUERY = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException)


@contextmanager
def opened_file(source: TableSource, hidden: Hidden | None = None) -> Iterator[Rows]:
    """Open a Parquet or DuckDB file and give its columns and rows, without a patient if one is to be hidden.

    Raises:
        DataUnusable: it is no such file, or locked by a program that writes to it, or the query fails.
    """
    with _failures_told(source), closing(_connect(source, hidden)) as connection:
        query, arguments = _one_select(connection, source)
        asked = connection.execute(f"SELECT * FROM ({query}\n) LIMIT 0", arguments)  # noqa: S608 - the site's own
        names = [str(name) for name, *_ in asked.description or ()]
        kinds = [str(kind) for _, kind, *_ in asked.description or ()]
        own = [f"c{number}" for number in range(len(names))]
        cells = [
            name if kind in _AS_THEY_ARE or kind.startswith("DECIMAL") else f"CAST({name} AS VARCHAR)"
            for name, kind in zip(own, kinds, strict=True)
        ]
        # By the letters' bytes, whatever the database's own collation takes for equal.
        terms = [
            f'{name} COLLATE "binary"' if kind == "VARCHAR" else name for name, kind in zip(own, kinds, strict=True)
        ]
        terms += [tie for name, kind in zip(own, kinds, strict=True) if (tie := _tie(name, kind))]
        order = "" if source.query is None else f"ORDER BY {', '.join(f'{term} NULLS FIRST' for term in terms)}"
        # The line's end closes a comment that the query may end with.
        text = f"SELECT {', '.join(cells)} FROM ({query}\n) AS asked({', '.join(own)}) {order}"  # noqa: S608 - the site's own
        result = connection.execute(text, arguments)
        yield tuple(names), _rows(result)


def _tie(name: str, kind: str) -> str | None:
    """Return what tells values apart that a type takes for equal and that are other cells; None where there are none.

    Two records of a patient would else stand in an order that others decide: 0.0 and -0.0, 1 month and 30 days.
    """
    if kind in ("FLOAT", "DOUBLE"):
        return f"signbit({name})"
    if kind in _AS_THEY_ARE or kind.startswith(("DECIMAL", "DATE", "TIME")):
        return None
    return f'CAST({name} AS VARCHAR) COLLATE "binary"'


def _connect(source: TableSource, hidden: Hidden | None) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "memory_limit": _MEMORY,
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,
    }
    if hidden is not None:
        connection = duckdb.connect(config=config)
        _copy_without(connection, source.file, hidden)
    elif source.format == "duckdb":
        connection = duckdb.connect(source.file, read_only=True, config=config)
    else:
        connection = duckdb.connect(config=config)
        connection.execute("SET allowed_paths = ?", [[str(source.file)]])
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _one_select(connection: duckdb.DuckDBPyConnection, source: TableSource) -> tuple[str, list[str]]:
    """Return the text to ask, and its arguments; the query must be one statement that only reads."""
    if source.query is None:
        return "SELECT * FROM read_parquet(?, hive_partitioning = false)", [str(source.file)]
    statements = connection.extract_statements(source.query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise DataUnusable(
            f"the query on {source.file} is not one SELECT",
            got=f"{len(statements)} statements" if len(statements) != 1 else "another statement",
            next_step="Correct `query` in site.toml.",
        )
    return statements[0].query.rstrip().rstrip(";"), []


def _copy_without(connection: duckdb.DuckDBPyConnection, path: Path, hidden: Hidden) -> None:
    """Use a copy in memory, under the file's own name, in which no table that has the column has a row of the patient.

    A copy, because a view in a table's place is passed by where the query, or a view of the database, names its schema.
    """
    file = "'" + str(path).replace("'", "''") + "'"
    connection.execute(f"ATTACH {file} (READ_ONLY)")
    own_name = "SELECT database_name FROM duckdb_databases() WHERE path IS NOT NULL AND NOT internal"
    ((name,),) = connection.execute(own_name).fetchall()
    whole, copy = quoted(f"{name} as it is"), quoted(name)
    for line in (
        f"DETACH {copy}",
        f"ATTACH {file} AS {whole} (READ_ONLY)",
        f"ATTACH ':memory:' AS {copy}",
        f"COPY FROM DATABASE {whole} TO {copy}",
        f"USE {copy}",
        f"DETACH {whole}",
    ):
        connection.execute(line)
    places = connection.execute(
        "SELECT schema_name, table_name, column_name FROM duckdb_columns() JOIN duckdb_tables() "
        "USING (database_name, schema_name, table_name) WHERE database_name = ? AND lower(column_name) = lower(?)",
        [name, hidden.column],
    ).fetchall()
    # A row that another table refers to goes after those that refer to it.
    while left := [place for place in places if not _emptied(connection, hidden.patient, *place)]:
        if len(left) == len(places):
            raise duckdb.ConstraintException("tables that refer to each other")
        places = left


def _emptied(connection: duckdb.DuckDBPyConnection, patient: str, schema: str, table: str, column: str) -> bool:
    """Take a patient's rows out of a table; say whether no other table stood against it."""
    place, name = f"{quoted(schema)}.{quoted(table)}", quoted(column)
    spelled = connection.execute(f"SELECT DISTINCT {name}, CAST({name} AS VARCHAR) FROM {place}").fetchall()  # noqa: S608 - quoted
    own = [
        text
        for value, text in spelled
        if text is not None and cell_of(value if isinstance(value, Plain) else text) == patient
    ]
    try:
        taken = f'DELETE FROM {place} WHERE CAST({name} AS VARCHAR) COLLATE "binary" IN (SELECT unnest(?::VARCHAR[]))'  # noqa: S608 - quoted
        connection.execute(taken, [own])
    except duckdb.ConstraintException:
        return False
    return True


def _rows(result: duckdb.DuckDBPyConnection) -> Iterator[tuple[Value, ...]]:
    while batch := result.fetchmany(_AT_ONCE):
        yield from batch


@contextmanager
def _failures_told(source: TableSource) -> Iterator[None]:
    try:
        yield
    except _ABOUT_THE_QUERY as error:
        raise DataUnusable(
            f"the query on {source.file} cannot be asked",
            got=str(error).partition("\n")[0],
            next_step="Correct `query` in site.toml.",
        ) from None
    except duckdb.PermissionException:
        raise DataUnusable(
            f"the query on {source.file} cannot be asked",
            got="one that reaches beyond this file",
            next_step="Correct `query` in site.toml.",
        ) from None
    except (duckdb.IOException, duckdb.InvalidInputException) as error:
        if source.query is not None and isinstance(error, duckdb.InvalidInputException):
            raise _cut_short(source, error) from None
        raise DataUnusable(
            f"the data file {source.file} cannot be opened as {source.format}",
            got="a file of another kind or version, or one that another program writes to",
            next_step="Close what writes to it, or export it again.",
        ) from None
    except (duckdb.Error, RuntimeError) as error:  # the latter where a damaged file makes an error that is no text
        raise _cut_short(source, error) from None


def _cut_short(source: TableSource, error: Exception) -> DataUnusable:
    of_a_cell = source.query is not None and isinstance(error, duckdb.DataError | duckdb.InvalidInputException)
    return DataUnusable(
        f"the data file {source.file} cannot be read to its end",
        got=type(error).__name__,
        wanted="a query that no single record can make fail" if of_a_cell else "",
        next_step="Use TRY_CAST instead of CAST in `query`." if of_a_cell else "Export it again, or mend it.",
    )
