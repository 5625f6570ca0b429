"""Ask a SQLite file, opened so that it cannot be changed and nothing else can be reached.

Opened as `immutable`, because a gate may write nothing beside it, not even a lock. So what SQLite would protect by
locks is looked at here: a write-ahead log or a journal that holds changes is refused, and so is a file that changed
while it was read. An authorizer allows reading and functions, nothing else; ATTACH is refused twice. What sorting
needs is held in memory.

Source: sqlite.org/uri.html, sqlite.org/c3ref/set_authorizer.html, sqlite.org/fileformat.html section 3 (journal).

Invariants: of an error only what it says about the words of the query is shown.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fedhealth.errors import DataUnusable
from fedhealth.records.source import Hidden, Rows, cell_of, quoted
from fedhealth.table_source import TableSource

_ALLOWED = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE},
)
_FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit"})
_JOURNAL_IN_USE = bytes.fromhex("d9d505f920a163d7")


@contextmanager
def opened_file(source: TableSource, hidden: Hidden | None = None) -> Iterator[Rows]:
    """Open a SQLite file and give the columns and rows of a query, without a patient if one is to be hidden.

    Raises:
        DataUnusable: it is no such file, or in the middle of a change, or the query fails.
    """
    query = (source.query or "").rstrip().rstrip(";")
    _check_at_rest(source.file)
    before = _state_of(source.file)
    try:
        with closing(_connect(source.file, hidden)) as connection:
            names = _columns(connection, query, source.file)
            order = ", ".join(f"{number} COLLATE BINARY" for number in range(1, len(names) + 1))
            # The line's end closes a comment that the query may end with.
            yield names, connection.execute(f"SELECT * FROM ({query}\n) ORDER BY {order}")  # noqa: S608 - the site's own
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        raise DataUnusable(
            f"the data file {source.file} cannot be read to its end",
            got="a file of another kind" if name == "SQLITE_NOTADB" else name,
            wanted="a SQLite file, and a query that no single record can make fail",
            next_step="Check `file` and `query` in site.toml, and the file with: PRAGMA integrity_check",
        ) from None
    if _state_of(source.file) != before:
        raise _being_changed(source.file)


def _connect(path: Path, hidden: Hidden | None) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    if hidden is not None:
        with closing(connection) as whole:
            connection = _copy_without(whole, hidden)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    for setting in ("query_only = ON", "trusted_schema = OFF", "temp_store = MEMORY", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {setting}")
    connection.set_authorizer(_authorize)
    return connection


def _copy_without(whole: sqlite3.Connection, hidden: Hidden) -> sqlite3.Connection:
    """Return a copy in memory in which no table that has the column has a row of the patient."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    whole.backup(copy)
    copy.create_function("cell_of", 1, cell_of, deterministic=True)
    for (trigger,) in copy.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        copy.execute(f"DROP TRIGGER {quoted(trigger)}")
    for (table,) in copy.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
        for _, column, *_ in copy.execute(f"PRAGMA table_info({quoted(table)})").fetchall():
            if column.lower() == hidden.column.lower():
                sql = f"DELETE FROM {quoted(table)} WHERE cell_of({quoted(column)}) = ?"  # noqa: S608 - quoted
                copy.execute(sql, [hidden.patient])
    return copy


def _authorize(action: int, _: str | None, name: str | None, *__: object) -> int:
    function = action == sqlite3.SQLITE_FUNCTION and (name or "").lower() in _FORBIDDEN_FUNCTIONS
    return sqlite3.SQLITE_DENY if action not in _ALLOWED or function else sqlite3.SQLITE_OK


def _columns(connection: sqlite3.Connection, query: str, path: Path) -> tuple[str, ...]:
    """Return the names of a query's columns, and refuse a query that cannot be asked."""
    try:
        with closing(connection.execute(f"EXPLAIN {query}")):  # looks at the words, before any record is read
            pass
    except (sqlite3.Error, sqlite3.Warning) as error:
        if getattr(error, "sqlite_errorname", "SQLITE_ERROR") not in ("SQLITE_ERROR", "SQLITE_AUTH"):
            raise  # of the file, not of the words
        raise DataUnusable(
            f"the query on {path} cannot be asked",
            got=" ".join(str(error).split()),
            wanted="one SELECT",
            next_step="Correct `query` in site.toml.",
        ) from None
    with closing(connection.execute(query)) as asked:
        return tuple(name for name, *_ in asked.description or ())


def _check_at_rest(path: Path) -> None:
    log, journal = Path(f"{path}-wal"), Path(f"{path}-journal")
    try:
        logged = log.stat().st_size
    except FileNotFoundError:
        logged = 0
    try:
        with journal.open("rb") as file:
            in_use = file.read(8) == _JOURNAL_IN_USE
    except FileNotFoundError:
        in_use = False
    except OSError:
        in_use = True  # nobody can say that it is not
    if logged or in_use:
        raise _being_changed(path)


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None  # taken away
    return status.st_ino, status.st_size, status.st_mtime_ns


def _being_changed(path: Path) -> DataUnusable:
    return DataUnusable(
        f"the data file {path} is being changed",
        got="a write-ahead log or journal beside it that holds changes, or a change while it was read",
        wanted="a file at rest",
        next_step="Close the programs that write to it, or give the gate a copy: "
        "sqlite3 SOURCE \"VACUUM INTO 'COPY.sqlite'\"",
    )
