"""Where a SuperNode finds its SuperLink: a port on this machine's loopback, in the node's process.

What the SuperNode asks there crosses the link as a question, and the coordinator's SuperLink answers. TLS ends here,
under a certificate that the site made for this port alone, because Flower's node authentication wants TLS; between
hospital and datacentre the link's own holds. The app bundle is looked at on its way in, before Flower has it.

While the coordinator is away the answer is 503, at which Flower tries again; a bundle that is refused is answered 403,
at which it drops the message and goes on.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import h11
from pydantic import ValidationError

from fedhealth.errors import FederationFailed, LinkUnavailable
from fedhealth.flower.fab import check_fab
from fedhealth.flower.fleet_requests import (
    CALLS,
    CONFIRM,
    GET_FAB,
    HEADERS,
    MAX_BODY_BYTES,
    FleetAnswer,
    FleetInvalid,
    FleetRequest,
    fab_in,
    pack_fleet,
    unpack_fleet,
)

_LOG = logging.getLogger(__name__)
_READ_BYTES = 2**16
_IDLE_SECONDS = 300.0
_MOST_CONNECTIONS = 16
_FIRST_ERROR, _FORBIDDEN, _NOT_FOUND, _TOO_LARGE, _AWAY = 400, 403, 404, 413, 503

Answered = tuple[FleetAnswer, bytes]
AskCoordinator = Callable[[bytes], Awaitable[bytes]]
"""Carry a packed request to the coordinator; raises `LinkUnavailable`."""


class FleetPort:
    """Answers the Fleet requests of one SuperNode.

    Args:
        listener: listens on the loopback already, because a node may bind nothing once it is confined.
        tls: with the certificate that the SuperNode was given.
        ask: asks the coordinator.
        is_own: says of a request's headers whether the site's SuperNode sent them.
        on_message: told when the SuperNode has taken a message in, so that there is a task for its worker.
    """

    def __init__(
        self,
        listener: socket.socket,
        tls: ssl.SSLContext,
        ask: AskCoordinator,
        is_own: Callable[[Mapping[str, str]], bool],
        on_message: Callable[[], None],
    ) -> None:
        self._listener, self._tls, self._ask = listener, tls, ask
        self._is_own, self._on_message = is_own, on_message
        self._server: asyncio.Server | None = None
        self._open = set[asyncio.Task[None]]()
        self._told = ""

    async def start(self) -> None:
        """Begin to answer."""
        self._server = await asyncio.start_server(self._serve, sock=self._listener, ssl=self._tls)

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
            for task in list(self._open):
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this as one
        if len(self._open) >= _MOST_CONNECTIONS:
            writer.close()
            return
        self._open.add(task)
        connection = h11.Connection(h11.SERVER)
        try:
            while (request := await _next_request(connection, reader, self._refusal_of)) is not None:
                answered = await self._while_connected(connection, reader, self._answer(*request))
                if answered is None:
                    return
                _write(connection, writer, *answered)
                await writer.drain()
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return
                connection.start_next_cycle()
        except (OSError, TimeoutError, h11.ProtocolError, asyncio.CancelledError):
            return  # a SuperNode connects again by itself
        finally:
            self._open.discard(task)
            writer.close()

    async def _while_connected(
        self, connection: h11.Connection, reader: asyncio.StreamReader, work: Coroutine[Any, Any, Answered]
    ) -> Answered | None:
        """Return the answer, or None once who asked is gone: a message must not be fetched for a dead SuperNode."""
        answering, heard = asyncio.ensure_future(work), asyncio.ensure_future(reader.read(_READ_BYTES))
        try:
            await asyncio.wait({answering, heard}, return_when=asyncio.FIRST_COMPLETED)
            if heard.done():
                if not (data := heard.result()):
                    return None
                connection.receive_data(data)  # the next request, already
            return await answering
        finally:
            heard.cancel()
            answering.cancel()
            await asyncio.gather(heard, answering, return_exceptions=True)

    def _refusal_of(self, request: h11.Request) -> int | None:
        """Return with what status a request is refused by its first lines, whatever its body is."""
        if request.method != b"POST" or request.target.decode("ascii", "replace") not in CALLS:
            return _NOT_FOUND
        return None if self._is_own(_named(request)) else _FORBIDDEN

    async def _answer(self, request: h11.Request, body: bytes | int) -> Answered:
        if isinstance(body, int):
            return FleetAnswer(status=body), b""
        path, named = request.target.decode("ascii"), _named(request)
        if path == CONFIRM:
            self._on_message()
        try:
            head = FleetRequest(path=path, headers={name: named[name] for name in named.keys() & HEADERS})
            answer, content = unpack_fleet(FleetAnswer, await self._ask(pack_fleet(head, body)))
            if path == GET_FAB and answer.status < _FIRST_ERROR:  # of all that are no error Flower takes the content
                check_fab(fab_in(content))
        except FederationFailed as error:
            self._tell(error)
            return FleetAnswer(status=_FORBIDDEN), b""
        except ValidationError:
            return FleetAnswer(status=_TOO_LARGE), b""  # a header that no node sends
        except (LinkUnavailable, FleetInvalid) as error:
            self._tell(error)
            return FleetAnswer(status=_AWAY), b""
        self._told = ""
        return answer, content

    def _tell(self, error: Exception) -> None:
        """Say it once in a row."""
        if str(error) != self._told:
            _LOG.warning("the SuperNode is not answered: %(error)s", {"error": error})
        self._told = str(error)


def _named(request: h11.Request) -> dict[str, str]:
    return {name.decode("ascii"): value.decode("latin-1") for name, value in request.headers}


async def _next_request(
    connection: h11.Connection, reader: asyncio.StreamReader, refusal_of: Callable[[h11.Request], int | None]
) -> tuple[h11.Request, bytes | int] | None:
    """Return the next request and its body, or with what status it is refused; None when there are no more.

    Of a request that is refused by its first lines no body is waited for. One that is too long is read to its end and
    dropped: the SuperNode is still writing it, and would not see the answer.
    """
    request: h11.Request | None = None
    body, size = bytearray(), 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                return None
            async with asyncio.timeout(_IDLE_SECONDS):
                connection.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Request):
            request = event
            if (refused := refusal_of(request)) is not None:
                connection.next_event()  # its end, where it has no body: then the connection goes on
                return request, refused
        elif isinstance(event, h11.Data):
            size += len(event.data)
            if size <= MAX_BODY_BYTES:
                body += event.data
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            return request, bytes(body) if size <= MAX_BODY_BYTES else _TOO_LARGE
        else:
            return None


def _write(connection: h11.Connection, writer: asyncio.StreamWriter, answer: FleetAnswer, body: bytes) -> None:
    headers = [*answer.headers.items(), ("content-length", str(len(body)))]
    if connection.their_state is not h11.DONE:
        headers.append(("connection", "close"))
    for event in (
        h11.Response(status_code=answer.status, headers=headers),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ):
        if (data := connection.send(event)) is not None:
            writer.write(data)
