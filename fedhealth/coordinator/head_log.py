"""What the coordinator has countersigned of one site's ledger: one append-only file of heads and of the site's copies.

A record is a head together with the sealed copies of the entries that are new under it, so that one write and one
flush keep both: there is never a countersigned head whose entries could not be given back. It is a length (four bytes)
and the CRC-32 of that; then, so long, a head (four bytes of length, canonical JSON) and a page of copies
(`fedhealth.privacy.copies`); then the SHA-256 of all that.

Invariants: the copies of entries 0 to `head.size` are here, each once; an acknowledged record is durable; a record
that a crash cut off, so that the file ends within it, was never acknowledged and is written over. Anything else that
is not whole is damage, and nothing is countersigned on it: lengths are checked by themselves, so that a damaged one is
never taken for a record that was cut off.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import FedHealthError, LedgerDamaged
from fedhealth.privacy.checkpoint import Checkpoint
from fedhealth.privacy.copies import COPY_HEAD_BYTES, Copy, page_of, read_page
from fedhealth.secret_file import SECRET_MODE, sync_folder

_HEADER = struct.Struct("!II")
_LENGTH = struct.Struct("!I")
_HASH_BYTES = 32


class WitnessUnavailable(FedHealthError):
    """The coordinator cannot write down what it has seen, and therefore signs nothing."""

    exit_code = 1


class HeadLog:
    """The countersigned heads of one site; owns its file, and where in it each copy is.

    Args:
        path: the file; made when the first head is kept.

    Raises:
        LedgerDamaged: the file was changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.head: Checkpoint | None = None
        self._places: list[tuple[int, int]] = []
        self._end = 0
        for head, copies, end in _read(path) if path.exists() else ():
            self._take(head, copies, end)

    @property
    def size(self) -> int:
        """Number of entries under the last head, 0 if there is none."""
        return self.head.size if self.head else 0

    def keep(self, head: Checkpoint, copies: list[Copy]) -> None:
        """Keep a head and the copies of exactly the entries that are new under it; durable on return.

        Raises:
            WitnessUnavailable: it could not be written.
        """
        if [position for position, _ in copies] != list(range(self.size, head.size)):
            raise ValueError(f"copies of entries {self.size} to {head.size} are wanted")
        text = canonical_bytes(head)
        page = b"".join(page_of([copy]) for copy in copies)
        body = _LENGTH.pack(len(text)) + text + page
        record = _header(len(body)) + body
        record += hashlib.sha256(record).digest()
        try:
            new = not self._path.exists()
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, SECRET_MODE)
            try:
                os.ftruncate(descriptor, self._end)
                if os.pwrite(descriptor, record, self._end) != len(record):
                    raise OSError(28, "No space left on device")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                sync_folder(self._path.parent)
        except OSError as error:
            raise WitnessUnavailable(
                f"the head of site '{head.site}' cannot be written down at {self._path}",
                got=error.strerror or str(error),
                next_step="Free disk space or repair the disk; until then nothing is countersigned.",
            ) from error
        start = self._end + _HEADER.size + _LENGTH.size + len(text)
        self._take(head, _placed(start, page), self._end + len(record))

    def copies(self, first: int) -> Iterator[Copy]:
        """Yield the copies from a position on."""
        with self._path.open("rb") as file:
            for position in range(first, len(self._places)):
                start, length = self._places[position]
                file.seek(start)
                yield position, file.read(length)

    def _take(self, head: Checkpoint, places: list[tuple[int, int]], end: int) -> None:
        self._places += places
        self.head, self._end = head, end


class PassingHeads:
    """The last countersigned head of a simulated site: nothing outlives the process, and nothing is given back."""

    def __init__(self) -> None:
        self.head: Checkpoint | None = None

    @property
    def size(self) -> int:
        """Number of entries under the last head, 0 if there is none."""
        return self.head.size if self.head else 0

    def keep(self, head: Checkpoint, copies: list[Copy]) -> None:
        """Keep a head."""
        self.head = head

    def copies(self, first: int) -> Iterator[Copy]:
        """Yield no copy."""
        return iter(())


def _header(length: int) -> bytes:
    return _HEADER.pack(length, zlib.crc32(_LENGTH.pack(length)))


def _read(path: Path) -> Iterator[tuple[Checkpoint, list[tuple[int, int]], int]]:
    """Yield each head, the places of its copies, and the end of its record; stops at a record that was cut off."""
    raw, at, size = path.read_bytes(), 0, 0
    while at + _HEADER.size <= len(raw):
        try:
            length, _ = _HEADER.unpack_from(raw, at)
            if raw[at : at + _HEADER.size] != _header(length):
                raise ValueError("another length")
            end = at + _HEADER.size + length + _HASH_BYTES
            if end > len(raw):
                return
            record = raw[at : end - _HASH_BYTES]
            if hashlib.sha256(record).digest() != raw[end - _HASH_BYTES : end]:
                raise ValueError("another hash")
            (text,) = _LENGTH.unpack_from(record, _HEADER.size)
            start = _HEADER.size + _LENGTH.size
            head = Checkpoint.model_validate_json(record[start : start + text])
            page = record[start + text :]
            positions = [position for position, _ in read_page(page)]
            if positions != list(range(size, head.size)):
                raise ValueError("other entries")
        except (ValueError, struct.error, LedgerDamaged) as error:
            raise LedgerDamaged(
                f"the file of witnessed heads {path} was changed",
                got=f"a bad record at byte {at}",
                next_step="Put a backup of this coordinator's state in its place: sites that are ahead of it are "
                "asked for what is missing.",
            ) from error
        yield head, _placed(at + start + text, page), end
        at, size = end, head.size


def _placed(start: int, page: bytes) -> list[tuple[int, int]]:
    """Return where each copy of a page begins and how long it is, if the page begins at byte `start` of a file."""
    places = []
    for _, copy in read_page(page):
        start += COPY_HEAD_BYTES
        places.append((start, len(copy)))
        start += len(copy)
    return places
