"""One study's run on a SuperLink: a ServerApp of ours carries frames to the sites' nodes, and their replies back.

The run lasts as long as the study's; where its ServerApp ends early, whatever the reason, another run takes its place
and what was under way fails at once, to be asked again by whoever asked: the gates give the same bytes and charge once.
So it is with one that says nothing: Flower's calls in it try again and again, and one that waits holds up every site.

Leaves to others: the processes (`superlink_processes`), what a frame means, when it is asked again (`asking`).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedhealth.coordinator.carried_frames import (
    LENGTHS,
    Arrived,
    Carry,
    Look,
    Sent,
    lengths_in,
    message_of,
    read_told,
)
from fedhealth.errors import FederationFailed
from fedhealth.flower.fab import check_fab, fab_bytes
from fedhealth.flower.superlink_control import SuperLinkControl
from fedhealth.link.memory import Buffer
from fedhealth.link.services import away

_LOG = logging.getLogger(__name__)

_APP_SECONDS, _LONGEST_APP_SECONDS = 15.0, 60.0
"""How long a run's ServerApp may take to appear, at first and at most; 3 s on an idle machine.

The SuperExec may have ended with its task in hand, which nobody else is given; a slow machine gets twice as long each
time."""
_SILENT_SECONDS, _SLOWEST_BYTES = 15.0, 2**20
"""How long a ServerApp may be silent while it owes a word; and bytes a second of a frame, which it may take beside."""
_WATCH_SECONDS = 1.0
_FIRST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 0.1, 5.0
_STREAM_BYTES = 2**20


@dataclass
class _Asked:
    """A frame whose reply is waited for.

    Attributes:
        site: that it is for.
        reply: what comes back.
        longest: the reply may be, in bytes.
        message: Flower's id of the message that carries it, once the SuperLink has it.
    """

    site: str
    reply: asyncio.Future[Buffer]
    longest: int
    message: str = ""


class SuperLinkRun:
    """Frames over a SuperLink, while a run is wanted; all methods belong to one event loop.

    Args:
        frames: path of the socket that the ServerApp connects to; its folder is this user's alone.
        control: returns the Control API of the SuperLink.
        on_sent: told a site, a message's id and how long the reply may be, when the SuperLink has it; must not block.
    """

    def __init__(
        self, frames: Path, control: Callable[[], SuperLinkControl], on_sent: Callable[[str, str, int], None]
    ) -> None:
        self._path, self._control, self._on_sent = frames, control, on_sent
        self._server: asyncio.Server | None = None
        self._app: asyncio.StreamWriter | None = None
        self._changed = asyncio.Event()
        self._number = 0
        self._waiting: dict[int, _Asked] = {}
        self._pushing: dict[int, _Asked] = {}  # of each message that the ServerApp has not spoken of yet
        self._owed: dict[int, int] = {}  # frames that the ServerApp is to send or to fetch, and their bytes at most
        self._heard = 0.0
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen for ServerApps."""
        self._server = await asyncio.start_unix_server(self._serve, path=str(self._path), limit=_STREAM_BYTES)
        self._path.chmod(0o600)

    async def stop(self) -> None:
        """End the run and the socket."""
        await self.end()
        if self._server is not None:
            self._server.close()

    def begin(self) -> None:
        """From now on there shall be a run."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_running())

    async def end(self) -> None:
        """End the run; what is under way fails."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None

    async def carry(self, site: str, node: int, frame: bytes, seconds: float, longest: int) -> Buffer:
        """Carry a frame to a site's node and return the reply.

        Args:
            site: the site's id, for messages.
            node: Flower's id of its node.
            frame: as a link would carry it.
            seconds: how long to wait for the reply.
            longest: of the reply, in bytes.

        Raises:
            PeerAway: none came; nobody knows whether the site had the frame.
        """
        reply: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
        self._number += 1
        number = self._number
        try:
            async with asyncio.timeout(seconds):
                while self._app is None:
                    await self._changed.wait()
                self._waiting[number] = self._pushing[number] = _Asked(site, reply, longest)
                self._order(Carry(number=number, node=str(node), seconds=seconds, longest=longest), len(frame), frame)
                return await reply
        except TimeoutError:
            raise away(f"site '{site}'", f"no answer over the SuperLink within {seconds:g} s") from None
        finally:
            self._waiting.pop(number, None)

    def lose(self, site: str, got: str) -> None:
        """Fail at once what is under way for a site.

        Args:
            site: its id.
            got: what became of it, for the message.
        """
        for asked in list(self._waiting.values()):
            if asked.site == site:
                _fail(asked, got)

    def look(self, message: str) -> None:
        """Fetch the reply to a message, which is whole."""
        for number, asked in self._waiting.items():
            if asked.message == message:
                self._order(Look(number=number), asked.longest)

    def drop(self, message: str) -> None:
        """Fail at once what a message carries: nobody will answer it."""
        for asked in list(self._waiting.values()):
            if asked.message == message:
                _fail(asked, "a message that was lost on its way over Flower")

    def _order(self, order: Carry | Look, most_bytes: int, frame: Buffer = b"") -> None:
        if self._app is None:
            return  # what is under way was lost with it
        if not self._owed:
            self._heard = asyncio.get_running_loop().time()
        self._owed[order.number] = most_bytes
        self._app.write(message_of(order, frame))

    async def _keep_running(self) -> None:
        """Start a run, and another where its ServerApp ends; the SuperLink may be away meanwhile."""
        delay, patience = _FIRST_DELAY_SECONDS, _APP_SECONDS
        while True:
            async with contextlib.AsyncExitStack() as ended:
                try:
                    run = await self._asked(lambda control: control.start_run(_bundle()))
                    ended.push_async_callback(self._stopped, run)
                    soon, patience = patience, min(2 * patience, _LONGEST_APP_SECONDS)
                    async with asyncio.timeout(soon):
                        await self._until(connected=True)
                    delay, patience = _FIRST_DELAY_SECONDS, _APP_SECONDS
                    await self._until_gone_or_silent()
                except (FederationFailed, TimeoutError) as error:
                    _LOG.warning("no ServerApp on the SuperLink: %(error)s", {"error": error})
            _LOG.warning("the ServerApp on the SuperLink ended and is started again")
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)

    async def _stopped(self, run: int) -> None:
        """Hang up on the ServerApp, which ends it, and have its run stopped should it not hear."""
        if self._app is not None:
            self._app.close()
        with contextlib.suppress(FederationFailed):
            await self._asked(lambda control: control.stop_run(run))

    async def _asked(self, ask: Callable[[SuperLinkControl], int | None]) -> int:
        def whole() -> int:
            control = self._control()
            try:
                return ask(control) or 0
            finally:
                control.close()

        return await asyncio.to_thread(whole)

    async def _until(self, *, connected: bool) -> None:
        while (self._app is not None) is not connected:
            await self._changed.wait()

    async def _until_gone_or_silent(self) -> None:
        loop = asyncio.get_running_loop()
        while self._app is not None:
            most = _SILENT_SECONDS + max(self._owed.values(), default=0) / _SLOWEST_BYTES
            if self._owed and loop.time() - self._heard > most:
                _LOG.warning("the ServerApp on the SuperLink says nothing and is given up")
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_SECONDS):
                    await self._changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._connected(writer), contextlib.suppress(EOFError, OSError):
            while True:
                header_bytes, frame_bytes = lengths_in(await reader.readexactly(LENGTHS.size))
                told = read_told(await reader.readexactly(header_bytes))
                frame = await reader.readexactly(frame_bytes)
                if self._app is not writer:
                    return  # it was given up; whatever it speaks of is asked again
                self._heard = asyncio.get_running_loop().time()
                self._owed.pop(told.number, None)
                pushed = self._pushing.pop(told.number, None)
                if isinstance(told, Sent):
                    if pushed:
                        pushed.message = told.message
                        # Also where nobody waits any more: the SuperLink hands it out.
                        self._on_sent(pushed.site, told.message, pushed.longest)
                    continue
                if (asked := self._waiting.get(told.number)) is None or asked.reply.done():
                    continue  # nobody waits for it any more
                if isinstance(told, Arrived):
                    asked.reply.set_result(frame)
                else:
                    _fail(asked, "a failure of Flower's in place of an answer")

    @contextlib.contextmanager
    def _connected(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        """Take a ServerApp for the one that counts until it ends; one that was there before is hung up on."""
        if self._app is not None:
            self._app.close()
        self._app = writer
        self._tell()
        try:
            yield
        finally:
            writer.close()
            if self._app is writer:
                self._app = None
                self._pushing.clear()
                self._owed.clear()
                for asked in list(self._waiting.values()):
                    _fail(asked, "a ServerApp that ended")
                self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _fail(asked: _Asked, got: str) -> None:
    if not asked.reply.done():
        asked.reply.set_exception(away(f"site '{asked.site}'", got))


def _bundle() -> bytes:
    bundle = fab_bytes()
    check_fab(bundle)
    return bundle
