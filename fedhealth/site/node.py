"""The node: the hospital's end of the link. It has a TLS key and carries bytes; it has no data and reads no frame.

It connects outwards to the coordinator, hands each request to the gate over the Unix socket, one at a time, and hands
the gate's answer back. Were it replaced by something hostile, that could lose or delay frames and nothing else: what
may leave is decided, charged and noised behind the socket.
"""

import asyncio
import contextlib
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

CHUNKS_AHEAD = 4
"""Chunks of a large question that are here before the gate hears of it; how fast they came decides how it goes on."""
FAST_BYTES_A_SECOND = 8 * 2**20
"""A large question that begins slower than this is gathered first; so is the rest of an answer that goes slower."""
PAUSE_SECONDS = 5.0
"""How long a question that began fast may be waited for, beside the time that it takes at that rate."""


class GateChannel:
    """The node's end of the gate's socket; reconnects when the gate was restarted.

    A gate hears one question at a time, so none may hold it for longer than a fast line takes: what comes fast passes
    through chunk by chunk; a large question from a slow line is gathered first, and the rest of an answer to one is
    taken from the gate, one of each at a time, so that the node holds no more, while small ones pass them by; and a
    question that began fast and slows down is given up, to be asked again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._large, self._lock, self._kept = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self._socket: socket.socket | None = None

    async def answer(self, question: IncomingBody) -> Body:
        """Carry one frame to the gate and return the gate's answer, which must be read or closed before the next.

        Raises:
            LinkUnavailable: the gate does not answer.
        """
        chunks, begun = question.chunks(), list[Buffer]()
        async with contextlib.AsyncExitStack() as turn:
            if question.size > CHUNK_BYTES:
                await turn.enter_async_context(self._large)
                begun = await _beginning(chunks)
            await self._lock.acquire()
            try:
                size = await self._carry(question.size, begun, chunks)
            except BaseException as error:
                self.close()  # a half-read answer must not be taken for the next one's
                self._lock.release()
                if isinstance(error, OSError):
                    raise _no_gate() from error
                raise
        return Body(size, self._chunks(size))

    @property
    def is_busy(self) -> bool:
        """Whether a frame is at the gate or on the way to it, or an answer on the way back."""
        return self._large.locked() or self._lock.locked() or self._kept.locked()

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _carry(self, size: int, begun: list[Buffer], chunks: AsyncGenerator[Buffer, None]) -> int:
        loop = asyncio.get_running_loop()
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX)
            self._socket = connection
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * CHUNK_BYTES)
            await loop.sock_connect(connection, str(self._path))
        await loop.sock_sendall(self._socket, struct.pack("!I", size))
        for number in range(len(begun)):
            await loop.sock_sendall(self._socket, begun[number])
            begun[number] = b""  # its memory is free
        async for chunk in _in_time(chunks, PAUSE_SECONDS + size / FAST_BYTES_A_SECOND):
            await loop.sock_sendall(self._socket, chunk)
        (length,) = struct.unpack("!I", await self._exactly(4))
        if length > MAX_FRAME_BYTES:
            raise LinkUnavailable("the gate announced a frame that is too large")
        return int(length)

    async def _chunks(self, size: int) -> AsyncGenerator[Buffer, None]:
        async with contextlib.AsyncExitStack() as turn:
            rest = list[Buffer]()
            lengths = [chunk_length(size, number * CHUNK_BYTES) for number in range(chunk_count(size))]
            latest = asyncio.get_running_loop().time() + CHUNKS_AHEAD * CHUNK_BYTES / FAST_BYTES_A_SECOND
            try:
                for number, length in enumerate(lengths):
                    yield await self._exactly(length)
                    latest += length / FAST_BYTES_A_SECOND
                    if asyncio.get_running_loop().time() > latest and not self._kept.locked():
                        await turn.enter_async_context(self._kept)
                        rest = [await self._exactly(each) for each in lengths[number + 1 :]]
                        break
            except BaseException as error:
                self.close()
                if isinstance(error, OSError):
                    raise _no_gate() from error
                raise
            finally:
                self._lock.release()
            for number in range(len(rest)):
                yield rest[number]
                rest[number] = b""  # its memory is free

    async def _exactly(self, count: int) -> memoryview:
        loop, part, filled = asyncio.get_running_loop(), memoryview(bytearray(count)), 0
        while filled < count:
            if self._socket is None or (more := await loop.sock_recv_into(self._socket, part[filled:])) == 0:
                raise ConnectionResetError
            filled += more
        return part


async def _beginning(chunks: AsyncGenerator[Buffer, None]) -> list[Buffer]:
    """Take the first chunks of a large question, or all of one that comes slowly."""
    loop, begun = asyncio.get_running_loop(), list[Buffer]()
    latest = loop.time() + CHUNKS_AHEAD * CHUNK_BYTES / FAST_BYTES_A_SECOND
    async for chunk in chunks:
        begun.append(chunk)
        if len(begun) == CHUNKS_AHEAD and loop.time() <= latest:
            break
    return begun


async def _in_time(chunks: AsyncGenerator[Buffer, None], seconds: float) -> AsyncGenerator[Buffer, None]:
    """Yield the chunks that are left, which may be waited for so long together.

    Raises:
        LinkUnavailable: they did not come.
    """
    loop = asyncio.get_running_loop()
    try:
        while True:
            began = loop.time()
            async with asyncio.timeout(seconds):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            seconds -= loop.time() - began
            yield chunk
    except TimeoutError:
        raise LinkUnavailable(
            "a question began fast and came slowly then",
            next_step="It is asked again by itself, and gathered before it reaches the gate.",
        ) from None


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
