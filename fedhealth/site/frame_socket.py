"""The Unix socket at which one frame goes in and one comes out: from the worker of a SuperNode to the node.

The node passes what comes to the gate and the gate's answer back, as it does with what comes over the link, and reads
neither. A frame is a four-byte length and that many bytes, both ways. A length of 0 is answered with another once the
SuperNode has taken a message in, so that the worker need not look again and again. A connection on which anything else
is said is closed. Whoever is at the other end can say to the gate what a coordinator can, and nothing more.

Leaves to others: what may leave a site (the gate), and who may open the socket (the folder's permissions).
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from fedhealth.errors import FedHealthError, LinkUnavailable
from fedhealth.link.bodies import STALL_SECONDS, Body, BodyInvalid, chunk_count, chunk_length
from fedhealth.link.frames import MAX_FRAME_BYTES
from fedhealth.link.memory import CHUNK_BYTES, Buffer
from fedhealth.unix_socket import listen_at, receive_exactly

_LENGTH = struct.Struct("!I")
_WAITING = 4
_OWN_USER = 0o600
NEWS_SECONDS = 5.0
"""How long a worker waits for news before it looks for a task itself."""
_AWAY_SECONDS = 0.3


@dataclass(frozen=True)
class FrameFromSocket:
    """A frame that arrives; its chunks can be read once. The first is here before the gate hears of it, as on the link.

    Attributes:
        size: as declared, in bytes.
        first: its first chunk, which is all of a small frame.
        reader: where the others come from.
    """

    size: int
    first: bytes
    reader: asyncio.StreamReader

    async def chunks(self) -> AsyncGenerator[Buffer, None]:
        """Yield every chunk in order, of the lengths that the link's bodies have.

        Raises:
            BodyInvalid: it ended early, or stalled.
        """
        yield self.first
        for number in range(1, chunk_count(self.size)):
            yield await _chunk(self.reader, self.size, number)


async def _chunk(reader: asyncio.StreamReader, size: int, number: int) -> bytes:
    try:
        async with asyncio.timeout(STALL_SECONDS):
            return await reader.readexactly(chunk_length(size, number * CHUNK_BYTES))
    except (EOFError, TimeoutError):
        raise BodyInvalid("a frame ended early or stalled", got=f"chunk {number}") from None


AskGate = Callable[[FrameFromSocket], Awaitable[Body]]


class FrameSocket:
    """The node's end.

    Args:
        path: of the socket, in a folder of the node's user alone.
        ask: carries a frame to the gate; what it returns is read or closed before it is asked again.
    """

    def __init__(self, path: Path, ask: AskGate) -> None:
        self._path, self._ask = path, ask
        self._server: asyncio.Server | None = None
        self._open = set[asyncio.Task[None]]()
        self._news = asyncio.Event()

    def tell(self) -> None:
        """Tell the worker that there may be a task."""
        self._news.set()

    async def start(self) -> None:
        """Listen.

        Raises:
            LinkUnavailable: the socket cannot be made.
        """
        listener = listen_at(self._path, _OWN_USER, _WAITING)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=2 * CHUNK_BYTES)

    async def stop(self) -> None:
        """Hang up, and leave no socket behind."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self._path.unlink(missing_ok=True)
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this as one
        self._open.add(task)
        try:
            while True:
                (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                if size > MAX_FRAME_BYTES:
                    return
                if size == 0:
                    await self._wait_for_news()
                    writer.write(_LENGTH.pack(0))
                    continue
                answer = await self._ask(FrameFromSocket(size, await _chunk(reader, size, 0), reader))
                async with contextlib.aclosing(answer.chunks) as chunks:
                    writer.write(_LENGTH.pack(answer.size))
                    async for chunk in chunks:
                        writer.write(bytes(chunk))  # its memory is used again once the next is asked for
                        await writer.drain()
        except (EOFError, OSError, FedHealthError, asyncio.CancelledError):
            return  # whoever asked finds the connection closed, and asks again or gives up
        finally:
            self._open.discard(task)
            writer.close()

    async def _wait_for_news(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NEWS_SECONDS):
                await self._news.wait()
        self._news.clear()


class News:
    """The worker's way to hear that there may be a task.

    Args:
        path: of the node's socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: socket.socket | None = None

    def wait(self) -> None:
        """Wait until there may be a task: the node says so, or some seconds are over."""
        try:
            if self._connection is None:
                self._connection = socket.socket(socket.AF_UNIX)
                self._connection.settimeout(2 * NEWS_SECONDS)
                self._connection.connect(str(self._path))
            self._connection.sendall(_LENGTH.pack(0))
            receive_exactly(self._connection, _LENGTH.size)
        except OSError:  # the node is away, and begins again
            self.close()
            time.sleep(_AWAY_SECONDS)

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def exchange_frame(path: Path, frame: bytes) -> bytes:
    """Say a frame to the node and return the gate's answer; waits for as long as the gate takes.

    Args:
        path: of the node's socket.
        frame: 1 to `MAX_FRAME_BYTES` bytes.

    Raises:
        LinkUnavailable: the node or the gate does not answer.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(_LENGTH.pack(len(frame)))
            connection.sendall(frame)
            (size,) = _LENGTH.unpack(receive_exactly(connection, _LENGTH.size))
            if size > MAX_FRAME_BYTES:
                raise ConnectionError("the announced frame is too large")
            return bytes(receive_exactly(connection, size))
    except OSError as error:
        raise LinkUnavailable(
            "the node of this site does not answer at its frame socket",
            got=error.strerror or str(error),
            next_step="Start the site: fedhealth site start --help",
        ) from error
