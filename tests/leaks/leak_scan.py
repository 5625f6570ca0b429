"""Looks for patients' values in bytes, in every form that a careless or sly program might give them.

A smoke test and no proof: values that were added up, scaled or encrypted are not found. What it is for are the
accidents: an id in an error text, a row in a payload, a table in a log, a hash of a name "to be on the safe side".
"""

import base64
import binascii
import bz2
import gzip
import hashlib
import lzma
import re
import zlib
from itertools import pairwise

import numpy as np

HASHES = ("md5", "sha1", "sha256", "sha512", "blake2b")
FLOATS = ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8")
SHORTEST = 8
"""Bytes that a needle must have: with 10 MB searched for 2,000 needles, chance finds one in 10^9 runs."""
_DEPTH = 3


def encodings(needle):
    """Yield the forms of a needle by name; each can be searched for as it is."""
    yield "raw", needle
    yield "reversed", needle[::-1]
    yield "hex", needle.hex().encode()
    yield "HEX", needle.hex().upper().encode()
    for alphabet, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
        for shift in range(3):  # where in a group of three bytes it may begin
            whole = encode(bytes(shift) + needle + bytes(3))
            # The characters that bytes of the needle alone decide: 6 bits each.
            yield f"{alphabet}+{shift}", whole[-(-shift * 8 // 6) : (shift + len(needle)) * 8 // 6]


def text_forms(text):
    """Yield a text's bytes in the usual character sets."""
    for name in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le"):
        yield name, text.encode(name)


def float_forms(numbers):
    """Yield numbers, one after another, as an array of each width and byte order; those long enough to be no chance."""
    for name in FLOATS:
        raw = np.asarray(numbers, dtype=name).tobytes()
        if len(raw) >= SHORTEST:
            yield name, raw


class Needles:
    """What is searched for.

    Args:
        marks: texts of which each is part of a planted value, such as the beginning of every patient's name.
        texts: whole values, whose hashes are searched for.
        rows: numbers of one patient each, as they stand in the table or as the gate prepared them.
    """

    def __init__(self, marks, texts, rows):
        self._forms = {}
        for mark in marks:
            for charset, raw in text_forms(mark):
                self._add(f"{mark} {charset}", raw)
        for row in rows:
            for part in (row, *pairwise(row), *((value,) for value in row)):
                for kind, raw in float_forms(part):
                    self._add(f"{len(part)} numbers {kind}", raw)
        for text in texts:
            for name in HASHES:
                self._add(f"{name} of a value", hashlib.new(name, text.encode()).digest()[:16])
        self._by_start = {}
        for form in self._forms:
            self._by_start.setdefault(form[:SHORTEST], []).append(form)
        self._starts = np.array(sorted(int.from_bytes(start, "little") for start in self._by_start), dtype="<u8")

    def __len__(self):
        return len(self._forms)

    def _add(self, name, raw):
        for encoding, form in encodings(raw):
            if len(form) >= SHORTEST:
                self._forms.setdefault(form, f"{name}, {encoding}")

    def find(self, data, depth=_DEPTH):
        """Return the names of what is in the data, also inside whatever is compressed in it."""
        found = set(self._present(data))
        for inner in unpacked(data) if depth else ():
            found |= self.find(inner, depth - 1)
        return found

    def _present(self, data):
        """Yield the names of the needles in the data: one pass finds where the first bytes of one stand."""
        if len(data) < SHORTEST:
            return
        windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), SHORTEST)
        keys = np.ascontiguousarray(windows).view("<u8").ravel()
        nearest = self._starts[np.searchsorted(self._starts, keys) % len(self._starts)]
        for place in np.flatnonzero(nearest == keys).tolist():
            for form in self._by_start[data[place : place + SHORTEST]]:
                if data.startswith(form, place):
                    yield self._forms[form]


def unpacked(data):
    """Yield what is compressed anywhere in the data."""
    for magic, unpack in (
        (b"\x78\x01", _zlib),
        (b"\x78\x5e", _zlib),
        (b"\x78\x9c", _zlib),
        (b"\x78\xda", _zlib),
        (b"\x1f\x8b\x08", _gzip),
        (b"BZh", _bz2),
        (b"\xfd7zXZ\x00", _lzma),
        (b"PK\x03\x04", _zip_member),
    ):
        place = data.find(magic)
        while place >= 0:
            inner = unpack(data[place:])
            if inner:
                yield inner
            place = data.find(magic, place + 1)
    yield from _decoded(data)


def _zlib(data, bits=zlib.MAX_WBITS):
    unpacker = zlib.decompressobj(bits)
    try:
        return unpacker.decompress(data, 1 << 24)
    except zlib.error:
        return b""


def _gzip(data):
    return _zlib(data, 16 + zlib.MAX_WBITS)


def _bz2(data):
    try:
        return bz2.BZ2Decompressor().decompress(data, 1 << 24)
    except (OSError, ValueError):
        return b""


def _lzma(data):
    try:
        return lzma.LZMADecompressor().decompress(data, 1 << 24)
    except lzma.LZMAError:
        return b""


def _zip_member(data):
    if len(data) < 30:
        return b""
    names, extra = int.from_bytes(data[26:28], "little"), int.from_bytes(data[28:30], "little")
    return _zlib(data[30 + names + extra :], -zlib.MAX_WBITS)


_MAGIC = (b"\x78", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
_HEX = re.compile(rb"[0-9a-fA-F]{32,}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{24,}|[A-Za-z0-9_-]{24,}")


def _decoded(data):
    """Yield what long runs of hexadecimal digits or base64 say, if that begins as something compressed does."""
    for run in _HEX.findall(data):
        yield from (inner for shift in range(2) if _may_be_packed(inner := _unhex(run[shift:])))
    for run in _BASE64.findall(data):
        plain = run.translate(bytes.maketrans(b"-_", b"+/"))
        for shift in range(4):
            part = plain[shift:]
            if _may_be_packed(inner := binascii.a2b_base64(part[: len(part) // 4 * 4])):
                yield inner


def _unhex(digits):
    return binascii.unhexlify(digits[: len(digits) // 2 * 2])


def _may_be_packed(data):
    return any(magic in data[:64] for magic in _MAGIC)


PACKERS = {
    "zlib": zlib.compress,
    "zlib, fast": lambda data: zlib.compress(data, 1),
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "gzip, then base64": lambda data: base64.b64encode(gzip.compress(data)),
    "zlib, then hex": lambda data: zlib.compress(data).hex().encode(),
    "gzip of gzip": lambda data: gzip.compress(gzip.compress(data)),
}
"""How the test packs what it plants."""
