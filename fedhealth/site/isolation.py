"""What a gate does about its own process before it has any data: who may connect, and no network.

Leaving the network moves one thread, so it must happen while the process has one thread only; this module
therefore imports nothing that starts threads (numpy does), and is imported before everything that might.

Source: unshare(2), user_namespaces(7), unix(7).
"""

import ctypes
import os
import pwd
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhealth.errors import ConfigInvalid

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_OVERFLOW_USER = 65534
"""What every user without a mapping looks like inside a user namespace."""


def user_ids(names: Iterable[str]) -> frozenset[int]:
    """Return the ids of Unix users, given by name or number; this process's own user if none is given.

    Raises:
        ConfigInvalid: there is no such user.
    """
    try:
        ids = (int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid for name in names)
        return frozenset(ids) or frozenset({os.getuid()})
    except KeyError as error:
        raise ConfigInvalid("there is no such Unix user", got=str(error), next_step="Check --node-user.") from error


def leave_network(allowed_users: frozenset[int]) -> bool:
    """Move this process into a network namespace without any interface; return whether that was done.

    Without root's rights this takes a user namespace as well, in which the kernel names only this process's own
    user and calls all others alike. So it is done only where the gate's own user alone may connect: the gate must
    not become unable to tell the node's user from a stranger.

    Args:
        allowed_users: who may connect to the gate.

    Raises:
        ConfigInvalid: the new user namespace cannot be given this process's user.
    """
    user, group, tasks = os.geteuid(), os.getegid(), Path("/proc/self/task")
    alone = not tasks.exists() or len(list(tasks.iterdir())) == 1
    unshare = getattr(ctypes.CDLL(None, use_errno=True), "unshare", None)
    if unshare is None:
        return False
    if user == 0:
        return bool(unshare(_CLONE_NEWNET) == 0) and alone
    if allowed_users != {user} or user == _OVERFLOW_USER or unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as error:
        raise ConfigInvalid(
            "the gate left the network and cannot tell its own user from others any more",
            got=error.strerror or "an error",
            next_step="Start the gate as its own user directly, not through a program that changes users.",
        ) from error
    return True


@contextmanager
def spawning_without_network() -> Iterator[None]:
    """Give the children that root starts in here an empty network; this process keeps its own.

    Where that cannot be done they keep the network, and a gate says so.

    Raises:
        OSError: this process cannot go back to its own network.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    setns = getattr(libc, "setns", None)
    if setns is None or os.geteuid() != 0:
        yield
        return
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        left = libc.unshare(_CLONE_NEWNET) == 0
        try:
            yield
        finally:
            if left and setns(own, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(own)


def has_network() -> bool:
    """Return whether this process has a network interface beside the loopback; True where that cannot be said."""
    try:
        lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    except OSError:
        return True
    return any(line.split(":")[0].strip() != "lo" for line in lines)
