"""A ledger key gives way to a new one: said by the old key, accepted by the new, followed by whoever pinned the old.

A rotation is a statement (site, former key, new key) under two signatures. The former key's says that the site wants
it; the new key's that its holder has it, so that nobody can be made to vouch with a key of others. A **key statement**
is the chain of a ledger's rotations, oldest first: a file that an administrator carries to the coordinator.

Who stole the former key could make such a statement as well: compare the new key with the site's administrator, by
phone, before following it.

Leaves to others: the entry in the ledger (`acts`), the files of keys (`fedhealth.site`), the coordinator's pin.
"""

from collections.abc import Iterable
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import IdentityInvalid
from fedhealth.privacy.checkpoint import Signature
from fedhealth.privacy.release import Digest, SiteId
from fedhealth.signing import load_public_key, public_key_hex, sign, verify

_DOMAIN = "ledger-key-rotation"


class Rotation(BaseModel):
    """One key after another, under both their signatures; see `check_rotation`.

    Attributes:
        site: whose ledger.
        former_key: raw Ed25519 public key, hexadecimal.
        ledger_key: the one that signs from here on.
        by_former_key: its signature over the three above.
        by_ledger_key: its signature over the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    site: SiteId
    former_key: Digest
    ledger_key: Digest
    by_former_key: Signature
    by_ledger_key: Signature


class KeyStatement(BaseModel):
    """All rotations of a site's ledger key, oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["fedhealth/key-statement/1"] = "fedhealth/key-statement/1"
    site: SiteId
    rotations: tuple[Rotation, ...]


def sign_rotation(site: SiteId, former: Ed25519PrivateKey, new: Ed25519PrivateKey) -> Rotation:
    """Return the rotation from one key to another, signed by both."""
    former_key, ledger_key = public_key_hex(former.public_key()), public_key_hex(new.public_key())
    statement = _statement(site, former_key, ledger_key)
    return Rotation(
        site=site,
        former_key=former_key,
        ledger_key=ledger_key,
        by_former_key=sign(former, _DOMAIN, statement).hex(),
        by_ledger_key=sign(new, _DOMAIN, statement).hex(),
    )


def check_rotation(rotation: Rotation) -> None:
    """Return if both keys signed a rotation.

    Raises:
        IdentityInvalid: one did not.
    """
    statement = _statement(rotation.site, rotation.former_key, rotation.ledger_key)
    for key, signature in (
        (rotation.former_key, rotation.by_former_key),
        (rotation.ledger_key, rotation.by_ledger_key),
    ):
        verify(load_public_key(key), _DOMAIN, statement, bytes.fromhex(signature))


def follow_rotations(site: SiteId, pinned: Digest, rotations: Iterable[Rotation]) -> Digest:
    """Return the key that a chain of rotations leads to from the one that is trusted.

    Args:
        site: whose key is followed.
        pinned: the key that is trusted now; rotations before it are passed over.
        rotations: oldest first.

    Raises:
        IdentityInvalid: no rotation starts from the pinned key, or one is of another site, out of order or not signed.
    """
    key, found = pinned, False
    for rotation in rotations:
        if not found and rotation.former_key != pinned:
            continue
        if rotation.former_key != key or rotation.site != site:
            raise _not_followed(site, "a rotation that does not continue the one before it")
        check_rotation(rotation)
        key, found = rotation.ledger_key, True
    if not found:
        raise _not_followed(site, f"no rotation from the trusted key {pinned[:12]}")
    return key


def _statement(site: SiteId, former_key: Digest, ledger_key: Digest) -> bytes:
    return canonical_bytes([site, former_key, ledger_key])


def _not_followed(site: SiteId, got: str) -> IdentityInvalid:
    return IdentityInvalid(
        f"the key statement of site '{site}' cannot be followed",
        got=got,
        wanted="an unbroken chain from the key that is trusted now",
        next_step="Keep the key that is trusted, and ask the site's administrator for the statement again.",
    )
