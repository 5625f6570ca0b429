"""A ledger's file seen from outside: a copy as it stood at one moment, and the checksums of its pages.

An auditor may read a ledger whose gate is running. The file and its write-ahead log are two files, so that a copy of
one and then of the other could be of two moments, and would look like tampering. A copy counts only if neither changed
meanwhile: every commit begins with another header of the log (SQLite, "WAL file format": its salts), and a commit that
was under way is completed from the log or dropped, as after a power cut.

Leaves to others: what the pages say (`verify`).
"""

import shutil
import time
from pathlib import Path

import apsw

from fedhealth.errors import LedgerDamaged
from fedhealth.privacy.ledger_database import connect

_TRIES = 100
_PAUSE_SECONDS = 0.02
_LOG_HEADER_BYTES = 32


def copy_ledger(path: Path, copy: Path) -> None:
    """Copy a ledger's file, and its log to the name that SQLite looks for beside it.

    Args:
        path: the ledger, which a gate may hold and write to.
        copy: in a folder of the caller's own.

    Raises:
        LedgerDamaged: it was written to during each of 100 tries, over two seconds and more.
        OSError: it cannot be read.
    """
    log, log_copy = (each.with_name(each.name + "-wal") for each in (path, copy))
    for _ in range(_TRIES):
        before = _marks(path, log)
        shutil.copyfile(path, copy)
        log_copy.unlink(missing_ok=True)
        if log.exists():
            shutil.copyfile(log, log_copy)
        if _marks(path, log) == before:
            return
        time.sleep(_PAUSE_SECONDS)
    raise LedgerDamaged(
        f"the ledger at {path} was written to all the time while it was read",
        next_step="This says nothing about its content. Try again later, or stop the gate of this site first.",
    )


def _marks(path: Path, log: Path) -> tuple[object, ...]:
    """Return what is different after any commit."""
    marks: list[object] = []
    for file in (path, log):
        try:
            status = file.stat()
            with file.open("rb") as content:
                marks += [status.st_ino, status.st_size, status.st_mtime_ns, content.read(_LOG_HEADER_BYTES)]
        except FileNotFoundError:
            marks.append("missing")
    return tuple(marks)


def first_damaged_page(path: Path) -> int | None:
    """Return the number of the first page whose checksum is wrong, counted from 1."""
    with path.open("rb") as file:
        head = file.read(21)
        if len(head) < 21 or head[20] != 8:
            return 1
        size = int.from_bytes(head[16:18], "big")
        size = 65536 if size == 1 else size
        if size < 512 or path.stat().st_size % size:
            return 1
        file.seek(0)
        checker = connect(Path(":memory:"), apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        number = 0
        while page := file.read(size):
            number += 1
            if checker.execute("SELECT verify_checksum(?)", (page,)).fetchone() != (1,):
                return number
    return None
