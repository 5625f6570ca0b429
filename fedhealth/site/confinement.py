"""What a site's processes give up before they see data or the network: files, ports, programs, tracing, memory dumps.

| | reads | writes | TCP |
|---|---|---|---|
| gate | the site's folder, its own state, the program | its own state; the one socket; a GPU | none |
| node | its own state, published articles, the program | its own state, fetched articles | to the coordinator's port |
| SuperNode | `node/flower`, the program | `node/flower/home` | to the node's port for it; listens at its own |
| worker | `node/flower`, the program | nothing | to the SuperNode's port |
| page | the program, an asker's key, certificate and study | nothing | none but the port that it was given |
| index | the index; to fill it, the site's folder, articles; the program | the index | none |

None can execute a program, gain rights, signal or trace another process, or leave memory behind in a core dump; no
other process of the same user can read their memory. Who may connect to the gate's socket is the gate's to say. What
searches or fills the index reads what anybody may have sent to the hospital: it has no socket of any kind either, and
can open no file to others (`fedhealth.site.system_calls`).

Source: landlock(7), `PR_SET_DUMPABLE` in prctl(2), ptrace(2).

Invariants: called while the process has one thread, before numpy, grpc or torch start others; whoever calls it
is told what this kernel could not do, and says so in the local log.

Leaves to others: networks beside TCP (`fedhealth.site.isolation`, and the service manager), system calls of the others
(the service manager), and one user against another (Unix).
"""

import ctypes
import logging
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import fedhealth
from fedhealth.errors import ConfigInvalid
from fedhealth.site.article_folders import FETCHED, PUBLISHED
from fedhealth.site.landlock import Right, Rule, Sandbox, enter_sandbox
from fedhealth.site.system_calls import give_up_system_calls

_LOG = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4

_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/etc", "/proc", "/sys", "/run/systemd/resolve")
"""Shared libraries, time zones, names of hosts and users, facts about the processor."""

_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

_GPU = "nvidia*"
"""In /dev, what CUDA opens; nothing is there on a machine without one."""


def confine_gate(folder: Path, state: Path) -> Sandbox:
    """Confine this process to what a gate needs.

    Args:
        folder: the site's folder, with the data.
        state: the site's state folder.

    Raises:
        ConfigInvalid: it has more than one thread, or the kernel refuses.
    """
    gate, scratch = state / "gate", state / "gate" / "tmp"
    if gate.is_dir():
        try:
            scratch.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigInvalid(
                f"the gate cannot write to its own state at {gate}",
                got=error.strerror or "an error",
                next_step="Start it as the user whom that folder belongs to.",
            ) from error
        # SQLite would fail in the middle of a commit if it found no place for its temporary files.
        os.environ["SQLITE_TMPDIR"] = os.environ["TMPDIR"] = str(scratch)
    return _confine(
        Rule(folder, Right.READ),
        Rule(gate, Right.CHANGE),
        Rule(state, Right.MAKE_SOCKET | Right.REMOVE_FILE),
        *(Rule(each, Right.READ_FILE | Right.WRITE_FILE | Right.CONTROL_DEVICE) for each in Path("/dev").glob(_GPU)),
    )


def confine_node(state: Path, port: int) -> Sandbox:
    """Confine this process to what a node needs.

    Args:
        state: the site's state folder.
        port: the coordinator's; the only one that can be connected to.

    Raises:
        ConfigInvalid: it has more than one thread, or the kernel refuses.
    """
    askers = state.absolute().with_name(f"{state.absolute().name}-askers")
    return _confine(
        *(Rule(each, Right.CHANGE | Right.MAKE_SOCKET) for each in (state / "node", askers) if each.is_dir()),
        Rule(state / FETCHED, Right.CHANGE),
        Rule(state / PUBLISHED, Right.READ),
        tcp_ports=[port],
    )


def confine_supernode(folder: Path, home: Path, port: int, own_port: int) -> Sandbox:
    """Confine this process to what a SuperNode needs.

    Args:
        folder: that it shares with node and worker.
        home: the one folder in it that it may change.
        port: the node's for it; the only one that can be connected to.
        own_port: of its Runtime API; the only one that can be listened at.

    Raises:
        ConfigInvalid: it has more than one thread, or the kernel refuses.
    """
    return _confine(Rule(folder, Right.READ), Rule(home, Right.CHANGE), tcp_ports=[port], listen_ports=[own_port])


def confine_worker(folder: Path, port: int) -> Sandbox:
    """Confine this process to what the worker of a SuperNode needs.

    Args:
        folder: that it shares with node and SuperNode.
        port: the SuperNode's; the only one that can be connected to.

    Raises:
        ConfigInvalid: it has more than one thread, or the kernel refuses.
    """
    return _confine(Rule(folder, Right.READ), tcp_ports=[port])


def confine_page(*files: Path) -> Sandbox:
    """Confine this process to what the clinician's page needs: the program, and the files of who asks.

    It may connect to no port and listen at none that it has not got already; where the machine can refuse system calls,
    it makes no socket but of this machine (AF_UNIX), so that it sends no datagram either.

    Args:
        files: an asker's study, key and certificate.

    Raises:
        ConfigInvalid: it has more than one thread, or the kernel refuses.
    """
    sandbox = _confine(*(Rule(each, Right.READ_FILE) for each in files))
    if not give_up_system_calls(keep_unix_sockets=True):
        _LOG.warning("the page keeps its system calls here: let the service manager take them (SystemCallFilter=)")
    return sandbox


def confine_index(index: Path, *read: Path) -> Sandbox:
    """Confine this process to what searching takes, or filling the index.

    Args:
        index: the index's folder, in the gate's state.
        read: folders with what is to be indexed; none where nothing is.

    Raises:
        ConfigInvalid: it has more than one thread, or the kernel refuses.
    """
    os.environ["SQLITE_TMPDIR"] = os.environ["TMPDIR"] = str(index / "tmp")
    sandbox = _confine(Rule(index, Right.CHANGE), *(Rule(each, Right.READ) for each in read))
    if not give_up_system_calls():
        _LOG.warning("the index keeps its system calls here: let the service manager take them (SystemCallFilter=)")
    return sandbox


def _confine(*own: Rule, tcp_ports: Iterable[int] = (), listen_ports: Iterable[int] = ()) -> Sandbox:
    if sys.platform.startswith("linux"):
        _keep_memory_private()
    rules = (*own, *(Rule(path, Right.READ) for path in _program()), *_system())
    return enter_sandbox(rules, tcp_ports, listen_ports)


def _keep_memory_private() -> None:
    """No core dumps, and no reading of this process's memory by others of its user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise ConfigInvalid("the kernel does not keep this process's memory private", next_step="Report this.")


def _system() -> Iterator[Rule]:
    yield from (Rule(Path(path), Right.READ) for path in _SYSTEM)
    yield from (Rule(Path(path), Right.READ_FILE | Right.WRITE_FILE) for path in _DEVICES)


def _program() -> Iterator[Path]:
    """Yield where Python, this package and what it imports are.

    Not every folder of `sys.path`: the one that a process was started in may hold anything, data included.
    """
    yield Path(fedhealth.__file__).parent
    yield from {Path(prefix) for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)}
    yield from (Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages"))
