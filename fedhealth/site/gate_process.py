"""The gate as a process: one Unix socket for the node, one for its administrators, no network.

One connection at a time, one frame in flight; the caller's Unix user is checked by the kernel's word
(`SO_PEERCRED`), the frame's size before it is read. A large frame is looked at first: a body longer than any approved
study's step takes is dropped as it comes and never held. Administrators are heard whenever the gate would wait
otherwise, also for the rest of a frame, so no node can keep a pause from being heard. After an act for which it
prepares its data anew the gate is quiet until a public time (`fedhealth.site.running_site`): it reads and says nothing.
Where the kernel allows it the process first leaves the network (`fedhealth.site.isolation`). It ends when its standard
input closes, so that it never outlives whoever started it, and no node can keep it from ending by stopping in the
middle of a frame.
"""

import logging
import math
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path

from fedhealth.canonical import digest_state
from fedhealth.errors import FedHealthError, LedgerBehind, LedgerDamaged, LedgerForked
from fedhealth.link.frames import MAX_FRAME_BYTES, MAX_HEADER_BYTES, Outgoing
from fedhealth.link.memory import CHUNK_BYTES, Buffer, MemoryPool
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.anchor import AnchorMissing
from fedhealth.privacy.copies import EntrySeal
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import INPUT_DOMAIN, Digest
from fedhealth.signing import load_public_key
from fedhealth.site.administration import AdministratorPort
from fedhealth.site.gate import Gate
from fedhealth.site.gate_inputs import Clock, Compute, read_inputs
from fedhealth.site.held_gate import HeldGate, LedgerHeads
from fedhealth.site.state import SiteState, local_user
from fedhealth.unix_socket import listen_at, peer_user

_LOG = logging.getLogger(__name__)
_FRAME_SECONDS = 10.0
"""How long a node may take over a small frame."""
_PART_SECONDS = 30.0
"""How long over each part of a large one, either way: longer than the link lets a chunk stall."""
_SMALL_FRAME_BYTES = 2**20
"""Frames up to here are read without a look at what they are: signed studies, receipts, small models."""

_HURRY_SECONDS = 5.0
"""How long a node may go on taking a reply while an administrator waits."""

SYSTEM_CLOCK = Clock(monotonic=time.monotonic, unix_ms=lambda: time.time_ns() // 10**6)


def open_gate(
    folder: Path, state: SiteState, compute: Compute, clock: Clock = SYSTEM_CLOCK
) -> tuple[Gate | HeldGate, Ledger]:
    """Open a site's ledger and data and return its gate, with every approved study prepared.

    A ledger that is an older copy, may be one, or is of another history gets a gate that shows its head to the
    coordinator, takes the missing entries back, and serves nothing.

    Raises:
        FedHealthError: for the administrator; nothing listens yet.
    """
    site = load_site_file(folder).id
    try:
        ledger = state.open_ledger(site)
    except (AnchorMissing, LedgerBehind, LedgerForked) as error:
        _LOG.error("the ledger cannot be used: %(error)s", {"error": error})
        return _open_held_gate(state, site, clock)
    try:
        inputs = read_inputs(folder, state, ledger, local_user(), clock.unix_ms())
        gate = Gate(inputs, ledger, compute, clock)
        if ledger.account.acts.paused:
            _LOG.warning("the site is paused and answers busy; to go on: fedhealth site resume")
        if inputs.table.ragged:
            _LOG.warning("some lines of the data are not like their header and are left out")
        prepare_studies(gate, state, ledger)
    except BaseException:
        ledger.close()
        raise
    return gate, ledger


def _open_held_gate(state: SiteState, site: str, clock: Clock) -> tuple[HeldGate, Ledger]:
    ledger = state.open_untied_ledger(site)
    try:
        heads = LedgerHeads(ledger, EntrySeal(state.copies_secret(), site))
        key = load_public_key(ledger.created.witness_key)
        return HeldGate(heads, ledger, state.hold, key, clock.monotonic, clock.unix_ms), ledger
    except BaseException:
        ledger.close()
        raise


def prepare_studies(gate: Gate, state: SiteState, ledger: Ledger) -> None:
    """Have a gate take in every study that is approved; of one that cannot be, the administrator is told."""
    account = ledger.account
    for study in (each for each in account.approved if each not in account.withdrawn):
        try:
            gate.prepare((state.studies / f"{study}.json").read_bytes())
        except (FedHealthError, OSError) as error:
            _LOG.error("study %(study)s cannot run here: %(error)s", {"study": study, "error": error})


Leaving = Callable[[Buffer, bytes, int, Digest | None], None]
"""Told of a request and its reply before the reply leaves; if it fails, the reply stays."""


def serve_gate(
    gate: Gate | HeldGate,
    path: Path,
    allowed_users: Iterable[int],
    lifeline: int | None,
    on_leaving: Leaving,
    administrators: AdministratorPort | None = None,
) -> None:
    """Serve one node after another until the lifeline closes.

    Args:
        gate: the gate.
        path: the socket to make.
        allowed_users: Unix user ids that may connect.
        lifeline: a file descriptor whose end of file ends the process; None to serve for ever.
        on_leaving: the egress log.
        administrators: where they are heard; None where nobody is.

    Raises:
        LinkUnavailable: the socket cannot be made.
        LedgerDamaged: what leaves cannot be written down.
    """
    allowed, minding = frozenset(allowed_users), _Minding(lifeline, administrators)
    with listen_at(path, 0o660) as listener, suppress(_LifelineClosed):
        while True:
            minding.wait([listener])
            connection, _ = listener.accept()
            with connection:
                if peer_user(connection) not in allowed:
                    _LOG.warning("a process of another user tried to speak to the gate and was refused")
                    continue
                _converse(gate, connection, minding, on_leaving)


def _converse(gate: Gate | HeldGate, connection: socket.socket, minding: "_Minding", on_leaving: Leaving) -> None:
    """Answer frames until the node hangs up."""
    line = _Line(connection, minding)
    with suppress(_Gone):
        while True:
            minding.wait([connection])
            frame, digest = _receive(gate, line)
            reply = gate.handle(frame, digest)
            minding.wait([], reply.leaves_at)
            on_leaving(frame, reply.start, len(reply.body), reply.body_sha256)
            _send(reply, line)
            del frame, reply  # their memory is free for the next frame


def _send(reply: Outgoing, line: "_Line") -> None:
    start = struct.pack("!I", len(reply.start) + len(reply.body)) + reply.start
    try:
        with closing(reply.parts()) as parts:
            line.send(chain([start], parts))
    except LedgerDamaged as error:
        _LOG.error("the rest of a reply cannot be read: %(error)s", {"error": error})
        raise _Gone from error


def _receive(gate: Gate | HeldGate, line: "_Line") -> tuple[Buffer, Digest | None]:
    """Return the next frame and, of a large one, the digest of its body as a step's input."""
    (length,) = struct.unpack("!I", line.read(memoryview(bytearray(4))))
    if length > MAX_FRAME_BYTES:
        raise _Gone
    if length <= _SMALL_FRAME_BYTES:
        return bytes(line.read(memoryview(bytearray(length)))), None
    head = line.read(memoryview(bytearray(4)))
    (header_bytes,) = struct.unpack("!I", head)
    start = bytes(head) + line.read(memoryview(bytearray(min(header_bytes, MAX_HEADER_BYTES))))
    body_bytes, digest = length - len(start), digest_state(INPUT_DOMAIN)
    if body_bytes > gate.longest_body(start):
        spare = memoryview(bytearray(_SMALL_FRAME_BYTES))
        for offset in range(0, body_bytes, len(spare)):
            line.read(spare[: body_bytes - offset], _PART_SECONDS)
        # One byte stands for what was dropped. No step takes that, so the gate refuses it, for the reason that counts.
        return start + b"\0", None
    frame = line.pool.take(length)
    frame[: len(start)] = start
    for offset in range(len(start), length, CHUNK_BYTES):
        digest.update(line.read(frame[offset : offset + CHUNK_BYTES], _PART_SECONDS))
    return frame, digest.hexdigest()


class _Gone(Exception):
    """The node hung up, stopped in the middle of a frame, or announced too much."""


class _LifelineClosed(Exception):
    """Whoever started this process is gone."""


class _Minding:
    """What a gate minds beside the node, whenever it waits: the lifeline, its administrators, and its own quiet."""

    def __init__(self, lifeline: int | None, administrators: AdministratorPort | None) -> None:
        self._lifeline, self._administrators = [] if lifeline is None else [lifeline], administrators

    def wait(self, readable: list[socket.socket], until: float | None = None) -> bool:
        """Wait until one of the node's sockets can be read; False where the monotonic second comes first.

        While the gate is quiet nothing is read and nothing is over, so that nothing leaves either.
        """
        while True:
            port, now = self._administrators, time.monotonic()
            quiet = port.quiet_until if port else -math.inf
            heard = [] if now < quiet else readable
            ends = [quiet] if now < quiet else [] if until is None else [until]
            limits = [*ends, port.deadline] if port and port.deadline is not None else ends
            watched = [port.watched] if port else []
            ready = self._select([*watched, *heard], [], max(0.0, min(limits) - now) if limits else None)
            if port and (watched[0] in ready or (port.deadline or math.inf) <= time.monotonic()):
                port.attend()
                continue  # the gate may have fallen quiet
            if any(each in ready for each in heard):
                return True
            if now >= quiet and until is not None and until <= time.monotonic():
                return False

    def wait_to_send(self, connection: socket.socket, until: float, *, hurried: bool) -> None:
        """Wait until something can be sent, the monotonic second comes, or, unless hurried, an administrator."""
        watched = [self._administrators.watched] if self._administrators and not hurried else []
        self._select(watched, [connection], max(0.0, until - time.monotonic()))

    @property
    def is_wanted(self) -> bool:
        """Whether an administrator waits to be heard."""
        return self._administrators is not None and bool(self._select([self._administrators.watched], [], 0.0))

    def _select(
        self, readable: list[socket.socket], writable: list[socket.socket], seconds: float | None
    ) -> list[socket.socket | int]:
        watched: list[socket.socket | int] = [*self._lifeline, *readable]
        ready, _, _ = select.select(watched, writable, [], seconds)
        if self._lifeline and self._lifeline[0] in ready:
            raise _LifelineClosed
        return ready


class _Line:
    """A connection of the node: every part must come, or be taken, in time."""

    def __init__(self, connection: socket.socket, minding: _Minding) -> None:
        self.pool = MemoryPool()
        self._connection, self._minding = connection, minding
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * CHUNK_BYTES)

    def read(self, part: memoryview, seconds: float = _FRAME_SECONDS) -> memoryview:
        """Fill a part and return it."""
        deadline, filled = time.monotonic() + seconds, 0
        while filled < len(part):
            count = self._attempt(self._connection.recv_into, part[filled:])
            if count == 0:
                raise _Gone
            if count is not None:
                filled += count
            elif not self._minding.wait([self._connection], deadline):
                raise _Gone
        return part

    def send(self, parts: Iterable[Buffer]) -> None:
        """Send parts; some must be taken each `_PART_SECONDS`, and all soon once an administrator waits.

        Nothing can be written to the ledger while a payload is read from it. A node that is hung up on for that
        asks again and gets the same payload.
        """
        latest = math.inf
        for part in parts:
            deadline, rest = time.monotonic() + _PART_SECONDS, memoryview(part)
            while rest:
                count = self._attempt(self._connection.send, rest[:CHUNK_BYTES])
                if count is not None:
                    deadline, rest = time.monotonic() + _PART_SECONDS, rest[count:]
                    continue
                if latest == math.inf and self._minding.is_wanted:
                    latest = time.monotonic() + _HURRY_SECONDS
                if time.monotonic() >= min(deadline, latest):
                    raise _Gone
                self._minding.wait_to_send(self._connection, min(deadline, latest), hurried=latest < math.inf)

    def _attempt(self, move: Callable[[memoryview], int], part: memoryview) -> int | None:
        """Return how many bytes were moved, or None if none can be now."""
        try:
            return move(part)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _Gone from error
