"""Verify a ledger offline: one file, no key but the one it names, no torch, nothing of the site running.

The verifier works on a copy, into which it moves the write-ahead log first, as opening a ledger does. Then, in this
order: the checksum of every page; every entry in turn (its canonical form, its leaf, the account it adds up to, its
commitment to the journal); the root against the signed head; the rows of releases against the entries. It names the
first entry that is wrong. Who holds the ledger's key could still write another history: compare the printed key with
the one certified when the site joined, and the head with the coordinator's receipts.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import FedHealthError, IdentityInvalid, LedgerDamaged
from fedhealth.privacy.anchor import Anchor, AnchorFile, superseded
from fedhealth.privacy.checkpoint import Checkpoint, SignedReceipt, open_checkpoint, open_receipt
from fedhealth.privacy.currency import total_of
from fedhealth.privacy.entries import ENTRY, Account, Created, Entry, Recovered, Reserved, Stored, WitnessPolicy
from fedhealth.privacy.journal import NOTE, check_journal, journal_commitment
from fedhealth.privacy.ledger_database import SCHEMA, connect
from fedhealth.privacy.ledger_file import copy_ledger, first_damaged_page
from fedhealth.privacy.merkle import MerkleTree, leaf_hash
from fedhealth.privacy.release import Cohort
from fedhealth.privacy.release_rows import MOST_ATTEMPTS
from fedhealth.signing import load_public_key


@dataclass(frozen=True)
class Spending:
    """What one side of a data set has used; `epsilon` is for all releases together, at the budget's delta."""

    data_set: str
    cohort: Cohort
    epsilon_spent: float
    epsilon_cap: float
    delta: float
    share_spent: float
    share_set_aside: float


@dataclass(frozen=True)
class VerifiedLedger:
    """What an intact ledger says.

    Attributes:
        head: its signed head.
        ledger_key: the key that signs it, 64 hexadecimal digits; compare it with the certified one.
        first_ledger_key: the key that it began with; another one if it was rotated since.
        policy_sha256: of the bytes of the policy in force, None if none was recorded.
        paused: the whole site is.
        unsafe_test_site: the site uses known noise and protects nobody.
        releases: releases charged.
        witness: the witness policy in force at its end.
        recovered: entries that the coordinator gave back after an older copy of the ledger was found in its place;
            what the local journal said before them cannot be verified any more.
        unwitnessed: releases that left without the coordinator's signature on their charge, as that policy allowed.
        anchored: an anchor stands beside it, and it has all that the anchor says it had.
        witnessed: size of the last head that the coordinator has countersigned, 0 if none.
        spending: per data set and side.
    """

    head: Checkpoint
    ledger_key: str
    first_ledger_key: str
    policy_sha256: str | None
    paused: bool
    unsafe_test_site: bool
    releases: int
    witness: WitnessPolicy
    unwitnessed: int
    recovered: int
    anchored: bool
    witnessed: int
    spending: tuple[Spending, ...]


@dataclass(frozen=True)
class LedgerContents:
    """What an intact ledger holds that is independent of patients: no journal, no salt, no payload.

    Attributes:
        verified: what it says.
        account: the account that its entries add up to.
        entries: their canonical bytes, in order.
        head: the signed note of its head.
        receipt: canonical bytes of the coordinator's last receipt, None before the first.
    """

    verified: VerifiedLedger
    account: Account
    entries: tuple[bytes, ...]
    head: str
    receipt: bytes | None


def verify_ledger(path: Path, seen: str | None = None) -> VerifiedLedger:
    """Return what the ledger at `path` says; arguments and errors are those of `read_ledger`."""
    return read_ledger(path, seen).verified


def read_ledger(path: Path, seen: str | None = None) -> LedgerContents:
    """Verify the ledger at `path` and return what it holds.

    Args:
        path: a ledger's SQLite file, or the state folder that holds `ledger.sqlite`.
        seen: the signed note of a head of this ledger that somebody else kept. The ledger must extend it; without
            one, an older copy of the whole file cannot be told from the ledger.

    Raises:
        LedgerDamaged: naming the first bad entry; or it was written to all the time, which says so.
        IdentityInvalid: the head's signature is wrong.
    """
    path = path / "ledger.sqlite" if path.is_dir() else path
    if not path.is_file():
        raise LedgerDamaged(f"there is no ledger at {path}", next_step="Give a site's state folder or its ledger file.")
    with tempfile.TemporaryDirectory(prefix="fedhealth-verify-") as folder:
        copy = Path(folder) / "ledger.sqlite"
        try:
            anchor = AnchorFile(path.with_suffix(".anchor")).read()  # first: a gate may move both meanwhile
            copy_ledger(path, copy)
            database = connect(copy, apsw.SQLITE_OPEN_READWRITE)
            try:
                database.pragma("locking_mode", "exclusive")
                database.pragma("schema_version")  # opens the log, which a checkpoint alone does not
                # First what stands in the log: a page that was torn by a power cut is whole again after it.
                database.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                contents = _verify(database, first_damaged_page(copy), seen, anchor)
                pages = database.pragma("page_count") * database.pragma("page_size")
            finally:
                database.close()
            if copy.stat().st_size != pages:
                raise _bad(contents.verified.head.size, "bytes were added to the file after its last page")
            return contents
        except (apsw.Error, OSError) as error:
            raise _bad(0, f"the file cannot be read ({type(error).__name__}: {error})") from error


def _verify(
    database: apsw.Connection, damaged_page: int | None, seen: str | None, anchor: Anchor | None
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
            raise (error if isinstance(error, LedgerDamaged) and error.got else _bad(position, error.what)) from error
        except (apsw.Error, ValueError, TypeError) as error:
            raise _bad(position, f"it cannot be read ({type(error).__name__})") from error
        tree.append(row.leaf)
        entries.append(row.body)
        opened += row.salt is not None
        if isinstance(entry, Reserved):
            charged[entry.release] = position
    if damaged_page is not None:
        raise _bad(tree.size, f"page {damaged_page} of the file was changed outside the entries")
    if account.created is None:
        raise _bad(0, "there is no entry")
    if not journal_is_whole or not _journal_is_signed(database, account, journal):
        raise _bad(tree.size, "the local journal was changed after the last entry")
    note, receipt = _only(database, "SELECT note FROM head"), _only(database, "SELECT body FROM receipt")
    if note is None:
        raise _bad(tree.size, "there is no signed head")
    head = check_head(note, account, tree, seen)
    if anchor is not None and not superseded(account, anchor):
        if anchor.size > tree.size:
            raise _bad(tree.size, f"it is missing: the anchor beside it says {anchor.size}, this ledger is older")
        if tree.root(anchor.size).hex() != anchor.root:
            raise _bad(0, f"the first {anchor.size} entries are not those under its anchor")
        if anchor.journal >= len(journal):
            raise _bad(tree.size, f"the anchor says {anchor.journal} lines of the local journal: this one is older")
    _check_schema(database)
    if database.execute("SELECT count(*) FROM opening").get != opened:
        raise _bad(tree.size, "a commitment to the journal belongs to no entry")
    witnessed = check_receipt(receipt, account.created, tree)
    check_witness(account, charged, witnessed)
    _check_rows(database, account, charged, witnessed)
    return LedgerContents(
        verified=describe(account, head, witnessed, anchor is not None),
        account=account,
        entries=tuple(entries),
        head=note,
        receipt=receipt,
    )


def check_head(note: str, account: Account, tree: MerkleTree, seen: str | None) -> Checkpoint:
    """Return the signed head of a ledger if the entries add up to it and extend the head that was seen, if any.

    Raises:
        LedgerDamaged: they do not.
        IdentityInvalid: a head is not signed by the ledger's key.
    """
    head = _open_head(note, account)
    if head.size != tree.size:
        raise _bad(min(head.size, tree.size), f"{tree.size} entries stand under a signed head of {head.size}")
    if head.root != tree.root().hex():
        raise _bad(0, "the entries do not add up to the signed head")
    if seen is not None:
        earlier = _open_head(seen, account)
        if earlier.size > tree.size:
            raise _bad(tree.size, f"it is missing: a head of {earlier.size} entries was seen, this ledger is older")
        if tree.root(earlier.size).hex() != earlier.root:
            raise _bad(0, f"the first {earlier.size} entries are not those under the head that was seen")
    return head


def _open_head(note: str, account: Account) -> Checkpoint:
    """Return a signed head if the key in force at its size signed it."""
    assert account.created is not None  # noqa: S101 - checked by the caller
    claimed = note.partition("\n")[2].partition("\n")[0]  # it becomes true with the signature
    size = int(claimed) if claimed.isascii() and claimed.isdigit() and len(claimed) <= 16 else 0
    return open_checkpoint(note, account.created.site, load_public_key(account.acts.key_at(max(1, size))))


def describe(account: Account, head: Checkpoint, witnessed: int, anchored: bool = False) -> VerifiedLedger:
    """Return what a ledger says whose head and receipt were checked."""
    assert account.created is not None  # noqa: S101 - a head stands over one entry at least
    return VerifiedLedger(
        head=head,
        ledger_key=account.acts.ledger_key,
        first_ledger_key=account.created.ledger_key,
        policy_sha256=account.acts.policy_sha256,
        paused=account.acts.paused,
        unsafe_test_site=account.created.unsafe_test_site,
        releases=len(account.reserved),
        witness=account.witness,
        unwitnessed=len(account.unwitnessed),
        recovered=account.given_back,
        anchored=anchored,
        witnessed=witnessed,
        spending=tuple(spending_of(account)),
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
        raise _bad(position, "it is missing")
    if leaf_hash(row.body) != row.leaf:
        raise _bad(position, "its content does not match its hash")
    entry = ENTRY.validate_json(row.body)
    if canonical_bytes(entry) != row.body:
        raise _bad(position, "it is not in canonical form")
    if row.salt is None and any(position in each for each in unopened):
        return entry
    if row.salt is None or row.journal_size is None or not 0 <= row.journal_size < len(journal):
        raise _bad(position, "its commitment to the journal cannot be opened")
    if journal_commitment(row.salt, journal[row.journal_size], row.journal_size) != entry.journal:
        raise _bad(position, "the local journal before it was changed")
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
        raise _bad(0, "the file's schema is not that of a ledger")


def _check_rows(database: apsw.Connection, account: Account, charged: dict[str, int], witnessed: int) -> None:
    """Check the rows of releases against the position of each charge and the size of the last witnessed head."""
    seen = set()
    rows = database.execute("SELECT release, position, state, payload, attempts FROM release")
    for release, position, state, payload, attempts in rows:
        stored, at = account.stored.get(release), charged.get(release)
        if at is None:
            raise _bad(max(0, position), f"release {release[:12]} stands in the rows but was never charged")
        if position != at:
            raise _bad(at, f"the row of release {release[:12]} points to entry {position}")
        if (stored is not None) != (state in ("stored", "sent")):
            raise _bad(at, f"release {release[:12]} is '{state}' against what the entries say")
        if stored is None and state != _waiting(release, at, account, witnessed):
            raise _bad(at, f"release {release[:12]} is '{state}' against the coordinator's receipt")
        if attempts not in range(1 if state == "reserved" else MOST_ATTEMPTS + 1):
            raise _bad(at, f"release {release[:12]} is '{state}' and was begun {attempts} times")
        if (payload is not None) != (state == "stored"):
            raise _bad(at, f"the payload of release {release[:12]} is missing or was kept")
        if payload is not None and not _is_payload(payload, stored):
            raise _bad(at, f"the payload of release {release[:12]} was changed")
        seen.add(release)
    if missing := charged.keys() - seen:
        raise _bad(charged[min(missing)], f"the row of release {min(missing)[:12]} is missing")


def _waiting(release: str, at: int, account: Account, witnessed: int) -> str:
    """Return the state of a release that is charged and not stored."""
    if release in account.closed:
        return "closed"
    if at < witnessed:
        return "witnessed"
    return "unwitnessed" if release in account.unwitnessed else "reserved"


def check_witness(account: Account, charged: Mapping[str, int], witnessed: int) -> None:
    """Return if each charge under which something could leave was countersigned, or did not have to be.

    Args:
        account: of the ledger.
        charged: the position of each release's charge.
        witnessed: as `check_receipt` returned.

    Raises:
        LedgerDamaged: a payload was stored without the signature that the policy required.
    """
    for release in account.stored:
        if charged[release] >= witnessed and release not in account.unwitnessed:
            raise _bad(charged[release], f"release {release[:12]} left without the witness that the policy required")


def _is_payload(payload: bytes, stored: Stored | None) -> bool:
    return stored is not None and (
        (len(payload), hashlib.sha256(payload).hexdigest()) == (stored.payload_bytes, stored.payload_sha256)
    )


def check_receipt(body: bytes | None, created: Created, tree: MerkleTree) -> int:
    """Return the size of the head that the coordinator's last receipt countersigns, 0 without a receipt.

    Raises:
        LedgerDamaged: it is unreadable, not signed by the coordinator's pinned key, or for another history.
    """
    if body is None:
        return 0
    try:
        signed = SignedReceipt.model_validate_json(body)
        receipt = open_receipt(signed, load_public_key(created.witness_key))
    except (ValueError, IdentityInvalid) as error:
        raise _bad(tree.size, "the coordinator's receipt cannot be read or is not signed by its key") from error
    if receipt.site != created.site or receipt.size > tree.size or tree.root(receipt.size).hex() != receipt.root:
        raise _bad(min(receipt.size, tree.size), "the coordinator's receipt is for another history")
    return receipt.size


def spending_of(account: Account) -> list[Spending]:
    """Return what each side of each data set has spent and set aside."""
    lines = []
    assert account.created is not None  # noqa: S101 - checked by the caller
    for data_set, budget in account.created.budgets.items():
        for cohort in ("training", "held-out"):
            spent = (
                account.spent(study, cohort)
                for study, approval in account.approved.items()
                if approval.data_set == data_set
            )
            total = total_of(each for each in spent if each is not None)
            aside = account.committed(data_set, cohort)
            lines.append(
                Spending(
                    data_set=data_set,
                    cohort=cohort,
                    epsilon_spent=budget.epsilon_of(total) if total else 0.0,
                    epsilon_cap=budget.epsilon,
                    delta=budget.delta,
                    share_spent=budget.share(total) if total else 0.0,
                    share_set_aside=budget.share(aside) if aside else 0.0,
                )
            )
    return lines


def _only(database: apsw.Connection, query: str) -> Any:  # noqa: ANN401 - whatever SQLite holds there
    """Return the one value of a table that has one row or none."""
    found = database.execute(query).fetchone()
    return None if found is None else found[0]


def _bad(position: int, why: str) -> LedgerDamaged:
    """Return the error that names the first bad entry of a ledger, by its position from 0."""
    return LedgerDamaged(
        f"the ledger was changed: first bad entry is number {position}",
        got=why,
        wanted="entries, journal and rows that add up to the signed head",
        next_step="Keep this file as evidence. Do not put an older copy in its place: it would forget what was spent.",
    )
