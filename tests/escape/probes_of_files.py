"""Attempts on the data, the gate's state and its folders."""

import contextlib
import os
import socket
from pathlib import Path

from probe_target import GATE_USER, LIBC, PROC, SITE, STATE


def can_read(path):
    """Read one byte."""

    def probe():
        with Path(path).open("rb") as file:
            return len(file.read(1)) == 1

    return probe


def can_list(path):
    return lambda: bool(list(Path(path).iterdir()))


def can_write(path):
    """Open for writing, without changing a byte."""

    def probe():
        os.close(os.open(path, os.O_RDWR))
        return True

    return probe


def can_create_in(folder, make=lambda path: path.write_bytes(b"x")):
    def probe():
        path = Path(folder) / "planted-by-the-node"
        make(path)
        path.unlink()
        return True

    return probe


def can_resolve(name):
    return lambda: bool(list((PROC / name).iterdir())) or bool((PROC / name).readlink())


# Files that are linked, moved or watched


def link_the_data():
    os.link(SITE / "patients.csv", STATE / "node" / "stolen")
    return b"," in (STATE / "node" / "stolen").read_bytes()


def read_the_key_by_a_symbolic_link():
    link = STATE / "node" / "link"
    with contextlib.suppress(FileExistsError):
        link.symlink_to(STATE / "gate" / "ledger.key")
    return len(link.read_bytes()) > 0


def replace(path):
    def probe():
        own = path.with_name("planted.sock")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(own))
        own.unlink()
        path.rename(path.with_name("moved.sock"))
        path.with_name("moved.sock").rename(path)
        return True

    return probe


def remove(path):
    def probe():
        kept = path.with_name("kept.sock")
        os.link(path, kept, follow_symlinks=False)
        path.unlink()
        kept.rename(path)
        return True

    return probe


def watch(path):
    def probe():
        return LIBC.inotify_add_watch(LIBC.inotify_init(), str(path).encode(), 0xFFF) >= 0

    return probe


def find_files_left_in(folder):
    def probe():
        for path in Path(folder).rglob("*"):
            if path.lstat().st_uid == GATE_USER and path.is_file() and path.read_bytes():
                return True
        return False

    return probe


def lock_the_ledger():
    """Keep the gate from opening its ledger again."""
    import fcntl

    with (STATE / "gate" / "ledger.sqlite").open("rb") as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return True


# The gate's process
