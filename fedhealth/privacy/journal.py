"""The local journal: the notes of which it consists, and its two seals.

What patients cause (alerts, data versions, withdrawn consents) is a note here and never an entry of the ledger. A
ledger entry carries a salted commitment to the journal before it, which fixes those notes under the ledger's own
signed head and tells nothing to whoever lacks the salt. Notes after the last entry are under no entry yet, so the
journal's head (site, size, root) is signed too, with the ledger's key, in a domain of its own, whenever it grows.
Nothing of this crosses the border but the commitments.

Invariant: a note that is changed, added, moved or missing breaks one of the seals. What no seal can tell is a tail
that was put back, with its signature, as it had been at some time since the last entry; that the anchor tells
(`fedhealth.privacy.anchor`), unless it was put back as well.
"""

import hashlib
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from fedhealth.canonical import canonical_bytes
from fedhealth.privacy.acts import Milliseconds
from fedhealth.privacy.entries import Name
from fedhealth.privacy.merkle import MerkleTree
from fedhealth.privacy.release import Digest, SiteId
from fedhealth.signing import sign, verify

_DOMAIN = "journal-head"


class _Note(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JournalNote(_Note):
    """One line of the local journal, which never crosses the border.

    Attributes:
        kind: "alert" when a release went on in spite of something; "failure" when a study was stopped here and
            "resumed" when it was not any more.
        text: the study for the last two; else for the administrator. Never a patient's id or value.
        at: Unix time in milliseconds.
    """

    kind: Literal["alert", "failure", "resumed"]
    text: str
    at: Milliseconds


class DataNote(_Note):
    """The content of the data set changed; what is computed from here on is computed on this version.

    Attributes:
        version: 1, 2, ...
        content: keyed fingerprint of all that decides a sum beside study and input.
        members: digest of the patients' short marks, without those who withdrew their consent.
        at: Unix time in milliseconds.
    """

    kind: Literal["data"] = "data"
    version: Annotated[int, Field(ge=1, le=2**31)]
    content: Digest
    members: Digest
    at: Milliseconds


class ConsentNote(_Note):
    """A patient withdrew the consent to every use of the records for studies, or gave it again.

    It stands in the journal and is no entry, because a patient caused it.

    Attributes:
        data_set: whose patient.
        scheme: what all marks made alike have in common; another scheme cannot recognise this mark.
        mark: the patient's keyed mark.
        by: the local user who recorded it.
        at: Unix time in milliseconds.
    """

    kind: Literal["consent-withdrawn", "consent-renewed"]
    data_set: Name
    scheme: Digest
    mark: Digest
    by: str
    at: Milliseconds


Note = JournalNote | DataNote | ConsentNote
NOTE = TypeAdapter[Note](Annotated[Note, Field(discriminator="kind")])


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
