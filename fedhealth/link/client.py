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
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum

from fedhealth.errors import LinkUnavailable
from fedhealth.link.exchange import Exchange
from fedhealth.link.memory import CHUNK_BYTES, Buffer, keep_freed_memory
from fedhealth.link.quota import QUOTA_OF_COORDINATOR
from fedhealth.link.services import Service, away
from fedhealth.link.session import (
    FrameKind,
    ProtocolMismatch,
    SessionEnd,
    SessionFrame,
    check_hello,
    hello_body,
)
from fedhealth.link.stream import FrameStream
from fedhealth.link.tls import METHOD, SERVICE, aio, grpc, open_channel
from fedhealth.pki.identity import TlsIdentity, check_identity
from fedhealth.pki.profiles import Role

logger = logging.getLogger(__name__)

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


class SiteLink:
    """A site's way to ask the coordinator, while `run_link` keeps the stream up."""

    def __init__(self) -> None:
        self._exchange: Exchange | None = None

    async def ask(
        self, service: str, body: Buffer, timeout_seconds: float, longest_answer: int = CHUNK_BYTES
    ) -> Buffer:
        """Ask a service of the coordinator and return its answer.

        Args:
            service: its name there.
            body: the question.
            timeout_seconds: how long to wait.
            longest_answer: in bytes; a longer one is refused before any of it is kept.

        Raises:
            PeerAway: the link is down, or the time is over.
            AskFailed: the coordinator has no such service, or could not answer.
        """
        if self._exchange is None:
            raise away("the coordinator", "no connection")
        return await self._exchange.ask(service, body, timeout_seconds, longest_answer)

    def opened(self, exchange: Exchange) -> None:
        """Take note of the stream that is up now; while certificates change there are two for a moment."""
        self._exchange = exchange

    def closed(self, exchange: Exchange) -> None:
        """Take note that a stream is over."""
        if self._exchange is exchange:
            self._exchange = None


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
    link: SiteLink | None = None,
    proxy: str | None = None,
) -> None:
    """Keep a stream to the coordinator up until cancelled, answering asks side by side.

    Args:
        identity: the site's.
        address: `host:port` of the coordinator.
        federation: the federation that both ends are of.
        services: what may be asked, by name.
        on_state: called with a `LinkState` at each step; must not block.
        clock: gives the present, with time zone.
        link: lets the site itself ask while the stream is up.
        proxy: as `tls.open_channel` has it.

    Raises:
        IdentityInvalid: the certificate expired or does not fit; looked at before each connection.
        ProtocolMismatch: this site is older than the coordinator and must be upgraded first. (An older
            coordinator is waited for.)
        asyncio.CancelledError: after the channel was closed.
    """
    keep_freed_memory()
    delay = FIRST_DELAY_SECONDS
    loop = asyncio.get_running_loop()
    while True:
        check_identity(identity, federation, Role.SITE, clock())
        on_state(LinkState.CONNECTING)
        began = loop.time()
        ended_as = await _one_stream(
            lambda: open_channel(identity, address, federation, proxy), address, services, on_state, link or SiteLink()
        )
        on_state(ended_as)
        if loop.time() - began >= STEADY_SECONDS:
            delay = FIRST_DELAY_SECONDS
        if ended_as in (LinkState.REFUSED, LinkState.COORDINATOR_OLDER):
            delay = LONGEST_DELAY_SECONDS  # only a person can change that
        await asyncio.sleep(delay * secrets.SystemRandom().uniform(0.5, 1.0))
        delay = min(2 * delay, LONGEST_DELAY_SECONDS)


async def _one_stream(
    open_to_coordinator: Callable[[], aio.Channel],
    address: str,
    services: Mapping[str, Service],
    on_state: Callable[[str], None],
    link: SiteLink,
) -> LinkState:
    """Hold one stream until it ends, and return why it did."""
    async with open_to_coordinator() as channel:
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()  # no serializers: messages are bytes
        frames = FrameStream(SessionEnd(Role.SITE), call.read, call.write)

        def ready() -> None:
            link.opened(stream.exchange)
            on_state(LinkState.CONNECTED)

        stream = _SiteStream(services, frames, ready)
        try:
            await frames.run(stream.on_frame)
        except LinkUnavailable as error:
            logger.warning("closed the link: %(error)s", {"error": error})
        except aio.AioRpcError:
            pass  # the code below tells
        finally:
            link.closed(stream.exchange)
            stream.exchange.end(away("the coordinator", "a link that ended"))
            await stream.exchange.stopped()
            call.cancel()
        code = await call.code()
    if stream.mismatch is not None:
        if stream.mismatch.upgrade is Role.SITE:
            raise stream.mismatch
        logger.warning("no link: %(error)s", {"error": stream.mismatch})
        return LinkState.COORDINATOR_OLDER
    logger.warning("the link to %(address)s ended: %(code)s", {"address": address, "code": code.name})
    return _STATE_OF_CODE.get(code, LinkState.DISCONNECTED)


class _SiteStream:
    """The frames of one stream, from HELLO on."""

    def __init__(self, services: Mapping[str, Service], frames: FrameStream, on_ready: Callable[[], None]) -> None:
        self.mismatch: ProtocolMismatch | None = None
        self.exchange = Exchange(Role.SITE, frames, services, QUOTA_OF_COORDINATOR, "the coordinator")
        self._frames, self._on_ready = frames, on_ready

    def on_frame(self, frame: SessionFrame) -> None:
        if self.mismatch is not None:
            return
        if frame.kind is not FrameKind.HELLO:
            self.exchange.on_frame(frame)
            return
        self._frames.send(FrameKind.HELLO, 0, "", hello_body())  # also to another version
        try:
            check_hello(frame.body, Role.SITE)
        except ProtocolMismatch as error:
            self.mismatch = error
            asyncio.get_running_loop().call_later(GOODBYE_SECONDS, self._frames.close)
        else:
            self._on_ready()
