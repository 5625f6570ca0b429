"""The coordinator as witness of the sites' ledgers.

It countersigns a head only if that head extends every head of that ledger it has countersigned before. What it has
seen is on disk before its signature leaves, so that neither a site nor the coordinator's own restart can roll a
ledger back unseen.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict

from fedhealth.errors import LedgerDamaged
from fedhealth.privacy.checkpoint import (
    Checkpoint,
    Receipt,
    SignedReceipt,
    open_checkpoint,
    sign_receipt,
)
from fedhealth.privacy.merkle import is_consistent
from fedhealth.privacy.release import Digest
from fedhealth.secret_file import replace_file
from fedhealth.signing import load_public_key


class PinnedSite(BaseModel):
    """What the coordinator knows of a site that joined: the key of its ledger, raw Ed25519 in hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ledger_key: Digest


class Witness:
    """Countersigns heads; owns one file per site in its folder.

    Args:
        folder: where the last countersigned heads are kept; must exist.
        sites: the sites that joined.
        key: the coordinator's witness key.
    """

    def __init__(self, folder: Path, sites: Mapping[str, PinnedSite], key: Ed25519PrivateKey) -> None:
        self._folder, self._sites, self._key = folder, sites, key
        self._seen: dict[str, Checkpoint] = {}
        for site in sites:
            path = folder / f"{site}.json"
            if path.exists():
                self._seen[site] = Checkpoint.model_validate_json(path.read_bytes())

    def ledger_key(self, site: str) -> Ed25519PublicKey:
        """Return the pinned key of a site's ledger, which also signs its releases."""
        return load_public_key(self._sites[site].ledger_key)

    def seen(self, site: str) -> int:
        """Return the size of the last countersigned head of a site, 0 if none."""
        return self._seen[site].size if site in self._seen else 0

    def countersign(
        self, site: str, note: str, proof: Iterable[str], challenge: Digest, checkpointed: Iterable[Digest] = ()
    ) -> SignedReceipt:
        """Return the receipt for a head, after recording it durably.

        Args:
            site: whose ledger.
            note: its signed head.
            proof: consistency from the last countersigned head, hexadecimal hashes.
            challenge: of the gate's process that showed the head.
            checkpointed: releases of this site that are in the coordinator's durable checkpoint.

        Raises:
            IdentityInvalid: the note is not signed by the site's pinned ledger key.
            LedgerDamaged: the head does not extend what was seen: the ledger was rolled back or forked.
        """
        head = open_checkpoint(note, site, self.ledger_key(site))
        last = self._seen.get(site)
        nodes = [bytes.fromhex(node) for node in proof]
        if last is not None and not is_consistent(
            last.size, bytes.fromhex(last.root), head.size, bytes.fromhex(head.root), nodes
        ):
            raise LedgerDamaged(
                f"the ledger of site '{site}' does not extend the head this coordinator countersigned",
                got=f"a head of {head.size} entries without a valid proof from {last.size}",
                wanted="a ledger that only grows",
                next_step="Nothing is countersigned. Ask the site for its ledger and verify it: a rollback or a fork.",
            )
        if last != head:
            replace_file(self._folder / f"{site}.json", json.dumps(head.model_dump()).encode())
            self._seen[site] = head
        receipt = Receipt(
            site=site, size=head.size, root=head.root, challenge=challenge, checkpointed=tuple(checkpointed)
        )
        return sign_receipt(receipt, self._key)
