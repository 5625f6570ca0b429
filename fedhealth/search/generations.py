"""The folder of an index: one generation of files that is current, one writer at a time, and what a crash leaves.

An index lies in `generation-N/` below its folder; the file `current` names it and is replaced atomically. Ordinary work
changes the current generation in place. Erasing and rebuilding write the next one beside it, switch, and remove the
former as a whole: no free page, no log and no tombstone of a search library can then hold what was erased.

Invariants: folders have mode 0700 and files 0600; whatever is not current is what a crash left, and the next
writer removes it; a reader that opened a generation keeps a consistent view until it asks which one is current.

Leaves to others: the files' content (`store`, `lexical`, `vectors`), overwriting blocks of a disk (encrypt the disk).
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhealth.errors import DataUnusable
from fedhealth.secret_file import SECRET_MODE, replace_file, sync_folder

CURRENT = "current"
NAME = re.compile(r"generation-([0-9]{1,9})")
REMOVED = "removed-"
LOCK = "lock"
FOLDER_MODE = 0o700
LOCK_WAIT_SECONDS = 120.0
"""A writer holds the lock for one batch of documents, or for one erasure: a minute or so with 200,000 passages."""
LOCK_POLL_SECONDS = 0.05


def create_folder(folder: Path) -> None:
    """Make an index's folder, if it is missing, its owner's only."""
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    folder.chmod(FOLDER_MODE)


def exists(folder: Path) -> bool:
    """Return whether a folder holds an index."""
    return (folder / CURRENT).exists()


def current_generation(folder: Path) -> Path:
    """Return the folder of the files that count.

    Raises:
        DataUnusable: there is no index, or the file that names its files is not one of ours.
    """
    try:
        name = (folder / CURRENT).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnusable(
            f"there is no index at {folder}",
            got=type(error).__name__,
            next_step="Make one: fedhealth site index add --help",
        ) from error
    if NAME.fullmatch(name) is None:
        raise DataUnusable(
            f"the index at {folder} is damaged",
            wanted=f"the name of a generation in its file '{CURRENT}'",
            next_step="Remove the folder and add the documents again: fedhealth site index add --help",
        )
    return folder / name


def next_generation(folder: Path) -> Path:
    """Return a new empty folder for the generation that is to follow; the caller holds the lock."""
    sweep(folder)
    numbers = [int(found[1]) for path in folder.iterdir() if (found := NAME.fullmatch(path.name))]
    path = folder / f"generation-{max(numbers, default=0) + 1}"
    path.mkdir(mode=FOLDER_MODE)
    return path


def switch(folder: Path, generation: Path) -> None:
    """Make a whole generation the current one, durably, and remove all others; the caller holds the lock."""
    sync_tree(generation)
    sync_folder(folder)
    replace_file(folder / CURRENT, f"{generation.name}\n".encode(), SECRET_MODE)
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove every generation but the current one; the caller holds the lock.

    A generation is renamed first, so that no reader begins to open what is about to go.
    """
    kept = current_generation(folder).name if exists(folder) else None
    for path in sorted(folder.iterdir()):
        if NAME.fullmatch(path.name) and path.name != kept:
            path.rename(folder / f"{REMOVED}{path.name}")
    for path in folder.glob(f"{REMOVED}*"):
        shutil.rmtree(path)
    (folder / f"{CURRENT}.new").unlink(missing_ok=True)
    sync_folder(folder)


def has_former(folder: Path) -> bool:
    """Return whether files of a former generation are still there, because whoever was to remove them was killed."""
    kept = NAME.fullmatch(current_generation(folder).name)
    others = [NAME.fullmatch(path.name.removeprefix(REMOVED)) for path in folder.iterdir()]
    return kept is not None and any(other and int(other[1]) < int(kept[1]) for other in others)


def sync_tree(folder: Path) -> None:
    """Wait until all files below a folder, and their names, are on disk, readable by their owner only."""
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(FOLDER_MODE)
            sync_folder(path)
        else:
            path.chmod(SECRET_MODE)
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


@contextmanager
def held_lock(folder: Path, name: str = LOCK, wait_seconds: float | None = None) -> Iterator[None]:
    """Hold a lock of the folder while the block runs; the kernel frees it when the process ends, however it ends.

    New files are the owner's only for that time, also those that a library makes.

    Args:
        folder: of the index.
        name: of the lock's file.
        wait_seconds: for whoever holds it; `LOCK_WAIT_SECONDS` if None.

    Raises:
        DataUnusable: another process did not let go in time.
    """
    patience = time.monotonic() + (LOCK_WAIT_SECONDS if wait_seconds is None else wait_seconds)
    former_mask = os.umask(0o077)
    try:
        with (folder / name).open("ab") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= patience:
                        raise _in_use(folder) from None
                    time.sleep(LOCK_POLL_SECONDS)
            yield
    finally:
        os.umask(former_mask)


def _in_use(folder: Path) -> DataUnusable:
    return DataUnusable(
        f"the index at {folder} is being written",
        got="a lock held by another process",
        next_step="Wait until that process is done, or end it, and try again; nothing is lost.",
    )
