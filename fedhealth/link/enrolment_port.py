"""The port at which a site joins, and the site's end of it: one question and one answer a connection, TLS 1.3.

A port of its own, because a site that joins has no certificate yet and the link lets nobody in without one. It is open
only while an invitation is; Python's own TLS, because gRPC would take a stranger's megabytes before anybody looks.

Invariants: a connection that is slow, large or malformed ends by itself, having taken at most `MAX_MESSAGE_BYTES` and a
TLS buffer; no more than `MAX_CONNECTIONS` are held at a time, those that have not begun TLS included; what goes wrong
is told in one code.

Leaves to others: what is answered (`answer`), and when the port is open.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

from fedhealth.errors import IdentityInvalid, LinkUnavailable
from fedhealth.link.enrolment import (
    Answer,
    Ask,
    MessageInvalid,
    TurnedAway,
    announced_bytes,
    frame,
    parse_answer,
    parse_ask,
)
from fedhealth.link.proxy import connect
from fedhealth.pki.names import coordinator_dns_name

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
"""A third of a MiB each."""
CONNECTION_SECONDS = 10.0
"""From the end of the handshake; the handshake itself has as long."""
GOODBYE_SECONDS = 2.0
"""How long the other end may take to close."""
CLOCK_TOLERANCE = timedelta(minutes=5)

_CLOCK_ERRORS = (9, 10)
"""`X509_V_ERR_CERT_NOT_YET_VALID` and `X509_V_ERR_CERT_HAS_EXPIRED` of OpenSSL."""


class EnrolmentPort:
    """Listens for sites that join; all methods belong to one event loop.

    Args:
        identity_file: the coordinator's key, leaf and issuer, as `identity.store_identity` wrote them.
        answer: what to answer to a question; a `TurnedAway` where it is refused.
    """

    def __init__(self, identity_file: Path, answer: Callable[[Ask], Answer]) -> None:
        self._identity_file, self._answer = identity_file, answer
        self._server: asyncio.Server | None = None
        self._context: ssl.SSLContext | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        """Whether it listens now."""
        return self._server is not None

    async def start(self, address: str) -> int:
        """Listen, and return the port.

        Args:
            address: `host:port`; port 0 takes a free one.

        Raises:
            LinkUnavailable: the port is in use, or the address is not this machine's.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context = context
        self.show_again()
        host, _, port = address.rpartition(":")
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: _Door(self._let_in), host, int(port), backlog=MAX_CONNECTIONS
            )
        except OSError as error:
            raise LinkUnavailable(
                f"sites cannot join at {address}",
                got=error.strerror or "an error",
                wanted="a free port of this machine",
                next_step="Stop the program that uses it (ss -ltnp shows which), or choose another port.",
            ) from error
        return int(self._server.sockets[0].getsockname()[1])

    def show_again(self) -> None:
        """Show what the identity's file holds now in every handshake from here on."""
        if self._context is not None:
            self._context.load_cert_chain(self._identity_file)

    async def stop(self) -> None:
        """Close the port; a connection that is being served ends by itself within `CONNECTION_SECONDS`."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()

    def _let_in(self, plain: asyncio.Transport) -> None:
        """Serve a connection, or hang up; TLS takes a third of a MiB for each, so this comes before it."""
        if len(self._serving) >= MAX_CONNECTIONS or self._context is None:
            plain.abort()
            return
        plain.pause_reading()
        task = asyncio.create_task(self._serve(plain, self._context))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, plain: asyncio.Transport, context: ssl.SSLContext) -> None:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=4096)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            tls = await loop.start_tls(
                *(plain, protocol, context),
                server_side=True,
                ssl_handshake_timeout=CONNECTION_SECONDS,
                ssl_shutdown_timeout=GOODBYE_SECONDS,
            )
            if tls is None:
                return  # it went away meanwhile
            protocol.connection_made(tls)
            with closing(asyncio.StreamWriter(tls, protocol, reader, loop)) as writer:
                async with asyncio.timeout(CONNECTION_SECONDS):
                    writer.write(frame(await self._reply(reader)))
                    await writer.drain()
            with suppress(OSError, TimeoutError):  # the answer is out; how the peer hangs up is its own business
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError) as error:
            logger.warning("an enrolment was cut: %(error)s", {"error": error})
        finally:
            plain.abort()

    async def _reply(self, reader: asyncio.StreamReader) -> Answer:
        try:
            body = await reader.readexactly(announced_bytes(await reader.readexactly(4)))
            return self._answer(parse_ask(body))
        except MessageInvalid as error:
            logger.warning("an enrolment was turned away: %(code)s", {"code": error.code})
            return TurnedAway(code=error.code)


class _Door(asyncio.Protocol):
    """A connection before anybody decided about it."""

    def __init__(self, let_in: Callable[[asyncio.Transport], None]) -> None:
        self._let_in = let_in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask what becomes of it, before anything is read."""
        if isinstance(transport, asyncio.Transport):
            self._let_in(transport)


def ask_unverified(
    address: str, question: Ask, timeout_seconds: float = CONNECTION_SECONDS, proxy: str | None = None
) -> Answer:
    """Ask where nothing is known of the other end yet: only for what is checked by its hash.

    Raises:
        LinkUnavailable: nobody answers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _ask(lambda: connect(address, proxy, timeout_seconds), address, question, context, None)


def ask_coordinator(
    address: str,
    question: Ask,
    federation: str,
    root_pem: bytes,
    timeout_seconds: float = CONNECTION_SECONDS,
    proxy: str | None = None,
) -> Answer:
    """Ask the coordinator of a federation, and nobody else.

    Args:
        address: `host:port` that it listens at for sites that join.
        question: what to ask.
        federation: whose coordinator it must be.
        root_pem: the federation's root.
        timeout_seconds: how long each step may take.
        proxy: `http://host:port` of the proxy to go through, None to go directly.

    Raises:
        IdentityInvalid: the other end is not that coordinator, or this machine's clock is wrong.
        LinkUnavailable: nobody answers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=root_pem.decode("ascii"))
    return _ask(
        lambda: connect(address, proxy, timeout_seconds), address, question, context, coordinator_dns_name(federation)
    )


def _ask(
    connected: Callable[[], socket.socket], address: str, question: Ask, context: ssl.SSLContext, name: str | None
) -> Answer:
    try:
        with (
            connected() as plain,
            context.wrap_socket(plain, server_hostname=name) as tls,
        ):
            tls.sendall(frame(question))
            return parse_answer(_read(tls, announced_bytes(_read(tls, 4))))
    except ssl.SSLCertVerificationError as error:
        clock = error.verify_code in _CLOCK_ERRORS
        raise IdentityInvalid(
            f"whoever answers at {address} is not the coordinator of this federation",
            got="a certificate that is not valid now by this machine's clock" if clock else "another certificate",
            wanted="a certificate under the root of the invitation",
            next_step="Compare this machine's clock with the coordinator's operator."
            if clock
            else "Send nothing there: something between here and the coordinator opens TLS. Ask for a way around it.",
        ) from error
    except (OSError, EOFError, MessageInvalid) as error:
        raise LinkUnavailable(
            f"the coordinator does not answer at {address}",
            got=(error.strerror if isinstance(error, OSError) else None) or type(error).__name__,
            wanted="an open port, and TLS 1.3 to the coordinator itself",
            next_step="Check this site's firewall and the address; the port is open only while an invitation is.",
        ) from error


def _read(tls: ssl.SSLSocket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = tls.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
