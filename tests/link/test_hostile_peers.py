"""Peers on real sockets that stall, vanish or talk nonsense: one clear end, and nobody else is disturbed."""

import asyncio
import contextlib
import os
import socket
import ssl
import struct

import pytest

from fedhealth.errors import LinkUnavailable
from fedhealth.link import bodies, stream, tls
from fedhealth.link.memory import CHUNK_BYTES
from fedhealth.link.services import PeerAway, service_of
from fedhealth.link.session import FrameKind, SessionEnd, hello_body
from fedhealth.link.tls import METHOD, SERVICE, aio, grpc, open_channel
from fedhealth.pki.profiles import Role


async def echo(body):
    return body


SERVICES = {"echo": service_of(echo, 2**23)}


class Peer:
    """A site of the federation that speaks frame by frame, as a test wants."""

    def __init__(self, channel, metadata=None):
        self.call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(metadata=metadata)
        self.end = SessionEnd(Role.SITE)

    async def hello(self):
        self.end.open(await self.call.read())
        await self.call.write(self.end.seal(FrameKind.HELLO, 0, "", hello_body()))

    async def read(self):
        return self.end.open(await self.call.read())

    async def write(self, kind, request_id, service, *parts):
        await self.call.write(self.end.seal(kind, request_id, service, *parts))


@contextlib.asynccontextmanager
async def beside_a_good_site(federation):
    """A server with the good site 'va' connected, and a channel of site 'hungary' that has not spoken yet."""
    async with (
        federation.server() as (server, address),
        federation.node("va", address, SERVICES),
        open_channel(federation.site("hungary"), address, "heart") as channel,
    ):
        await server.wait_connected({"va"}, 10)
        yield server, address, channel
        assert await server.ask("va", "echo", b"undisturbed", 10) == b"undisturbed"


def test_a_peer_that_says_nothing_is_hung_up_on(federation, monkeypatch, caplog):
    monkeypatch.setattr(stream, "HELLO_SECONDS", 0.2)

    async def scene():
        async with beside_a_good_site(federation) as (server, _, channel):
            peer = Peer(channel)
            await peer.call.read()  # the coordinator's HELLO, and no answer
            assert await asyncio.wait_for(peer.call.code(), 10) is grpc.StatusCode.DATA_LOSS
            assert server.connected() == {"va"}

    asyncio.run(scene())
    assert "did not speak" in caplog.text


def test_half_an_answer_that_stalls_is_given_up_and_the_link_stays(federation, monkeypatch, until):
    monkeypatch.setattr(bodies, "STALL_SECONDS", 0.2)

    async def scene():
        async with beside_a_good_site(federation) as (server, _, channel):
            peer = Peer(channel)
            await peer.hello()
            await server.wait_connected({"hungary"}, 10)
            ask = asyncio.create_task(server.ask("hungary", "echo", b"question", 60, 2**23))
            request = (await peer.read()).request_id
            await peer.write(FrameKind.ANSWER, request, "echo", struct.pack(">Q", 2**22), bytes(CHUNK_BYTES))
            with pytest.raises(LinkUnavailable, match="stalled"):
                await ask
            assert [(await peer.read()).kind for _ in range(2)] == [FrameKind.ROOM, FrameKind.CANCEL]
            assert "hungary" in server.connected()

    asyncio.run(scene())


def test_a_peer_that_does_not_read_holds_up_nobody(federation):
    async def scene():
        async with beside_a_good_site(federation) as (server, _, channel):
            peer = Peer(channel)
            await peer.hello()
            await server.wait_connected({"hungary"}, 10)
            model = os.urandom(2**21)
            asks = [asyncio.create_task(server.ask("hungary", "echo", model, 1.5, 0)) for _ in range(50)]
            await asyncio.sleep(0.2)
            for _ in range(5):
                assert await server.ask("va", "echo", model, 10, 2**23) == model
            assert all(not ask.done() for ask in asks)
            assert {type(end) for end in await asyncio.gather(*asks, return_exceptions=True)} == {PeerAway}

    asyncio.run(scene())


GARBAGE = {
    "nothing": b"",
    "noise": os.urandom(5000),
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: coordinator\r\n\r\n",
    "HTTP/2 without TLS": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(5000),
    "half a ClientHello": bytes.fromhex("1603010200010001fc0303") + bytes(100),
}


def test_strangers_with_garbage_or_half_a_handshake_keep_nobody_out(federation):
    async def scene():
        async with federation.server() as (server, address), contextlib.AsyncExitStack() as opened:
            host, port = address.split(":")
            for garbage in GARBAGE.values():
                for _ in range(20):
                    _, writer = await asyncio.open_connection(host, int(port))
                    opened.callback(writer.close)
                    writer.write(garbage)
            async with federation.node("va", address, SERVICES):
                await server.wait_connected({"va"}, 10)
                assert await server.ask("va", "echo", b"x", 10) == b"x"
            assert server.connected() <= {"va"}

    asyncio.run(scene())


def test_after_a_handshake_without_a_certificate_nothing_is_heard(federation):
    """In TLS 1.3 the stranger's handshake ends before the server has looked; what it sends then must go nowhere."""

    def stranger(address):
        context = ssl.create_default_context(cadata=federation.coordinator.root_pem.decode())
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        host, port = address.split(":")
        plain = socket.create_connection((host, int(port)), timeout=5)
        with plain, context.wrap_socket(plain) as secured:
            with contextlib.suppress(OSError):
                for _ in range(100):
                    secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(2**16))
            heard = b""
            with contextlib.suppress(OSError):
                while part := secured.recv(4096):
                    heard += part
            assert heard == b"", "not even HTTP/2's settings"

    async def scene():
        async with beside_a_good_site(federation) as (_, address, _channel):
            await asyncio.to_thread(stranger, address)

    asyncio.run(scene())


def test_another_method_and_endless_metadata_are_refused(federation):
    async def scene():
        async with beside_a_good_site(federation) as (server, _, channel):
            other = channel.unary_unary("/fedhealth.Link/Other")
            with pytest.raises(aio.AioRpcError) as caught:
                await other(b"x" * 1000)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            peer = Peer(channel, metadata=[("x", "y" * 20_000)])
            with pytest.raises(aio.AioRpcError) as caught:
                await asyncio.wait_for(peer.call.read(), 10)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert server.connected() == {"va"}

    asyncio.run(scene())


def test_a_message_larger_than_a_frame_is_not_taken(federation):
    async def scene():
        async with beside_a_good_site(federation) as (_, address, _channel):
            identity = federation.site("hungary")
            credentials = grpc.ssl_channel_credentials(identity.root_pem, identity.key_pem, identity.chain_pem)
            options = [("grpc.ssl_target_name_override", tls.coordinator_dns_name("heart"))]
            async with aio.secure_channel(address, credentials, options) as channel:
                peer = Peer(channel)
                await peer.hello()
                with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
                    await peer.call.write(bytes(2 * CHUNK_BYTES))
                assert await asyncio.wait_for(peer.call.code(), 10) is not grpc.StatusCode.OK

    asyncio.run(scene())


class Proxy:
    """Forwards bytes between a site and the coordinator, until it is told to swallow them without a word."""

    def __init__(self, address):
        self.host, port = address.split(":")
        self.port, self.open = int(port), asyncio.Event()
        self.open.set()
        self.tasks = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self, f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_):
        self.open.set()
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        there, back = await asyncio.open_connection(self.host, self.port)
        self.tasks += [asyncio.create_task(self._pass_on(*pair)) for pair in ((reader, back), (there, writer))]

    async def _pass_on(self, reader, writer):
        try:
            while data := await reader.read(2**16):
                if not self.open.is_set():
                    await asyncio.Event().wait()  # this connection is dead, and nobody is told
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


def test_a_link_that_goes_silent_is_noticed_at_both_ends_and_heals_by_itself(federation, monkeypatch, until):
    monkeypatch.setattr(stream, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(stream, "SILENCE_SECONDS", 0.5)

    async def scene():
        states = []
        async with (
            federation.server() as (server, address),
            Proxy(address) as (proxy, by_proxy),
            federation.node("va", by_proxy, SERVICES, states),
        ):
            await server.wait_connected({"va"}, 10)
            await asyncio.sleep(1.0)  # an idle link is not a silent one
            assert states == ["connecting", "connected"]
            proxy.open.clear()
            with pytest.raises(PeerAway, match="a link that ended"):
                await server.ask("va", "echo", b"", 60)
            assert server.connected() == frozenset()
            await until(lambda: "disconnected" in states, 15)
            proxy.open.set()
            await server.wait_connected({"va"}, 15)
            assert await server.ask("va", "echo", b"again", 10) == b"again"

    asyncio.run(scene())
