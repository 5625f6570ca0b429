"""The gate as a process: one Unix socket for the node, no network.

One connection at a time, one frame in flight; the caller's Unix user is checked by the kernel's word
(`SO_PEERCRED`), the frame's size before it is read. Where the kernel allows it the process first leaves the network
(`fedhealth.site.isolation`). It ends when its standard input closes, so that it never outlives whoever started it,
and no node can keep it from ending by stopping in the middle of a frame.
"""

import logging
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from fedhealth.errors import FedHealthError, LinkUnavailable
from fedhealth.link.frames import MAX_FRAME_BYTES
from fedhealth.policy.rules import load_policy
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.acts import PolicyChanged
from fedhealth.privacy.ledger import Ledger
from fedhealth.records.table import read_table
from fedhealth.signing import load_public_key
from fedhealth.site.gate import Clock, Compute, Gate, GateInputs
from fedhealth.site.state import SiteState, local_user

_LOG = logging.getLogger(__name__)
_FRAME_SECONDS = 10.0
"""How long a node may take over one frame, either way."""

SYSTEM_CLOCK = Clock(monotonic=time.monotonic, unix_ms=lambda: time.time_ns() // 10**6)


def open_gate(folder: Path, state: SiteState, compute: Compute, clock: Clock = SYSTEM_CLOCK) -> tuple[Gate, Ledger]:
    """Open a site's ledger and data and return its gate, with every approved study prepared.

    Raises:
        FedHealthError: for the administrator; nothing listens yet.
    """
    site, (policy, policy_sha256) = load_site_file(folder), load_policy(folder)
    ledger = state.open_ledger(site.id)
    try:
        table = read_table(site.data_set.file, strict=False)
        inputs = GateInputs(
            site=site,
            policy=policy,
            policy_change=PolicyChanged(policy_sha256=policy_sha256, by=local_user(), at=clock.unix_ms()),
            table=table,
            split_key=state.split_key(site.split_key),
            naming_secret=state.naming_secret(),
            members=state.members(),
            noise_secret=state.noise_secret(ledger.created),
            witness_key=load_public_key(ledger.created.witness_key),
            researchers=state.researchers(),
        )
        gate = Gate(inputs, ledger, compute, clock)
        if ledger.account.acts.paused:
            _LOG.warning("the site is paused and answers busy; to go on: fedhealth site unpause")
        if table.ragged:
            _LOG.warning("some lines of the data are not like their header and are left out")
        for study in ledger.account.approved:
            _prepare(gate, state, study)
    except BaseException:
        ledger.close()
        raise
    return gate, ledger


def _prepare(gate: Gate, state: SiteState, study: str) -> None:
    try:
        gate.prepare((state.studies / f"{study}.json").read_bytes())
    except (FedHealthError, OSError) as error:
        _LOG.error("study %(study)s cannot run here: %(error)s", {"study": study, "error": error})


Leaving = Callable[[bytes, bytes], None]
"""Told of a request and its reply before the reply leaves; if it fails, the reply stays."""


def serve_gate(gate: Gate, path: Path, allowed_users: Iterable[int], lifeline: int | None, on_leaving: Leaving) -> None:
    """Serve one node after another until the lifeline closes.

    Args:
        gate: the gate.
        path: the socket to make.
        allowed_users: Unix user ids that may connect.
        lifeline: a file descriptor whose end of file ends the process; None to serve for ever.
        on_leaving: the egress log.

    Raises:
        LinkUnavailable: the socket cannot be made.
        LedgerDamaged: what leaves cannot be written down.
    """
    allowed = frozenset(allowed_users)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Under another name until it listens, so that whoever finds the socket can connect.
        unready = path.with_name(path.name + "~")
        unready.unlink(missing_ok=True)
        listener.bind(str(unready))
        unready.chmod(0o660)
        listener.listen(1)
        unready.replace(path)
    except OSError as error:
        raise LinkUnavailable(
            f"the gate cannot listen at {path}",
            got=error.strerror or str(error),
            next_step="Choose a shorter path (at most 106 bytes) in a folder the gate may write to.",
        ) from error
    watched = _watched(listener, lifeline)
    with listener:
        while True:
            ready, _, _ = select.select(watched, [], [])
            if lifeline in ready:
                return
            connection, _ = listener.accept()
            with connection:
                if _peer_user(connection) not in allowed:
                    _LOG.warning("a process of another user tried to speak to the gate and was refused")
                    continue
                if not _converse(gate, connection, lifeline, on_leaving):
                    return


def _converse(gate: Gate, connection: socket.socket, lifeline: int | None, on_leaving: Leaving) -> bool:
    """Answer frames until the node hangs up (True) or the lifeline closes (False)."""
    watched = _watched(connection, lifeline)
    while True:
        ready, _, _ = select.select(watched, [], [])
        if lifeline in ready:
            return False
        frame = receive_frame(connection, lifeline)
        if frame is None:
            return True
        reply = gate.handle(frame)
        wait = reply.leaves_at - time.monotonic()
        if wait > 0:
            if lifeline is not None and select.select([lifeline], [], [], wait)[0]:
                return False
            if lifeline is None:
                time.sleep(wait)
        on_leaving(frame, reply.frame)
        if not send_frame(connection, reply.frame, lifeline):
            return True


def receive_frame(connection: socket.socket, lifeline: int | None = None) -> bytes | None:
    """Return the next frame.

    Returns:
        None when the peer hung up, took longer than 10 s, or announced too much, or when the lifeline closed.
    """
    deadline = time.monotonic() + _FRAME_SECONDS
    try:
        head = _exactly(connection, 4, lifeline, deadline)
        if head is None:
            return None
        (length,) = struct.unpack("!I", head)
        return _exactly(connection, length, lifeline, deadline) if length <= MAX_FRAME_BYTES else None
    except OSError:
        return None


def send_frame(connection: socket.socket, frame: bytes, lifeline: int | None = None) -> bool:
    """Send a frame; False when the peer hung up, took longer than 10 s to read it, or the lifeline closed."""
    rest = memoryview(struct.pack("!I", len(frame)) + frame)
    deadline, watched = time.monotonic() + _FRAME_SECONDS, [] if lifeline is None else [lifeline]
    try:
        while rest:
            closed, writable, _ = select.select(watched, [connection], [], max(0.0, deadline - time.monotonic()))
            if closed or not writable:
                return False
            rest = rest[connection.send(rest, socket.MSG_DONTWAIT) :]
    except OSError:
        return False
    return True


def _exactly(connection: socket.socket, count: int, lifeline: int | None, deadline: float) -> bytes | None:
    parts, watched = bytearray(), _watched(connection, lifeline)
    while len(parts) < count:
        ready, _, _ = select.select(watched, [], [], max(0.0, deadline - time.monotonic()))
        if connection not in ready or lifeline in ready:
            return None
        part = connection.recv(min(count - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _watched(connection: socket.socket, lifeline: int | None) -> list[socket.socket | int]:
    return [connection] if lifeline is None else [connection, lifeline]


def _peer_user(connection: socket.socket) -> int:
    """Return the Unix user id of the process at the other end, by the kernel's word."""
    size = struct.calcsize("3i")
    if sys.platform == "darwin":
        raw = connection.getsockopt(0, 1, 4 + 4)  # LOCAL_PEERCRED: version, uid, ...
        return int(struct.unpack("II", raw)[1])
    return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1])
