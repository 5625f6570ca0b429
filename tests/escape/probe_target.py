"""What the probes are aimed at, from the words that `probes.py` is run with, and system calls."""

import ctypes
import os
import sys
from pathlib import Path

MODE, GATE, SITE, STATE = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
PORT, OTHER_PORT, OWN_PROCESS, GATE_USER = (int(word) for word in sys.argv[5:9])
SIGNED_STUDY = bytes.fromhex(sys.argv[9])
ADMIN = STATE / "gate" / "admin.sock"
PACKAGE = Path(__file__).resolve().parents[2] / "fedhealth"
LIBC = ctypes.CDLL(None, use_errno=True)
PROC = Path("/proc") / str(GATE)
KEYCTL, FANOTIFY_INIT, PIDFD_OPEN, PIDFD_SIGNAL, PIDFD_GETFD, VM_READ, VM_WRITE = 250, 300, 434, 424, 438, 310, 311
NEW_USER, NEW_NET, NEW_NS = 0x10000000, 0x40000000, 0x00020000


def call(number, *arguments):
    """Make a system call; raise what it fails with."""
    result = LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return True
