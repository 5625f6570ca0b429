"""Unix sockets: made so that whoever finds one can connect, and the kernel's word for who did.

Source: unix(7), `SO_PEERCRED`; `LOCAL_PEERCRED` on macOS.
"""

import fcntl
import os
import shutil
import socket
import struct
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from fedhealth.errors import LinkUnavailable

MAX_PATH_BYTES = 106
"""Longest path of a socket: the kernel's 107, less the sign that the name has until it listens."""


_LEFT_SECONDS = 60.0
"""A folder that is younger may be another process's that has not locked it yet."""


class SocketFolder:
    """A folder for sockets with a short path, for this user alone; those of processes that were killed are removed.

    A folder is locked as long as its process lives, by the kernel, so that one that nobody has locked was left.

    Args:
        prefix: of its name, the same each time; the folder is among the machine's temporary ones.
    """

    def __init__(self, prefix: str) -> None:
        _remove_left(prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._lock = os.open(self.path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_left(prefix: str) -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # another user's, or another process was first
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                status = os.fstat(folder)
                if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _LEFT_SECONDS:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
            finally:
                os.close(folder)


def listen_at(path: Path, mode: int, waiting: int = 1) -> socket.socket:
    """Return a socket that listens at a path, in the place of what was there.

    Args:
        path: where.
        mode: who may connect, by the file's permissions.
        waiting: how many may wait for their turn.

    Raises:
        LinkUnavailable: it cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Under another name until it listens, so that whoever finds the socket can connect.
        unready = path.with_name(path.name + "~")
        unready.unlink(missing_ok=True)
        listener.bind(str(unready))
        unready.chmod(mode)
        listener.listen(waiting)
        unready.replace(path)
    except OSError as error:
        listener.close()
        raise LinkUnavailable(
            f"nothing can listen at {path}",
            got=error.strerror or str(error),
            next_step=f"Choose a shorter path (at most {MAX_PATH_BYTES} bytes) in a folder that may be written to.",
        ) from error
    return listener


def receive_exactly(connection: socket.socket, count: int) -> memoryview:
    """Return so many bytes; waits for them.

    Raises:
        OSError: they do not come; `ConnectionResetError` where the other end hung up.
    """
    data, filled = memoryview(bytearray(count)), 0
    while filled < count:
        if (more := connection.recv_into(data[filled:])) == 0:
            raise ConnectionResetError("the other end hung up")
        filled += more
    return data


def peer_user(connection: socket.socket) -> int:
    """Return the Unix user id of the process at the other end, by the kernel's word."""
    size = struct.calcsize("3i")
    if sys.platform == "darwin":
        raw = connection.getsockopt(0, 1, 4 + 4)  # LOCAL_PEERCRED: version, uid, ...
        return int(struct.unpack("II", raw)[1])
    return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])
