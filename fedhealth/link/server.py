"""The coordinator's end of the link: accepts one stream per site and asks the services behind them.

Source: gRPC bidirectional streaming over mutual TLS 1.3; a peer's identity is the one URI name of the
certificate it proved in TLS, never anything it says.

Invariants: a stream carries frames only after TLS 1.3, the certificate's profile and the site's membership
were checked; a refused peer learns a status code and nothing else; of two streams of one site the newer
counts and the older is closed; when a stream ends, every ask waiting on it fails at once.

Leaves to others: what services mean, repeating an ask (services must be idempotent: after `SiteAway` nobody
knows whether the site did it), and who is a member (`admits`).
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable

from cryptography.x509 import Certificate

from fedhealth.errors import FedHealthError, LinkUnavailable
from fedhealth.link.session import (
    SESSION_ID_BYTES,
    FrameKind,
    FrameRejected,
    ProtocolMismatch,
    SessionEnd,
    SessionFrame,
    check_hello,
    check_sendable,
    hello_body,
)
from fedhealth.link.stream import FrameStream
from fedhealth.link.tls import (
    MAX_ASKS_IN_FLIGHT,
    METHOD,
    SERVICE,
    aio,
    grpc,
    server_credentials,
    server_options,
)
from fedhealth.pki.certificates import parse_certificate
from fedhealth.pki.identity import TlsIdentity
from fedhealth.pki.leaf import Flaw, LeafRefused, check_leaf
from fedhealth.pki.profiles import Role

logger = logging.getLogger(__name__)

Admission = Callable[[str, Certificate, Role], None]
"""Given a site, the leaf it proved in TLS and what the leaf is good for; raises `LeafRefused` if it is not let in."""

_CODE_OF = dict.fromkeys((Flaw.NOT_A_MEMBER, Flaw.REVOKED, Flaw.NOT_ON_RECORD), grpc.StatusCode.PERMISSION_DENIED)
STOP_GRACE_SECONDS = 0.5
"""How long a stopping server lets streams say goodbye; every ask has failed by then."""


class SiteAway(LinkUnavailable):
    """A site is not connected, its stream ended, or it did not answer in time."""


class AskFailed(LinkUnavailable):
    """A site is connected but its service failed or does not exist; the reason is in the site's own log."""


class LinkServer:
    """Listens for sites and asks them; all methods belong to one event loop.

    Args:
        identity: the coordinator's.
        federation: whose sites may connect.
        admits: asked at every new stream whether a site and its certificate are still in; raises if not.
        on_change: called with a site's id and whether it is connected now, after each change; must not block.
    """

    def __init__(
        self,
        identity: TlsIdentity,
        federation: str,
        admits: Admission,
        on_change: Callable[[str, bool], None] | None = None,
    ) -> None:
        self._identity, self._federation, self._admits = identity, federation, admits
        self._on_change = on_change
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
        server = aio.server(options=server_options())
        handler = grpc.stream_stream_rpc_method_handler(self._serve)  # no serializers: messages are bytes
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        try:
            port = int(server.add_secure_port(address, server_credentials(self._identity)))
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

    async def stop(self) -> None:
        """Close every stream and the port; asks in flight fail with `SiteAway`."""
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
            SiteAway: some are still away; the message names them.
        """
        wanted = frozenset(sites)
        try:
            async with asyncio.timeout(timeout_seconds):
                while not wanted <= self.connected():
                    await self._changed.wait()
        except TimeoutError:
            missing = ", ".join(sorted(wanted - self.connected()))
            raise SiteAway(
                f"not all sites connected within {timeout_seconds:g} s",
                got=f"nothing from {missing}",
                wanted=f"{len(wanted)} sites",
                next_step="Look at the log of the node there: it says why it cannot connect.",
            ) from None

    async def ask(self, site: str, service: str, body: bytes, timeout_seconds: float) -> bytes:
        """Ask a service of a site and return its answer; any number of asks may be in flight.

        Args:
            site: the id of a site.
            service: the service's name there.
            body: the question, at most `session.MAX_FRAME_BYTES` bytes.
            timeout_seconds: how long to wait for the answer, in seconds.

        Raises:
            SiteAway: the site is not connected, its stream ended meanwhile, or the time is over.
            AskFailed: the site's service failed, or it has no such service.
            FrameRejected: the body is too large; the link stays up.
            LinkUnavailable: too many asks of this site are in flight.
            ValueError: not a service name (a mistake in the program).
        """
        check_sendable(service, body)
        stream = self._streams.get(site)
        if stream is None:
            raise _away(site, "no connection")
        return await stream.ask(service, body, timeout_seconds)

    def end_site(self, site: str) -> bool:
        """End the stream of a site that is no longer let in, with every ask on it; say whether there was one."""
        stream = self._streams.get(site)
        if stream is None:
            return False
        stream.end_code = grpc.StatusCode.PERMISSION_DENIED
        self._leave(stream)
        return True

    async def _serve(self, _requests: object, context: aio.ServicerContext) -> None:
        # context.abort never returns: it raises what ends the call.
        try:
            leaf = proven_leaf(context)
            site = check_leaf(leaf, self._federation, Role.SITE)
            self._admits(site, leaf, Role.SITE)
        except FedHealthError as error:
            await context.abort(_refusal(context, error))
        stream = _SiteStream(site, context, lambda stream: self._join(stream, leaf))
        try:
            await stream.run()
        except ProtocolMismatch as error:
            logger.error("site '%s': %s", site, error)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION)
        except LinkUnavailable as error:
            logger.warning("closed the link of site '%s': %s", site, error)
            await context.abort(grpc.StatusCode.DATA_LOSS)
        finally:
            self._leave(stream)
        # Closed from this side: replaced by a newer stream of the same site, or the server stops.
        await context.abort(stream.end_code)

    def _join(self, stream: "_SiteStream", leaf: Certificate) -> None:
        if self._server is None:
            stream.frames.close()
            return
        try:
            self._admits(stream.site, leaf, Role.SITE)  # again: it may have been revoked since the stream began
        except FedHealthError as error:
            stream.end_code = _refusal(stream.context, error)
            stream.end()
            return
        older = self._streams.get(stream.site)
        self._streams[stream.site] = stream
        if older is None:
            self._tell(stream.site, connected=True)
        else:
            logger.info("site '%s' opened a newer link; the older one is closed", stream.site)
            older.end_code = grpc.StatusCode.ABORTED
            older.end()

    def _leave(self, stream: "_SiteStream") -> None:
        stream.end()
        if self._streams.get(stream.site) is stream:
            del self._streams[stream.site]
            self._tell(stream.site, connected=False)

    def _tell(self, site: str, *, connected: bool) -> None:
        logger.info("site '%s' %s", site, "connected" if connected else "disconnected")
        self._changed.set()
        self._changed = asyncio.Event()
        if self._on_change is not None:
            try:
                self._on_change(site, connected)
            except Exception:  # an observer must not take the link down
                logger.exception("the observer of connections failed")


class _SiteStream:
    """One stream of one site, and the asks that wait on it."""

    def __init__(self, site: str, context: aio.ServicerContext, on_ready: Callable[["_SiteStream"], None]) -> None:
        self.site, self.context = site, context
        self.end_code = grpc.StatusCode.UNAVAILABLE
        session = SessionEnd(Role.COORDINATOR, secrets.token_bytes(SESSION_ID_BYTES))
        self.frames = FrameStream(session, context.read, context.write)
        self._on_ready = on_ready
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._last_id = 0

    async def run(self) -> None:
        self.frames.send(FrameKind.HELLO, 0, "", hello_body())
        await self.frames.run(self._on_frame)

    def end(self) -> None:
        self.frames.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(_away(self.site, "a link that ended"))

    async def ask(self, service: str, body: bytes, timeout_seconds: float) -> bytes:
        if len(self._waiting) >= MAX_ASKS_IN_FLIGHT:
            raise LinkUnavailable(
                f"too many questions to site '{self.site}' at once",
                got=f"{len(self._waiting)} in flight",
                wanted=f"fewer than {MAX_ASKS_IN_FLIGHT}",
                next_step="Wait for some answers first.",
            )
        self._last_id = request_id = self._last_id + 1
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        try:
            self.frames.send(FrameKind.ASK, request_id, service, body)
            async with asyncio.timeout(timeout_seconds):
                return await answer
        except TimeoutError:
            raise _away(self.site, f"no answer within {timeout_seconds:g} s") from None
        finally:
            del self._waiting[request_id]

    def _on_frame(self, frame: SessionFrame) -> None:
        if frame.kind is FrameKind.HELLO:
            check_hello(frame.body, Role.COORDINATOR)
            self._on_ready(self)
            return
        if not 0 < frame.request_id <= self._last_id:
            raise FrameRejected("an answer is refused", got="one to no question", wanted="one that was asked")
        answer = self._waiting.get(frame.request_id)
        if answer is None or answer.done():
            return  # it came after its time
        if frame.kind is FrameKind.ANSWER:
            answer.set_result(frame.body)
        else:
            answer.set_exception(
                AskFailed(
                    f"site '{self.site}' could not answer '{frame.service}'",
                    got="a failure without details",
                    next_step="Its administrator finds the reason in the log of the site's node.",
                )
            )


def _refusal(context: aio.ServicerContext, error: FedHealthError) -> grpc.StatusCode:
    """Log why a peer is not let in, in one word of ours, and return the code that is all it learns."""
    if isinstance(error, LeafRefused):
        logger.warning("refused %s: %s", context.peer(), error.flaw)
        return _CODE_OF.get(error.flaw, grpc.StatusCode.UNAUTHENTICATED)
    logger.error("refused %s: %s", context.peer(), error.what)
    return grpc.StatusCode.UNAUTHENTICATED


def proven_leaf(context: aio.ServicerContext) -> Certificate:
    """Return the certificate that a peer proved in TLS 1.3.

    Raises:
        LeafRefused: an older TLS, or no certificate.
    """
    facts = context.auth_context()
    version, certificates = facts.get("ssl_tls_version"), facts.get("x509_pem_cert", ())
    if not version or list(version) != [b"TLSv1.3"]:
        raise LeafRefused(Flaw.TLS_VERSION, str(version), "TLSv1.3")
    if len(certificates) != 1:
        raise LeafRefused(Flaw.NO_CERTIFICATE, "none", "a site's")
    return parse_certificate(certificates[0])


def _away(site: str, got: str) -> SiteAway:
    return SiteAway(
        f"site '{site}' cannot be asked",
        got=got,
        wanted="an answer",
        next_step="It is asked again once it connects; if it stays away, call its administrator.",
    )
