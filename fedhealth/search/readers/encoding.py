"""Which encoding a text is in: UTF-8 and UTF-16 by their form, older ones by their letters, or none that is known.

French and English hospitals have texts of forty years. What is not UTF-8 is nearly always one of three one-byte
encodings, in which the same byte is another letter: they are told apart by which of them makes letters of these
languages out of the text's bytes. Where none does, nothing is guessed. Whatever is read otherwise than as UTF-8 is
said.
"""

import codecs
from typing import NamedTuple

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_OLDER = (("cp1252", "Windows-1252"), ("cp850", "DOS code page 850"), ("mac_roman", "Mac Roman"))
_LETTERS = frozenset("éèêëàâäçùûüîïôöœæÉÈÊËÀÂÄÇÙÛÜÎÏÔÖŒÆáíóúñßµ°²³’‘“”«»–—…•€£½¼±×\xa0")
_LEAST_SHARE = 0.8
"""Of the bytes beyond ASCII, how many must become one of these letters and signs."""
_MOST_ACCENTED = 0.3
"""Of all letters, how many may be beyond ASCII: in French it is one in twenty, in Cyrillic nearly all."""
_MOST_DAMAGE = 0.05
"""Of the letters beyond ASCII, how many may be broken in a text that is UTF-8 otherwise."""


class Decoded(NamedTuple):
    """A text, and what is to be said of how it was read; empty for whole UTF-8."""

    text: str
    remark: str


def decode(raw: bytes) -> Decoded | None:
    """Return the text in some bytes, or None where they are no text in an encoding that is known."""
    for mark, codec, name in _MARKS:
        if raw.startswith(mark):
            text = raw.decode(codec, "replace")
            damaged = f", {text.count(chr(0xFFFD))} letters of it broken" if "\ufffd" in text else ""
            said = f"read as {name}{damaged}" if name != "UTF-8" or damaged else ""
            return Decoded(text.removeprefix("\ufeff"), said) if text.count("\ufffd") * 20 <= len(text) else None
    if b"\0" in raw:
        return _without_mark(raw)
    if sum(raw.count(byte) for byte in range(1, 9)) * 20 > len(raw):
        return None
    try:
        return Decoded(raw.decode("utf-8"), "")
    except UnicodeDecodeError:
        pass
    text = raw.decode("utf-8", "replace")
    broken, whole = text.count("\ufffd"), sum(letter > "\x7f" for letter in text)
    if broken <= _MOST_DAMAGE * whole:
        return Decoded(text, f"read as UTF-8, {broken} letters of it broken")
    return _older(raw)


def _without_mark(raw: bytes) -> Decoded | None:
    """Return UTF-16 without its mark: nearly every second byte of Western text is NUL."""
    half = len(raw) // 2
    for codec, zeros in (("utf-16-le", raw[1::2].count(0)), ("utf-16-be", raw[::2].count(0))):
        if half and zeros > 0.8 * half:
            text = raw.decode(codec, "replace")
            return Decoded(text, "read as UTF-16") if "\0" not in text else None
    return None


def _older(raw: bytes) -> Decoded | None:
    beyond = bytes(byte for byte in raw if byte > 0x7F)
    plain = sum(65 <= byte & 0xDF <= 90 for byte in raw if byte <= 0x7F)
    if len(beyond) > _MOST_ACCENTED * (len(beyond) + plain):
        return None
    best, name, share = "", "", 0.0
    for codec, called in _OLDER:
        letters = beyond.decode(codec, "replace")
        fitting = sum(letter in _LETTERS for letter in letters) / len(letters)
        if fitting > share:
            best, name, share = codec, called, fitting
    if share < _LEAST_SHARE:
        return None
    return Decoded(raw.decode(best, "replace"), f"not UTF-8, read as {name}")
