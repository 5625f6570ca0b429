"""The node: the hospital's end of the link. It has a TLS key and carries bytes; it has no data and reads no frame.

It connects outwards to the coordinator, hands each request to the gate over the Unix socket, one at a time, and hands
the gate's answer back. Were it replaced by something hostile, that could lose or delay frames and nothing else: what
may leave is decided, charged and noised behind the socket.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from fedhealth.errors import LinkUnavailable
from fedhealth.link.bodies import Body, IncomingBody, chunk_count, chunk_length
from fedhealth.link.client import LinkState, SiteLink
from fedhealth.link.frames import MAX_FRAME_BYTES
from fedhealth.link.memory import CHUNK_BYTES, Buffer
from fedhealth.link.services import Service
from fedhealth.site.node_file import NodeFile
from fedhealth.site.offers import OfferedStudies
from fedhealth.site.renewing import keep_linked
from fedhealth.site.state import SiteState

_LOG = logging.getLogger(__name__)


class GateChannel:
    """The node's end of the gate's socket; reconnects when the gate was restarted.

    Questions and answers pass through chunk by chunk; the node never holds a whole body.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._socket: socket.socket | None = None

    async def answer(self, question: IncomingBody) -> Body:
        """Carry one frame to the gate and return the gate's answer, which must be read or closed before the next.

        Raises:
            LinkUnavailable: the gate does not answer.
        """
        await self._lock.acquire()
        try:
            size = await self._carry(question)
        except BaseException as error:
            self.close()  # a half-read answer must not be taken for the next one's
            self._lock.release()
            if isinstance(error, OSError):
                raise _no_gate() from error
            raise
        return Body(size, self._chunks(size))

    @property
    def is_busy(self) -> bool:
        """Whether a frame is at the gate, or its answer on the way."""
        return self._lock.locked()

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _carry(self, question: IncomingBody) -> int:
        loop = asyncio.get_running_loop()
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX)
            self._socket = connection
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * CHUNK_BYTES)
            await loop.sock_connect(connection, str(self._path))
        await loop.sock_sendall(self._socket, struct.pack("!I", question.size))
        async for chunk in question.chunks():
            await loop.sock_sendall(self._socket, chunk)
        (length,) = struct.unpack("!I", await self._exactly(4))
        if length > MAX_FRAME_BYTES:
            raise LinkUnavailable("the gate announced a frame that is too large")
        return int(length)

    async def _chunks(self, size: int) -> AsyncGenerator[Buffer, None]:
        try:
            for number in range(chunk_count(size)):
                yield await self._exactly(chunk_length(size, number * CHUNK_BYTES))
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _no_gate() from error
            raise
        finally:
            self._lock.release()

    async def _exactly(self, count: int) -> memoryview:
        loop, part, filled = asyncio.get_running_loop(), memoryview(bytearray(count)), 0
        while filled < count:
            if self._socket is None or (more := await loop.sock_recv_into(self._socket, part[filled:])) == 0:
                raise ConnectionResetError
            filled += more
        return part


def _no_gate() -> LinkUnavailable:
    return LinkUnavailable("the gate of this site does not answer", next_step="Start it: fedhealth site gate --help")


async def run_node(state: SiteState, file: NodeFile, on_state: Callable[[str], None]) -> None:
    """Keep the site connected until cancelled.

    Args:
        state: the site's state; only its `node/` folder and the socket are touched.
        file: where the coordinator is.
        on_state: told of every change of the link.

    Raises:
        IdentityInvalid: both certificates have ended, or a file is damaged; a person must act.
    """
    gate = GateChannel(state.socket)
    services = {"gate": Service(gate.answer, longest_question=MAX_FRAME_BYTES)}
    link = SiteLink()
    offers = OfferedStudies(link, state.node)

    def told(change: str) -> None:
        if change == LinkState.CONNECTED:
            offers.connected()
        on_state(change)

    try:
        await keep_linked(state.node, file, services, told, lambda: not gate.is_busy, link=link)
    finally:
        offers.stop()
        gate.close()
