"""The two logs of one ledger and their signed heads: what is in the file, and the same in memory.

`ledger` holds the entries, whose signed head crosses the border, and `journal` the notes, whose signed head never does.
Both are rows of one table in one format, each under a tree of its own, and each entry of the first carries a
commitment to the second.

Source: RFC 9162 (trees).

Invariants: an entry is written after the account took it and in the form in which it is read back; both heads are
signed within the transaction that moved them; what is loaded matches its signed heads or is refused. Locking,
transactions, and closing for good when one fails, are left to `ledger`: until it has committed, memory is ahead.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import apsw
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import IdentityInvalid, LedgerDamaged
from fedhealth.privacy.acts import KeyRotated, misplaced
from fedhealth.privacy.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from fedhealth.privacy.entries import ENTRY, Account, Created, Entry
from fedhealth.privacy.journal import NOTE, Note, check_journal, journal_commitment, sign_journal
from fedhealth.privacy.merkle import MerkleTree, leaf_hash
from fedhealth.privacy.release import Digest, SiteId
from fedhealth.signing import public_key_hex


class LedgerLogs:
    """Both logs of a ledger; owns their trees and the account, and the key that signs their heads."""

    def __init__(self, database: apsw.Connection, site: SiteId, key: Ed25519PrivateKey) -> None:
        self._database, self._site, self.key = database, site, key
        self.tree, self._journal, self.account = MerkleTree(), MerkleTree(), Account()
        self._journal_signed: tuple[int, Ed25519PrivateKey] | None = None

    @property
    def public_key(self) -> Digest:
        """The key that signs the heads, 64 hexadecimal digits."""
        return public_key_hex(self.key.public_key())

    def append(self, entry: Entry, notes: Iterable[Note] = ()) -> int:
        """Apply an entry to the account, write it with the notes before it, and sign the new head.

        Returns:
            The entry's position.

        Raises:
            BudgetExhausted: the account refuses it; nothing was written.
            LedgerDamaged: it cannot follow the entries before it, or is none.
        """
        if isinstance(entry, KeyRotated) and entry.rotation.ledger_key != self.public_key:
            raise misplaced("a ledger key gives way without the one that follows it")
        entry = _checked(entry)
        self.account.apply(entry)
        for note in notes:
            self.append_note(note)
        salt, size = secrets.token_bytes(32), self._journal.size
        commitment = journal_commitment(salt, self._journal.root(), size)
        position = self._insert("ledger", self.tree, entry.model_copy(update={"journal": commitment}))
        self._database.execute("INSERT INTO opening VALUES (?, ?, ?)", (position, salt, size))
        checkpoint = Checkpoint(site=self._site, size=self.tree.size, root=self.tree.root().hex())
        self._database.execute(
            "INSERT INTO head VALUES (1, ?) ON CONFLICT (only) DO UPDATE SET note = excluded.note",
            (sign_checkpoint(checkpoint, self.key),),
        )
        return position

    def append_note(self, note: Note) -> None:
        """Write a note to the journal; its head is signed by `sign_journal`."""
        self._insert("journal", self._journal, note)

    def put_back(self, bodies: Sequence[bytes]) -> Iterator[tuple[Entry, int]]:
        """Write lost entries again, and yield each with its position; the head is signed with the next entry.

        Args:
            bodies: of the entries that follow the last one here.

        Raises:
            LedgerDamaged: an entry cannot follow the one before.
            IdentityInvalid: the last of them leaves the ledger under another key than this one.
        """
        for body in bodies:
            lost = ENTRY.validate_json(body)
            self.account.apply(lost)
            yield lost, self._insert_body("ledger", self.tree, body)
        if self.account.acts.ledger_key != self.public_key:
            raise IdentityInvalid(
                f"the ledger key of '{self._site}' was changed under an entry that came back",
                wanted=f"key {self.account.acts.ledger_key[:12]}",
                next_step="Put that ledger.key back first.",
            )

    @property
    def journal_size(self) -> int:
        """Number of notes in the journal."""
        return self._journal.size

    def sign_journal(self) -> None:
        """Sign the journal's head where the journal grew or the key is another."""
        if self._journal_signed != (self._journal.size, self.key):
            signature = sign_journal(self._site, self._journal, self.key)
            self._database.execute("REPLACE INTO journal_head VALUES (1, ?)", (signature,))
            self._journal_signed = (self._journal.size, self.key)

    def load(self, next_key: Ed25519PrivateKey | None) -> None:
        """Read both logs and check all of them: every leaf, the roots, the signatures, the account.

        Args:
            next_key: signs the heads instead if the ledger says that its key was rotated to this one.

        Raises:
            IdentityInvalid: neither key is the one that the ledger names, or its head is not signed by it.
            LedgerDamaged: of another site, or altered.
        """
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
            self.tree.append(leaf)
        for body, leaf in self._bodies("journal"):
            if leaf_hash(body) != leaf:
                raise wrong
            self._journal.append(leaf)
        head = self._database.execute("SELECT note FROM head").fetchone()
        if head is None or self.tree.size == 0:
            raise wrong
        if next_key is not None and self.account.acts.ledger_key == public_key_hex(next_key.public_key()):
            self.key = next_key
        if self.account.acts.ledger_key != self.public_key:
            raise IdentityInvalid(
                f"this key does not sign the ledger of '{self._site}'",
                got=f"key {self.public_key[:12]}",
                wanted=f"key {self.account.acts.ledger_key[:12]}",
                next_step="If this ledger is a copy from before its key was changed, find a newer one. Otherwise find "
                "the ledger.key that belongs to it; without it nothing can be charged or released.",
            )
        checkpoint = open_checkpoint(head[0], self._site, self.key.public_key())
        if (checkpoint.size, checkpoint.root) != (self.tree.size, self.tree.root().hex()):
            raise wrong
        signature = self._database.execute("SELECT signature FROM journal_head").fetchone()
        if signature is None:
            raise wrong
        try:
            check_journal(self._site, self._journal.size, self._journal.root(), self.key.public_key(), signature[0])
        except IdentityInvalid as error:
            raise wrong from error
        self._journal_signed = (self._journal.size, self.key)

    def head(self) -> str:
        """Return the signed note of the current head."""
        return str(self._database.execute("SELECT note FROM head").get)

    def bodies(self, first: int) -> Iterator[tuple[int, bytes]]:
        """Yield position and body of the entries from `first` on."""
        yield from self._database.execute(
            "SELECT position, body FROM entry WHERE log = 'ledger' AND position >= ? ORDER BY position", (first,)
        )

    def notes(self) -> list[Note]:
        """Return the journal, oldest first."""
        return [NOTE.validate_json(body) for body, _ in self._bodies("journal")]

    def history(self) -> Iterator[tuple[Entry, int | None]]:
        """Yield every entry, oldest first, with the number of notes that the journal had when it was written."""
        sizes = dict(self._database.execute("SELECT position, journal_size FROM opening"))
        bodies = list(self._bodies("ledger"))
        return iter([(ENTRY.validate_json(body), sizes.get(position)) for position, (body, _) in enumerate(bodies)])

    def _insert(self, log: Literal["ledger", "journal"], tree: MerkleTree, value: BaseModel) -> int:
        return self._insert_body(log, tree, canonical_bytes(value))

    def _insert_body(self, log: Literal["ledger", "journal"], tree: MerkleTree, body: bytes) -> int:
        position, leaf = tree.size, leaf_hash(body)
        self._database.execute("INSERT INTO entry VALUES (?, ?, ?, ?)", (log, position, body, leaf))
        tree.append(leaf)
        return position

    def _bodies(self, log: str) -> Iterator[tuple[bytes, bytes]]:
        yield from self._database.execute("SELECT body, leaf FROM entry WHERE log = ? ORDER BY position", (log,))


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
