"""Where each release of a ledger stands: charged, witnessed, stored, sent; and its payload while it may be asked for.

reserved -> witnessed -> stored -> sent, or unwitnessed in the second place where the policy is best-effort; closed
where a recovery left open whether it had left. A payload is kept from `stored` until the coordinator's receipt says
that its own checkpoint holds it; after that only its hash remains, in the ledger's entry.

Invariants: a row moves forward only, and only within the caller's transaction. The rows are no history: each follows
from the entries and the last receipt, and the audit checks that it does (`check_rows`). What is computed, and who may
ask for it, is left to the gate.
"""

import hashlib
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Literal, NamedTuple

import apsw

from fedhealth.errors import LedgerDamaged
from fedhealth.privacy.entries import Account, Entry, Reserved, Stored
from fedhealth.privacy.head_checks import altered
from fedhealth.privacy.release import Digest

MOST_ATTEMPTS = 2
"""How often a release may be begun to be computed before its study is stopped: once, and once more after a kill."""

_READ_BYTES = 2**20

State = Literal["reserved", "witnessed", "unwitnessed", "stored", "sent", "closed"]


class ReleaseRow(NamedTuple):
    """Where a release stands; `payload_bytes` is the size of its payload, in state "stored" only."""

    state: State
    position: int
    payload_bytes: int | None


class ReleaseRows:
    """The table of releases in one ledger's database; its owner locks, and commits."""

    def __init__(self, database: apsw.Connection) -> None:
        self._database = database

    @property
    def relied_on(self) -> int:
        """Number of entries that hold the charges of all that may have left."""
        found = self._database.execute(
            "SELECT position FROM release WHERE state IN ('stored', 'sent', 'closed') ORDER BY position DESC LIMIT 1"
        ).fetchone()
        return int(found[0]) + 1 if found else 0

    def find(self, release: Digest) -> ReleaseRow | None:
        """Return where a release stands, or None if it was never charged."""
        found = self._database.execute(
            "SELECT state, position, length(payload) FROM release WHERE release = ?", (release,)
        ).fetchone()
        return ReleaseRow(*found) if found else None

    def reserve(self, release: Digest, position: int) -> ReleaseRow:
        """Add a release that was charged by the entry at this position."""
        self._database.execute("INSERT INTO release VALUES (?, ?, 'reserved', NULL, 0)", (release, position))
        return ReleaseRow("reserved", position, None)

    def release_unwitnessed(self, release: Digest) -> ReleaseRow:
        """Let a reserved release be computed for the first time, without a signature on its charge."""
        self._database.execute("UPDATE release SET state = 'unwitnessed', attempts = 1 WHERE release = ?", (release,))
        position = self._database.execute("SELECT position FROM release WHERE release = ?", (release,)).get
        return ReleaseRow("unwitnessed", position, None)

    def witness(self, size: int, checkpointed: Iterable[Digest]) -> None:
        """Move on the releases under a witnessed head, and those that the coordinator holds durably.

        Args:
            size: entries under the head.
            checkpointed: releases whose payload is not needed here any more.
        """
        self._database.execute(
            "UPDATE release SET state = 'witnessed' WHERE state IN ('reserved', 'unwitnessed') AND position < ?",
            (size,),
        )
        self._database.executemany(
            "UPDATE release SET state = 'sent', payload = NULL WHERE state = 'stored' AND release = ?",
            [(release,) for release in checkpointed],
        )

    def count_attempt(self, release: Digest | None) -> bool:
        """Count that a release is about to be computed, and say whether it may be."""
        self._database.execute(
            "UPDATE release SET attempts = attempts + 1 "
            "WHERE release = ? AND state IN ('witnessed', 'unwitnessed') AND attempts < ?",
            (release, MOST_ATTEMPTS),
        )
        return self._database.changes() == 1

    def forget_attempts(self, releases: Iterable[Digest]) -> None:
        """Let releases that were begun and never stored be computed again."""
        self._database.executemany(
            "UPDATE release SET attempts = 0 WHERE state IN ('witnessed', 'unwitnessed') AND release = ?",
            [(release,) for release in releases],
        )

    def store(self, release: Digest, payload: bytes) -> None:
        """Keep the payload of a release that may be computed.

        Raises:
            LedgerDamaged: it may not.
        """
        self._database.execute(
            "UPDATE release SET state = 'stored', payload = ? "
            "WHERE release = ? AND state IN ('witnessed', 'unwitnessed')",
            (payload, release),
        )
        if self._database.changes() != 1:
            raise LedgerDamaged(f"release {release[:12]} was not witnessed before it was stored")

    def put_back(self, entry: Entry, position: int) -> None:
        """Follow an entry that came back: its charge counts, and nothing is computed or sent for it any more."""
        if isinstance(entry, Reserved):
            self._database.execute("INSERT INTO release VALUES (?, ?, 'closed', NULL, 0)", (entry.release, position))
        elif isinstance(entry, Stored):
            self._database.execute("UPDATE release SET state = 'sent' WHERE release = ?", (entry.release,))

    def close_waiting(self) -> None:
        """Close every release that is charged and not stored: it may have left, under an entry that nobody has."""
        self._database.execute(
            "UPDATE release SET state = 'closed' WHERE state IN ('reserved', 'witnessed', 'unwitnessed')"
        )

    def payload_parts(
        self, release: Digest, memory: Callable[[], memoryview] | None
    ) -> Generator[memoryview, None, None]:
        """Yield the payload of a stored release in order, each part where `memory` says or in memory of its own.

        In parts, so that the first leaves while the next is read; and one value of 100 MiB takes SQLite two to four
        times as long. An open reader keeps a commit out of the ledger's file: close it.

        Raises:
            LedgerDamaged: it cannot be read, or is not there.
        """
        own = memoryview(bytearray(0 if memory else _READ_BYTES))
        try:
            row = self._database.execute("SELECT rowid FROM release WHERE release = ?", (release,)).get
            with self._database.blob_open("main", "release", "payload", row, False) as blob:
                left = blob.length()
                while left:
                    part = (memory() if memory else own)[:left]
                    blob.read_into(part)
                    left -= len(part)
                    yield part
        except (apsw.Error, TypeError, ValueError) as error:
            raise LedgerDamaged(
                f"the payload of release {release[:12]} cannot be read", got=type(error).__name__
            ) from error


def check_rows(database: apsw.Connection, account: Account, charged: Mapping[str, int], witnessed: int) -> None:
    """Check the rows of releases against the position of each charge and the size of the last witnessed head.

    Args:
        database: of the ledger.
        account: that its entries add up to.
        charged: the position of each release's charge.
        witnessed: entries under the last head that the coordinator countersigned.

    Raises:
        LedgerDamaged: naming the charge of a release whose row does not follow from them.
    """
    seen = set()
    rows = database.execute("SELECT release, position, state, payload, attempts FROM release")
    for release, position, state, payload, attempts in rows:
        stored, at = account.stored.get(release), charged.get(release)
        if at is None:
            raise altered(max(0, position), f"release {release[:12]} stands in the rows but was never charged")
        if position != at:
            raise altered(at, f"the row of release {release[:12]} points to entry {position}")
        if (stored is not None) != (state in ("stored", "sent")):
            raise altered(at, f"release {release[:12]} is '{state}' against what the entries say")
        if stored is None and state != _waiting(release, at, account, witnessed):
            raise altered(at, f"release {release[:12]} is '{state}' against the coordinator's receipt")
        if attempts not in range(1 if state == "reserved" else MOST_ATTEMPTS + 1):
            raise altered(at, f"release {release[:12]} is '{state}' and was begun {attempts} times")
        if (payload is not None) != (state == "stored"):
            raise altered(at, f"the payload of release {release[:12]} is missing or was kept")
        if payload is not None and not _is_payload(payload, stored):
            raise altered(at, f"the payload of release {release[:12]} was changed")
        seen.add(release)
    if missing := charged.keys() - seen:
        raise altered(charged[min(missing)], f"the row of release {min(missing)[:12]} is missing")


def _waiting(release: str, at: int, account: Account, witnessed: int) -> str:
    """Return the state of a release that is charged and not stored."""
    if release in account.closed:
        return "closed"
    if at < witnessed:
        return "witnessed"
    return "unwitnessed" if release in account.unwitnessed else "reserved"


def _is_payload(payload: bytes, stored: Stored | None) -> bool:
    return stored is not None and (
        (len(payload), hashlib.sha256(payload).hexdigest()) == (stored.payload_bytes, stored.payload_sha256)
    )
