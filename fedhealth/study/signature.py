"""A study signed by a researcher: what travels, and what a gate accepts; and the same researcher's word to stop it.

There are studies that are run once, and search studies, which stand and answer queries. Both are signed alike.

The signature is Ed25519 over the study's canonical bytes under the domain "study". Which researchers a site
trusts is pinned at the site; a coordinator cannot invent one.
"""

from typing import Annotated, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from fedhealth.canonical import CANONICAL_VERSION, canonical_bytes
from fedhealth.errors import IdentityInvalid
from fedhealth.signing import load_public_key, public_key_hex, sign, verify
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy

MAX_SIGNED_STUDY_BYTES = 512 * 1024
_STOP = "study-stop"


class SignedStudy(BaseModel):
    """A study, the public key of the researcher who signed it, and the signature.

    Attributes:
        study: the protocol.
        researcher: raw Ed25519 public key, 64 hexadecimal digits.
        signature: 128 hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    study: Study
    researcher: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]


class SignedSearch(BaseModel):
    """A search study, signed likewise.

    Attributes:
        study: the protocol.
        researcher: raw Ed25519 public key, 64 hexadecimal digits.
        signature: 128 hexadecimal digits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    study: SearchStudy
    researcher: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]


AnySigned = SignedStudy | SignedSearch
_Signed = TypeVar("_Signed", SignedStudy, SignedSearch, AnySigned)
SIGNED = TypeAdapter[AnySigned](AnySigned)
"""Reads either, without a look at the signature."""
_RUN = TypeAdapter[SignedStudy](SignedStudy)


def sign_study(study: Study | SearchStudy, key: Ed25519PrivateKey) -> bytes:
    """Return the canonical bytes of the signed study."""
    kind = SignedSearch if isinstance(study, SearchStudy) else SignedStudy
    signed = kind.model_validate(
        {
            "study": study,
            "researcher": public_key_hex(key.public_key()),
            "signature": sign(key, "study", canonical_bytes(study)).hex(),
        }
    )
    return canonical_bytes(signed)


def open_signed_study(data: bytes) -> SignedStudy:
    """Return the signed study, one that is run, if its signature holds and its bytes are canonical.

    Raises:
        IdentityInvalid: too large, malformed, or the signature is not the researcher's; or a search study.
    """
    return _opened(data, _RUN)


def open_signed(data: bytes) -> AnySigned:
    """Return the signed study or search study; errors are those of `open_signed_study`."""
    return _opened(data, SIGNED)


def _opened(data: bytes, kind: TypeAdapter[_Signed]) -> _Signed:
    try:
        if len(data) > MAX_SIGNED_STUDY_BYTES:
            raise ValueError("too large")
        signed = kind.validate_json(data)
        if canonical_bytes(signed) != data:
            raise ValueError("not canonical")
        key = load_public_key(signed.researcher)
        verify(key, "study", canonical_bytes(signed.study), bytes.fromhex(signed.signature))
    except (ValidationError, ValueError, IdentityInvalid) as error:
        raise IdentityInvalid(
            "the signed study cannot be trusted",
            got="bytes that are malformed, changed, or signed by another key",
            wanted=f"a study of canonical form {CANONICAL_VERSION} with its researcher's Ed25519 signature",
            next_step="Ask the researcher to sign and submit the protocol again.",
        ) from error
    return signed


def sign_stop(digest: str, key: Ed25519PrivateKey) -> str:
    """Return a researcher's signature that a study be stopped, for ever.

    Args:
        digest: of the study.
        key: the researcher's.
    """
    return sign(key, _STOP, digest.encode()).hex()


def check_stop(signed: SignedStudy, signature: str) -> None:
    """Return if whoever signed a study signed that it be stopped.

    Raises:
        IdentityInvalid: the signature is malformed, of another study or by another key.
    """
    try:
        raw = bytes.fromhex(signature)
    except ValueError:
        raw = b""
    verify(load_public_key(signed.researcher), _STOP, signed.study.digest.encode(), raw)
