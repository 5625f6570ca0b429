"""Copies of a ledger's entries, sealed for the site alone; the coordinator keeps them and can give them back.

Each copy is the body of one entry under AES-SIV, with the site and the entry's position as associated data, padded to
a multiple of 256 bytes. The openings of the commitments to the local journal do not travel, sealed or not: what
patients cause stays at the hospital. So a copy brings an entry back, and its leaf in the tree, and nothing more.

A **page** is a run of copies in a row: for each its position (8 bytes), its length (4 bytes) and its bytes.

Sources: RFC 5297 (AES-SIV: deterministic, no nonce that an older copy of the ledger could repeat); RFC 5869 (HKDF).

Invariants: equal entries at equal positions have equal copies, so asking again tells nothing new; a page that is not
exactly of this form is refused.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedhealth.errors import LedgerDamaged
from fedhealth.privacy.release import SiteId

PAGE_BYTES = 512 * 1024
"""No more copies are begun in a page once it is this long."""

COPY_HEAD_BYTES = 12
"""Of a page, before each copy."""

_PADDED_TO = 256
_HEAD = struct.Struct("!QI")
Copy = tuple[int, bytes]
"""A position and the sealed entry."""


class EntrySeal:
    """Seals and opens copies of one site's entries.

    Args:
        secret: 32 bytes of the site; who has it can read the copies, and no release or noise follows from it.
        site: the site.
    """

    def __init__(self, secret: bytes, site: SiteId) -> None:
        key = HKDF(SHA256(), 64, None, b"fedhealth/1/ledger-copies").derive(secret)
        self._cipher, self._site = AESSIV(key), site.encode()

    def seal(self, position: int, body: bytes) -> bytes:
        """Return the copy of the entry at a position, whose body is canonical JSON."""
        padded = body.ljust(-len(body) // _PADDED_TO * -_PADDED_TO)
        return self._cipher.encrypt(padded, [self._site, position.to_bytes(8, "big")])

    def open(self, position: int, copy: bytes) -> bytes:
        """Return the body of an entry.

        Raises:
            LedgerDamaged: the copy was changed, or was made at another position, site or under another secret.
        """
        try:
            return self._cipher.decrypt(copy, [self._site, position.to_bytes(8, "big")]).rstrip(b" ")
        except (InvalidTag, ValueError) as error:
            raise LedgerDamaged(
                f"the coordinator's copy of entry {position} cannot be opened",
                wanted="a copy made by this site under gate/copies.secret",
                next_step="Ask the coordinator's operator for an older or newer state of its copies.",
            ) from error


def page_of(copies: Iterable[Copy]) -> bytes:
    """Return copies in a row as a page; stops after the copy that fills it."""
    page = bytearray()
    for position, copy in copies:
        page += _HEAD.pack(position, len(copy)) + copy
        if len(page) >= PAGE_BYTES:
            break
    return bytes(page)


def read_page(page: bytes) -> Sequence[Copy]:
    """Return the copies of a page, which stand in a row.

    Raises:
        LedgerDamaged: the bytes are no page.
    """
    found = list(records_of(page))
    if found and ([position for position, _ in found] != list(range(found[0][0], found[0][0] + len(found)))):
        raise _no_page()
    return found


def records_of(page: bytes) -> Iterator[Copy]:
    """Yield the copies of a page up to where it is malformed.

    Raises:
        LedgerDamaged: there.
    """
    at = 0
    while at < len(page):
        if at + _HEAD.size > len(page):
            raise _no_page()
        position, length = _HEAD.unpack_from(page, at)
        at += _HEAD.size
        if length == 0 or at + length > len(page):
            raise _no_page()
        yield position, page[at : at + length]
        at += length


def _no_page() -> LedgerDamaged:
    return LedgerDamaged("a page of copies of a ledger's entries is malformed", next_step="Nothing of it was kept.")
