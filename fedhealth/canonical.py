"""Canonical bytes and digests: the one place where a value becomes something that can be signed or compared.

A value is written as RFC 8785 canonical JSON (by the `rfc8785` library); a digest is SHA-256 over a domain
label, the version of the canonical form and those bytes, so that two kinds of object can never share a digest
and two versions of the software never disagree silently.

Invariant: equal values give equal bytes on every machine; NaN and infinities have no canonical form.
"""

import hashlib
from typing import Any

import rfc8785
from pydantic import BaseModel

CANONICAL_VERSION = 1


def canonical_bytes(value: BaseModel | Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Return the RFC 8785 bytes of a pydantic model or a JSON value.

    Args:
        value: a pydantic model, or dicts, lists, strings, integers below 2**53, finite floats, booleans, None.

    Returns:
        UTF-8 bytes without insignificant white space, keys sorted.

    Raises:
        rfc8785.CanonicalizationError: the value holds NaN, an infinity, or an integer beyond 2**53.

    Source: RFC 8785.

    Example:
        >>> canonical_bytes({"b": 1, "a": [True, None]})
        b'{"a":[true,null],"b":1}'
    """
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return rfc8785.dumps(plain)


def digest_of(domain: str, data: bytes) -> str:
    """Return the SHA-256 of `data` under a domain label, as 64 lower-case hexadecimal digits.

    Args:
        domain: what the data are, such as "study" or "release"; part of the digest.
        data: the bytes, of any length.

    Example:
        >>> digest_of("study", b"x") == digest_of("release", b"x")
        False
    """
    label = f"fedhealth/{CANONICAL_VERSION}/{domain}".encode()
    return hashlib.sha256(len(label).to_bytes(2, "big") + label + data).hexdigest()
