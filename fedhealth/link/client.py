"""The site's end of the link: keeps one outbound stream to the coordinator and answers what is asked on it.

How far the coordinator is checked: gRPC in Python shows a client neither the peer's certificate nor its URI
name. What TLS does check: the chain ends at the federation's own root, whose name constraint allows no other
federation's names; the certificate is for servers (EKU serverAuth, which no site has); and it carries
`names.coordinator_dns_name(federation)`, which the authority gives to no other name than
`spiffe://<federation>/coordinator`.

Invariants: the site opens connections and accepts none; a service that fails is reported as FAIL without
details (the log holds the exception's type, not its text: it could hold a patient's value); whatever ends,
nothing is left running.

Leaves to others: what services mean, renewing the certificate (`IdentityInvalid` ends `run_link` when it has
expired), idempotence (an ask may be cancelled half-way when the stream ends, and is then asked again).
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum

from fedhealth.errors import LinkUnavailable
from fedhealth.link.session import (
    FrameKind,
    ProtocolMismatch,
    SessionEnd,
    SessionFrame,
    check_hello,
    check_sendable,
    hello_body,
)
from fedhealth.link.stream import FrameStream
from fedhealth.link.tls import MAX_ASKS_IN_FLIGHT, METHOD, SERVICE, aio, grpc, open_channel
from fedhealth.pki.identity import TlsIdentity, check_identity
from fedhealth.pki.profiles import Role

logger = logging.getLogger(__name__)

Service = Callable[[bytes], Awaitable[bytes]]

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 10.0
STEADY_SECONDS = 10.0
"""A link that lasted this long starts over with the first delay; two nodes with one certificate, which end
each other's links, are thus slowed down."""
GOODBYE_SECONDS = 2.0
"""How long a site of another protocol version waits for the coordinator to read its HELLO and close."""


class LinkState(StrEnum):
    """What `run_link` tells about itself."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    REFUSED = "refused"
    REPLACED = "replaced"
    COORDINATOR_OLDER = "coordinator-older"


_STATE_OF_CODE = {
    grpc.StatusCode.UNAUTHENTICATED: LinkState.REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: LinkState.REFUSED,
    grpc.StatusCode.ABORTED: LinkState.REPLACED,
}


async def run_link(
    identity: TlsIdentity,
    address: str,
    federation: str,
    services: Mapping[str, Service],
    on_state: Callable[[str], None],
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Keep a stream to the coordinator up until cancelled, answering asks side by side.

    Args:
        identity: the site's.
        address: `host:port` of the coordinator.
        federation: the federation that both ends are of.
        services: what may be asked, by name; each takes the question's bytes and returns the answer's.
        on_state: called with a `LinkState` at each step; must not block.
        clock: gives the present, with time zone.

    Raises:
        IdentityInvalid: the certificate expired or does not fit; looked at before each connection.
        ProtocolMismatch: this site is older than the coordinator and must be upgraded first. (An older
            coordinator is waited for.)
        asyncio.CancelledError: after the channel was closed.
    """
    delay = FIRST_DELAY_SECONDS
    loop = asyncio.get_running_loop()
    while True:
        check_identity(identity, federation, Role.SITE, clock())
        on_state(LinkState.CONNECTING)
        began = loop.time()
        ended_as = await _one_stream(identity, address, federation, services, on_state)
        on_state(ended_as)
        if loop.time() - began >= STEADY_SECONDS:
            delay = FIRST_DELAY_SECONDS
        if ended_as in (LinkState.REFUSED, LinkState.COORDINATOR_OLDER):
            delay = LONGEST_DELAY_SECONDS  # only a person can change that
        await asyncio.sleep(delay * secrets.SystemRandom().uniform(0.5, 1.0))
        delay = min(2 * delay, LONGEST_DELAY_SECONDS)


async def _one_stream(
    identity: TlsIdentity,
    address: str,
    federation: str,
    services: Mapping[str, Service],
    on_state: Callable[[str], None],
) -> LinkState:
    """Hold one stream until it ends, and return why it did."""
    async with open_channel(identity, address, federation) as channel:
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()  # no serializers: messages are bytes
        frames = FrameStream(SessionEnd(Role.SITE), call.read, call.write)
        answering = _Answering(services, frames, lambda: on_state(LinkState.CONNECTED))
        try:
            await frames.run(answering.on_frame)
        except LinkUnavailable as error:
            logger.warning("closed the link: %s", error)
        except aio.AioRpcError:
            pass  # the code below tells
        finally:
            await answering.stop()
            call.cancel()
        code, details = await call.code(), await call.details()
    if answering.mismatch is not None:
        if answering.mismatch.upgrade is Role.SITE:
            raise answering.mismatch
        logger.warning("%s", answering.mismatch)
        return LinkState.COORDINATOR_OLDER
    logger.warning("the link to %s ended: %s %r", address, code.name, details)
    return _STATE_OF_CODE.get(code, LinkState.DISCONNECTED)


class _Answering:
    """Answers the asks of one stream; owns the tasks in which services run."""

    def __init__(self, services: Mapping[str, Service], frames: FrameStream, on_ready: Callable[[], None]) -> None:
        self.mismatch: ProtocolMismatch | None = None
        self._services, self._frames, self._on_ready = services, frames, on_ready
        self._tasks: set[asyncio.Task[None]] = set()

    def on_frame(self, frame: SessionFrame) -> None:
        if self.mismatch is not None:
            return
        if frame.kind is not FrameKind.HELLO:
            self._begin(frame)
            return
        self._frames.send(FrameKind.HELLO, 0, "", hello_body())  # also to another version
        try:
            check_hello(frame.body, Role.SITE)
        except ProtocolMismatch as error:
            self.mismatch = error
            asyncio.get_running_loop().call_later(GOODBYE_SECONDS, self._frames.close)
        else:
            self._on_ready()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, frame: SessionFrame) -> None:
        if len(self._tasks) >= MAX_ASKS_IN_FLIGHT or frame.service not in self._services:
            logger.warning("no such service, or too many asks at once: %r", frame.service)
            self._frames.send(FrameKind.FAIL, frame.request_id, frame.service, b"")
            return
        task = asyncio.create_task(self._answer(frame))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, frame: SessionFrame) -> None:
        try:
            body = await self._services[frame.service](frame.body)
            check_sendable(frame.service, body)
        except Exception as error:  # any failure is the same to the other side
            logger.warning("service %r failed: %s", frame.service, type(error).__name__)
            self._frames.send(FrameKind.FAIL, frame.request_id, frame.service, b"")
        else:
            self._frames.send(FrameKind.ANSWER, frame.request_id, frame.service, body)
