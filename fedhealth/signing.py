"""Ed25519 keys that sign studies, receipts and ledger heads, each signature bound to what it is about.

Source: RFC 8032; the label has the form of `fedhealth.canonical.digest_of`, so a signature on a study can
never be shown as one on a release.

Invariants: what is signed is `fedhealth/<canonical version>/<domain>`, a zero byte, then the data; a domain
holds no zero byte, so no two pairs of domain and data give the same message.

Leaves to others: whose key it is (sites pin fingerprints) and what the data mean.
"""

import hashlib
import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedhealth.canonical import CANONICAL_VERSION
from fedhealth.errors import IdentityInvalid
from fedhealth.secret_file import create_file, read_file, read_secret

_DOMAIN = re.compile(r"[a-z0-9][a-z0-9/.-]{0,63}")


def create_signing_key(path: Path) -> Ed25519PublicKey:
    """Make an Ed25519 key from the operating system's randomness and store it as PEM PKCS#8, mode 0600.

    Args:
        path: a file that does not exist yet.

    Returns:
        The public half, to be shown to whoever shall trust it.

    Raises:
        IdentityInvalid: the file exists or cannot be created.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    create_file(path, pem)
    return key.public_key()


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Return the key stored by `create_signing_key`.

    Raises:
        IdentityInvalid: missing, open to other users, or not an Ed25519 key in PEM.
    """
    data = read_secret(path)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _not_ed25519(str(path), "no readable PEM private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_ed25519(str(path), type(key).__name__)
    return key


def load_public_key(source: Path | str) -> Ed25519PublicKey:
    """Return a public key from a PEM file, or from the text that `public_key_hex` gives.

    Args:
        source: a path to a PEM file (SubjectPublicKeyInfo), or 64 hexadecimal digits.

    Raises:
        IdentityInvalid: missing, or not an Ed25519 public key.
    """
    if isinstance(source, str):
        try:
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(source))
        except ValueError as error:
            raise _not_ed25519("public key", f"{len(source)} characters that are not 32 bytes") from error
    try:
        key = serialization.load_pem_public_key(read_file(source))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _not_ed25519(str(source), "no readable PEM public key") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _not_ed25519(str(source), type(key).__name__)
    return key


def public_key_hex(public: Ed25519PublicKey) -> str:
    """Return the 32 raw bytes of a public key as 64 lower-case hexadecimal digits."""
    return public.public_bytes_raw().hex()


def fingerprint(public: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the raw public key, as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()


def sign(key: Ed25519PrivateKey, domain: str, data: bytes) -> bytes:
    """Return the 64-byte signature of `data` as a thing of the kind `domain`.

    Args:
        key: the signer's key.
        domain: what the data are, such as "study" or "receipt": lower-case letters, digits, `/`, `.`, `-`.
        data: the bytes, of any length.

    Raises:
        ValueError: the domain has another form (a mistake in the program).

    Example:
        >>> key = Ed25519PrivateKey.from_private_bytes(bytes(32))
        >>> verify(key.public_key(), "study", b"x", sign(key, "study", b"x"))
    """
    return key.sign(_message(domain, data))


def verify(public: Ed25519PublicKey, domain: str, data: bytes, signature: bytes) -> None:
    """Return if the signature is by this key, of this domain and of these data; raise otherwise.

    Args:
        public: the key that is trusted for this.
        domain: as in `sign`.
        data: the bytes that were received.
        signature: 64 bytes; any other length is refused.

    Raises:
        IdentityInvalid: the signature does not hold.
        ValueError: the domain has another form (a mistake in the program).
    """
    try:
        public.verify(signature, _message(domain, data))
    except InvalidSignature:
        raise IdentityInvalid(
            f"the signature of this {domain} does not hold",
            wanted=f"one by the key with fingerprint {fingerprint(public)[:16]}...",
            next_step="Ask the signer for the original, and compare the fingerprint of the key by phone.",
        ) from None


def _message(domain: str, data: bytes) -> bytes:
    if _DOMAIN.fullmatch(domain) is None:
        raise ValueError(f"not a signing domain: {domain!r}")
    return f"fedhealth/{CANONICAL_VERSION}/{domain}".encode() + b"\0" + data


def _not_ed25519(what: str, got: str) -> IdentityInvalid:
    return IdentityInvalid(
        f"'{what}' cannot be used for signatures",
        got=got,
        wanted="an Ed25519 key",
        next_step="Point to the right file, or create a new key.",
    )
