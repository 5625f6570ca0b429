"""What a reader says of something that it cannot read: where it is, and why; never what it holds.

A source is read to its end whatever is in it: what cannot be read is named, for the administrator alone, and the rest
goes on. A place may hold a file's name, so it belongs on a terminal and in no log.
"""

import errno
import functools
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from fedhealth.errors import DataUnusable
from fedhealth.search.documents import MAX_TEXT_CHARACTERS, Document
from fedhealth.secret_file import read_plain_file

MAX_FILE_BYTES = 64 * 2**20
"""Of a file that is read as a whole, and of a line of one that is not: far above any record of one patient."""

_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Signs that have a terminal show letters in another order than they are in."""

Level = Literal["left out", "noted", "source"]


@dataclass(frozen=True)
class Problem:
    """Something that is not in the index as it should be.

    Attributes:
        source: its name in the search file.
        place: a file below the source's path, with a line or an entry; empty for the source as a whole.
        what: what is wrong.
        level: the document is "left out"; it is in, and something is "noted"; or the whole "source" cannot be read.
    """

    source: str
    place: str
    what: str
    level: Level = "left out"


Found = Iterator[Document | Problem]


def cleaned(text: str) -> str:
    """Return a text as documents hold it: composed letters, one kind of line end, no control characters.

    Nothing of a document may be obeyed by a terminal, and a lone half of a surrogate pair cannot be stored.
    """
    if not text.isascii():  # or putting a million accents over one letter in order takes days
        text = _accents().sub(r"\1", text)
    composed = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    if composed.isprintable():
        return composed
    return "".join(letter if letter in "\n\t" else _shown(letter) for letter in composed)


@functools.cache
def _accents() -> re.Pattern[str]:
    """Return what finds more accents on a letter than any language has: Unicode UAX #15, Stream-Safe Text Format."""
    accents = "".join(filter(unicodedata.combining, map(chr, range(0x300, 0x20000))))
    return re.compile(f"([{accents}]{{30}})[{accents}]+")


def one_line(text: str) -> str:
    """Return a text as a title holds it: on one line, at most 300 characters."""
    return " ".join(cleaned(text).split())[:300]


def _shown(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind == "Cs":
        return "\ufffd"
    return (
        " "
        if kind == "Cc" or letter in "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
        else letter
    )


def checked(text: str) -> str | None:
    """Return why a text is no document's, or None where it is one."""
    if not text.strip():
        return "it holds no text"
    if len(text) > MAX_TEXT_CHARACTERS:
        return f"a text of {len(text):,} characters; a document has at most {MAX_TEXT_CHARACTERS:,}. Split it"
    return None


def made(document: Callable[[], Document], source: str, place: str) -> Document | Problem:
    """Return a document, or why there can be none, such as a patient's name of a page."""
    try:
        return document()
    except DataUnusable as error:
        return Problem(source, place, f"{error.what}; wanted {error.wanted}")


def read_whole(path: Path) -> bytes | str:
    """Return a file's bytes, or why it is not read."""
    try:
        return read_plain_file(path, MAX_FILE_BYTES)
    except OSError as error:
        return unread(error)


def opened(path: Path) -> BinaryIO:
    """Open a plain file to be read part by part; a link, a pipe or a device would show another file, or never end.

    Raises:
        OSError: it is no such file, or cannot be read.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "no plain file")


def unread(error: OSError) -> str:
    """Return why a file is not read."""
    why = "a link, not the file itself" if error.errno == errno.ELOOP else error.strerror or "an error"
    return f"the file cannot be read: {why}"


def files_below(path: Path, endings: tuple[str, ...] | None = None) -> Iterator[tuple[Path, str]]:
    """Yield the files of a source and how they are called below it, in the order of their names.

    Args:
        path: a file, or a folder with all below it; links to folders are not followed.
        endings: only files whose names end so, in lower case; None for all. A source that is one file is that file.

    Raises:
        OSError: a folder cannot be read: what is in it is not gone, and nothing can be said of it.
    """

    def fail(error: OSError) -> None:
        raise error

    if path.is_file():
        yield path, path.name
        return
    for folder, folders, names in os.walk(path, onerror=fail):
        folders.sort()
        for name in sorted(names):
            if not name.startswith(".") and (endings is None or name.lower().endswith(endings)):
                yield Path(folder, name), str(Path(folder, name).relative_to(path))
