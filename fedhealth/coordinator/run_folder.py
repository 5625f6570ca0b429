"""What a run leaves in its folder, and the coordinator's seal over it.

The seal is one file: the SHA-256 of each of the others under an Ed25519 signature of the coordinator's witness key,
which every site has pinned in the first entry of its ledger. So no byte of what was published can be changed without
that key, whatever later versions make of the files. It says who published them, not that they are true: what follows
from what is left to `fedhealth.compliance.run_checks`.

Torch-free.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import IdentityInvalid
from fedhealth.privacy.checkpoint import Signature
from fedhealth.privacy.release import Digest
from fedhealth.secret_file import replace_file
from fedhealth.signing import load_public_key, public_key_hex, sign, verify

EVIDENCE, MODEL, REPORT, SIGNED_STUDY = "evidence.json", "model.safetensors", "report.html", "study.signed"
MODEL_CARD = "model-card.md"
PUBLISHED = (EVIDENCE, MODEL, MODEL_CARD, REPORT, SIGNED_STUDY)
"""Every file of a run that the seal is over."""

SEAL = "seal.json"
MAX_SEAL_BYTES = 64 * 1024
_DOMAIN = "run-seal"

_FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]


class Contents(BaseModel):
    """What the coordinator says that it published.

    Attributes:
        kind: names the statement.
        files: SHA-256 of each file by its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["fedhealth/run-seal/1"] = "fedhealth/run-seal/1"
    files: Annotated[dict[_FileName, Digest], Field(min_length=1, max_length=100)]


class Seal(BaseModel):
    """Contents, the coordinator's raw Ed25519 public key, and its signature over their canonical bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    contents: Contents
    coordinator: Digest
    signature: Signature


def seal_run(folder: Path, key: Ed25519PrivateKey) -> None:
    """Write the seal over a run's folder, which must hold every published file.

    Args:
        folder: where the results are.
        key: the coordinator's witness key.
    """
    contents = Contents(files={name: sha256_of(folder / name) for name in PUBLISHED})
    seal = Seal(
        contents=contents,
        coordinator=public_key_hex(key.public_key()),
        signature=sign(key, _DOMAIN, canonical_bytes(contents)).hex(),
    )
    replace_file(folder / SEAL, canonical_bytes(seal) + b"\n")


def open_seal(data: bytes) -> Seal:
    """Return a seal if the key that it names signed it.

    Raises:
        IdentityInvalid: it is malformed, or the signature is not that key's.
    """
    try:
        if len(data) > MAX_SEAL_BYTES:
            raise ValueError("too large")
        seal = Seal.model_validate_json(data)
        if canonical_bytes(seal) + b"\n" != data:
            raise ValueError("not canonical")
        key = load_public_key(seal.coordinator)
        verify(key, _DOMAIN, canonical_bytes(seal.contents), bytes.fromhex(seal.signature))
    except (ValueError, IdentityInvalid) as error:
        raise IdentityInvalid(
            "the seal of this run cannot be trusted",
            got="bytes that are malformed, changed, or signed by another key",
            wanted="the seal.json that the coordinator wrote",
            next_step="Ask the coordinator for the run's folder again.",
        ) from error
    return seal


def sha256_of(path: Path) -> Digest:
    """Return the SHA-256 of a file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
