"""Landlock: a process gives up, for ever and for its children, every file and port that it does not name.

Needs no rights and no files of its own: three system calls, looked for by calling them. What a kernel is too old for
is left out, and `Sandbox.abi` says so; a kernel without Landlock (0) confines nothing.

Source: landlock(7), `include/uapi/linux/landlock.h`; the interface ("ABI") 2 added renaming across folders, 3
truncation, 4 TCP ports, 5 device controls, 6 abstract sockets and signals.

Invariants: it binds the calling thread and what that starts later, so a process with other threads is refused rather
than half confined; no program can be executed afterwards; file systems cannot be mounted, and processes outside
cannot be traced. What was open before stays open.

Leaves to others: which files and ports a process needs (`fedhealth.site.confinement`); UDP, and sockets that are
files, which no interface up to 7 restricts.
"""

import ctypes
import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

from fedhealth.errors import ConfigInvalid

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH, _NET_PORT = 1, 1, 2
_PR_SET_NO_NEW_PRIVS = 38
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
_LAST_USED_ABI = 6


class Right(IntFlag):
    """What may be done with a file or in a folder, by the kernel's numbers."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_FOLDER = 1 << 3
    REMOVE_FOLDER = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHARACTER_DEVICE = 1 << 6
    MAKE_FOLDER = 1 << 7
    MAKE_FILE = 1 << 8
    MAKE_SOCKET = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK_DEVICE = 1 << 11
    MAKE_LINK = 1 << 12
    MOVE = 1 << 13
    TRUNCATE = 1 << 14
    CONTROL_DEVICE = 1 << 15

    READ = READ_FILE | READ_FOLDER
    CHANGE = READ | WRITE_FILE | TRUNCATE | MAKE_FILE | MAKE_FOLDER | REMOVE_FILE | REMOVE_FOLDER


_ON_FILES = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.CONTROL_DEVICE
_NEW_IN = {1: Right(0x1FFF), 2: Right.MOVE, 3: Right.TRUNCATE, 5: Right.CONTROL_DEVICE}


@dataclass(frozen=True)
class Rule:
    """One folder with all below it, or one file, and what may be done there."""

    path: Path
    rights: Right


@dataclass(frozen=True)
class Sandbox:
    """What was done.

    Attributes:
        abi: the kernel's Landlock interface; 0 if it has none, and then nothing is confined.
    """

    abi: int

    @property
    def complete(self) -> bool:
        """Whether the kernel could do everything that is asked of it here."""
        return self.abi >= _LAST_USED_ABI


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


class _PortAttr(ctypes.Structure):
    _fields_ = (("rights", ctypes.c_uint64), ("port", ctypes.c_uint64))


def landlock_abi() -> int:
    """Return the kernel's Landlock interface, 1 or more; 0 where there is none."""
    return max(0, _call(_CREATE_RULESET, None, 0, _VERSION_FLAG))


def enter_sandbox(rules: Iterable[Rule], tcp_ports: Iterable[int] = (), listen_ports: Iterable[int] = ()) -> Sandbox:
    """Give up new rights (`no_new_privs`), and everything but these files and TCP ports.

    Args:
        rules: what may be done where; a path that cannot be reached is passed over.
        tcp_ports: ports that may be connected to, at any address.
        listen_ports: ports that may be listened at, at any address of this machine.

    Raises:
        ConfigInvalid: the process has several threads, or the kernel refuses.
    """
    if not sys.platform.startswith("linux"):
        return Sandbox(0)
    _checked(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    abi = landlock_abi()
    if abi == 0:
        return Sandbox(0)
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise ConfigInvalid("a process with several threads cannot be confined as a whole", next_step="Report this.")
    handled = Right(0)
    for since, rights in _NEW_IN.items():
        handled |= rights if abi >= since else Right(0)
    attr = _RulesetAttr(
        handled,
        _BIND_TCP | _CONNECT_TCP if abi >= 4 else 0,
        _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if abi >= 6 else 0,
    )
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _checked(_call(_CREATE_RULESET, ctypes.byref(attr), size, 0))
    try:
        for rule in rules:
            _add_path(ruleset, rule, handled)
        allowed = [*((_CONNECT_TCP, port) for port in tcp_ports), *((_BIND_TCP, port) for port in listen_ports)]
        for right, port in allowed if abi >= 4 else ():
            _checked(_call(_ADD_RULE, ruleset, _NET_PORT, ctypes.byref(_PortAttr(right, port)), 0))
        _checked(_call(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return Sandbox(abi)


def _add_path(ruleset: int, rule: Rule, handled: Right) -> None:
    try:
        descriptor = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # nothing that this process could reach, so nothing to allow
    try:
        rights = rule.rights & handled
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _ON_FILES
        _checked(_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_PathAttr(rights, descriptor)), 0))
    finally:
        os.close(descriptor)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    return int(_libc().syscall(ctypes.c_long(number), *arguments))


def _checked(result: int) -> int:
    if result < 0:
        raise ConfigInvalid(
            "the kernel refuses to confine this process",
            got=os.strerror(ctypes.get_errno()),
            next_step="Do not run it unconfined; see deploy/README.md.",
        )
    return result
