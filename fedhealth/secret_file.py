"""Files that must not be half there: private keys, created once and readable by their owner only, and durable state.

Invariants: a secret is never written over an existing file (`O_EXCL`), its mode is 0600 from the first byte,
and a key that others on the machine may read is refused rather than used. Reading neither waits nor follows a link, and
is bounded: a file may lie in a folder that another Unix user writes to, and whoever reads it may be root.

Leaves to others: what the bytes mean (`authority`, `identity`, `signing`), encryption at rest, and backups.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhealth.errors import IdentityInvalid

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
MAX_KEY_BYTES = 64 * 1024


def create_file(path: Path, data: bytes, mode: int = SECRET_MODE) -> None:
    """Write a new file and wait until it is on disk; an existing file is an error.

    Args:
        path: where; its folder must exist.
        data: the whole content.
        mode: `SECRET_MODE` (0600) for a private key, `PUBLIC_MODE` (0644) for a certificate.

    Raises:
        IdentityInvalid: the file exists already (also as a dangling link), or cannot be created.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise IdentityInvalid(
            f"will not overwrite '{path}'",
            got="a file that exists",
            wanted="a new name",
            next_step="Move the old file away first, if it is no longer needed.",
        ) from None
    except OSError as error:
        raise IdentityInvalid(
            f"cannot create '{path}'",
            got=error.strerror or type(error).__name__,
            next_step="Create its folder, or correct who may write there.",
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask says
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_file(path: Path) -> bytes:
    """Return the content of a plain file of at most 64 KiB that must exist; as `read_plain_file`.

    Raises:
        IdentityInvalid: it is missing, no plain file, too large, or cannot be read.
    """
    return _read(path)[0]


def read_plain_file(path: Path, most_bytes: int) -> bytes:
    """Return the content of a plain file of limited size; a link, a pipe or a device is an error.

    For a folder that somebody else writes to: a pipe would wait for ever, a device never end, a link show another file.

    Raises:
        OSError: it is no such file, or cannot be read.
    """
    return _read_plain(path, most_bytes)[0]


def read_secret(path: Path) -> bytes:
    """Return the content of a private key file, unless others on this machine could read it as well.

    Raises:
        IdentityInvalid: as `read_file`, or its mode lets the group or everybody in.
    """
    data, mode = _read(path)
    if mode & 0o077:
        raise IdentityInvalid(
            f"private key '{path}' is open to other users",
            got=f"mode {mode:04o}",
            wanted=f"mode {SECRET_MODE:04o}",
            next_step=f"Find out who read it; then: chmod 600 {path}",
        )
    return data


def _read(path: Path) -> tuple[bytes, int]:
    try:
        return _read_plain(path, MAX_KEY_BYTES)
    except OSError as error:
        raise IdentityInvalid(
            f"cannot read '{path}'",
            got=error.strerror or type(error).__name__,
            wanted=f"a plain file, such as PEM, of at most {MAX_KEY_BYTES // 1024} KiB",
            next_step="Correct the path or the file's owner, or create the file again.",
        ) from error


def _read_plain(path: Path, most_bytes: int) -> tuple[bytes, int]:
    """Return content and mode of one and the same file, whatever happens to its name meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "a link, not the file itself", str(path)) from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "no plain file", str(path))
        data = b""
        while len(data) <= most_bytes and (part := os.read(descriptor, most_bytes + 1 - len(data))):
            data += part
    finally:
        os.close(descriptor)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes:,} bytes", str(path))
    return data, stat.S_IMODE(status.st_mode)


def replace_file(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replace a file's content so that after a crash it is the old or the new one, whole.

    Args:
        path: where; its folder must exist.
        data: the whole content.
        mode: of the new file from its first byte; what the umask leaves if None.
    """
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else mode
    )
    with os.fdopen(descriptor, "wb") as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes, and other threads, that change a folder's files waiting until this is over."""
    with (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
