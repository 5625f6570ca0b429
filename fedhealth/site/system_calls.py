"""System calls that a process gives up for ever, beside the files and ports that Landlock takes: what Landlock leaves.

Landlock says nothing of rights and owners of files, of sockets that are files, of the line to a virtual machine's host
(AF_VSOCK, which no network namespace holds), or of memory shared by name. A parser that a document has taken over could
with these open the gate's secrets to the node's user, which has a network, or talk to whatever on this machine listens
to the gate's user. So a process that needs none of it refuses itself: sockets, other programs, rings (which make calls
that no filter sees), attributes and owners of files, rights of files for anybody but their owner, namespaces, keys and
memory shared by name, and a look into other processes. One that speaks to a socket of this machine that is a file, and
to nobody else, keeps those (AF_UNIX): Landlock stops TCP alone, and a datagram carries what was read just as far.

Source: seccomp(2), filters; `include/uapi/linux/{seccomp,filter,audit}.h`; numbers of the calls in
`arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h`.

Invariants: it binds this thread and all that it starts, and cannot be taken back; called with `no_new_privs` set.
"""

import ctypes
import errno
import platform
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_X32 = 0x40000000
"""Calls of a third set of numbers, which x86-64 has beside its own."""

_FOR_OTHERS = 0o7077
"""Of a file's rights: for group and others, and to act as its owner."""
_NEW_NAMESPACE = 0x7E020000
"""Flags of clone(2) by which a child has namespaces of its own, in which it has rights that this one has not."""


class _Machine(NamedTuple):
    """Numbers of one machine's calls: socket(2), those refused, and those refused by a bit of one argument, from 0."""

    architecture: int
    socket: int
    refused: tuple[int, ...]
    by_bits: tuple[tuple[int, int, int], ...]
    clone3: int


_NEWER = (425, 426, 427, 438, 463, 466)  # io_uring (3), pidfd_getfd, setxattrat, removexattrat: one number for all
_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        41,
        (
            *(59, 322, 101, 298, 310, 311, 321, 323),  # exec (2), ptrace, perf, read and write others, bpf, faults
            *(92, 93, 94, 260, 188, 189, 190, 197, 198, 199),  # owners, attributes
            *(272, 308, 248, 249, 250, 29, 64, 68, 240),  # unshare, setns, keys, shared by name
            *_NEWER,
        ),
        (
            (90, 1, _FOR_OTHERS),
            (91, 1, _FOR_OTHERS),
            (268, 2, _FOR_OTHERS),
            (452, 2, _FOR_OTHERS),
            (56, 0, _NEW_NAMESPACE),
        ),
        435,
    ),
    "aarch64": _Machine(
        0xC00000B7,
        198,
        (
            *(221, 281, 117, 241, 270, 271, 280, 282),
            *(54, 55, 5, 6, 7, 14, 15, 16),
            *(97, 268, 217, 218, 219, 194, 190, 186, 180),
            *_NEWER,
        ),
        ((52, 1, _FOR_OTHERS), (53, 2, _FOR_OTHERS), (452, 2, _FOR_OTHERS), (220, 0, _NEW_NAMESPACE)),
        435,
    ),
}


class _Step(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.POINTER(_Step)))


def give_up_system_calls(*, keep_unix_sockets: bool = False) -> bool:
    """Refuse this process the calls above from now on; return whether this kernel and machine could do it.

    Args:
        keep_unix_sockets: whether it may still make sockets of this machine, and no others.
    """
    machine = _MACHINES.get(platform.machine())
    if not sys.platform.startswith("linux") or machine is None:
        return False
    steps = list(_steps(machine, keep_unix_sockets))
    program = _Program(len(steps), (_Step * len(steps))(*steps))
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _steps(machine: _Machine, keep_unix_sockets: bool) -> Iterator[_Step]:
    """Yield the filter: each test jumps over the step behind it, or not."""
    refuse, allow = _Step(_RETURN, 0, 0, _FAIL | errno.EPERM), _Step(_RETURN, 0, 0, _ALLOW)
    yield _Step(_LOAD, 0, 0, _ARCHITECTURE)
    yield _Step(_IF_EQUAL, 1, 0, machine.architecture)
    yield refuse
    yield _Step(_LOAD, 0, 0, _NUMBER)
    yield _Step(_IF_AT_LEAST, 0, 1, _X32)
    yield refuse
    yield _Step(_IF_EQUAL, 0, 1, machine.clone3)  # its flags lie in memory: who starts a thread tries clone instead
    yield _Step(_RETURN, 0, 0, _FAIL | errno.ENOSYS)
    if keep_unix_sockets:
        yield _Step(_IF_EQUAL, 0, 4, machine.socket)
        yield _Step(_LOAD, 0, 0, _FIRST_ARGUMENT)
        yield _Step(_IF_EQUAL, 0, 1, socket.AF_UNIX)
        yield allow
        yield refuse
    for number in (machine.socket, *machine.refused):
        yield _Step(_IF_EQUAL, 0, 1, number)
        yield refuse
    for number, argument, bits in machine.by_bits:
        yield _Step(_IF_EQUAL, 0, 4, number)
        yield _Step(_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * argument)
        yield _Step(_IF_ANY_BIT, 0, 1, bits)
        yield refuse
        yield allow
    yield allow
