"""Who was shown which patients' data by a search, and when: a local log beside the index, for the hospital alone.

A line says the Unix user who asked, the kinds of documents that were shown, and their patients by keyed marks, so that
the log can be asked about a patient and holds no name. The question stands in it only where `search.toml` says so: it
may name a patient. A line is on disk before its answer is shown; where it cannot be written, nothing is shown. A file
holds a month; months older than `search.toml` says are removed.

Who asked is the login that the kernel keeps through `sudo` and `su`, else the user who called `sudo`, else the user of
the process. Whoever can become the gate's user at will can also write this log: it tells honest users apart.

Erasure: of a patient who is forgotten, marks go out of every line, and with them the questions of those lines and all
that name the patient; how many patients a line showed stays. A line that is written later drops the marks of whoever is
forgotten by then.
"""

import os
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import DataUnusable
from fedhealth.privacy.release import Digest
from fedhealth.search.search_file import AccessLog
from fedhealth.secret_file import SECRET_MODE, locked_folder, read_plain_file, replace_file, sync_folder
from fedhealth.site.search_consent import Consent, kept_consent

FOLDER = "accesses"
_SETTINGS, _ENDING = "settings.json", ".jsonl"
_MAX_BYTES = 2**30


class Access(BaseModel):
    """One answer that was shown.

    Attributes:
        at: Unix time in milliseconds.
        by: the Unix user who asked.
        kinds: how many documents of each kind were shown.
        patients: keyed marks of those they are about, sorted.
        erased: how many further patients it showed who were forgotten since.
        question: what was asked, if the hospital keeps that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: int
    by: str
    kinds: dict[str, int]
    patients: tuple[Digest, ...] = ()
    erased: int = Field(default=0, ge=0)
    question: str | None = None

    def without(self, gone: Collection[Digest], names: Collection[str] = ()) -> "Access":
        """Return what may be kept when patients are forgotten.

        Args:
            gone: their marks.
            names: their names, as far as they are known; a question that has one in it goes as well.
        """
        left = tuple(mark for mark in self.patients if mark not in gone)
        told = self.question is not None and any(name.casefold() in self.question.casefold() for name in names)
        if len(left) == len(self.patients) and not told:
            return self
        lost = len(self.patients) - len(left)
        return self.model_copy(update={"patients": left, "erased": self.erased + lost, "question": None})


def keep_settings(index: Path, settings: AccessLog) -> None:
    """Lay down beside an index what `search.toml` says of the log: a search cannot read that file."""
    replace_file(_folder(index) / _SETTINGS, canonical_bytes(settings), SECRET_MODE)


def write_access(index: Path, access: Access, consent: Consent) -> None:
    """Append a line, durably; remove months that are too old.

    Args:
        index: the index's folder.
        access: what is to be shown.
        consent: as the process knows it; what the index keeps of it counts where that is newer.

    Raises:
        DataUnusable: it cannot be written.
    """
    try:
        folder = _folder(index)
        with locked_folder(folder):
            settings = _settings(folder)
            kept = access.without(consent.updated(kept_consent(index)).forgotten)
            words = (access.question or "").split()
            if not settings.questions or any(consent.excludes(each.strip(".,;:?!()\"'")) for each in words):
                kept = kept.model_copy(update={"question": None})
            path = folder / f"{_day(access.at):%Y-%m}{_ENDING}"
            new = not path.exists()
            descriptor = os.open(
                path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, SECRET_MODE
            )
            with os.fdopen(descriptor, "ab") as file:
                file.write(b"\n" * _is_torn(path) + canonical_bytes(kept) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if new:
                _remove_old(folder, settings.keep_months, access.at)
                sync_folder(folder)
    except OSError as error:
        raise DataUnusable(
            "who is shown what cannot be written down, so nothing is shown",
            got=error.strerror or "an error",
            next_step=f"Check the disk's space and the folder {index / FOLDER}.",
        ) from error


def read_accesses(index: Path, mark: Digest | None = None) -> Iterator[Access]:
    """Yield the accesses that are kept, the oldest first; of one patient, if a mark is given.

    Raises:
        DataUnusable: a file of the log cannot be read.
    """
    for path in _files(_folder(index)):
        yield from (each for each in _read(path) if mark is None or mark in each.patients)


def forget_in_accesses(index: Path, gone: Collection[Digest], names: Collection[str]) -> None:
    """Take patients out of the log; see the module.

    Raises:
        DataUnusable: a file of the log cannot be read or written.
    """
    folder = _folder(index)
    with locked_folder(folder):
        for path in _files(folder):
            lines = list(_read(path))
            kept = [each.without(gone, names) for each in lines]
            if kept != lines:
                replace_file(path, b"".join(canonical_bytes(each) + b"\n" for each in kept), SECRET_MODE)
        for stray in folder.glob(f"*{_ENDING}.new"):  # what a crash left of such a replacement
            stray.unlink()


def _folder(index: Path) -> Path:
    folder = index / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{_ENDING}"))


def _settings(folder: Path) -> AccessLog:
    try:
        return AccessLog.model_validate_json(read_plain_file(folder / _SETTINGS, 2**16))
    except FileNotFoundError:
        return AccessLog()
    except ValidationError:
        return AccessLog()  # of another version: the question is not kept


def _read(path: Path) -> Iterator[Access]:
    try:
        lines = read_plain_file(path, _MAX_BYTES).splitlines()
    except OSError as error:
        raise DataUnusable(
            f"the log of accesses {path} cannot be read",
            got=error.strerror or "an error",
            next_step="Check the file and its owner; or take it away from there, whole.",
        ) from error
    for line in lines:
        try:
            yield Access.model_validate_json(line)
        except ValidationError:
            continue  # the beginning of a line whose answer was never shown: a crash cut it off


def _is_torn(path: Path) -> bool:
    """Return whether a crash cut off the last line of a file."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return False
        file.seek(size - 1)
        return file.read(1) != b"\n"


def _remove_old(folder: Path, months: int, now: int) -> None:
    today = _day(now)
    first = 12 * today.year + today.month - 1 - months
    oldest = f"{first // 12:04d}-{first % 12 + 1:02d}{_ENDING}"
    for path in _files(folder):
        if path.name < oldest:
            path.unlink()


def _day(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)
