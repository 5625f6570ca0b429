"""Bodies that cross the link: their size is declared first, then they come in chunks of 1 MiB.

Every chunk but the last has exactly `CHUNK_BYTES`, so a size is all that a sender chooses. The first chunk travels
with the declaration; each further one needs room that the receiver gave, so nobody can make the other end hold more
than it takes.

Invariants: a receiver holds at most `WINDOW_CHUNKS` chunks of a body beside what its reader took; a body that ends
early, stalls, or brings more than was declared or given room for is refused.

Leaves to others: sending and receiving frames (`fedhealth.link.exchange`). No input or output, and no gRPC, here.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Self

from fedhealth.errors import LinkUnavailable
from fedhealth.link.memory import CHUNK_BYTES, Buffer, MemoryPool

WINDOW_CHUNKS = 8
"""Chunks on their way for which the receiver gives room: 8 MiB, enough for 80 MiB/s at a round trip of 100 ms."""
STALL_SECONDS = 20.0
"""How long the next chunk of a body may be awaited once the body began."""


class BodyInvalid(LinkUnavailable):
    """A body ended early, stalled, or is not what was declared."""


def chunk_length(size: int, offset: int) -> int:
    """Return the length of the chunk that begins at `offset` of a body of `size` bytes."""
    return min(CHUNK_BYTES, size - offset)


def chunk_count(size: int) -> int:
    """Return how many chunks a body of `size` bytes has: at least one, which may be empty."""
    return max(1, -(-size // CHUNK_BYTES))


@dataclass(frozen=True)
class Body:
    """A body to be sent.

    Attributes:
        size: in bytes.
        chunks: yields each chunk once, in order and of the right length; its memory may change once it is asked for
            the next.
    """

    size: int
    chunks: AsyncGenerator[Buffer, None]

    @classmethod
    def of(cls, data: Buffer) -> Self:
        """Return a body of bytes in memory, which are not copied."""
        return cls(len(data), _slices(memoryview(data)))


async def _slices(data: memoryview) -> AsyncGenerator[Buffer, None]:
    for number in range(chunk_count(len(data))):
        yield data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]


class IncomingBody:
    """A body that arrives; one reader takes it, either chunk by chunk or whole.

    Args:
        size: as declared.
        give_room: tells the sender that it may send so many more chunks.
        pool: where a large body is put together.
    """

    def __init__(self, size: int, give_room: Callable[[int], None], pool: MemoryPool) -> None:
        self.size = size
        self._give_room, self._pool = give_room, pool
        self._chunks: asyncio.Queue[Buffer | LinkUnavailable] = asyncio.Queue()
        self._arrived = 0
        self._room = 1  # the first chunk comes with the declaration
        self._held = 0

    @property
    def held_bytes(self) -> int:
        """Bytes that arrived and were not taken yet."""
        return self._held

    def feed(self, chunk: Buffer) -> None:
        """Take in the next chunk.

        Raises:
            BodyInvalid: of the wrong length, or without room.
        """
        if self._room < 1 or len(chunk) != chunk_length(self.size, self._arrived):
            raise BodyInvalid("a chunk of a body is refused", got=f"{len(chunk)} bytes", wanted="the next chunk")
        self._room -= 1
        self._arrived += len(chunk)
        self._held += len(chunk)
        self._chunks.put_nowait(chunk)

    def fail(self, error: LinkUnavailable) -> None:
        """Let the reader know that nothing more will come."""
        self._chunks.put_nowait(error)

    async def chunks(self) -> AsyncGenerator[Buffer, None]:
        """Yield every chunk in order, giving room for more as they are taken.

        Raises:
            BodyInvalid: the next chunk did not come within `STALL_SECONDS`.
            LinkUnavailable: the sender gave up.
        """
        for number in range(count := chunk_count(self.size)):
            in_flight = self._room + self._chunks.qsize()
            if in_flight <= WINDOW_CHUNKS // 2 and number + in_flight < count:
                more = min(WINDOW_CHUNKS, count - number) - in_flight
                self._room += more
                self._give_room(more)
            try:
                async with asyncio.timeout(STALL_SECONDS if number else None):
                    chunk = await self._chunks.get()
            except TimeoutError:
                raise BodyInvalid("a body stalled", got=f"no chunk for {STALL_SECONDS:g} s") from None
            if isinstance(chunk, LinkUnavailable):
                raise chunk
            self._held -= len(chunk)
            yield chunk

    async def whole(self) -> Buffer:
        """Return all of it; a view of pooled memory if it has more than one chunk.

        Raises:
            LinkUnavailable: as `chunks`.
        """
        if self.size <= CHUNK_BYTES:
            return b"".join([chunk async for chunk in self.chunks()])
        data, offset = self._pool.take(self.size), 0
        async for chunk in self.chunks():
            data[offset : offset + len(chunk)] = chunk
            offset += len(chunk)
        return data
