"""The coordinator's end of the link: accepts one stream per site and asks the services behind them.

Source: gRPC bidirectional streaming over mutual TLS 1.3; a peer's identity is the one URI name of the
certificate it proved in TLS, never anything it says.

Invariants: a stream carries frames only after TLS 1.3, the certificate's profile and dates and the site's membership
were checked; a refused peer learns a status code and nothing else; of two streams of one site the newer
counts and the older is closed; when a stream ends, every ask waiting on it fails at once.

Leaves to others: what services mean, repeating an ask (services must be idempotent: after `PeerAway` nobody
knows whether the site did it), and who is a member (`admits`).
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping

from cryptography.x509 import Certificate

from fedhealth.errors import FedHealthError, LinkUnavailable
from fedhealth.link.exchange import Exchange
from fedhealth.link.memory import CHUNK_BYTES, Buffer, keep_freed_memory
from fedhealth.link.peer import Admission, check_not_over, proven_leaf, refusal_code
from fedhealth.link.quota import QUOTA_OF_SITE, Quota
from fedhealth.link.renewal import Certify, renewal_handler
from fedhealth.link.services import PeerAway, Service, away
from fedhealth.link.session import (
    SESSION_BYTES,
    FrameKind,
    ProtocolMismatch,
    SessionEnd,
    SessionFrame,
    check_hello,
    check_service_name,
    hello_body,
)
from fedhealth.link.stream import FrameStream
from fedhealth.link.tls import METHOD, SERVICE, aio, grpc, server_credentials, server_options
from fedhealth.pki.identity import TlsIdentity
from fedhealth.pki.leaf import check_leaf
from fedhealth.pki.profiles import Role

logger = logging.getLogger(__name__)

STOP_GRACE_SECONDS = 0.5
"""How long a stopping server lets streams say goodbye; every ask has failed by then."""


ServicesFor = Callable[[str], Mapping[str, Service]]
"""What a site may ask of the coordinator, by name: one explicit dict, made for the site that TLS has proven."""


class LinkServer:
    """Listens for sites and asks them; all methods belong to one event loop.

    Args:
        identity: the coordinator's.
        federation: whose sites may connect.
        admits: asked at every new stream whether a site and its certificate are still in; raises if not.
        on_change: called with a site's id and whether it is connected now, after each change; must not block.
        services_for: what each site may ask; nothing, unless given.
        certify: renews a site's certificate; without it nobody can.
        quota: how much each site may ask.
    """

    def __init__(
        self,
        identity: TlsIdentity,
        federation: str,
        admits: Admission,
        on_change: Callable[[str, bool], None] | None = None,
        services_for: ServicesFor = lambda _site: {},
        certify: Certify | None = None,
        quota: Quota = QUOTA_OF_SITE,
    ) -> None:
        self._identity, self._federation, self._admits = identity, federation, admits
        self._on_change, self._services_for, self._certify = on_change, services_for, certify
        self._quota = quota
        self._streams: dict[str, _SiteStream] = {}
        self._changed = asyncio.Event()
        self._server: aio.Server | None = None

    async def start(self, address: str) -> int:
        """Listen, and return the port.

        Args:
            address: `host:port`; port 0 takes a free one.

        Raises:
            LinkUnavailable: the port is in use, or the address is not this machine's.
        """
        keep_freed_memory()
        server = aio.server(options=server_options())
        handler = grpc.stream_stream_rpc_method_handler(self._serve)  # no serializers: messages are bytes
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        if self._certify is not None:
            server.add_generic_rpc_handlers((renewal_handler(self._federation, self._admits, self._certify),))
        try:
            port = int(server.add_secure_port(address, server_credentials(lambda: self._identity)))
        except RuntimeError:
            port = 0
        if port == 0:
            await server.stop(None)
            raise LinkUnavailable(
                f"the coordinator cannot listen at {address}",
                got="a port in use or an address of another machine",
                wanted="a free port of this machine",
                next_step="Stop the program that uses it (ss -ltnp shows which), or choose another port.",
            )
        self._server = server
        await server.start()
        return port

    def show(self, identity: TlsIdentity) -> None:
        """Show this certificate in every handshake from now on; streams that are up stay."""
        self._identity = identity

    async def stop(self) -> None:
        """Close every stream and the port; asks in flight fail with `PeerAway`."""
        if self._server is None:
            return
        server, self._server = self._server, None
        for stream in list(self._streams.values()):
            stream.frames.close()
        await server.stop(STOP_GRACE_SECONDS)

    def connected(self) -> frozenset[str]:
        """Return the ids of the sites that can be asked now."""
        return frozenset(self._streams)

    async def wait_connected(self, sites: Iterable[str], timeout_seconds: float) -> None:
        """Wait until all of these sites are connected at the same time.

        Args:
            sites: their ids.
            timeout_seconds: how long to wait at most, in seconds.

        Raises:
            PeerAway: some are still away; the message names them.
        """
        wanted = frozenset(sites)
        try:
            async with asyncio.timeout(timeout_seconds):
                while not wanted <= self.connected():
                    await self._changed.wait()
        except TimeoutError:
            missing = ", ".join(sorted(wanted - self.connected()))
            raise PeerAway(
                f"not all sites connected within {timeout_seconds:g} s",
                got=f"nothing from {missing}",
                wanted=f"{len(wanted)} sites",
                next_step="Look at the log of the node there: it says why it cannot connect.",
            ) from None

    async def ask(
        self, site: str, service: str, body: Buffer, timeout_seconds: float, longest_answer: int = CHUNK_BYTES
    ) -> Buffer:
        """Ask a service of a site and return its answer; any number of asks may be in flight.

        Args:
            site: the id of a site.
            service: the service's name there.
            body: the question.
            timeout_seconds: how long to wait for the answer, beside what bodies take on a slow line.
            longest_answer: in bytes; a longer one is refused before any of it is kept.

        Raises:
            PeerAway: the site is not connected, its stream ended meanwhile, or the time is over.
            AskFailed: the site's service failed, or it has no such service.
            LinkUnavailable: too many asks of this site are in flight.
            ValueError: not a service name (a mistake in the program).
        """
        check_service_name(service)
        stream = self._streams.get(site)
        if stream is None:
            raise away(f"site '{site}'", "no connection")
        return await stream.exchange.ask(service, body, timeout_seconds, longest_answer)

    def recheck(self) -> None:
        """End every stream whose site or certificate is no longer let in, with all that is asked on it."""
        for stream in list(self._streams.values()):
            try:
                self._admits(stream.site, stream.leaf, Role.SITE)
                check_not_over(stream.leaf)
            except FedHealthError as error:
                stream.end_code = refusal_code(stream.context, error)
                self._leave(stream)

    async def _serve(self, _requests: object, context: aio.ServicerContext) -> None:
        # context.abort never returns: it raises what ends the call.
        try:
            leaf = proven_leaf(context)
            site = check_leaf(leaf, self._federation, Role.SITE)
            self._admits(site, leaf, Role.SITE)
        except FedHealthError as error:
            await context.abort(refusal_code(context, error))
        stream = _SiteStream(site, leaf, context, self._services_for(site), self._quota, self._join)
        try:
            await stream.run()
        except ProtocolMismatch as error:
            logger.error("site '%(site)s': %(error)s", {"site": site, "error": error})
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION)
        except LinkUnavailable as error:
            logger.warning("closed the link of site '%(site)s': %(error)s", {"site": site, "error": error})
            await context.abort(grpc.StatusCode.DATA_LOSS)
        finally:
            self._leave(stream)
            await stream.exchange.stopped()
        # Closed from this side: replaced by a newer stream of the same site, or the server stops.
        await context.abort(stream.end_code)

    def _join(self, stream: "_SiteStream") -> None:
        if self._server is None:
            stream.frames.close()
            return
        try:
            self._admits(stream.site, stream.leaf, Role.SITE)  # again: it may have been revoked since the stream began
        except FedHealthError as error:
            stream.end_code = refusal_code(stream.context, error)
            stream.end()
            return
        older = self._streams.get(stream.site)
        self._streams[stream.site] = stream
        if older is None:
            self._tell(stream.site, connected=True)
        else:
            logger.info("site '%(site)s' opened a newer link; the older one is closed", {"site": stream.site})
            older.end_code = grpc.StatusCode.ABORTED
            older.end()

    def _leave(self, stream: "_SiteStream") -> None:
        stream.end()
        if self._streams.get(stream.site) is stream:
            del self._streams[stream.site]
            self._tell(stream.site, connected=False)

    def _tell(self, site: str, *, connected: bool) -> None:
        state = "connected" if connected else "disconnected"
        logger.info("site '%(site)s' %(state)s", {"site": site, "state": state})
        self._changed.set()
        self._changed = asyncio.Event()
        if self._on_change is not None:
            try:
                self._on_change(site, connected)
            except Exception as error:  # an observer must not take the link down
                logger.error("the observer of connections failed: %(defect)s", {"defect": type(error).__name__})


class _SiteStream:
    """One stream of one site."""

    def __init__(
        self,
        site: str,
        leaf: Certificate,
        context: aio.ServicerContext,
        services: Mapping[str, Service],
        quota: Quota,
        on_ready: Callable[["_SiteStream"], None],
    ) -> None:
        self.site, self.leaf, self.context = site, leaf, context
        self.end_code = grpc.StatusCode.UNAVAILABLE
        session = SessionEnd(Role.COORDINATOR, secrets.token_bytes(SESSION_BYTES))
        self.frames = FrameStream(session, context.read, context.write)
        self.exchange = Exchange(Role.COORDINATOR, self.frames, services, quota, f"site '{site}'")
        self._on_ready = on_ready

    async def run(self) -> None:
        self.frames.send(FrameKind.HELLO, 0, "", hello_body())
        await self.frames.run(self._on_frame)

    def end(self) -> None:
        self.frames.close()
        self.exchange.end(away(f"site '{self.site}'", "a link that ended"))

    def _on_frame(self, frame: SessionFrame) -> None:
        if frame.kind is FrameKind.HELLO:
            check_hello(frame.body, Role.COORDINATOR)
            self._on_ready(self)
        else:
            self.exchange.on_frame(frame)
