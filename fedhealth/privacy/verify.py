"""Verify a ledger offline: one file, no key but the one it names, no torch, nothing of the site running.

The verifier works on a copy, into which it moves the write-ahead log first, as opening a ledger does. Then, in this
order: the checksum of every page; every entry in turn (its canonical form, its leaf, the account it adds up to, its
commitment to the journal); the root against the signed head; the rows of releases against the entries. It names the
first entry that is wrong. Who holds the ledger's key could still write another history: compare the printed key with
the one certified when the site joined, and the head with the coordinator's receipts.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import FedHealthError, IdentityInvalid, LedgerDamaged
from fedhealth.privacy.anchor import Anchor, AnchorFile, superseded
from fedhealth.privacy.entries import ENTRY, Account, Entry, Recovered, Reserved
from fedhealth.privacy.head_checks import altered, check_head, check_mark, check_receipt, check_witness
from fedhealth.privacy.hold_mark import Mark, read_mark
from fedhealth.privacy.journal import NOTE, check_journal, journal_commitment
from fedhealth.privacy.ledger_database import SCHEMA, connect, is_simulated_ledger, simulated
from fedhealth.privacy.ledger_file import copy_ledger, first_damaged_page
from fedhealth.privacy.merkle import MerkleTree, leaf_hash
from fedhealth.privacy.release_rows import check_rows
from fedhealth.privacy.verified_ledger import LedgerContents, VerifiedLedger, describe
from fedhealth.signing import load_public_key


def verify_ledger(path: Path, seen: str | None = None) -> VerifiedLedger:
    """Return what the ledger at `path` says; arguments and errors are those of `read_ledger`."""
    return read_ledger(path, seen).verified


def read_ledger(path: Path, seen: str | None = None, *, held: bool = False) -> LedgerContents:
    """Verify the ledger at `path` and return what it holds.

    Args:
        path: a ledger's SQLite file, or the state folder that holds `ledger.sqlite`.
        seen: the signed note of a head of this ledger that somebody else kept. The ledger must extend it; without
            one, an older copy of the whole file cannot be told from the ledger.
        held: read it although the mark beside it says that it lacks entries; for who says so as well.

    Raises:
        LedgerDamaged: naming the first bad entry; or it was written to all the time, which says so.
        IdentityInvalid: the head's signature is wrong.
    """
    path = path / "ledger.sqlite" if path.is_dir() else path
    if not path.is_file():
        raise LedgerDamaged(f"there is no ledger at {path}", next_step="Give a site's state folder or its ledger file.")
    if is_simulated_ledger(path):
        raise simulated(path)
    with tempfile.TemporaryDirectory(prefix="fedhealth-verify-") as folder:
        copy = Path(folder) / "ledger.sqlite"
        try:
            anchor = AnchorFile(path.with_suffix(".anchor")).read()  # first: a gate may move both meanwhile
            mark = None if held else read_mark(path.with_suffix(".hold"))
            copy_ledger(path, copy)
            database = connect(copy, apsw.SQLITE_OPEN_READWRITE)
            try:
                database.pragma("locking_mode", "exclusive")
                database.pragma("schema_version")  # opens the log, which a checkpoint alone does not
                # First what stands in the log: a page that was torn by a power cut is whole again after it.
                database.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                contents = _verify(database, first_damaged_page(copy), seen, anchor, mark)
                pages = database.pragma("page_count") * database.pragma("page_size")
            finally:
                database.close()
            if copy.stat().st_size != pages:
                raise altered(contents.verified.head.size, "bytes were added to the file after its last page")
            return contents
        except (apsw.Error, OSError) as error:
            raise altered(0, f"the file cannot be read ({type(error).__name__}: {error})") from error


def verify_database(database: apsw.Connection) -> VerifiedLedger:
    """Return what the ledger in a database of the caller's own says: all but its file, anchor and mark is checked.

    Raises:
        LedgerDamaged: naming the first bad entry.
        IdentityInvalid: the head's signature is wrong.
    """
    return _verify(database, None, None, None, None).verified


def _verify(
    database: apsw.Connection, damaged_page: int | None, seen: str | None, anchor: Anchor | None, mark: Mark | None
) -> LedgerContents:
    account, tree = Account(), MerkleTree()
    journal, journal_is_whole = _journal_roots(database)
    unopened = _given_back(database)
    entries: list[bytes] = []
    charged: dict[str, int] = {}
    opened = 0
    rows = _entry_rows(database)
    while True:
        position = tree.size
        try:
            if (row := next(rows, None)) is None:
                break
            entry = _checked_entry(row, position, journal, unopened)
            account.apply(entry)
        except FedHealthError as error:
            raise (
                error if isinstance(error, LedgerDamaged) and error.got else altered(position, error.what)
            ) from error
        except (apsw.Error, ValueError, TypeError) as error:
            raise altered(position, f"it cannot be read ({type(error).__name__})") from error
        tree.append(row.leaf)
        entries.append(row.body)
        opened += row.salt is not None
        if isinstance(entry, Reserved):
            charged[entry.release] = position
    if damaged_page is not None:
        raise altered(tree.size, f"page {damaged_page} of the file was changed outside the entries")
    if account.created is None:
        raise altered(0, "there is no entry")
    if not journal_is_whole or not _journal_is_signed(database, account, journal):
        raise altered(tree.size, "the local journal was changed after the last entry")
    note, receipt = _only(database, "SELECT note FROM head"), _only(database, "SELECT body FROM receipt")
    if note is None:
        raise altered(tree.size, "there is no signed head")
    head = check_head(note, account, tree, seen)
    if anchor is not None and not superseded(account, anchor):
        if anchor.size > tree.size:
            raise altered(tree.size, f"it is missing: the anchor beside it says {anchor.size}, this ledger is older")
        if tree.root(anchor.size).hex() != anchor.root:
            raise altered(0, f"the first {anchor.size} entries are not those under its anchor")
        if anchor.journal >= len(journal):
            raise altered(tree.size, f"the anchor says {anchor.journal} lines of the local journal: this one is older")
    if mark is not None:
        check_mark(mark, account.created, tree)
    _check_schema(database)
    if database.execute("SELECT count(*) FROM opening").get != opened:
        raise altered(tree.size, "a commitment to the journal belongs to no entry")
    witnessed = check_receipt(receipt, account.created, tree)
    check_witness(account, charged, witnessed)
    check_rows(database, account, charged, witnessed)
    return LedgerContents(
        verified=describe(account, head, witnessed, anchor is not None),
        account=account,
        entries=tuple(entries),
        head=note,
        receipt=receipt,
    )


class _EntryRow(NamedTuple):
    """An entry as it stands in the file; the last two are None where there is no opening."""

    position: int
    body: bytes
    leaf: bytes
    salt: bytes | None
    journal_size: int | None


def _entry_rows(database: apsw.Connection) -> Iterator[_EntryRow]:
    """Yield the entries in their order, in one pass over the file."""
    query = """SELECT position, body, leaf, salt, journal_size FROM entry LEFT JOIN opening USING (position)
               WHERE log = 'ledger' ORDER BY position"""
    for row in database.execute(query):
        yield _EntryRow(*row)


def _given_back(database: apsw.Connection) -> list[range]:
    """Return where the ledger says that entries were given back, whose commitments nobody can open any more.

    Only the entries that say so are looked at here, and nothing of them is believed yet: they are verified in their
    turn, and with them these ranges.
    """
    found = []
    query = "SELECT position, body FROM entry WHERE log = 'ledger' AND instr(body, ?) ORDER BY position"
    try:
        for position, body in database.execute(query, (b'"kind":"recovered"',)):
            entry = ENTRY.validate_json(body)
            if isinstance(entry, Recovered):
                found.append(range(entry.first, position))
    except (apsw.Error, ValueError):
        pass  # the entry is met again, and named
    return found


def _checked_entry(row: _EntryRow, position: int, journal: list[bytes], unopened: list[range]) -> Entry:
    if row.position != position:
        raise altered(position, "it is missing")
    if leaf_hash(row.body) != row.leaf:
        raise altered(position, "its content does not match its hash")
    entry = ENTRY.validate_json(row.body)
    if canonical_bytes(entry) != row.body:
        raise altered(position, "it is not in canonical form")
    if row.salt is None and any(position in each for each in unopened):
        return entry
    if row.salt is None or row.journal_size is None or not 0 <= row.journal_size < len(journal):
        raise altered(position, "its commitment to the journal cannot be opened")
    if journal_commitment(row.salt, journal[row.journal_size], row.journal_size) != entry.journal:
        raise altered(position, "the local journal before it was changed")
    return entry


def _journal_roots(database: apsw.Connection) -> tuple[list[bytes], bool]:
    """Return the journal's root at every size, up to its first bad line, and whether it is whole.

    The commitments of entries that follow a bad line fail; lines after the last entry are under its signed head only.
    """
    tree = MerkleTree()
    roots = [tree.root()]
    try:
        lines = database.execute("SELECT position, body, leaf FROM entry WHERE log = 'journal' ORDER BY position")
        for position, body, leaf in lines:
            note = NOTE.validate_json(body)
            if position != tree.size or leaf_hash(body) != leaf or canonical_bytes(note) != body:
                return roots, False
            tree.append(leaf)
            roots.append(tree.root())
    except (apsw.Error, ValueError):
        return roots, False
    return roots, True


def _journal_is_signed(database: apsw.Connection, account: Account, roots: list[bytes]) -> bool:
    """Say whether the ledger's key signed the journal as it stands, to its last line."""
    assert account.created is not None  # noqa: S101 - checked by the caller
    found = database.execute("SELECT signature FROM journal_head").fetchone()
    key = load_public_key(account.acts.ledger_key)
    try:
        check_journal(account.created.site, len(roots) - 1, roots[-1], key, b"" if found is None else found[0])
    except IdentityInvalid:
        return False
    return True


def _check_schema(database: apsw.Connection) -> None:
    reference = apsw.Connection(":memory:")
    reference.execute(SCHEMA)
    query = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
    if database.execute(query).fetchall() != reference.execute(query).fetchall():
        raise altered(0, "the file's schema is not that of a ledger")


def _only(database: apsw.Connection, query: str) -> Any:  # noqa: ANN401 - whatever SQLite holds there
    """Return the one value of a table that has one row or none."""
    found = database.execute(query).fetchone()
    return None if found is None else found[0]
