"""The ledger of one site: SQLite, append-only, every head signed, every charge on disk before noise is drawn.

Its parts are the database (`ledger_database`), two logs under signed heads (`ledger_logs`: the entries and the local
journal), the rows of releases (`release_rows`), and the coordinator's last receipt. What is here ties them together:
each call is one transaction over all of them.

Invariants: an acknowledged call is durable, and in the file itself, not only in its write-ahead log; a failed write
closes the ledger for good, so that memory and disk never differ. Times come from the caller. Who may approve, and
what a release contains, is left to the gate.
"""

import hashlib
import io
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Self

import apsw
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import FedHealthError, LedgerDamaged, LedgerForked
from fedhealth.privacy.acts import KeyRotated
from fedhealth.privacy.checkpoint import Receipt, SignedReceipt
from fedhealth.privacy.entries import Created, Entry, Recovered, Reserved, Stored, Unwitnessed
from fedhealth.privacy.journal import Note
from fedhealth.privacy.ledger_database import TABLES, held_database, memory_database, new_database, simulated
from fedhealth.privacy.ledger_logs import LedgerLogs
from fedhealth.privacy.release import Digest, SiteId
from fedhealth.privacy.release_rows import ReleaseRow, ReleaseRows
from fedhealth.signing import sign

Announce = Callable[[int, Digest, int, int], None]
"""Told of a head that is durable: its size, its root, how many entries what has left relies on, the journal's lines."""


class Ledger:
    """An open ledger; owns its database, its logs and its account. Safe to call from several threads.

    Use `Ledger.create` once by hand, and `Ledger.open` ever after: opening a missing ledger is an error.
    """

    def __init__(self, database: apsw.Connection, held: BinaryIO, site: SiteId, key: Ed25519PrivateKey) -> None:
        self._database, self._held, self._site = database, held, site
        self._logs, self._rows = LedgerLogs(database, site, key), ReleaseRows(database)
        self.account = self._logs.account
        self._lock = threading.RLock()
        self._broken = False
        self._announce: Announce | None = None

    @classmethod
    def create(cls, path: Path, created: Created, key: Ed25519PrivateKey) -> Self:
        """Make a new ledger whose first entry is `created`; it appears at `path` whole or not at all.

        Raises:
            LedgerDamaged: something stands at `path` already, it cannot be written, or it is of a simulation.
        """
        if created.simulation:
            raise simulated(path)
        with new_database(path) as (database, held):
            cls(database, held, created.site, key).append(created)
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
            LedgerDamaged: missing, of a simulation or another site, altered, unwritable, or held by another process.
        """
        if not path.is_file():
            raise LedgerDamaged(
                f"the ledger of site '{site}' is missing",
                got=f"no file at {path}",
                next_step="Find it. An older copy or a new ledger would forget what was spent and must not replace it.",
            )
        with held_database(path) as (database, held):
            ledger = cls(database, held, site, key)
            ledger._logs.load(next_key)
            if ledger.created.simulation:
                raise simulated(path)
        return ledger

    @classmethod
    def in_memory(cls, created: Created, key: Ed25519PrivateKey) -> Self:
        """Make the ledger of a simulated site: the same in all, but that it goes with its process.

        Raises:
            LedgerDamaged: the first entry does not say that the site is a simulated one.
        """
        if not created.simulation:
            raise LedgerDamaged(
                f"the ledger of '{created.site}' must outlive its process",
                next_step="Only a simulated site's is kept in memory.",
            )
        ledger = cls(memory_database(), io.BytesIO(), created.site, key)
        ledger.append(created)
        return ledger

    def rows(self) -> Iterator[tuple[str, tuple[int | float | str | bytes | None, ...]]]:
        """Yield every row of the database with the name of its table: for keeping a simulated ledger."""
        with self._lock:
            for table in TABLES:
                for row in self._database.execute(f"SELECT * FROM {table}"):  # noqa: S608 - a name of our own
                    yield table, row

    @property
    def created(self) -> Created:
        """The first entry: whose ledger this is, and what it may ever spend."""
        if self.account.created is None:
            raise LedgerDamaged(f"the ledger of '{self._site}' has no first entry")
        return self.account.created

    @property
    def size(self) -> int:
        """Number of entries."""
        return self._logs.tree.size

    @property
    def journal_size(self) -> int:
        """Number of lines of the local journal."""
        return self._logs.journal_size

    @property
    def public_key(self) -> Digest:
        """The key that signs its heads, 64 hexadecimal digits."""
        return self._logs.public_key

    @property
    def relied_on(self) -> int:
        """Number of entries that hold the charges of all that may have left."""
        with self._lock:
            return self._rows.relied_on

    def root(self, size: int) -> Digest:
        """Return the root over the first `size` entries."""
        with self._lock:
            return self._logs.tree.root(size).hex()

    def announce_heads(self, announce: Announce) -> None:
        """Call `announce` before a call is acknowledged that moved the head, unless all it did was to charge.

        Also where the journal alone grew.
        """
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
            return self._logs.append(entry, notes)

    def rotate(self, entry: KeyRotated, key: Ed25519PrivateKey) -> None:
        """Write that the ledger's key gives way to another, whose first head is the one over this entry.

        Args:
            entry: the rotation.
            key: the new one; it must be on disk already, because nothing can be written without it afterwards.
        """
        with self._commit():
            former, self._logs.key = self._logs.key, key
            try:
                self._logs.append(entry)
            except FedHealthError:
                self._logs.key = former
                raise

    def reserve(self, entry: Reserved) -> ReleaseRow:
        """Charge a release durably, before its noise exists.

        Raises:
            BudgetExhausted: the envelope is spent; nothing was written.
        """
        with self._commit(announce=False):
            return self._rows.reserve(entry.release, self._logs.append(entry))

    def release_unwitnessed(self, entry: Unwitnessed) -> ReleaseRow:
        """Let a reserved release be computed for the first time although its charge has no signature.

        Raises:
            LedgerDamaged: the policy in the ledger requires the witness, or the release does not wait for one.
        """
        with self._commit():
            self._logs.append(entry)
            return self._rows.release_unwitnessed(entry.release)

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
            or receipt.size > self._logs.tree.size
            or self._logs.tree.root(receipt.size).hex() != receipt.root
            or (last is not None and receipt.size < last.size)
        ):
            raise LedgerDamaged(
                f"the coordinator's receipt is for another history of the ledger of '{self._site}'",
                next_step="Do not continue; run `fedhealth audit verify` and compare with the coordinator's copy.",
            )
        with self._commit():
            self._put_receipt(signed)
            self._rows.witness(receipt.size, receipt.checkpointed)
            return self._rows.count_attempt(begun)

    def begin(self, release: Digest) -> bool:
        """Count, durably, that a witnessed release is about to be computed.

        Returns:
            False if it was begun `MOST_ATTEMPTS` times before and never stored, or is not witnessed: then it must
            not be computed, because a process that is killed each time says something about the data.
        """
        with self._commit():
            return self._rows.count_attempt(release)

    def resume(self, study: Digest, note: Note) -> None:
        """Let the releases of a study that ended before they were stored be computed again, and journal it."""
        releases = [release for release, entry in self.account.reserved.items() if entry.study == study]
        with self._commit():
            self._logs.append_note(note)
            self._rows.forget_attempts(releases)

    def store(self, release: Digest, payload: bytes, notes: Iterable[Note] = ()) -> None:
        """Make the payload of a release durable that may be computed; only then may it leave."""
        entry = Stored(release=release, payload_sha256=hashlib.sha256(payload).hexdigest(), payload_bytes=len(payload))
        with self._commit():
            self._logs.append(entry, notes)
            self._rows.store(release, payload)

    def note(self, note: Note) -> None:
        """Write a line to the local journal alone."""
        with self._commit():
            self._logs.append_note(note)

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
            for lost, position in self._logs.put_back(bodies):
                self._rows.put_back(lost, position)
            if signed is not None:
                receipt = signed.receipt
                if receipt.size > self._logs.tree.size or self.root(receipt.size) != receipt.root:
                    raise LedgerForked("the entries that were given back do not lead to the coordinator's receipt")
                self._put_receipt(signed)
            self._logs.append(entry)
            self._rows.close_waiting()

    def bodies(self, first: int) -> Iterator[tuple[int, bytes]]:
        """Yield position and body of the entries from `first` on."""
        with self._lock:
            yield from self._logs.bodies(first)

    def row(self, release: Digest) -> ReleaseRow | None:
        """Return where a release stands, or None if it was never charged."""
        with self._lock:
            return self._rows.find(release)

    def payload_parts(
        self, release: Digest, memory: Callable[[], memoryview] | None = None
    ) -> Generator[memoryview, None, None]:
        """Yield the payload of a stored release in order, each part to be taken before the next.

        Nothing else can be read or written before the last part was taken or the generator closed.

        Args:
            release: its name.
            memory: asked before each part where that is to be put; None for memory of its own.

        Raises:
            LedgerDamaged: it cannot be read, or is not there.
        """
        with self._lock, closing(self._rows.payload_parts(release, memory)) as parts:
            yield from parts

    def sign(self, domain: str, data: bytes) -> str:
        """Return the ledger key's signature, hexadecimal; the domain keeps it apart from the signature of a head."""
        return sign(self._logs.key, domain, data).hex()

    def head(self) -> str:
        """Return the signed note of the current head."""
        with self._lock:
            return self._logs.head()

    def receipt(self) -> Receipt | None:
        """Return the last receipt of the coordinator, if any."""
        with self._lock:
            body = self._database.execute("SELECT body FROM receipt").get
        return SignedReceipt.model_validate_json(body).receipt if isinstance(body, bytes) else None

    def consistency_proof(self, first: int) -> list[str]:
        """Return the proof, as hexadecimal hashes, that the head extends the tree of `first` entries."""
        with self._lock:
            return [node.hex() for node in self._logs.tree.consistency_proof(min(first, self._logs.tree.size))]

    def journal(self) -> Iterator[Note]:
        """Yield the local journal, oldest first; never to be sent anywhere."""
        with self._lock:
            return iter(self._logs.notes())

    def history(self) -> Iterator[tuple[Entry, int | None]]:
        """Yield every entry, oldest first, with the number of lines that the journal had when it was written.

        None for an entry that the coordinator gave back: nobody knows any more.
        """
        with self._lock:
            return self._logs.history()

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
            size, lines = self._logs.tree.size, self._logs.journal_size
            try:
                with self._database:
                    yield
                    self._logs.sign_journal()
                self._settle()
                grew = (self.size, self.journal_size) != (size, lines)
                if announce and self._announce is not None and grew:
                    self._announce(self.size, self.root(self.size), self.relied_on, self.journal_size)
            except FedHealthError:
                if self._logs.tree.size != size:
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

    def _put_receipt(self, signed: SignedReceipt) -> None:
        self._database.execute(
            "INSERT INTO receipt VALUES (1, ?) ON CONFLICT (only) DO UPDATE SET body = excluded.body",
            (canonical_bytes(signed),),
        )
