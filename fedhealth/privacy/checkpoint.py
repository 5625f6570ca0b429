"""Signed heads of a ledger, and the coordinator's receipts for them.

A **checkpoint** is a signed note: three lines (origin, size, root) under an Ed25519 signature of the site's
ledger key. A **receipt** is the coordinator's signature over a checkpoint it found consistent with all it had seen
of that ledger, together with the releases that are in its own durable checkpoint, whose payloads the site may drop.

Sources: C2SP tlog-checkpoint and signed-note, v1.

Invariant: a note has exactly one byte form; anything else is refused.
"""

import base64
import binascii
import hashlib
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import IdentityInvalid
from fedhealth.privacy.release import Digest, SiteId
from fedhealth.signing import sign, verify

Signature = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]


class Checkpoint(BaseModel):
    """The head of a ledger.

    Attributes:
        site: whose ledger.
        size: number of entries, at least 1.
        root: RFC 9162 root over them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    site: SiteId
    size: Annotated[int, Field(ge=1, le=2**53 - 1)]
    root: Digest

    @property
    def origin(self) -> str:
        """The name of the log, and of its key."""
        return f"fedhealth/ledger/{self.site}"

    @property
    def body(self) -> bytes:
        """The bytes that are signed."""
        root = base64.b64encode(bytes.fromhex(self.root)).decode()
        return f"{self.origin}\n{self.size}\n{root}\n".encode()


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """Return the signed note of a checkpoint."""
    mark = _key_id(checkpoint.origin, key.public_key()) + key.sign(checkpoint.body)
    return f"{checkpoint.body.decode()}\n— {checkpoint.origin} {base64.b64encode(mark).decode()}\n"


def open_checkpoint(note: str, site: SiteId, key: Ed25519PublicKey) -> Checkpoint:
    """Return the checkpoint of a signed note.

    Raises:
        IdentityInvalid: the note is malformed, of another site, or not signed by `key`.
    """
    refused = IdentityInvalid(
        f"the checkpoint of site '{site}' cannot be trusted",
        got="a note that is malformed or not signed by the site's ledger key",
        wanted="a note signed by the ledger key that was certified when the site joined",
        next_step="Do not continue with this ledger; ask the site's administrator for the original. If the site "
        "changed its ledger key, follow its statement first: fedhealth coordinator follow-key.",
    )
    try:
        body, _, marks = note.partition("\n\n")
        origin, size, root = body.split("\n")
        checkpoint = Checkpoint(site=site, size=int(size), root=base64.b64decode(root, validate=True).hex())
        prefix = f"— {checkpoint.origin} "
        mark = base64.b64decode(marks.removeprefix(prefix).strip("\n"), validate=True)
        if origin != checkpoint.origin or mark[:4] != _key_id(origin, key):
            raise refused
        key.verify(mark[4:], checkpoint.body)
    except (ValueError, binascii.Error, InvalidSignature) as error:
        raise refused from error
    if note != f"{checkpoint.body.decode()}\n{prefix}{base64.b64encode(mark).decode()}\n":
        raise refused
    return checkpoint


class Receipt(BaseModel):
    """What the coordinator signs: it has seen this head, and holds these releases durably.

    Attributes:
        kind: names the statement, so that no other signed statement can pass for it.
        site: whose ledger.
        size: size of the witnessed head.
        root: its root.
        challenge: the random number of the gate's process that showed the head, so that the receipt is known to be
            no older than that process; zeros answer none.
        checkpointed: releases in the coordinator's durable checkpoint; their payloads may be dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["fedhealth/receipt/1"] = "fedhealth/receipt/1"
    site: SiteId
    size: Annotated[int, Field(ge=1, le=2**53 - 1)]
    root: Digest
    challenge: Digest = "0" * 64
    checkpointed: Annotated[tuple[Digest, ...], Field(max_length=64)] = ()


class SignedReceipt(BaseModel):
    """A receipt and the witness's Ed25519 signature over its canonical bytes, in the domain "receipt"."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    receipt: Receipt
    signature: Signature


def sign_receipt(receipt: Receipt, key: Ed25519PrivateKey) -> SignedReceipt:
    """Sign a receipt as witness."""
    return SignedReceipt(receipt=receipt, signature=sign(key, "receipt", canonical_bytes(receipt)).hex())


def open_receipt(signed: SignedReceipt, key: Ed25519PublicKey) -> Receipt:
    """Return the receipt if the witness signed it.

    Raises:
        IdentityInvalid: another key signed it, or nobody.
    """
    verify(key, "receipt", canonical_bytes(signed.receipt), bytes.fromhex(signed.signature))
    return signed.receipt


def _key_id(name: str, key: Ed25519PublicKey) -> bytes:
    """Return the four bytes that name a key in a signed note (C2SP signed-note, Ed25519 is type 1)."""
    return hashlib.sha256(name.encode() + b"\n\x01" + key.public_bytes_raw()).digest()[:4]
