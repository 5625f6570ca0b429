"""The coordinator as witness of the sites' ledgers.

It countersigns a head only if that head extends every head of that ledger it has countersigned before, and only with
the site's sealed copies of the entries under it in hand. Head and copies are on disk before the signature leaves, so
that neither a site nor the coordinator's own restart can roll a ledger back unseen, and what a site has lost can be
given back. A coordinator that was itself restored from an older copy finds the sites ahead of it, with a proof, and
goes on from there.
"""

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict

from fedhealth.coordinator.head_log import HeadLog, PassingHeads
from fedhealth.errors import LedgerBehind, LedgerDamaged
from fedhealth.privacy.checkpoint import Checkpoint, Receipt, SignedReceipt, open_checkpoint, sign_receipt
from fedhealth.privacy.copies import Copy, page_of
from fedhealth.privacy.merkle import is_consistent
from fedhealth.privacy.release import Digest
from fedhealth.signing import load_public_key


class PinnedSite(BaseModel):
    """What the coordinator knows of a site that joined: the key of its ledger, raw Ed25519 in hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ledger_key: Digest


class Witness:
    """Countersigns heads; owns one file per site in its folder. Safe to call from several threads.

    Args:
        folder: where the countersigned heads and the sites' copies are kept; must exist. None for simulated sites,
            whose ledgers go with the process: their heads are kept in memory, their copies nowhere.
        sites: the sites that joined; may grow.
        key: the coordinator's witness key.

    Raises:
        LedgerDamaged: one of its files was changed.
    """

    def __init__(self, folder: Path | None, sites: Mapping[str, PinnedSite], key: Ed25519PrivateKey) -> None:
        self._folder, self._sites, self._key = folder, sites, key
        self._logs: dict[str, HeadLog | PassingHeads] = {}
        self._turns: dict[str, threading.RLock] = {}
        for site in sites:
            self._log(site)

    def ledger_key(self, site: str) -> Ed25519PublicKey:
        """Return the pinned key of a site's ledger, which also signs its releases."""
        return load_public_key(self._sites[site].ledger_key)

    def seen(self, site: str) -> int:
        """Return the size of the last countersigned head of a site, 0 if none."""
        return self._log(site).size

    def check(self, site: str, note: str, proof: Iterable[str]) -> Checkpoint:
        """Return the head of a note if it extends the last countersigned one.

        Args:
            site: whose ledger.
            note: its signed head.
            proof: consistency from the last countersigned head, hexadecimal hashes.

        Raises:
            IdentityInvalid: the note is not signed by the site's pinned ledger key.
            LedgerBehind: the head is older than the last one: the ledger is an older copy.
            LedgerDamaged: the head does not extend the last one: another history.
        """
        head, last = open_checkpoint(note, site, self.ledger_key(site)), self._log(site).head
        if last is not None and head.size < last.size:
            raise LedgerBehind(
                f"the ledger of site '{site}' is older than the head this coordinator countersigned",
                got=f"a head of {head.size} entries",
                wanted=f"at least {last.size}",
                next_step="Nothing is countersigned. The site's gate gets its entries back; its administrator "
                "confirms them: fedhealth site recover-ledger.",
            )
        nodes = [bytes.fromhex(node) for node in proof]
        if last is not None and not is_consistent(
            last.size, bytes.fromhex(last.root), head.size, bytes.fromhex(head.root), nodes
        ):
            raise LedgerDamaged(
                f"the ledger of site '{site}' does not extend the head this coordinator countersigned",
                got=f"a head of {head.size} entries without a valid proof from {last.size}",
                wanted="a ledger that only grows",
                next_step="Nothing is countersigned. Ask the site for its ledger and verify it: it has two histories.",
            )
        return head

    def countersign(
        self,
        site: str,
        note: str,
        proof: Iterable[str],
        challenge: Digest,
        copies: Iterable[Copy],
        checkpointed: Iterable[Digest] = (),
    ) -> SignedReceipt:
        """Return the receipt for a head, after recording it and the copies of its new entries durably.

        Args:
            site: whose ledger.
            note: its signed head.
            proof: consistency from the last countersigned head, hexadecimal hashes.
            challenge: of the gate's process that showed the head.
            copies: sealed copies; those of all entries since the last countersigned head must be among them.
            checkpointed: releases of this site that are in the coordinator's durable checkpoint.

        Raises:
            IdentityInvalid, LedgerBehind, LedgerDamaged: as `check`.
            LedgerDamaged: copies are missing.
            WitnessUnavailable: it could not be written down.
        """
        with self._turn(site):
            head, log = self.check(site, note, proof), self._log(site)
            wanted = range(log.size, head.size)
            new = [copy for copy in copies if copy[0] in wanted]
            if [position for position, _ in new] != list(wanted):
                raise LedgerDamaged(
                    f"copies of the new entries of site '{site}' are missing",
                    wanted=f"entries {log.size} to {head.size}",
                )
            if head != log.head:
                log.keep(head, new)
        receipt = Receipt(
            site=site, size=head.size, root=head.root, challenge=challenge, checkpointed=tuple(checkpointed)
        )
        return sign_receipt(receipt, self._key)

    def last_receipt(self, site: str, challenge: Digest) -> SignedReceipt:
        """Return a receipt for the last countersigned head, for a site that does not show one that extends it.

        Args:
            site: a site with `seen(site) > 0`.
            challenge: of its gate's process.
        """
        head = self._log(site).head
        if head is None:
            raise ValueError(f"no head of site '{site}' was countersigned")
        return sign_receipt(Receipt(site=site, size=head.size, root=head.root, challenge=challenge), self._key)

    def page(self, site: str, first: int) -> bytes:
        """Return a page of the site's sealed copies from a position on; empty at the end."""
        return page_of(self._log(site).copies(first))

    @property
    def waits_for_disk(self) -> bool:
        """Whether countersigning does."""
        return self._folder is not None

    def _turn(self, site: str) -> threading.RLock:
        """Return the lock of a site's file: an ask that was given up may leave a thread that still writes to it."""
        return self._turns.setdefault(site, threading.RLock())

    def _log(self, site: str) -> HeadLog | PassingHeads:
        if site not in self._logs and site in self._sites:
            with self._turn(site):
                if site not in self._logs:
                    self._logs[site] = HeadLog(self._folder / f"{site}.heads") if self._folder else PassingHeads()
        return self._logs[site]
