"""The node: the hospital's end of the link. It has a TLS key and carries bytes; it has no data and reads no frame.

It connects outwards to the coordinator, hands each request to the gate over the Unix socket, one at a time, and hands
the gate's answer back. Were it replaced by something hostile, that could lose or delay frames and nothing else: what
may leave is decided, charged and noised behind the socket.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fedhealth.corpora.carrying import CORPORA
from fedhealth.errors import LinkUnavailable
from fedhealth.link.bodies import Body, chunk_count, chunk_length
from fedhealth.link.client import LinkState, SiteLink
from fedhealth.link.counts import ANSWER_SECONDS, COUNTS, MAX_ANSWER_BYTES
from fedhealth.link.frames import MAX_FRAME_BYTES
from fedhealth.link.memory import CHUNK_BYTES, Buffer
from fedhealth.link.services import Service
from fedhealth.site.count_port import CountPort
from fedhealth.site.fetched_corpora import FetchedCorpora, published_service
from fedhealth.site.node_file import NodeFile
from fedhealth.site.offers import OfferedStudies
from fedhealth.site.renewing import keep_linked
from fedhealth.site.shared_ring import NO_RING, RING_WANTED, SharedRing, gives_room, needs_room
from fedhealth.site.state import SiteState

if TYPE_CHECKING:
    from fedhealth.site.supernode_host import SuperNodeHost

_LOG = logging.getLogger(__name__)

CHUNKS_AHEAD = 4
"""Chunks of a large question that are here before the gate hears of it; how fast they came decides how it goes on."""
FAST_BYTES_A_SECOND = 8 * 2**20
"""A large question that begins slower than this is gathered first; so is the rest of an answer that goes slower."""
PAUSE_SECONDS = 5.0
"""How long a question that began fast may be waited for, beside the time that it takes at that rate."""


class Question(Protocol):
    """A frame that arrives, from the link or from the worker of a SuperNode."""

    @property
    def size(self) -> int:
        """Its size in bytes, as declared."""

    def chunks(self) -> AsyncGenerator[Buffer, None]:
        """Yield its chunks once, in order and of the lengths that bodies of the link have."""


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
        self._ring: SharedRing | None = None
        self._has_asked = False

    async def answer(self, question: Question) -> Body:
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
            self._socket = self._ring = None

    async def _carry(self, size: int, begun: list[Buffer], chunks: AsyncGenerator[Buffer, None]) -> int:
        loop = asyncio.get_running_loop()
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX)
            self._socket, self._ring, self._has_asked = connection, None, False
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * CHUNK_BYTES)
            await loop.sock_connect(connection, str(self._path))
        if size > CHUNK_BYTES and not self._has_asked:
            self._ring, self._has_asked = await _ring_of(self._socket), True
        await loop.sock_sendall(self._socket, struct.pack("!I", size))
        ring = self._ring if size > CHUNK_BYTES else None
        for number in range(len(begun)):
            await self._hand_over(ring, number, begun[number])
            begun[number] = b""  # its memory is free
        number = len(begun)
        async for chunk in _in_time(chunks, PAUSE_SECONDS + size / FAST_BYTES_A_SECOND):
            await self._hand_over(ring, number, chunk)
            number += 1
        (length,) = struct.unpack("!I", await self._exactly(4))
        if length > MAX_FRAME_BYTES:
            raise LinkUnavailable("the gate announced a frame that is too large")
        return int(length)

    async def _hand_over(self, ring: SharedRing | None, number: int, chunk: Buffer) -> None:
        if ring is not None:
            if needs_room(number):
                await self._exactly(1)
            ring.rest_of_chunk(number * CHUNK_BYTES)[: len(chunk)] = chunk
            chunk = b"\0"
        await asyncio.get_running_loop().sock_sendall(self._connection, chunk)

    async def _chunks(self, size: int) -> AsyncGenerator[Buffer, None]:
        async with contextlib.AsyncExitStack() as turn:
            rest, arriving = list[Buffer](), await turn.enter_async_context(contextlib.aclosing(self._arriving(size)))
            latest = asyncio.get_running_loop().time() + CHUNKS_AHEAD * CHUNK_BYTES / FAST_BYTES_A_SECOND
            try:
                async for chunk in arriving:
                    yield chunk
                    latest += len(chunk) / FAST_BYTES_A_SECOND
                    if asyncio.get_running_loop().time() > latest and not self._kept.locked():
                        await turn.enter_async_context(self._kept)
                        rest = [bytes(each) async for each in arriving]
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

    async def _arriving(self, size: int) -> AsyncGenerator[memoryview, None]:
        """Yield the chunks of an answer as they come; the memory of each is used again after the next was asked for."""
        ring = self._ring if size > CHUNK_BYTES else None
        for number in range(chunk_count(size)):
            length = chunk_length(size, number * CHUNK_BYTES)
            if ring is None:
                yield await self._exactly(length)
                continue
            await self._exactly(1)
            yield ring.rest_of_chunk(number * CHUNK_BYTES)[:length]
            if gives_room(number, size):
                await asyncio.get_running_loop().sock_sendall(self._connection, b"\0")

    async def _exactly(self, count: int) -> memoryview:
        loop, part, filled = asyncio.get_running_loop(), memoryview(bytearray(count)), 0
        while filled < count:
            if (more := await loop.sock_recv_into(self._connection, part[filled:])) == 0:
                raise ConnectionResetError
            filled += more
        return part

    @property
    def _connection(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionResetError
        return self._socket


async def _ring_of(connection: socket.socket) -> SharedRing | None:
    """Ask the gate for a ring; None where its system has none."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, RING_WANTED)
    ready = loop.create_future()
    loop.add_reader(connection, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)
    word, descriptors, _, _ = socket.recv_fds(connection, len(RING_WANTED), 1)
    if word == NO_RING:
        return None
    if word != RING_WANTED or len(descriptors) != 1:
        raise ConnectionResetError
    try:
        return SharedRing.received(descriptors[0])
    finally:
        os.close(descriptors[0])


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


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _no_gate() -> LinkUnavailable:
    return LinkUnavailable("the gate of this site does not answer", next_step="Start it: fedhealth site gate --help")


async def run_node(
    state: SiteState,
    file: NodeFile,
    on_state: Callable[[str], None],
    host_for: "Callable[[SiteLink, GateChannel], SuperNodeHost] | None" = None,
) -> None:
    """Keep the site connected until cancelled.

    Args:
        state: the site's state; only `node/`, the folders of articles and the socket are touched.
        file: where the coordinator is.
        on_state: told of every change of the link.
        host_for: makes what a SuperNode needs of this process; None where the link alone carries frames.

    Raises:
        IdentityInvalid: both certificates have ended, or a file is damaged; a person must act.
        LinkUnavailable: the socket for the worker cannot be made.
    """
    gate = GateChannel(state.socket)
    gate_user = state.gate.stat().st_uid if state.gate.exists() else os.geteuid()
    unheard = gate_user if gate_user != os.geteuid() else None
    services = {
        "gate": Service(gate.answer, longest_question=MAX_FRAME_BYTES),
        CORPORA: published_service(state, unheard),
    }
    link = SiteLink()
    offers = OfferedStudies(link, state.node)
    host = host_for(link, gate) if host_for else None
    articles = FetchedCorpora(link, state.fetched, file.site)
    counts = CountPort(
        state.counts_socket,
        file.site,
        lambda query: link.ask(COUNTS, query, ANSWER_SECONDS, MAX_ANSWER_BYTES),
        unheard=unheard,
    )

    def told(change: str) -> None:
        if change == LinkState.CONNECTED:
            offers.connected()
            articles.connected()
            if host is not None:
                host.connected()
        elif change == LinkState.DISCONNECTED:
            offers.stop()
            articles.stop()
        on_state(change)

    try:
        with contextlib.suppress(LinkUnavailable):  # told in the log; studies go on without it
            await counts.start()
        if host is not None:
            await host.start()
        await keep_linked(state.node, file, services, told, lambda: not gate.is_busy, link=link)
    finally:
        offers.stop()
        articles.stop()
        await counts.stop()
        if host is not None:
            await host.stop()
        gate.close()
