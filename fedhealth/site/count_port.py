"""Where people of this hospital hand in what the other hospitals are to count: a socket of the node's.

The one thing that passes is a signed query: typed codes, an age band, a sex, a quarter, and its asker. The node looks
at each before it carries it, so that free text cannot leave this way, whoever hands it in. Home and away never mix:
nothing of this hospital's own index is here, and the gate's user is not heard where it is not the node's own: a gate
that was taken over has no second way out.

One connection, one question: a length in four bytes and a signed query; then a length and the answer, or a length of
zero where the coordinator gave none. Both ends are here.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from fedhealth.errors import ConfigInvalid, IdentityInvalid, LinkUnavailable
from fedhealth.link.counts import ANSWER_SECONDS, MAX_ANSWER_BYTES, CountAnswer, read_answer
from fedhealth.link.memory import Buffer
from fedhealth.study.count_query import MAX_SIGNED_QUERY_BYTES, open_signed_query
from fedhealth.unix_socket import listen_at, peer_user, receive_exactly

_LOG = logging.getLogger(__name__)
_LENGTH = struct.Struct("!I")
_MODE = 0o660
_QUESTION_SECONDS = 2.0
_MOST_CONNECTIONS = 8


class CountPort:
    """The node's end.

    Args:
        path: where it listens.
        site: this hospital's id; queries in the name of another one do not leave.
        ask: carries a signed query to the coordinator; raises `LinkUnavailable`.
        unheard: the Unix user who is hung up on; None where gate and node are one user, and nobody can tell.
    """

    def __init__(
        self, path: Path, site: str, ask: Callable[[bytes], Awaitable[Buffer]], unheard: int | None = None
    ) -> None:
        self._path, self._site, self._ask, self._unheard = path, site, ask, unheard
        self._server: asyncio.Server | None = None
        self._open = set[asyncio.Task[None]]()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            LinkUnavailable: the socket cannot be made.
        """
        try:
            listener = listen_at(self._path, _MODE, waiting=_MOST_CONNECTIONS)
        except LinkUnavailable as error:
            _LOG.error("nobody can have other hospitals count: %(error)s", {"error": error})
            raise
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    async def stop(self) -> None:
        """Hang up and listen no more."""
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
        is_gate = peer_user(writer.get_extra_info("socket")) == self._unheard
        if is_gate:
            _LOG.error("the gate's user tried to send something out by the way of queries and was refused")
        if is_gate or len(self._open) >= _MOST_CONNECTIONS:
            writer.close()
            return
        self._open.add(task)
        try:
            async with asyncio.timeout(_QUESTION_SECONDS):
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                if length > MAX_SIGNED_QUERY_BYTES:
                    return
                question = await reader.readexactly(length)
            if open_signed_query(question).asker.site != self._site:
                _LOG.warning("a query in the name of another hospital was handed in; nothing left")
                return
            answer = bytes(await self._ask(question))
            writer.write(_LENGTH.pack(len(answer)) + answer)
            await writer.drain()
        except LinkUnavailable as error:
            _LOG.warning("a query was not answered: %(error)s", {"error": error})
            with contextlib.suppress(OSError):
                writer.write(_LENGTH.pack(0))
                await writer.drain()
        except IdentityInvalid:
            _LOG.warning("what was handed in to be counted elsewhere is no signed query; nothing left")
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            return
        finally:
            self._open.discard(task)
            writer.close()


def ask_elsewhere(path: Path, signed_query: bytes) -> CountAnswer:
    """Have the other hospitals count, and return what they say.

    Args:
        path: the node's socket.
        signed_query: canonical bytes of a signed query; they leave this hospital as they are.

    Raises:
        ConfigInvalid: this user may not use the socket.
        LinkUnavailable: the site is not running, or the coordinator gave no answer.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_SECONDS + _QUESTION_SECONDS)
            connection.connect(str(path))
            connection.sendall(_LENGTH.pack(len(signed_query)) + signed_query)
            (length,) = _LENGTH.unpack(receive_exactly(connection, _LENGTH.size))
            if not 0 < length <= MAX_ANSWER_BYTES:
                raise LinkUnavailable(
                    "the coordinator did not answer the query",
                    next_step="Look whether the site is connected: fedhealth site status --help. Asking again costs "
                    "nothing.",
                )
            return read_answer(receive_exactly(connection, length))
    except PermissionError as error:
        raise ConfigInvalid(
            f"this user may not ask through {path}",
            next_step="Ask the administrator to put you into the group of the site's sockets.",
        ) from error
    except OSError as error:
        raise LinkUnavailable(
            f"the node at {path} does not answer",
            got=error.strerror or str(error) or "nothing in time",
            next_step="Start the site: fedhealth site start --help. Asking again costs nothing.",
        ) from error
