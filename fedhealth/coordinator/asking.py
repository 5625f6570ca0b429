"""Ask a site's gate for a release, and countersign its ledger on the way; give back what a ledger has lost.

Speaks the four frames of the gate through any function that carries bytes to a site. A site that refuses gives a
code; one that cannot be reached or does not keep the protocol is "away". Every request can be repeated: a gate
answers the same question with the same bytes.
"""

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from fedhealth.coordinator.head_log import WitnessUnavailable
from fedhealth.coordinator.witness import Witness
from fedhealth.errors import FedHealthError, IdentityInvalid, LedgerBehind, LedgerDamaged, RefusalCode
from fedhealth.link.frames import (
    Accepted,
    Answer,
    AskHead,
    FrameInvalid,
    Head,
    NeedWitness,
    PutStudy,
    Refused,
    ReleaseReply,
    Reply,
    Witnessed,
    head_statement,
    pack,
    release_statement,
    unpack_reply,
)
from fedhealth.link.memory import Buffer
from fedhealth.privacy.checkpoint import SignedReceipt
from fedhealth.privacy.copies import Copy, read_page
from fedhealth.privacy.release import Digest, ReleaseIdentity, input_digest
from fedhealth.signing import verify

_LOG = logging.getLogger(__name__)

Carry = Callable[[str, bytes], Awaitable[Buffer]]
"""Carry a frame to a site's gate and return its reply; raises `FedHealthError` when the site is away."""

AWAY = "away"
_MOST_RECEIPTS = 3
"""For one release: for the head a gate started with, for the charge, and once more if it starts again in between."""
LEDGER_DAMAGED = "ledger-damaged"
"""The site showed a head that does not extend what was countersigned, or that its key did not sign."""
LEDGER_BEHIND = "ledger-behind"
"""The site showed an older head than was countersigned; it has its entries back and its administrator must confirm."""
UNWITNESSED = "unwitnessed"
"""This coordinator could not write down what it saw, and therefore signed nothing."""
_MOST_PAGES = 4096


class NoRelease(Exception):
    """A site gave no release: one of `RefusalCode`, or one of the codes above."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code} {detail}".strip())
        self.code, self.detail = code, detail


@dataclass(frozen=True)
class Shown:
    """What sites have shown and been told since this was last written down.

    Attributes:
        releases: durable at the coordinator, and in no receipt that a site has answered, by site.
        acknowledged: releases of which a site's answer to a receipt has shown that it has the receipt.
        heads: the newest head of each site's ledger, as its signed note.
    """

    releases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    acknowledged: Sequence[str] = ()
    heads: Mapping[str, str] = field(default_factory=dict)


class Asker:
    """Asks gates, each one thing at a time; owns, per site, what may be acknowledged with the next receipt.

    Args:
        carry: the way to the gates.
        witness: countersigns their heads.
    """

    def __init__(self, carry: Carry, witness: Witness) -> None:
        self._carry, self._witness = carry, witness
        self._received: dict[str, list[Digest]] = {}
        self._acknowledge: dict[str, list[Digest]] = {}
        self._given: list[Digest] = []
        self._heads: dict[str, str] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._at_work = set[str]()

    async def put_study(self, site: str, signed_study: bytes) -> Accepted:
        """Ask whether a study is approved.

        Raises:
            NoRelease: it is not, or the site is away.
        """
        async with self._turns[site]:
            reply, _ = await self._exchange(site, pack(PutStudy(), signed_study))
        if not isinstance(reply, Accepted):
            raise _not_released(reply)
        self._check_signed(site, "accepted", reply.statement(), reply.signature)
        return reply

    async def ask(self, identity: ReleaseIdentity, data: Buffer) -> Buffer:
        """Return the payload of a release.

        Args:
            identity: the release wanted; its input digest must be that of `data`.
            data: the step's input.

        Raises:
            NoRelease: the site refuses, is away, or answers something else.
        """
        if identity.input_digest != input_digest(data):
            raise ValueError("the identity names another input")
        async with self._turns[identity.site]:
            self._at_work.add(identity.site)
            try:
                payload = await self._ask(identity, data)
            finally:
                self._at_work.discard(identity.site)
        self._received.setdefault(identity.site, []).append(identity.digest)
        return payload

    def is_at_work(self, site: str) -> bool:
        """Say whether a site's gate is asked for a step of a study that is run, and has not answered yet."""
        return site in self._at_work

    async def ask_count(self, identity: ReleaseIdentity, signed_query: Buffer) -> Buffer:
        """Return the payload of a count, which its gate keeps: it is never acknowledged.

        Args:
            identity: the release wanted, named by the query alone.
            signed_query: the query with its asker.

        Raises:
            NoRelease: as `ask`.
        """
        async with self._turns[identity.site]:
            return await self._ask(identity, signed_query)

    async def _ask(self, identity: ReleaseIdentity, data: Buffer) -> Buffer:
        question = pack(Answer(study=identity.study, step=identity.step, round=identity.round), data)
        reply, payload = await self._exchange(identity.site, question)
        for _ in range(_MOST_RECEIPTS):
            if not isinstance(reply, NeedWitness):
                break
            receipt = await self._countersigned(identity.site, reply, payload)
            reply, payload = await self._exchange(identity.site, pack(Witnessed(study=identity.study, receipt=receipt)))
            if isinstance(reply, Refused) and reply.code is RefusalCode.BAD_REQUEST:
                # A gate that was restarted since remembers the charge, but not that this study waited for a receipt.
                reply, payload = await self._exchange(identity.site, question)
            elif isinstance(reply, ReleaseReply | NeedWitness):
                self._acknowledged(identity.site, receipt)
        if not isinstance(reply, ReleaseReply):
            raise _not_released(reply)
        if reply.release != identity.digest:
            raise NoRelease(AWAY, "the site answered with another release")
        statement = release_statement(reply.release, hashlib.sha256(payload).hexdigest())
        self._check_signed(identity.site, "release-reply", statement, reply.signature)
        return payload

    async def head(self, site: str) -> Head:
        """Countersign a site's current head, acknowledging what is checkpointed, and return it.

        Raises:
            NoRelease: the site is away, or its ledger is behind or of another history.
        """
        async with self._turns[site]:
            reply, receipt = await self._signed_head(site)
            acknowledged, _ = await self._exchange(site, pack(Witnessed(study=None, receipt=receipt)))
        if not isinstance(acknowledged, Head):
            raise _not_released(acknowledged)
        self._acknowledged(site, receipt)
        return reply

    def received(self) -> dict[str, tuple[Digest, ...]]:
        """Return the releases that came since `checkpointed` was last said, by site."""
        return {site: tuple(releases) for site, releases in self._received.items()}

    def resume(self, waiting: Mapping[str, Sequence[Digest]]) -> None:
        """Take over from a process that ended: these releases are durable and not known to be acknowledged, by site."""
        self._received.clear()
        self._acknowledge = {site: list(releases) for site, releases in waiting.items()}

    def take_shown(self) -> Shown:
        """Return what was acknowledged and shown since this was last called."""
        shown = Shown(acknowledged=tuple(self._given), heads=self._heads)
        self._given, self._heads = [], {}
        return shown

    def checkpointed(self) -> None:
        """Everything received so far is in the coordinator's durable checkpoint; sites may drop the payloads."""
        for site, releases in self._received.items():
            self._acknowledge.setdefault(site, []).extend(releases)
        self._received.clear()

    def _check_signed(self, site: str, domain: str, statement: bytes, signature: str) -> None:
        """Refuse what the site's gate did not sign: between it and us are a node and a network."""
        try:
            verify(self._witness.ledger_key(site), domain, statement, bytes.fromhex(signature))
        except IdentityInvalid as error:
            raise NoRelease(AWAY, f"not signed by the ledger key of '{site}'") from error

    async def _countersigned(self, site: str, shown: NeedWitness, body: Buffer) -> SignedReceipt:
        try:
            self._check_signed(site, "head-reply", head_statement(shown, body), shown.signature)
            return await self._sign(site, shown, read_page(bytes(body)))
        except (LedgerDamaged, IdentityInvalid):
            # The gate proved it from its own last receipt, which is not ours if a reply was lost; ask from ours.
            return (await self._signed_head(site))[1]

    async def _signed_head(self, site: str) -> tuple[Head, SignedReceipt]:
        """Ask for the head, and for copies until there is one of every entry that is new here."""
        seen, copies = self._witness.seen(site), list[Copy]()
        for _ in range(_MOST_PAGES):
            reply, body = await self._exchange(site, pack(AskHead(since=seen, copies_from=seen + len(copies))))
            if not isinstance(reply, Head):
                raise _not_released(reply)
            self._check_signed(site, "head-reply", head_statement(reply, body), reply.signature)
            try:
                head, page = self._witness.check(site, reply.note, reply.proof), read_page(bytes(body))
            except LedgerBehind as error:
                await self._give_back(site, reply)
                raise NoRelease(LEDGER_BEHIND, str(error)) from error
            except (LedgerDamaged, IdentityInvalid) as error:
                if seen:  # the site shall know it as well, and refuse on its side
                    with suppress(NoRelease):
                        await self._give_back(site, reply)
                raise NoRelease(LEDGER_DAMAGED, str(error)) from error
            copies += [copy for copy in page if copy[0] >= seen + len(copies)]
            if seen + len(copies) >= head.size:
                return reply, await self._sign(site, reply, copies)
            if not page:
                break
        raise NoRelease(AWAY, "the site does not show copies of its entries")

    async def _give_back(self, site: str, shown: Head) -> None:
        """Show a site the last head that was countersigned here, and hand it the copies that it has not."""
        receipt, has = self._witness.last_receipt(site, shown.challenge), shown.entries
        for _ in range(_MOST_PAGES):
            page = self._witness.page(site, has)
            reply, _ = await self._exchange(site, pack(Witnessed(study=None, receipt=receipt), page))
            if not isinstance(reply, Head) or reply.entries <= has:
                return
            has = reply.entries

    async def _sign(self, site: str, shown: NeedWitness | Head, copies: Sequence[Copy]) -> SignedReceipt:
        """Countersign; where that waits for the disk, in a thread, so that no site waits for another's flush."""
        waiting = self._acknowledge.setdefault(site, [])
        shown_head = site, shown.note, shown.proof, shown.challenge, copies, waiting[:64]
        try:
            if self._witness.waits_for_disk:
                signed = await asyncio.to_thread(self._witness.countersign, *shown_head)
            else:
                signed = self._witness.countersign(*shown_head)
        except WitnessUnavailable as error:
            _LOG.error("nothing is countersigned: %(error)s", {"error": error})
            raise NoRelease(UNWITNESSED, str(error)) from error
        self._heads[site] = shown.note
        return signed

    def _acknowledged(self, site: str, signed: SignedReceipt) -> None:
        """Forget what a receipt acknowledged, now that the site has answered to it."""
        done = set(signed.receipt.checkpointed)
        self._given += done
        waiting = self._acknowledge.get(site, [])  # none if a run began meanwhile
        self._acknowledge[site] = [release for release in waiting if release not in done]

    async def _exchange(self, site: str, frame: bytes) -> tuple[Reply, Buffer]:
        try:
            return unpack_reply(await self._carry(site, frame))
        except FrameInvalid as error:
            raise NoRelease(AWAY, "the site's answer is not a frame") from error
        except FedHealthError as error:
            raise NoRelease(AWAY, str(error)) from error


def _not_released(reply: Reply) -> NoRelease:
    if isinstance(reply, Refused):
        return NoRelease(reply.code.value)
    return NoRelease(AWAY, f"the site answered '{reply.kind}' out of turn")
