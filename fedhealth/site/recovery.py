"""An administrator puts a site's ledger right again after an older copy of it was found in its place.

The coordinator has signed for a head that this ledger lacks, and has given back the entries under it, sealed by this
site. Here they are opened, checked to lead from the ledger's own last entry to exactly the head that was signed for,
shown, and, once confirmed, written. Nothing is ever taken off: charges come back, and what cannot be known counts as
spent. Another history is never repaired here.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedhealth.errors import IdentityInvalid, LedgerBehind, LedgerDamaged, LedgerForked
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.acts import ResearcherDistrusted, ResearcherTrusted
from fedhealth.privacy.anchor import (
    Anchor,
    AnchorMissing,
    JournalBehind,
    anchor_missing,
    forked,
    superseded,
    tie_anchor,
)
from fedhealth.privacy.checkpoint import open_receipt
from fedhealth.privacy.copies import EntrySeal
from fedhealth.privacy.decisions import FirstApproval, Rejected
from fedhealth.privacy.entries import ENTRY, Account, Approved, Entry, GivenUp, Recovered, Reserved, Stored, Withdrawn
from fedhealth.privacy.hold_mark import Mark
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.merkle import MerkleTree, leaf_hash
from fedhealth.privacy.release import Digest
from fedhealth.privacy.verified_ledger import spending_of
from fedhealth.signing import load_public_key
from fedhealth.site.hold import LedgerHold, behind
from fedhealth.site.state import SiteState, local_user


@dataclass(frozen=True)
class Recovery:
    """What would be written, for the administrator to confirm.

    Attributes:
        why: what is wrong with the ledger as it stands.
        size: entries that it has.
        given_back: bodies of those that follow, as the coordinator gave them back.
        entries: the same, read.
        mark: the coordinator's signature on the head that they lead to; None where only lines of the journal are
            missing.
        given_up: the later head that the anchor remembers, where nobody has its last entries.
        account: of the ledger as it would be.
        closes: what was charged and not stored may have left all the same, and is closed: the ledger came from a
            backup, beside a new noise secret, or its anchor is lost and something is open in it.
        journal_ends: Unix time in milliseconds of the journal's last line; later ones are lost. None if it has none.
    """

    why: LedgerDamaged
    size: int
    given_back: tuple[bytes, ...]
    entries: tuple[Entry, ...]
    mark: Mark | None
    given_up: GivenUp | None
    account: Account
    closes: bool
    journal_ends: int | None

    @property
    def grows(self) -> bool:
        """Whether anything is written into the ledger, rather than beside it."""
        return bool(self.given_back) or self.given_up is not None or self.closes


def examine_recovery(folder: Path, state: SiteState) -> Recovery | None:
    """Say what is wrong with a site's ledger and what would put it right; nothing of the ledger is written.

    Args:
        folder: the site's folder.
        state: its state; the gate must not be running.

    Returns:
        None if nothing is wrong.

    Raises:
        LedgerBehind: the coordinator has not given the missing entries back yet.
        AnchorMissing: the coordinator has not said yet how far the ledger had come.
        LedgerForked: the ledger, or what was given back, is of another history; a person must find out why.
        LedgerDamaged: charges of what has left are lost, or the ledger cannot be read.
    """
    site = load_site_file(folder).id
    try:
        state.open_ledger(site).close()
    except (AnchorMissing, JournalBehind, LedgerBehind, LedgerForked) as error:
        with _opened(state, site) as ledger:
            return _examine(ledger, state, error)
    return None


def recover_ledger(folder: Path, state: SiteState, recovery: Recovery) -> None:
    """Write what an administrator confirmed, as the Unix user of this process.

    First the ledger, in one transaction; then its anchor; then the hold is lifted. Wherever this is cut off, the ledger
    stays held, and doing it again goes on from there and writes nothing twice.

    Raises:
        LedgerDamaged: the ledger is another one than was examined, or it could not be written.
    """
    with _opened(state, load_site_file(folder).id) as ledger:
        if ledger.size != recovery.size:
            raise LedgerDamaged("the ledger changed in between", next_step="Run the command again.")
        if recovery.grows:
            entry = Recovered(
                first=recovery.size, given_up=recovery.given_up, by=local_user(), at=time.time_ns() // 10**6
            )
            ledger.recover(recovery.given_back, entry, recovery.mark.receipt if recovery.mark else None)
        state.anchor.create(ledger.size, ledger.root(ledger.size), ledger.relied_on, ledger.journal_size)
        state.hold.clear()
        tie_anchor(ledger, state.anchor)


def describe_recovery(recovery: Recovery) -> list[str]:
    """Return, in plain words, what is wrong, what would be written, and what stays lost."""
    lines = [recovery.why.what, f"  it has {recovery.size} entries"]
    if recovery.mark is not None:
        lines.append(f"  the coordinator has signed for {recovery.mark.receipt.receipt.size}: so it said on")
        lines.append(
            f"  {_date(recovery.mark.at)}. If you put a copy back since, start the gate first and let it say so again."
        )
        lines.append(f"  {len(recovery.entries)} entries came back, sealed by this site; they fit what was signed:")
        lines += [f"    {_in_words(entry)}" for entry in recovery.entries]
    else:
        lines.append(
            "  only the coordinator can tell whether it is the newest: it is asked when the gate starts, before"
        )
        lines.append("  anything is charged")
    if recovery.given_up is not None:
        lines.append(
            f"  the ledger once had {recovery.given_up.size} entries; nobody has the last of them. Nothing that"
        )
        lines.append("  left was charged there; but do again what you approved, withdrew or changed since.")
    if recovery.grows:
        count = len(_open_releases(recovery.account))
        lines.append(f"  {count} releases were charged and not stored: whether they left nobody knows any more.")
        lines.append("  They stay charged and are never computed again.")
    if recovery.grows or isinstance(recovery.why, AnchorMissing | JournalBehind):
        ends = "is empty" if recovery.journal_ends is None else f"ends on {_date(recovery.journal_ends)}"
        lines.append(f"  the local journal {ends}; whatever it said since is lost. Enter each withdrawal of consent")
        lines.append("  since then again (fedhealth site forget) before you start the gate.")
    lines.append("  spent with them:" if recovery.entries else "  spent:")
    for spent in spending_of(recovery.account):
        lines.append(f"    {spent.data_set}, {spent.cohort} patients: {spent.share_spent:.1%} of the budget")
    return lines


def _in_words(entry: Entry) -> str:
    if isinstance(entry, Reserved):
        return f"charged: study {entry.study[:12]}, {entry.step} {entry.round}, on {_date(entry.at)}"
    if isinstance(entry, Stored):
        return f"computed: release {entry.release[:12]}; its payload is lost"
    if isinstance(entry, Approved | Withdrawn | FirstApproval | Rejected):
        return f"{entry.kind}: study {entry.study[:12]}, by {entry.by} on {_date(entry.at)}"
    if isinstance(entry, ResearcherTrusted | ResearcherDistrusted):
        return f"{entry.kind}: {entry.name}, by {entry.by} on {_date(entry.at)}"
    return entry.kind


def _date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _examine(ledger: Ledger, state: SiteState, why: LedgerDamaged) -> Recovery:
    site, anchor, mark = ledger.created.site, state.anchor.read(), state.hold.mark()
    ends = max((note.at for note in ledger.journal()), default=None)
    if mark is None and isinstance(why, JournalBehind):
        return Recovery(why, ledger.size, (), (), None, None, ledger.account, False, ends)
    if anchor is None and not state.hold.restored and not isinstance(why, LedgerForked):
        why = anchor_missing(site)
    if mark is None:
        raise why  # by its anchor alone, without one, or from a backup; the coordinator has not been asked yet
    _check_receipt(ledger, mark)
    bodies = _given_back(ledger, state.hold, EntrySeal(state.copies_secret(), site), mark)
    tree, entries = _extended(ledger, bodies, mark)
    given_up = _given_up(ledger, anchor, tree)
    account = _account_of(ledger, entries)
    # Without an anchor this may be a copy from before a release was stored, which the coordinator need not have seen.
    closes = state.hold.restored or (anchor is None and bool(_open_releases(account)))
    return Recovery(why, ledger.size, tuple(bodies), tuple(entries), mark, given_up, account, closes, ends)


def _open_releases(account: Account) -> set[Digest]:
    return account.reserved.keys() - account.stored.keys() - account.closed


def _check_receipt(ledger: Ledger, mark: Mark) -> None:
    site = ledger.created.site
    try:
        receipt = open_receipt(mark.receipt, load_public_key(ledger.created.witness_key))
    except IdentityInvalid as error:
        raise LedgerDamaged(
            f"the mark of the ledger of '{site}' is not signed by its coordinator",
            next_step="Find out who wrote ledger.hold and remove it. Start the gate: the coordinator says it again.",
        ) from error
    if receipt.site != site:
        raise LedgerDamaged(f"the mark of the ledger of '{site}' is for another site", got=f"'{receipt.site}'")


def _given_back(ledger: Ledger, hold: LedgerHold, seal: EntrySeal, mark: Mark) -> list[bytes]:
    wanted = range(ledger.size, mark.receipt.receipt.size)
    found = {position: copy for position, copy in hold.given_back() if position in wanted}
    if len(found) != len(wanted):
        raise behind(ledger.created.site)
    return [seal.open(position, found[position]) for position in wanted]


def _extended(ledger: Ledger, bodies: Sequence[bytes], mark: Mark) -> tuple[MerkleTree, list[Entry]]:
    """Return the tree of the ledger with what came back, if it leads to the head that was signed for."""
    tree, receipt = MerkleTree(), mark.receipt.receipt
    for _, body in ledger.bodies(0):
        tree.append(leaf_hash(body))
    for body in bodies:
        tree.append(leaf_hash(body))
    if tree.root(receipt.size).hex() != receipt.root:
        raise forked(ledger.created.site)
    try:
        return tree, [ENTRY.validate_json(body) for body in bodies]
    except ValueError as error:
        raise LedgerDamaged(
            "an entry that was given back cannot be read by this version", next_step="Upgrade fedhealth at this site."
        ) from error


def _given_up(ledger: Ledger, anchor: Anchor | None, tree: MerkleTree) -> GivenUp | None:
    """Return the head that the anchor remembers beyond all entries that anybody has."""
    if anchor is None or superseded(ledger.account, anchor):
        return None
    if anchor.size <= tree.size:
        if tree.root(anchor.size).hex() != anchor.root:
            raise forked(ledger.created.site)
        return None
    if anchor.relied_on > tree.size:
        raise LedgerDamaged(
            f"charges of the ledger of '{ledger.created.site}' are lost",
            got=f"{tree.size} entries, with all that the coordinator has",
            wanted=f"the {anchor.relied_on} that hold the charges of what has left",
            next_step="Find a newer copy of the ledger, or of the coordinator's state. Without one nothing may be "
            "charged here again: this site must be made anew, with the whole budget counted as spent.",
        )
    return GivenUp(size=anchor.size, root=anchor.root)


def _account_of(ledger: Ledger, entries: Sequence[Entry]) -> Account:
    account = ledger.account  # of this copy, which is closed again
    for entry in entries:
        account.apply(entry)
    return account


@contextmanager
def _opened(state: SiteState, site: str) -> Iterator[Ledger]:
    """Open a ledger that is held; nothing but a recovery may write to it."""
    ledger = state.open_untied_ledger(site)
    try:
        yield ledger
    finally:
        ledger.close()
