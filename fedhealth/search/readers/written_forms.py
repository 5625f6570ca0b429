"""The forms in which a report is written to a file: plain text, RTF, PDF; told by how its bytes begin, not by its name.

RTF and PDF are read by libraries in pure Python, and what such a file makes them do has no bound: a page can unpack to
gigabytes, or refer to itself. So each is read by a child of this process, which has all of its confinement and a
bounded memory and processor time beside, and hands over nothing but text.

Source: ISO 32000-1 (PDF); RTF 1.9.1. A PDF of scanned pages has no text and is named as such: pictures are not read.
"""

import io
import logging
import os
import resource
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from fedhealth.search.documents import MAX_TEXT_CHARACTERS
from fedhealth.search.readers.encoding import Decoded, decode

CHILD_SECONDS = 60
"""Of processor time for one file: some hundred times what a report of ten pages takes."""
CHILD_BYTES = 2**30
"""Of memory for one file, beyond what this process has."""
MAX_PAGES = 5_000

_TOO_MUCH = f"reading it takes more than {CHILD_SECONDS} s of processor time or {CHILD_BYTES // 2**30} GiB of memory"
_SAVE_IT = "save it as text, RTF or PDF"
_OTHER_FORMS = (
    (b"PK\x03\x04", f"a Word or LibreOffice document, or an archive, is not read: {_SAVE_IT}"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", f"a document of an old Word is not read: {_SAVE_IT}"),
    (b"\x1f\x8b", "a compressed file is not read: unpack it"),
)


class _UnreadError(Exception):
    """Why a file of a known form has no text, in words that show nothing of it."""


Form = Literal["RTF", "PDF"]


def form_of(raw: bytes) -> Form | None:
    """Return which of these two forms a file says that it has."""
    if raw[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{\\rtf"):
        return "RTF"
    return "PDF" if b"%PDF-" in raw[:1024] else None  # some scanners write a line of their own before it


def text_in(raw: bytes) -> Decoded | str:
    """Return the text of a file with what is to be said of how it was read, or why there is none."""
    if form := form_of(raw):
        return _by_child(lambda: _WORDS_OF[form](raw), form)
    for mark, why in _OTHER_FORMS:
        if raw.startswith(mark):
            return why
    return decode(raw) or "no text in an encoding that is known; save it as UTF-8"


def _text_of_rtf(raw: bytes) -> str:
    from striprtf.striprtf import rtf_to_text

    # RTF is ASCII; what is not, an old program wrote in its own encoding.
    decoded = decode(raw)
    written = decoded.text if decoded else raw.decode("cp1252", "replace")
    text: str = rtf_to_text(written, errors="replace")  # type: ignore[no-untyped-call]
    # The halves of a sign beyond the first 65,536 are two numbers in RTF.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text_of_pdf(raw: bytes) -> str:
    from pypdf import PdfReader

    reader = PdfReader(io.BytesIO(raw))
    if reader.is_encrypted and not reader.decrypt(""):
        raise _UnreadError("a PDF that a password locks is not read")
    pages, size = list[str](), 0
    if len(reader.pages) > MAX_PAGES:
        raise _UnreadError(f"a PDF of {len(reader.pages):,} pages; at most {MAX_PAGES:,} are read. Split it")
    for page in reader.pages:
        pages.append(page.extract_text())
        size += len(pages[-1])
        if size > MAX_TEXT_CHARACTERS:
            break  # whoever asked says that it is too long
    text = "\n".join(pages)
    if not text.strip():
        raise _UnreadError("a PDF of pictures without text, as a scanner makes it: have its text recognised first")
    return text


_WORDS_OF: dict[Form, Callable[[bytes], str]] = {"RTF": _text_of_rtf, "PDF": _text_of_pdf}


def _by_child(work: Callable[[], str], form: Form) -> Decoded | str:
    """Return what a child of this process makes of a file, or why it makes nothing of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(work, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read(4 * MAX_TEXT_CHARACTERS + 100)  # then it is closed, and a child that has more to say ends
    _, status = os.waitpid(child, 0)
    if answer[:1] == b"+" and status == 0:
        return Decoded(answer[1:].decode(), "")
    if answer[:1] == b"-":
        return answer[1:].decode()
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return _TOO_MUCH
    return f"it cannot be read as {form}"


def _answer(work: Callable[[], str], pipe: int) -> None:
    """Be the child: write the text, or why there is none, and end without anything that a process does at its end."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        logging.disable(logging.CRITICAL)  # both libraries would repeat what the file holds
        warnings.simplefilter("ignore")
        resource.setrlimit(resource.RLIMIT_CPU, (CHILD_SECONDS, CHILD_SECONDS + 1))
        with suppress(OSError):  # where no /proc says how large it is already
            now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + CHILD_BYTES, now + CHILD_BYTES))
        try:
            answer = b"+" + work()[: MAX_TEXT_CHARACTERS + 1].encode("utf-8", "replace")
        except _UnreadError as error:
            answer = b"-" + str(error).encode()
        except MemoryError:
            answer = b"-" + _TOO_MUCH.encode()
        with os.fdopen(pipe, "wb") as out:
            out.write(answer)
        status = 0
    finally:
        os._exit(status)
