"""The anchor of a ledger: one small file beside it that remembers its last head, so that an older copy is found.

It remembers the length of the local journal too: a patient's withdrawal of consent is a line there and no entry, and a
copy of the ledger from before it would otherwise let the patient back in without a word.

It is moved after each commit of the ledger but a bare charge, under which nothing has left yet; so a crash leaves it
one commit behind, never ahead, and a ledger that is behind its anchor is an older copy that somebody put in its
place. An older copy of the whole folder, anchor and all, only the coordinator can find.

Two slots of 1,024 bytes are written in turn, each under a checksum, so that moving it costs one write and one flush
and a crash in the middle of the write leaves the other slot.

Invariant: whatever left the site was charged at a position below `relied_on` of the anchor on disk at that time.
"""

import hashlib
import os
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import LedgerBehind, LedgerDamaged, LedgerForked
from fedhealth.privacy.entries import Account, GivenUp
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest
from fedhealth.secret_file import replace_file

_SLOT_BYTES = 1024
_Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


class Anchor(BaseModel):
    """A head that was reached.

    Attributes:
        moves: how often the anchor was moved; tells the newer slot.
        size: entries under the head.
        root: its root.
        relied_on: no ledger of fewer entries than this holds the charges of all that has left.
        journal: lines of the local journal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    moves: _Count
    size: _Count
    root: Digest
    relied_on: _Count
    journal: _Count = 0


class AnchorMissing(LedgerDamaged):
    """Nobody can tell here whether a ledger is an older copy."""


class JournalBehind(LedgerDamaged):
    """A ledger has all its entries, and lacks lines of its local journal."""


class AnchorFile:
    """The file of one ledger's anchor; owned by whoever holds the ledger."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: Anchor | None = None

    def read(self) -> Anchor | None:
        """Return the newest anchor that is whole; None if there is no such file or nothing in it can be read."""
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        found = [_opened(raw[start : start + _SLOT_BYTES]) for start in (0, _SLOT_BYTES)]
        self._last = max((each for each in found if each), key=lambda each: each.moves, default=None)
        return self._last

    def create(self, size: int, root: Digest, relied_on: int, journal: int) -> None:
        """Write the anchor anew, whatever it said."""
        last = self.read()
        moves = last.moves + 1 if last else 0
        self._last = Anchor(moves=moves, size=size, root=root, relied_on=relied_on, journal=journal)
        replace_file(self._path, _slot(self._last) * 2)

    def move(self, size: int, root: Digest, relied_on: int, journal: int) -> None:
        """Move the anchor to a newer head; durable on return.

        Raises:
            OSError: it could not be written.
        """
        last = self._last or self.read()
        if last is None:
            raise FileNotFoundError(2, "No anchor", str(self._path))
        relied_on = max(relied_on, last.relied_on)
        moved = Anchor(moves=last.moves + 1, size=size, root=root, relied_on=relied_on, journal=journal)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.pwrite(descriptor, _slot(moved), moved.moves % 2 * _SLOT_BYTES) != _SLOT_BYTES:
                raise OSError(28, "No space left on device")
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._last = moved


def tie_anchor(ledger: Ledger, file: AnchorFile) -> None:
    """Check that a ledger has all that its anchor says it had, and move the anchor with it from now on.

    Raises:
        AnchorMissing: there is no anchor.
        LedgerBehind: the ledger is older than its anchor.
        LedgerForked: it is of another history.
        JournalBehind: only lines of its journal are missing.
    """
    anchor = check_anchor(ledger, file.read())
    reached = (ledger.size, ledger.root(ledger.size), ledger.journal_size)
    if (anchor.size, anchor.root, anchor.journal) != reached:  # a crash came between the two writes
        file.create(ledger.size, ledger.root(ledger.size), ledger.relied_on, ledger.journal_size)
    ledger.announce_heads(file.move)


def check_anchor(ledger: Ledger, anchor: Anchor | None) -> Anchor:
    """Return the anchor of a ledger that has all that it says.

    Raises:
        LedgerDamaged: as `tie_anchor`.
    """
    if anchor is None:
        raise anchor_missing(ledger.created.site)
    if not superseded(ledger.account, anchor):
        _check(ledger, anchor)
    return anchor


def _check(ledger: Ledger, anchor: Anchor) -> None:
    site = ledger.created.site
    if anchor.size > ledger.size:
        raise LedgerBehind(
            f"the ledger of '{site}' is an older copy",
            got=f"{ledger.size} entries",
            wanted=f"at least the {anchor.size} that it had before",
            next_step="Put the newest ledger back. If it is lost, start the gate and let the coordinator connect: it "
            "gives the missing entries back; then stop the gate and run: fedhealth site recover-ledger.",
        )
    if ledger.root(anchor.size) != anchor.root:
        raise forked(site)
    if anchor.journal > ledger.journal_size:
        raise JournalBehind(
            f"the local journal of '{site}' is an older copy",
            got=f"{ledger.journal_size} lines",
            wanted=f"at least the {anchor.journal} that it had before; a withdrawal of consent is such a line",
            next_step="Put the newest ledger back. If it is lost: fedhealth site recover-ledger; then enter what is "
            "missing again (fedhealth site forget) before you start the gate.",
        )


def superseded(account: Account, anchor: Anchor) -> bool:
    """Say whether an administrator has confirmed that nobody has the last entries under this anchor."""
    return GivenUp(size=anchor.size, root=anchor.root) in [entry.given_up for entry in account.recovered]


def anchor_missing(site: str) -> AnchorMissing:
    """Return the error for a ledger beside which nothing tells how far it had come."""
    return AnchorMissing(
        f"the anchor of the ledger of '{site}' is missing",
        wanted="the file ledger.anchor beside the ledger, which tells whether the ledger is an older copy",
        next_step="Find it. If it is lost for good, start the gate and let the coordinator connect: it says how far "
        "the ledger had come; then stop the gate and run: fedhealth site recover-ledger.",
    )


def forked(site: str) -> LedgerForked:
    """Return the error for a ledger that is of another history than the signed word about it."""
    return LedgerForked(
        f"the ledger of '{site}' has another history than was signed for",
        next_step="Nothing leaves, and nothing repairs this by itself. Keep the whole state folder as evidence; look "
        "for the newest ledger whose `fedhealth audit verify` shows the head that the coordinator has; put it in "
        "place and run: fedhealth site recover-ledger. If there is none, this site must be made anew, with what was "
        "spent taken off its budget.",
    )


def _slot(anchor: Anchor) -> bytes:
    text = canonical_bytes(anchor)
    return (text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n").ljust(_SLOT_BYTES)


def _opened(slot: bytes) -> Anchor | None:
    text, _, rest = slot.partition(b"\n")
    if rest.strip() != hashlib.sha256(text).hexdigest().encode():
        return None
    return Anchor.model_validate_json(text)
