"""The coordinator's end of the research socket: a Unix socket in its home, and no network port.

Who may connect is decided by the file's mode: the coordinator's own user, or a group. The kernel's word for who did
(`SO_PEERCRED`) is told with each question. From elsewhere a researcher forwards the socket with ssh.

Invariants: a question is read only up to its longest, in bounded time; a peer that stalls, or takes no answer, holds
up nobody; no user takes all connections; files are served by the names that a run publishes, never by a path.

Leaves to others: what is done (`ResearchDesk`).
"""

import asyncio
import contextlib
import grp
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from fedhealth.coordinator.research_frames import (
    LENGTH,
    MAX_QUESTION_BYTES,
    SOCKET_FILE,
    Question,
    Reply,
    Watch,
    pack_sized,
    unpack_question,
)
from fedhealth.declined import Declined
from fedhealth.errors import ConfigInvalid, FedHealthError
from fedhealth.unix_socket import listen_at, peer_user

_QUESTION_SECONDS = 10.0
"""How long a question may take to come."""
_TAKE_SECONDS = 60.0
"""How long the other end may take for a part of an answer; a long answer over a slow line has many parts."""
_PART_BYTES = 64 * 1024
_MOST_CONNECTIONS, _MOST_OF_A_USER = 64, 16

Answer = Callable[[Question, bytes, int], Awaitable[tuple[Reply, bytes]]]
Tell = Callable[[Reply], Awaitable[None]]
Follow = Callable[[Watch, Tell], Awaitable[Reply]]


class ResearchPort:
    """Listens in a coordinator's home; all methods belong to one event loop.

    Args:
        home: the coordinator's folder.
        group: the Unix group that may connect, and see the folder; None for the coordinator's user alone.
        answer: answers a question.
        follow: tells events, one by one, and returns the last reply.
        on_question: told which Unix user asks what.
    """

    def __init__(
        self, home: Path, group: str | None, answer: Answer, follow: Follow, on_question: Callable[[int, str], None]
    ) -> None:
        self._path, self._group, self._answer, self._follow = home / SOCKET_FILE, group, answer, follow
        self._on_question = on_question
        self._server: asyncio.Server | None = None
        self._busy: dict[asyncio.Task[None], int] = {}

    async def start(self) -> Path:
        """Listen, and return the socket's path.

        Raises:
            ConfigInvalid: there is no such group, or the coordinator's user is not in it.
            LinkUnavailable: the socket cannot be made.
        """
        listener = listen_at(self._path, 0o600, waiting=_MOST_CONNECTIONS)
        if self._group is not None:
            try:
                number = grp.getgrnam(self._group).gr_gid
                os.chown(self._path.parent, -1, number)
                self._path.parent.chmod(0o710)  # to pass through, not to look around; what lies there is closed
                os.chown(self._path, -1, number)
                self._path.chmod(0o660)
            except (KeyError, PermissionError) as error:
                listener.close()
                raise ConfigInvalid(
                    f"researchers of group '{self._group}' cannot be let in",
                    got="no such group" if isinstance(error, KeyError) else "a group this user is not in",
                    wanted="a Unix group that the coordinator's user is in",
                    next_step="Make the group and add this user and the researchers to it.",
                ) from error
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)
        return self._path

    async def stop(self) -> None:
        """Hang up on everybody and remove the socket."""
        if self._server is None:
            return
        self._server.close()
        for task in list(self._busy):
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)
        self._path.unlink(missing_ok=True)
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this as one
        try:
            user = peer_user(writer.get_extra_info("socket"))
            self._busy[task] = user
            if len(self._busy) <= _MOST_CONNECTIONS and [*self._busy.values()].count(user) <= _MOST_OF_A_USER:
                await self._converse(reader, writer, user)
                writer.close()
                async with asyncio.timeout(_TAKE_SECONDS):
                    await writer.wait_closed()
        except asyncio.CancelledError:
            return  # asyncio's streams take a task that was cancelled for a defect
        except (EOFError, OSError, TimeoutError):
            return  # it hung up, or said or took nothing in time
        finally:
            self._busy.pop(task, None)
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: int) -> None:
        async def tell(reply: Reply, body: bytes = b"") -> None:
            frame = memoryview(pack_sized(reply, body))
            for start in range(0, len(frame), _PART_BYTES):
                async with asyncio.timeout(_TAKE_SECONDS):
                    writer.write(frame[start : start + _PART_BYTES])
                    await writer.drain()

        try:
            async with asyncio.timeout(_QUESTION_SECONDS):
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                if length > MAX_QUESTION_BYTES:
                    return
                question, body = unpack_question(await reader.readexactly(length))
            self._on_question(user, question.kind)
            if isinstance(question, Watch):
                await tell(await self._until_gone(reader, self._follow(question, tell)))
            else:
                await tell(*await self._answer(question, body, user))
        except FedHealthError as error:
            with contextlib.suppress(OSError):
                await tell(Declined.of(error))

    @staticmethod
    async def _until_gone(reader: asyncio.StreamReader, following: Awaitable[Reply]) -> Reply:
        """Follow as long as the other end is there: one that only listens would never be missed by writing."""
        work, gone = asyncio.ensure_future(following), asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ConnectionResetError
            return work.result()
        finally:
            for each in (work, gone):
                each.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
