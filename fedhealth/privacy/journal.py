"""The local journal's two seals: what each ledger entry says of it, and the signature over its end.

A ledger entry carries a salted commitment to the journal before it, which fixes those lines under the ledger's own
signed head and tells nothing to whoever lacks the salt. Lines after the last entry are under no entry yet, so the
journal's head (site, size, root) is signed too, with the ledger's key, in a domain of its own, whenever it grows.
Neither crosses the border.

Invariant: a line that is changed, added, moved or missing breaks one of them. What no seal can tell is a tail that
was put back, with its signature, as it had been at some time since the last entry.
"""

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedhealth.canonical import canonical_bytes
from fedhealth.privacy.merkle import MerkleTree
from fedhealth.privacy.release import Digest, SiteId
from fedhealth.signing import sign, verify

_DOMAIN = "journal-head"


def journal_commitment(salt: bytes, root: bytes, size: int) -> Digest:
    """Return what a ledger entry says of the journal: nothing, to whoever lacks the salt of 32 bytes."""
    return hashlib.sha256(salt + root + size.to_bytes(8, "big")).hexdigest()


def sign_journal(site: SiteId, journal: MerkleTree, key: Ed25519PrivateKey) -> bytes:
    """Return the signature over the head of a site's journal, 64 bytes."""
    return sign(key, _DOMAIN, _statement(site, journal.size, journal.root()))


def check_journal(site: SiteId, size: int, root: bytes, key: Ed25519PublicKey, signature: bytes) -> None:
    """Return if the ledger's key signed this head of the journal.

    Raises:
        IdentityInvalid: it did not.
    """
    verify(key, _DOMAIN, _statement(site, size, root), signature)


def _statement(site: SiteId, size: int, root: bytes) -> bytes:
    return canonical_bytes([site, size, root.hex()])
