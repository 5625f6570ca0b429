"""The ledger of one site: SQLite, append-only, every head signed, every charge on disk before noise is drawn.

One file holds two logs of the same format: `ledger`, whose signed heads cross the border, and `journal`, whose signed
head never does. Beside them stand the rows of releases: reserved -> witnessed -> stored -> sent, or unwitnessed in the
second place where the policy is best-effort; closed where a recovery left open whether it had left. A payload is kept
from `stored` until the coordinator's receipt says its own checkpoint holds it; after that only its hash remains.

Source: SQLite with `synchronous=FULL` and write-ahead log; page checksums by SQLite's checksum VFS; RFC 9162 trees.

Invariants: an acknowledged call is durable, and in the file itself, not only in its write-ahead log; one process at a
time holds a ledger; a failed write closes the ledger for good, so that memory and disk never differ; nothing is ever
updated or deleted in the logs. Times come from the caller. Who may approve, and what a release contains, is left to the
gate.
"""

import fcntl
import hashlib
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Self

import apsw
import apsw.sqlite_extra
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import FedHealthError, IdentityInvalid, LedgerDamaged, LedgerForked
from fedhealth.privacy.acts import KeyRotated, misplaced
from fedhealth.privacy.checkpoint import (
    Checkpoint,
    Receipt,
    SignedReceipt,
    open_checkpoint,
    sign_checkpoint,
)
from fedhealth.privacy.entries import ENTRY, Account, Created, Entry, Recovered, Reserved, Stored, Unwitnessed
from fedhealth.privacy.journal import NOTE, Note, check_journal, journal_commitment, sign_journal
from fedhealth.privacy.merkle import MerkleTree, leaf_hash
from fedhealth.privacy.release import Digest, SiteId
from fedhealth.secret_file import sync_folder
from fedhealth.signing import public_key_hex, sign

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

MOST_ATTEMPTS = 2
"""How often a release may be begun to be computed before its study is stopped: once, and once more after a kill."""

_READ_BYTES = 2**20

State = Literal["reserved", "witnessed", "unwitnessed", "stored", "sent", "closed"]
Announce = Callable[[int, Digest, int], None]
"""Told of a head that is durable: its size, its root, and how many entries what has left relies on."""


class ReleaseRow(NamedTuple):
    """Where a release stands; `payload_bytes` is the size of its payload, in state "stored" only."""

    state: State
    position: int
    payload_bytes: int | None


def connect(path: Path, flags: int) -> apsw.Connection:
    """Open an SQLite file whose pages carry checksums."""
    if "cksmvfs" not in apsw.vfs_names():
        loader = apsw.Connection(":memory:")
        apsw.sqlite_extra.load(loader, "cksumvfs")
        loader.close()
    return apsw.Connection(str(path), flags=flags, vfs="cksmvfs")


class Ledger:
    """An open ledger; owns its file, its tree and its account. Safe to call from several threads.

    Use `Ledger.create` once by hand, and `Ledger.open` ever after: opening a missing ledger is an error.
    """

    def __init__(self, database: apsw.Connection, held: BinaryIO, site: SiteId, key: Ed25519PrivateKey) -> None:
        self._database, self._held, self._site, self._key = database, held, site, key
        self._lock = threading.RLock()
        self._tree, self._journal, self.account = MerkleTree(), MerkleTree(), Account()
        self._broken = False
        self._journal_signed: tuple[int, Ed25519PrivateKey] | None = None
        self._announce: Announce | None = None

    @classmethod
    def create(cls, path: Path, created: Created, key: Ed25519PrivateKey) -> Self:
        """Make a new ledger whose first entry is `created`; it appears at `path` whole or not at all.

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
                database.reserve_bytes("main", 8)
                _prepare(database)
                database.execute(SCHEMA)
                cls(database, held, created.site, key).append(created)
            unfinished.rename(path)
            sync_folder(path.parent)
        except (apsw.Error, OSError) as error:
            raise LedgerDamaged(
                f"a ledger cannot be made at {path}",
                got=f"{type(error).__name__}: {error}",
                next_step="Check the disk and the permissions, and try again; nothing was charged yet.",
            ) from error
        return cls.open(path, created.site, key)

    @classmethod
    def open(cls, path: Path, site: SiteId, key: Ed25519PrivateKey, next_key: Ed25519PrivateKey | None = None) -> Self:
        """Open a ledger and check all of it: every leaf, the root, the signature, the account.

        Args:
            path: its file.
            site: whose it must be.
            key: signs its heads.
            next_key: signs them instead if the ledger says that its key was rotated to this one.

        Raises:
            IdentityInvalid: neither key is the one that the ledger names, or its head is not signed by it.
            LedgerDamaged: missing, of another site, altered, unwritable, or held by another process.
        """
        if not path.is_file():
            raise LedgerDamaged(
                f"the ledger of site '{site}' is missing",
                got=f"no file at {path}",
                next_step="Find it. An older copy or a new ledger would forget what was spent and must not replace it.",
            )
        try:
            with ExitStack() as undo:
                held = undo.enter_context(_hold(path))
                database = connect(path, apsw.SQLITE_OPEN_READWRITE)
                undo.callback(database.close)
                _prepare(database)
                ledger = cls(database, held, site, key)
                ledger._load(next_key)
                undo.pop_all()
        except apsw.BusyError as error:
            raise _in_use(path) from error
        except (apsw.Error, OSError) as error:
            raise LedgerDamaged(
                f"the ledger at {path} cannot be read or written",
                got=f"{type(error).__name__}: {error}",
                next_step=f"Check the disk and the permissions, then: fedhealth audit verify {path}",
            ) from error
        return ledger

    @property
    def created(self) -> Created:
        """The first entry: whose ledger this is, and what it may ever spend."""
        if self.account.created is None:
            raise LedgerDamaged(f"the ledger of '{self._site}' has no first entry")
        return self.account.created

    @property
    def size(self) -> int:
        """Number of entries."""
        return self._tree.size

    @property
    def public_key(self) -> Digest:
        """The key that signs its heads, 64 hexadecimal digits."""
        return public_key_hex(self._key.public_key())

    @property
    def relied_on(self) -> int:
        """Number of entries that hold the charges of all that may have left."""
        with self._lock:
            found = self._database.execute(
                "SELECT position FROM release WHERE state IN ('stored', 'sent', 'closed') "
                "ORDER BY position DESC LIMIT 1"
            ).fetchone()
        return int(found[0]) + 1 if found else 0

    def root(self, size: int) -> Digest:
        """Return the root over the first `size` entries."""
        with self._lock:
            return self._tree.root(size).hex()

    def announce_heads(self, announce: Announce) -> None:
        """Call `announce` before a call is acknowledged that moved the head, unless all it did was to charge."""
        self._announce = announce

    def append(self, entry: Entry, notes: Iterable[Note] = ()) -> int:
        """Apply an entry to the account and write it durably, with what the journal has to say.

        Returns:
            The entry's position.

        Raises:
            BudgetExhausted: the account refuses it; nothing was written.
            LedgerDamaged: it could not be written; the ledger is closed.
        """
        with self._commit():
            return self._append(entry, notes)

    def rotate(self, entry: KeyRotated, key: Ed25519PrivateKey) -> None:
        """Write that the ledger's key gives way to another, whose first head is the one over this entry.

        Args:
            entry: the rotation.
            key: the new one; it must be on disk already, because nothing can be written without it afterwards.
        """
        with self._commit():
            former, self._key = self._key, key
            try:
                self._append(entry)
            except FedHealthError:
                self._key = former
                raise

    def reserve(self, entry: Reserved) -> ReleaseRow:
        """Charge a release durably, before its noise exists.

        Raises:
            BudgetExhausted: the envelope is spent; nothing was written.
        """
        with self._commit(announce=False):
            position = self._append(entry)
            self._database.execute("INSERT INTO release VALUES (?, ?, 'reserved', NULL, 0)", (entry.release, position))
            return ReleaseRow("reserved", position, None)

    def release_unwitnessed(self, entry: Unwitnessed) -> ReleaseRow:
        """Let a reserved release be computed for the first time although its charge has no signature.

        Raises:
            LedgerDamaged: the policy in the ledger requires the witness, or the release does not wait for one.
        """
        with self._commit():
            self._append(entry)
            self._database.execute(
                "UPDATE release SET state = 'unwitnessed', attempts = 1 WHERE release = ?", (entry.release,)
            )
            return ReleaseRow(
                "unwitnessed",
                self._database.execute("SELECT position FROM release WHERE release = ?", (entry.release,)).get,
                None,
            )

    def witness(self, signed: SignedReceipt, begun: Digest | None = None) -> bool:
        """Record a receipt that the caller has verified against the coordinator's key.

        Reserved releases below the witnessed size become witnessed; releases the coordinator holds durably lose
        their payload.

        Args:
            signed: the receipt.
            begun: the release that is computed next; its attempt is counted in the same commit.

        Returns:
            Whether `begun` may be computed, as `begin` says.

        Raises:
            LedgerDamaged: the receipt is for a head that this ledger never had, or older than the last one.
        """
        receipt = signed.receipt
        last = self.receipt()
        if (
            receipt.site != self._site
            or receipt.size > self._tree.size
            or self._tree.root(receipt.size).hex() != receipt.root
            or (last is not None and receipt.size < last.size)
        ):
            raise LedgerDamaged(
                f"the coordinator's receipt is for another history of the ledger of '{self._site}'",
                next_step="Do not continue; run `fedhealth audit verify` and compare with the coordinator's copy.",
            )
        with self._commit():
            self._put_receipt(signed)
            self._database.execute(
                "UPDATE release SET state = 'witnessed' WHERE state IN ('reserved', 'unwitnessed') AND position < ?",
                (receipt.size,),
            )
            self._database.executemany(
                "UPDATE release SET state = 'sent', payload = NULL WHERE state = 'stored' AND release = ?",
                [(release,) for release in receipt.checkpointed],
            )
            return self._count_attempt(begun)

    def begin(self, release: Digest) -> bool:
        """Count, durably, that a witnessed release is about to be computed.

        Returns:
            False if it was begun `MOST_ATTEMPTS` times before and never stored, or is not witnessed: then it must
            not be computed, because a process that is killed each time says something about the data.
        """
        with self._commit():
            return self._count_attempt(release)

    def resume(self, study: Digest, note: Note) -> None:
        """Let the releases of a study that ended before they were stored be computed again, and journal it."""
        releases = [release for release, entry in self.account.reserved.items() if entry.study == study]
        with self._commit():
            self._insert("journal", self._journal, note)
            self._database.executemany(
                "UPDATE release SET attempts = 0 WHERE state IN ('witnessed', 'unwitnessed') AND release = ?",
                [(release,) for release in releases],
            )

    def _count_attempt(self, release: Digest | None) -> bool:
        self._database.execute(
            "UPDATE release SET attempts = attempts + 1 "
            "WHERE release = ? AND state IN ('witnessed', 'unwitnessed') AND attempts < ?",
            (release, MOST_ATTEMPTS),
        )
        return self._database.changes() == 1

    def store(self, release: Digest, payload: bytes, notes: Iterable[Note] = ()) -> None:
        """Make the payload of a release durable that may be computed; only then may it leave."""
        entry = Stored(release=release, payload_sha256=hashlib.sha256(payload).hexdigest(), payload_bytes=len(payload))
        with self._commit():
            self._append(entry, notes)
            self._database.execute(
                "UPDATE release SET state = 'stored', payload = ? "
                "WHERE release = ? AND state IN ('witnessed', 'unwitnessed')",
                (payload, release),
            )
            if self._database.changes() != 1:
                raise LedgerDamaged(f"release {release[:12]} was not witnessed before it was stored")

    def note(self, note: Note) -> None:
        """Write a line to the local journal alone."""
        with self._commit():
            self._insert("journal", self._journal, note)

    def recover(self, bodies: Sequence[bytes], entry: Recovered, signed: SignedReceipt | None) -> None:
        """Put lost entries back, and the entry that says so, in one transaction.

        Charges come back; payloads do not. What was charged and not stored may have left all the same, under an entry
        that nobody has: it is closed and never computed again.

        Args:
            bodies: of the entries that follow the last one here.
            entry: who confirmed it, and when.
            signed: the coordinator's receipt that they lead to, verified by the caller; None where there is none.

        Raises:
            LedgerForked: they do not lead to it.
            LedgerDamaged: an entry cannot follow the one before, or it could not be written.
        """
        with self._commit():
            for body in bodies:
                lost = ENTRY.validate_json(body)
                self.account.apply(lost)
                position = self._insert_body("ledger", self._tree, body)
                if isinstance(lost, Reserved):
                    self._database.execute(
                        "INSERT INTO release VALUES (?, ?, 'closed', NULL, 0)", (lost.release, position)
                    )
                elif isinstance(lost, Stored):
                    self._database.execute("UPDATE release SET state = 'sent' WHERE release = ?", (lost.release,))
            if self.account.acts.ledger_key != self.public_key:
                raise IdentityInvalid(
                    f"the ledger key of '{self._site}' was changed under an entry that came back",
                    wanted=f"key {self.account.acts.ledger_key[:12]}",
                    next_step="Put that ledger.key back first.",
                )
            if signed is not None:
                receipt = signed.receipt
                if receipt.size > self._tree.size or self.root(receipt.size) != receipt.root:
                    raise LedgerForked("the entries that were given back do not lead to the coordinator's receipt")
                self._put_receipt(signed)
            self._append(entry)
            self._database.execute(
                "UPDATE release SET state = 'closed' WHERE state IN ('reserved', 'witnessed', 'unwitnessed')"
            )

    def bodies(self, first: int) -> Iterator[tuple[int, bytes]]:
        """Yield position and body of the entries from `first` on."""
        with self._lock:
            yield from self._database.execute(
                "SELECT position, body FROM entry WHERE log = 'ledger' AND position >= ? ORDER BY position", (first,)
            )

    def row(self, release: Digest) -> ReleaseRow | None:
        """Return where a release stands, or None if it was never charged."""
        with self._lock:
            found = self._database.execute(
                "SELECT state, position, length(payload) FROM release WHERE release = ?", (release,)
            ).fetchone()
        return ReleaseRow(*found) if found else None

    def read_payload(self, release: Digest, into: memoryview) -> None:
        """Read the payload of a stored release into memory of its size.

        Read in parts: one value of 100 MiB takes SQLite two to four times as long.

        Raises:
            LedgerDamaged: it cannot be read, or is not there.
        """
        try:
            with self._lock:
                row = self._database.execute("SELECT rowid FROM release WHERE release = ?", (release,)).get
                with self._database.blob_open("main", "release", "payload", row, False) as blob:
                    for offset in range(0, len(into), _READ_BYTES):
                        blob.read_into(into[offset : offset + _READ_BYTES])
        except (apsw.Error, TypeError, ValueError) as error:
            raise LedgerDamaged(
                f"the payload of release {release[:12]} cannot be read", got=type(error).__name__
            ) from error

    def sign(self, domain: str, data: bytes) -> str:
        """Return the ledger key's signature, hexadecimal; the domain keeps it apart from the signature of a head."""
        return sign(self._key, domain, data).hex()

    def head(self) -> str:
        """Return the signed note of the current head."""
        with self._lock:
            return str(self._database.execute("SELECT note FROM head").get)

    def receipt(self) -> Receipt | None:
        """Return the last receipt of the coordinator, if any."""
        with self._lock:
            body = self._database.execute("SELECT body FROM receipt").get
        return SignedReceipt.model_validate_json(body).receipt if isinstance(body, bytes) else None

    def consistency_proof(self, first: int) -> list[str]:
        """Return the proof, as hexadecimal hashes, that the head extends the tree of `first` entries."""
        with self._lock:
            return [node.hex() for node in self._tree.consistency_proof(min(first, self._tree.size))]

    def journal(self) -> Iterator[Note]:
        """Yield the local journal, oldest first; never to be sent anywhere."""
        with self._lock:
            notes = [NOTE.validate_json(body) for body, _ in self._bodies("journal")]
        return iter(notes)

    def history(self) -> Iterator[tuple[Entry, int | None]]:
        """Yield every entry, oldest first, with the number of lines that the journal had when it was written.

        None for an entry that the coordinator gave back: nobody knows any more.
        """
        with self._lock:
            sizes = dict(self._database.execute("SELECT position, journal_size FROM opening"))
            bodies = list(self._bodies("ledger"))
        return iter([(ENTRY.validate_json(body), sizes.get(position)) for position, (body, _) in enumerate(bodies)])

    def close(self) -> None:
        """Close the file; what was acknowledged stays."""
        with self._lock:
            self._broken = True
            self._database.close()
            self._held.close()

    @contextmanager
    def _commit(self, announce: bool = True) -> Iterator[None]:
        """Run one transaction; on any failure but a refusal of the account, close the ledger for good."""
        with self._lock:
            if self._broken:
                raise LedgerDamaged(f"the ledger of '{self._site}' is closed", next_step="Start the gate again.")
            size = self._tree.size
            try:
                with self._database:
                    yield
                    self._sign_journal()
                self._settle()
                if announce and self._announce is not None and self._tree.size != size:
                    self._announce(self._tree.size, self.root(self._tree.size), self.relied_on)
            except FedHealthError:
                if self._tree.size != size:
                    self._broken = True
                raise
            except (apsw.Error, OSError) as error:
                self._broken = True
                raise LedgerDamaged(
                    f"the ledger of '{self._site}' could not be written",
                    got=f"{type(error).__name__}: {error}",
                    next_step="Free disk space or repair the disk, then start the gate again; nothing left uncharged.",
                ) from error
            except BaseException:
                self._broken = True
                raise

    def _settle(self) -> None:
        """Move what was committed from the write-ahead log into the file.

        Only then is it acknowledged: a log that is damaged or deleted after a crash takes nothing with it that
        anybody was told of.
        """
        logged, moved = self._database.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        if moved < logged:
            raise apsw.IOError("the write-ahead log could not be moved into the file")

    def _append(self, entry: Entry, notes: Iterable[Note] = ()) -> int:
        if isinstance(entry, KeyRotated) and entry.rotation.ledger_key != self.public_key:
            raise misplaced("a ledger key gives way without the one that follows it")
        entry = _checked(entry)
        self.account.apply(entry)
        for note in notes:
            self._insert("journal", self._journal, note)
        salt, size = secrets.token_bytes(32), self._journal.size
        commitment = journal_commitment(salt, self._journal.root(), size)
        position = self._insert("ledger", self._tree, entry.model_copy(update={"journal": commitment}))
        self._database.execute("INSERT INTO opening VALUES (?, ?, ?)", (position, salt, size))
        checkpoint = Checkpoint(site=self._site, size=self._tree.size, root=self._tree.root().hex())
        self._database.execute(
            "INSERT INTO head VALUES (1, ?) ON CONFLICT (only) DO UPDATE SET note = excluded.note",
            (sign_checkpoint(checkpoint, self._key),),
        )
        return position

    def _sign_journal(self) -> None:
        """Sign the journal's head where the journal grew or the key is another."""
        if self._journal_signed != (self._journal.size, self._key):
            signature = sign_journal(self._site, self._journal, self._key)
            self._database.execute("REPLACE INTO journal_head VALUES (1, ?)", (signature,))
            self._journal_signed = (self._journal.size, self._key)

    def _put_receipt(self, signed: SignedReceipt) -> None:
        self._database.execute(
            "INSERT INTO receipt VALUES (1, ?) ON CONFLICT (only) DO UPDATE SET body = excluded.body",
            (canonical_bytes(signed),),
        )

    def _insert(self, log: Literal["ledger", "journal"], tree: MerkleTree, value: BaseModel) -> int:
        return self._insert_body(log, tree, canonical_bytes(value))

    def _insert_body(self, log: Literal["ledger", "journal"], tree: MerkleTree, body: bytes) -> int:
        position, leaf = tree.size, leaf_hash(body)
        self._database.execute("INSERT INTO entry VALUES (?, ?, ?, ?)", (log, position, body, leaf))
        tree.append(leaf)
        return position

    def _load(self, next_key: Ed25519PrivateKey | None) -> None:
        wrong = LedgerDamaged(
            f"the ledger of '{self._site}', or its journal, does not match its signed head",
            next_step="Find the first bad entry with `fedhealth audit verify`. Do not put an older copy in its place: "
            "that would forget what was spent.",
        )
        for position, (body, leaf) in enumerate(self._bodies("ledger")):
            if leaf_hash(body) != leaf:
                raise wrong
            try:
                entry = ENTRY.validate_json(body)
            except ValueError as error:
                raise wrong from error
            if position == 0 and (not isinstance(entry, Created) or entry.site != self._site):
                raise LedgerDamaged(
                    f"the ledger is not of site '{self._site}'",
                    got="a first entry of another site",
                    next_step="Check which state folder belongs to which site.",
                )
            self.account.apply(entry)
            self._tree.append(leaf)
        for body, leaf in self._bodies("journal"):
            if leaf_hash(body) != leaf:
                raise wrong
            self._journal.append(leaf)
        head = self._database.execute("SELECT note FROM head").fetchone()
        if head is None or self._tree.size == 0:
            raise wrong
        if next_key is not None and self.account.acts.ledger_key == public_key_hex(next_key.public_key()):
            self._key = next_key
        if self.account.acts.ledger_key != self.public_key:
            raise IdentityInvalid(
                f"this key does not sign the ledger of '{self._site}'",
                got=f"key {self.public_key[:12]}",
                wanted=f"key {self.account.acts.ledger_key[:12]}",
                next_step="If this ledger is a copy from before its key was changed, find a newer one. Otherwise find "
                "the ledger.key that belongs to it; without it nothing can be charged or released.",
            )
        checkpoint = open_checkpoint(head[0], self._site, self._key.public_key())
        if (checkpoint.size, checkpoint.root) != (self._tree.size, self._tree.root().hex()):
            raise wrong
        signature = self._database.execute("SELECT signature FROM journal_head").fetchone()
        if signature is None:
            raise wrong
        try:
            check_journal(self._site, self._journal.size, self._journal.root(), self._key.public_key(), signature[0])
        except IdentityInvalid as error:
            raise wrong from error
        self._journal_signed = (self._journal.size, self._key)

    def _bodies(self, log: str) -> Iterator[tuple[bytes, bytes]]:
        yield from self._database.execute("SELECT body, leaf FROM entry WHERE log = ? ORDER BY position", (log,))


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


def _checked(entry: Entry) -> Entry:
    """Return the entry if it can be read back: pydantic's `model_construct` and `model_copy` check nothing.

    A cost that is negative or not a number would else give back what was spent, or end the ledger when it is opened.
    """
    try:
        return ENTRY.validate_python(entry.model_dump(warnings=False))
    except (ValueError, AttributeError) as error:
        raise LedgerDamaged(
            "the ledger was given what no entry can say",
            got=f"a value of the type {type(entry).__name__}, or a part of it, that is out of its range",
            wanted="an entry of a known kind whose costs are positive integers",
            next_step="Nothing was written and the ledger goes on; report this as a mistake of the program.",
        ) from error


def _in_use(path: Path) -> LedgerDamaged:
    return LedgerDamaged(
        f"the ledger at {path} is in use",
        got="a lock held by another process",
        next_step="Stop the gate of this site first.",
    )


def _prepare(database: apsw.Connection) -> None:
    database.pragma("locking_mode", "exclusive")
    database.pragma("journal_mode", "wal")
    database.pragma("synchronous", "full")
    database.pragma("recursive_triggers", True)  # else REPLACE would delete an entry unseen
    if database.pragma("synchronous") != 2:
        raise LedgerDamaged("this SQLite does not offer synchronous=FULL", next_step="Install the pinned apsw.")
