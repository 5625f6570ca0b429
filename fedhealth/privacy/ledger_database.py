"""The SQLite database of one ledger: its tables, how it is made and opened, and the lock that keeps others out.

Source: SQLite with `synchronous=FULL` and write-ahead log; page checksums by SQLite's checksum VFS.

Invariants: a new database appears under its name whole or not at all, and never in the place of another; one process
at a time holds it; the logs' rows are never updated or deleted. What the rows mean is left to `ledger_logs` and
`release_rows`, and transactions to `ledger`.
"""

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import apsw
import apsw.sqlite_extra

from fedhealth.errors import LedgerDamaged
from fedhealth.secret_file import sync_folder

PAGE_BYTES = 16 * 2**10
"""Of a new ledger. A payload of 100 MiB is read in two thirds of the processor time that pages of 4 KiB take, and
stored in three quarters; a charge still writes no more than some hundred KiB."""
SCHEMA = """
CREATE TABLE entry (
  log TEXT NOT NULL CHECK (log IN ('ledger', 'journal')), position INTEGER NOT NULL,
  body BLOB NOT NULL, leaf BLOB NOT NULL, PRIMARY KEY (log, position)) STRICT, WITHOUT ROWID;
CREATE TRIGGER entry_is_never_updated BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER entry_is_never_deleted BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TABLE opening (position INTEGER PRIMARY KEY, salt BLOB NOT NULL, journal_size INTEGER NOT NULL) STRICT;
CREATE TABLE head (only INTEGER PRIMARY KEY CHECK (only = 1), note TEXT NOT NULL) STRICT;
CREATE TABLE journal_head (only INTEGER PRIMARY KEY CHECK (only = 1), signature BLOB NOT NULL) STRICT;
CREATE TABLE receipt (only INTEGER PRIMARY KEY CHECK (only = 1), body BLOB NOT NULL) STRICT;
CREATE TABLE release (
  release TEXT PRIMARY KEY, position INTEGER NOT NULL UNIQUE,
  state TEXT NOT NULL CHECK (state IN ('reserved', 'witnessed', 'unwitnessed', 'stored', 'sent', 'closed')),
  payload BLOB,
  attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts BETWEEN 0 AND 2)) STRICT;
CREATE INDEX reserved_release ON release (position) WHERE state IN ('reserved', 'unwitnessed');
PRAGMA application_id = 0x46484c31;
"""

SIMULATION_ID = 0x46484C53
"""The `application_id` of a simulation's ledger, which is many ledgers in one file and none of a site."""

_HEADER_BYTES, _ID_AT = 72, 68

TABLES = ("entry", "opening", "head", "journal_head", "receipt", "release")
"""Every table of the schema."""


def memory_database() -> apsw.Connection:
    """Make a database that goes with its connection."""
    database = apsw.Connection(":memory:")
    database.pragma("recursive_triggers", True)
    database.execute(SCHEMA)
    return database


def is_simulated_ledger(path: Path) -> bool:
    """Say whether a file is the ledger of a simulation, by its header (SQLite, "Application ID")."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        return False
    return header[_ID_AT:] == SIMULATION_ID.to_bytes(4, "big")


def simulated(path: Path) -> LedgerDamaged:
    """Return the refusal of a simulation's ledger where a site's is wanted."""
    return LedgerDamaged(
        f"the ledger {path} is of a simulation",
        wanted="a site's own ledger",
        next_step="It is never taken for a site's. Find the ledger that `fedhealth site init` made.",
    )


def connect(path: Path, flags: int) -> apsw.Connection:
    """Open an SQLite file whose pages carry checksums."""
    if "cksmvfs" not in apsw.vfs_names():
        loader = apsw.Connection(":memory:")
        apsw.sqlite_extra.load(loader, "cksumvfs")
        loader.close()
    return apsw.Connection(str(path), flags=flags, vfs="cksmvfs")


@contextmanager
def new_database(path: Path) -> Iterator[tuple[apsw.Connection, BinaryIO]]:
    """Make a database and hold it while the block fills it; it is closed then, and appears at `path`.

    Raises:
        LedgerDamaged: something stands at `path` already, or it cannot be written.
    """
    if path.exists():
        raise LedgerDamaged(f"there is a ledger at {path} already", next_step="It is never overwritten.")
    unfinished = path.with_name(path.name + ".new")
    try:
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        with ExitStack() as undo:
            held = undo.enter_context(_hold(unfinished))
            database = connect(unfinished, apsw.SQLITE_OPEN_READWRITE)
            undo.callback(database.close)
            database.pragma("page_size", PAGE_BYTES)
            database.reserve_bytes("main", 8)
            prepare(database)
            database.execute(SCHEMA)
            yield database, held
        unfinished.rename(path)
        sync_folder(path.parent)
    except (apsw.Error, OSError) as error:
        raise LedgerDamaged(
            f"a ledger cannot be made at {path}",
            got=f"{type(error).__name__}: {error}",
            next_step="Check the disk and the permissions, and try again; nothing was charged yet.",
        ) from error


@contextmanager
def held_database(path: Path) -> Iterator[tuple[apsw.Connection, BinaryIO]]:
    """Hold and open a database; both stay open after a block that ends well, and are the caller's to close.

    Raises:
        LedgerDamaged: it is unreadable, unwritable, or held by another process; also where the block finds that.
    """
    if is_simulated_ledger(path):
        raise simulated(path)
    try:
        with ExitStack() as undo:
            held = undo.enter_context(_hold(path))
            database = connect(path, apsw.SQLITE_OPEN_READWRITE)
            undo.callback(database.close)
            prepare(database)
            yield database, held
            undo.pop_all()
    except apsw.BusyError as error:
        raise _in_use(path) from error
    except (apsw.Error, OSError) as error:
        raise LedgerDamaged(
            f"the ledger at {path} cannot be read or written",
            got=f"{type(error).__name__}: {error}",
            next_step=f"Check the disk and the permissions, then: fedhealth audit verify {path}",
        ) from error


def _hold(path: Path) -> BinaryIO:
    """Take the lock that keeps other processes out, and return the file that holds it until it is closed.

    SQLite's own locks do not suffice: POSIX drops them all when this process closes any other handle on the file, as
    a backup or an audit within the process does. A second process could then open the ledger, remove the write-ahead
    log at its end, and charges acknowledged by the first would be lost. `flock` belongs to its own handle alone.
    """
    held = path.open("r+b")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        held.close()
        raise _in_use(path) from error
    except OSError:
        held.close()
        raise
    return held


def _in_use(path: Path) -> LedgerDamaged:
    return LedgerDamaged(
        f"the ledger at {path} is in use",
        got="a lock held by another process",
        next_step="Stop the gate of this site first.",
    )


def prepare(database: apsw.Connection) -> None:
    """Make every commit durable and every other process wait outside."""
    database.pragma("locking_mode", "exclusive")
    database.pragma("journal_mode", "wal")
    database.pragma("synchronous", "full")
    database.pragma("recursive_triggers", True)  # else REPLACE would delete an entry unseen
    if database.pragma("synchronous") != 2:
        raise LedgerDamaged("this SQLite does not offer synchronous=FULL", next_step="Install the pinned apsw.")
