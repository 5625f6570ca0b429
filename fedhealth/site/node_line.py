"""The gate's end of its socket to the node: every part of a frame must come, or be taken, in time.

Large frames pass through shared memory where the node asked for it (`fedhealth.site.shared_ring`). Nothing that a node
does or leaves undone keeps the gate waiting for longer than is said here, or an administrator from being heard.
"""

import math
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import closing

from fedhealth.link.frames import MAX_FRAME_BYTES, Outgoing
from fedhealth.link.memory import CHUNK_BYTES, Buffer, MemoryPool
from fedhealth.site.administration import AdministratorPort
from fedhealth.site.shared_ring import NO_RING, RING_WANTED, SharedRing, gives_room, make_ring, needs_room

_FRAME_SECONDS = 10.0
"""How long a node may take over a small frame."""
_PART_SECONDS = 30.0
"""How long over each part of a large one, either way: longer than the link lets a chunk stall."""
_HURRY_SECONDS = 5.0
"""How long a node may go on taking a reply while an administrator waits."""

Move = Callable[[memoryview], int]


class Gone(Exception):
    """The node hung up, stopped in the middle of a frame, announced too much, or broke the rules."""


class LifelineClosed(Exception):
    """Whoever started this process is gone."""


class Minding:
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

    def wait_in_reply(self, connection: socket.socket, until: float, *, reading: bool, hurried: bool) -> None:
        """Wait until the node can go on, the monotonic second comes, or, unless hurried, an administrator."""
        watched = [self._administrators.watched] if self._administrators and not hurried else []
        readable, writable = ([connection], []) if reading else ([], [connection])
        self._select([*watched, *readable], writable, max(0.0, until - time.monotonic()))

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
            raise LifelineClosed
        return ready


class NodeLine:
    """A connection of the node."""

    def __init__(self, connection: socket.socket, minding: Minding) -> None:
        self.pool = MemoryPool()
        self._connection, self._minding = connection, minding
        self._ring: SharedRing | None = None
        self._latest = math.inf
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * CHUNK_BYTES)

    def frame_bytes(self) -> int | None:
        """Return the declared size of the next frame; None if the node asked for a ring instead, and got its answer.

        Raises:
            Gone: the frame is too large, or the node has a ring.
        """
        word = bytes(self.read(memoryview(bytearray(4))))
        if word == RING_WANTED and self._ring is None:
            self._give_ring()
            return None
        (length,) = struct.unpack("!I", word)
        if length > MAX_FRAME_BYTES:
            raise Gone
        return int(length)

    def read(self, part: memoryview, seconds: float = _FRAME_SECONDS) -> memoryview:
        """Fill a part from the socket and return it."""
        deadline, filled = time.monotonic() + seconds, 0
        while filled < len(part):
            count = self._attempt(self._connection.recv_into, part[filled:])
            if count == 0:
                raise Gone
            if count is not None:
                filled += count
            elif not self._minding.wait([self._connection], deadline):
                raise Gone
        return part

    def large_frame(self, size: int) -> Callable[[memoryview], memoryview]:
        """Return what fills the next part of a large frame and returns it; bytes of a ring are read once only."""
        ring, offset = self._ring, 0
        if ring is None:
            return lambda part: self.read(part, _PART_SECONDS)

        def read(part: memoryview) -> memoryview:
            nonlocal offset
            filled = 0
            while filled < len(part):
                if offset % CHUNK_BYTES == 0:
                    self.read(memoryview(bytearray(1)), _PART_SECONDS)
                there = ring.rest_of_chunk(offset)[: min(size - offset, len(part) - filled)]
                part[filled : filled + len(there)] = there
                filled, offset = filled + len(there), offset + len(there)
                if offset % CHUNK_BYTES == 0 and gives_room(offset // CHUNK_BYTES - 1, size):
                    self._latest = math.inf
                    self._send(b"\0")
            return part

        return read

    def send(self, reply: Outgoing) -> None:
        """Send a reply; some must be taken each `_PART_SECONDS`, and all soon once an administrator waits.

        Nothing can be written to the ledger while a payload is read from it. A node that is hung up on for that
        asks again and gets the same payload.

        Raises:
            LedgerDamaged: the payload cannot be read.
        """
        self._latest, size = math.inf, len(reply.start) + len(reply.body)
        word = struct.pack("!I", size)
        if self._ring is not None and size > CHUNK_BYTES:
            self._send(word)
            self._send_through(self._ring, reply, size)
        else:
            self._send(word + reply.start)
            with closing(reply.parts()) as parts:
                for part in parts:
                    self._send(part)

    def _send_through(self, ring: SharedRing, reply: Outgoing, size: int) -> None:
        first = ring.rest_of_chunk(0)
        first[: len(reply.start)] = reply.start
        offset = len(reply.start)

        def memory() -> memoryview:
            """Return where the next bytes go, waiting for room at the beginning of a chunk."""
            if offset % CHUNK_BYTES == 0 and needs_room(offset // CHUNK_BYTES):
                self._move(self._connection.recv_into, memoryview(bytearray(1)), reading=True)
            return ring.rest_of_chunk(offset)

        with closing(reply.parts(memory)) as parts:
            for part in parts:
                offset += len(part)
                if offset % CHUNK_BYTES == 0 or offset == size:
                    self._send(b"\0")

    def _give_ring(self) -> None:
        descriptor = make_ring()
        if descriptor is None:
            self._latest = math.inf
            self._send(NO_RING)
            return
        try:
            self._ring = SharedRing(descriptor)
            socket.send_fds(self._connection, [RING_WANTED], [descriptor])
        except OSError as error:
            raise Gone from error
        finally:
            os.close(descriptor)

    def _send(self, part: Buffer) -> None:
        self._move(self._connection.send, memoryview(part), reading=False)

    def _move(self, move: Move, rest: memoryview, *, reading: bool) -> None:
        deadline = time.monotonic() + _PART_SECONDS
        while rest:
            count = self._attempt(move, rest[:CHUNK_BYTES])
            if count == 0:
                raise Gone
            if count is not None:
                deadline, rest = time.monotonic() + _PART_SECONDS, rest[count:]
                continue
            hurried = self._latest < math.inf
            if not hurried and self._minding.is_wanted:
                self._latest, hurried = time.monotonic() + _HURRY_SECONDS, True
            if time.monotonic() >= min(deadline, self._latest):
                raise Gone
            until = min(deadline, self._latest)
            self._minding.wait_in_reply(self._connection, until, reading=reading, hurried=hurried)

    def _attempt(self, move: Move, part: memoryview) -> int | None:
        """Return how many bytes were moved, or None if none can be now."""
        try:
            return move(part)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Gone from error
