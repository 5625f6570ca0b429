"""Moves the frames of one session over one gRPC stream; the same for both ends.

Invariants: frames are sealed by one task only, in the order they were given to `send`, so counters never have
gaps; the stream ends at the first thing that goes wrong in either direction, and when the other end asks for
answers and does not read them; an end that heard nothing for `SILENCE_SECONDS` ends it, and each says something every
`BEAT_SECONDS`; a peer that sends more frames a second than any honest one is read more slowly, which
slows nobody else; nothing is left running after `run` returned.

Leaves to others: the rules of frames (`session`) and of bodies (`bodies`), who is at the other end (`server`,
`client`).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from fedhealth.errors import LinkUnavailable
from fedhealth.link.memory import Buffer
from fedhealth.link.quota import Bucket
from fedhealth.link.session import FrameKind, SessionEnd, SessionFrame
from fedhealth.link.tls import HELLO_SECONDS, aio

MAX_FRAMES_WAITING = 2048
"""Frames in line to be sent: far above what both quotas of requests allow where the other end reads."""
FRAMES_A_SECOND = 5000.0
"""Five times what a stream of chunks at 1 GiB/s needs."""
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 25.0
"""A frame of 1 MiB takes 16 s on a line of half a megabit a second, the slowest that bodies are given time for.

Not grpc's keep-alive: that waits for the answer to its own ping, which stands in line behind all that the kernel holds
for a slow line, so it takes slow for dead; and in grpcio 1.85 its time-out is not the one that counts.
"""

_Waiting = tuple[FrameKind, int, str, tuple[Buffer, ...], Callable[[], object]]


class FrameStream:
    """One session on one stream; `run` drives it until it ends.

    Args:
        end: this end of the session, used by nobody else.
        read: returns the next message or `grpc.aio.EOF`.
        write: sends one message.
    """

    def __init__(
        self, end: SessionEnd, read: Callable[[], Awaitable[Any]], write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self._end, self._read, self._write = end, read, write
        self._outgoing: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._closed = asyncio.Event()
        self._heard = asyncio.Event()
        self._spoke = False

    def send(
        self,
        kind: FrameKind,
        request_id: int,
        service: str,
        *parts: Buffer,
        on_sent: Callable[[], object] = lambda: None,
    ) -> None:
        """Put a frame in line; it is dropped without a word if the stream ends before it is sent.

        Args:
            kind: as `SessionEnd.seal` has it.
            request_id: as well.
            service: as well.
            parts: as well.
            on_sent: called once the parts may change.

        Raises:
            LinkUnavailable: the other end does not read; the stream is closed.
        """
        if self._outgoing.qsize() >= MAX_FRAMES_WAITING:
            self.close()
            raise LinkUnavailable("the other end of the link does not read", got=f"{MAX_FRAMES_WAITING} frames in line")
        self._outgoing.put_nowait((kind, request_id, service, parts, on_sent))

    def close(self) -> None:
        """Make `run` return; to be called from the same event loop."""
        self._closed.set()

    async def run(self, on_frame: Callable[[SessionFrame], None]) -> None:
        """Send and receive until the stream ends.

        Args:
            on_frame: called with each frame that passed; must not block. What it raises ends the stream.

        Raises:
            LinkUnavailable: a frame was refused, or the other end did not say HELLO in time, or fell silent.
            grpc.aio.AioRpcError: the other end or the network ended the stream (client only).
            asyncio.CancelledError: this task was cancelled, or the peer went away (server only).
        """
        tasks = [
            asyncio.create_task(self._receive(on_frame)),
            asyncio.create_task(self._transmit()),
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._closed.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if task in done:
                task.result()

    async def _receive(self, on_frame: Callable[[SessionFrame], None]) -> None:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                data = await self._read()
        except TimeoutError:
            raise LinkUnavailable(
                "the other end of the link did not speak",
                got=f"silence for {HELLO_SECONDS:g} s",
                wanted="its HELLO",
                next_step="The link is set up again by itself; if this recurs, look at the network between.",
            ) from None
        rate = Bucket(FRAMES_A_SECOND, FRAMES_A_SECOND, asyncio.get_running_loop().time)
        while data is not aio.EOF:
            frame = self._end.open(data)
            self._heard.set()
            if frame.kind is not FrameKind.BEAT:
                on_frame(frame)
            if (wait := rate.take()) > 0:
                await asyncio.sleep(wait)
            data = await self._read()

    async def _transmit(self) -> None:
        # A write fails only where the stream is over; the reader then knows why, and better.
        with contextlib.suppress(aio.AioRpcError, aio.BaseError, asyncio.InvalidStateError):
            while True:
                kind, request_id, service, parts, on_sent = await self._outgoing.get()
                message = self._end.seal(kind, request_id, service, *parts)
                on_sent()
                del parts
                await self._write(message)
                self._spoke = True

    async def _watch(self) -> None:
        """Say something now and then, and see that the other end does, from its HELLO on."""
        await self._heard.wait()
        silent = 0.0
        while silent < SILENCE_SECONDS:
            self._heard.clear()
            if not self._spoke and self._outgoing.empty():
                self.send(FrameKind.BEAT, 0, "")
            self._spoke = False
            await asyncio.sleep(BEAT_SECONDS)
            silent = 0.0 if self._heard.is_set() else silent + BEAT_SECONDS
        raise LinkUnavailable(
            "the other end of the link fell silent",
            got=f"nothing for {SILENCE_SECONDS:g} s",
            wanted=f"a sign of life every {BEAT_SECONDS:g} s",
            next_step="The link is set up again by itself; if this recurs, look at the network between.",
        )
