"""What a gate says of its ledger, and the gate of a ledger that is held: it says that and nothing more.

A held gate answers `head`, takes the coordinator's receipt and the sealed entries that come back with it, and is
`busy` to everything else. It charges and computes nothing, whatever comes; only an administrator ends this, with the
gate stopped.
"""

import logging
import secrets
from collections.abc import Callable, Iterable
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedhealth.errors import IdentityInvalid, LedgerDamaged, RefusalCode
from fedhealth.link.frames import (
    AskHead,
    FrameInvalid,
    Head,
    NeedWitness,
    Outgoing,
    Refused,
    Witnessed,
    head_statement,
    pack,
    unpack_request,
)
from fedhealth.link.memory import Buffer
from fedhealth.privacy.checkpoint import SignedReceipt, open_receipt
from fedhealth.privacy.copies import Copy, EntrySeal, page_of, read_page
from fedhealth.privacy.hold_mark import Mark
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest
from fedhealth.site.hold import LedgerHold, behind

_LOG = logging.getLogger(__name__)


class LedgerHeads:
    """Shows the heads of a ledger, signed, with sealed copies of its entries.

    Args:
        ledger: the ledger.
        seal: seals the copies.
    """

    def __init__(self, ledger: Ledger, seal: EntrySeal) -> None:
        self._ledger, self._seal = ledger, seal
        self.challenge = secrets.token_hex(32)

    def head(self, request: AskHead, entries: int | None = None) -> bytes:
        """Return the reply to `head`; `entries` counts those that came back, where some did."""
        shown = Head(
            note=self._ledger.head(),
            proof=tuple(self._ledger.consistency_proof(request.since)),
            challenge=self.challenge,
            entries=self._ledger.size if entries is None else entries,
            signature="0" * 128,
        )
        return self._signed(shown, b"" if request.copies_from is None else self._copies(request.copies_from))

    def need_witness(self) -> bytes:
        """Return the reply that asks for the coordinator's signature on the current head."""
        last = self._ledger.receipt()
        since = last.size if last else 0
        shown = NeedWitness(
            note=self._ledger.head(),
            proof=tuple(self._ledger.consistency_proof(since)),
            challenge=self.challenge,
            signature="0" * 128,
        )
        return self._signed(shown, self._copies(since))

    def check_copies(self, page: Iterable[Copy]) -> None:
        """Return if this site made each of these copies, at its position.

        Raises:
            LedgerDamaged: it did not.
        """
        for position, copy in page:
            self._seal.open(position, copy)

    def _copies(self, first: int) -> bytes:
        return page_of((position, self._seal.seal(position, body)) for position, body in self._ledger.bodies(first))

    def _signed(self, shown: Head | NeedWitness, body: bytes) -> bytes:
        signature = self._ledger.sign("head-reply", head_statement(shown, body))
        return pack(shown.model_copy(update={"signature": signature}), body)


def mark_for(ledger: Ledger, signed: SignedReceipt, at: int) -> Mark | None:
    """Return why a receipt that came at this time shows that a ledger must be held; None if it does not."""
    receipt = signed.receipt
    if receipt.size > ledger.size:
        return Mark(kind="behind", receipt=signed, at=at)
    if ledger.root(receipt.size) != receipt.root:
        return Mark(kind="forked", receipt=signed, at=at)
    return None


class HeldGate:
    """The gate of a ledger that is held.

    Args:
        heads: shows its head.
        ledger: the ledger; never written here.
        hold: where the mark and what comes back are kept.
        witness_key: the coordinator's.
        monotonic: seconds, never backwards.
        unix_ms: milliseconds since 1970; written into the mark.
    """

    def __init__(
        self,
        heads: LedgerHeads,
        ledger: Ledger,
        hold: LedgerHold,
        witness_key: Ed25519PublicKey,
        monotonic: Callable[[], float],
        unix_ms: Callable[[], int],
    ) -> None:
        self._heads, self._ledger, self._hold = heads, ledger, hold
        self._witness_key, self._monotonic, self._unix_ms = witness_key, monotonic, unix_ms

    def longest_body(self, start: bytes) -> int:
        """Return how long the body of a large frame may be: a page of copies fits in a small one."""
        return 0

    def handle(self, frame: Buffer, digest: Digest | None = None) -> Outgoing:
        """Answer one frame; never with an exception's text. The digest of a step's input is of no use here."""
        arrived = self._monotonic()
        try:
            request, body = unpack_request(frame)
            if isinstance(request, AskHead):
                return Outgoing(self._heads.head(request, self._hold.reaches(self._ledger.size)), arrived)
            if isinstance(request, Witnessed):
                return Outgoing(self.take(request, bytes(body)), arrived)
        except (FrameInvalid, IdentityInvalid):
            return Outgoing(pack(Refused(code=RefusalCode.BAD_REQUEST)), arrived)
        except LedgerDamaged as error:
            _LOG.error("the ledger cannot be used: %(error)s", {"error": error})
        except Exception as error:
            _LOG.error("a request failed: %(defect)s", {"defect": type(error).__name__})
        return Outgoing(pack(Refused(code=RefusalCode.BUSY)), arrived)

    def check(self) -> NoReturn:
        """Refuse what an administrator says: nothing is written to a ledger that is held.

        Raises:
            LedgerBehind, LedgerForked: always.
        """
        site = self._ledger.created.site
        self._hold.check(site)
        raise behind(site)

    def take(self, request: Witnessed, body: bytes) -> bytes:
        """Keep the coordinator's receipt and a page of the entries that it gives back.

        Only a receipt for this very process counts, so that nobody can end a recovery early with an older one.

        Raises:
            IdentityInvalid: the coordinator did not sign it.
            LedgerDamaged: the page is malformed, or a copy in it was not made by this site; nothing of it is kept.
        """
        receipt, size = open_receipt(request.receipt, self._witness_key), self._ledger.size
        if receipt.site != self._ledger.created.site or receipt.challenge != self._heads.challenge:
            return pack(Refused(code=RefusalCode.BAD_REQUEST))
        at = self._unix_ms()
        mark = mark_for(self._ledger, request.receipt, at)
        self._hold.set(mark or Mark(kind="behind", receipt=request.receipt, at=at))
        if receipt.size > size:
            page = [copy for copy in read_page(body) if copy[0] < receipt.size]
            self._heads.check_copies(page)  # the node brings them, and one that is kept is never asked for again
            self._hold.take(size, page)
        return self._heads.head(AskHead(since=size), self._hold.reaches(size))
