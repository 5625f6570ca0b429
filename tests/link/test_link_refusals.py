"""Who does not get in: each row is a peer that must be refused, on real sockets."""

import asyncio
import socket
import ssl
import struct
import subprocess
import sys
from datetime import timedelta

import pytest
from bad_certificates import DAY, NOBODY, Issuer, Wish, authority
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedhealth.link.memory import CHUNK_BYTES
from fedhealth.link.session import SESSION_BYTES, FrameKind, SessionEnd, hello_body
from fedhealth.link.tls import METHOD, SERVICE, aio, grpc
from fedhealth.pki.identity import TlsIdentity
from fedhealth.pki.names import coordinator_dns_name
from fedhealth.pki.profiles import Role

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
HUNGARY = "spiffe://heart/site/hungary"
IN_TLS = grpc.StatusCode.UNAVAILABLE
PROFILE = grpc.StatusCode.UNAUTHENTICATED
MEMBER = grpc.StatusCode.PERMISSION_DENIED


def raw_channel(federation, address, identity):
    credentials = grpc.ssl_channel_credentials(
        federation.authority.root_pem,
        private_key=identity.key_pem if identity else None,
        certificate_chain=identity.chain_pem if identity else None,
    )
    options = [("grpc.ssl_target_name_override", coordinator_dns_name("heart")), ("grpc.use_local_subchannel_pool", 1)]
    return aio.secure_channel(address, credentials, options)


CLIENTS = {
    "no client certificate": (lambda fed, foreign: None, IN_TLS),
    "foreign authority": (lambda fed, foreign: foreign.site("hungary"), IN_TLS),
    "expired": (lambda fed, foreign: fed.site("hungary", fed.now - timedelta(days=2)), IN_TLS),
    "not yet valid": (lambda fed, foreign: fed.site("hungary", fed.now + timedelta(days=2)), IN_TLS),
    "other federation": (lambda fed, foreign: fed.forge(["spiffe://lung/site/hungary"]), IN_TLS),
    "server certificate": (lambda fed, foreign: fed.coordinator, IN_TLS),
    "client and server": (lambda fed, foreign: fed.forge([HUNGARY], [CLIENT, SERVER]), PROFILE),
    "two URI names": (lambda fed, foreign: fed.forge([HUNGARY, "spiffe://heart/site/va"]), PROFILE),
    "no URI name": (lambda fed, foreign: fed.forge([], dns=["hungary.heart.fedhealth.internal"]), PROFILE),
    "renewal certificate": (lambda fed, foreign: fed.issue(Role.RENEWAL, "hungary"), PROFILE),
    "coordinator's name": (lambda fed, foreign: fed.forge(["spiffe://heart/coordinator"]), PROFILE),
    "P-384 key": (lambda fed, foreign: fed.forge([HUNGARY], curve=ec.SECP384R1()), PROFILE),
    "unknown site": (lambda fed, foreign: fed.site("atlantis"), MEMBER),
}


@pytest.mark.parametrize("case", CLIENTS)
def test_the_server_refuses(federation, foreign, case):
    make, code = CLIENTS[case]

    async def main():
        async with federation.server() as (server, address):
            async with raw_channel(federation, address, make(federation, foreign)) as channel:
                call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
                with pytest.raises(aio.AioRpcError) as caught:
                    await asyncio.wait_for(call.read(), 5)
            assert server.connected() == frozenset()
            return caught.value

    error = asyncio.run(main())
    assert error.code() is code
    if code is not IN_TLS:
        assert error.details() == "", "a refused peer learns nothing else"


def test_a_raw_client_with_a_good_certificate_gets_in(federation):
    """The control of the table above: only the certificate makes the difference."""

    async def main():
        async with (
            federation.server() as (server, address),
            raw_channel(federation, address, federation.site("hungary")) as channel,
        ):
            call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
            end = SessionEnd(Role.SITE)
            end.open(await call.read())
            await call.write(end.seal(FrameKind.HELLO, 0, "", hello_body()))
            await server.wait_connected({"hungary"}, 5)

    asyncio.run(main())


SERVING = {"uris": ("spiffe://heart/coordinator",), "dns": (coordinator_dns_name("heart"),), "usages": (SERVER,)}


def shown(issuer):
    return TlsIdentity(issuer.chain_pem, issuer.key_pem, b"")


SERVERS = {
    "foreign authority": lambda fed, foreign: foreign.coordinator,
    "expired": lambda fed, foreign: fed.issue(Role.COORDINATOR, "coordinator", fed.now - timedelta(days=2)),
    "a site's certificate": lambda fed, foreign: fed.site("va"),
    "a site's certificate with the coordinator's DNS name": lambda fed, foreign: fed.forge(
        ["spiffe://heart/site/va"], [CLIENT], [coordinator_dns_name("heart")]
    ),
    "a server, but not the coordinator": lambda fed, foreign: fed.forge(
        ["spiffe://heart/site/va"], [SERVER], ["localhost"]
    ),
    "a renewal certificate": lambda fed, foreign: fed.issue(Role.RENEWAL, "va"),
    "all names right, by nobody": lambda fed, foreign: shown(NOBODY.make(Wish(**SERVING))),
    "all names right, below an authority that expired": lambda fed, foreign: shown(
        Issuer(fed.root.certificate, fed.root.key).make(authority(begins=-400 * DAY)).make(Wish(**SERVING))
    ),
    "all names right, below a leaf": lambda fed, foreign: shown(
        Issuer(fed.authority.certificate, fed.authority.key, (fed.root.certificate,))
        .make(Wish(**SERVING))
        .make(Wish(**SERVING))
    ),
    "another federation's coordinator": lambda fed, foreign: fed.forge(
        ["spiffe://lung/coordinator"], [SERVER], [coordinator_dns_name("heart")]
    ),
}


@pytest.mark.parametrize("case", SERVERS)
def test_a_site_refuses_a_server(federation, foreign, until, case):
    async def main():
        states = []
        identity = SERVERS[case](federation, foreign)
        # A server that trusts the site, so that only the site's own check can refuse.
        trusting = TlsIdentity(identity.chain_pem, identity.key_pem, federation.authority.root_pem)
        async with federation.server(identity=trusting) as (server, address):
            async with federation.node("hungary", address, {}, states):
                await until(lambda: "disconnected" in states)
            assert server.connected() == frozenset()
        return states

    assert "connected" not in asyncio.run(main())


def test_a_site_takes_a_server_whose_issuer_alone_is_right(federation):
    """The control of the rows above whose names are all right."""
    issuer = Issuer(federation.authority.certificate, federation.authority.key, (federation.root.certificate,))
    good = shown(issuer.make(Wish(**SERVING)))
    identity = TlsIdentity(good.chain_pem, good.key_pem, federation.authority.root_pem)

    async def main():
        async with federation.server(identity=identity) as (server, address), federation.node("hungary", address):
            await server.wait_connected({"hungary"}, 10)

    asyncio.run(main())


def test_a_site_that_is_not_on_the_list_tells_its_administrator(federation, until):
    async def main():
        states = []
        async with (
            federation.server() as (_, address),
            federation.node("atlantis", address, {}, states),
        ):
            await until(lambda: "refused" in states)

    asyncio.run(main())


def handshake(federation, folder, address, version):
    """A TLS handshake of one version with a good certificate; returns the version, or raises."""
    site = federation.site("hungary")
    (folder / "tls.pem").write_bytes(site.chain_pem)
    (folder / "tls.key").write_bytes(site.key_pem)
    context = ssl.create_default_context(cadata=site.root_pem.decode())
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    context.set_alpn_protocols(["h2"])
    host, port = address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=coordinator_dns_name("heart")) as tls,
    ):
        return tls.version()


def test_tls_1_2_fails_in_the_handshake(federation, tmp_path):
    async def main():
        async with federation.server() as (_, address):
            run = asyncio.to_thread
            assert await run(handshake, federation, tmp_path, address, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await run(handshake, federation, tmp_path, address, ssl.TLSVersion.TLSv1_2)

    asyncio.run(main())


SERVE_WITH_GRPC_LOADED_FIRST = """
import os, sys
assert "GRPC_SSL_CIPHER_SUITES" not in os.environ
import grpc, asyncio
from pathlib import Path
from fedhealth.link.server import LinkServer
from fedhealth.pki.identity import TlsIdentity

async def main():
    folder = Path(sys.argv[1])
    identity = TlsIdentity(*((folder / name).read_bytes() for name in ("c.pem", "c.key", "root.pem")))
    server = LinkServer(identity, "heart", lambda *_: None)
    print(await server.start("127.0.0.1:0"), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

asyncio.run(main())
"""


def test_tls_1_2_fails_in_the_handshake_also_where_grpc_was_loaded_first(federation, tmp_path, monkeypatch):
    monkeypatch.delenv("GRPC_SSL_CIPHER_SUITES")
    (tmp_path / "c.pem").write_bytes(federation.coordinator.chain_pem)
    (tmp_path / "c.key").write_bytes(federation.coordinator.key_pem)
    (tmp_path / "root.pem").write_bytes(federation.coordinator.root_pem)
    command = [sys.executable, "-c", SERVE_WITH_GRPC_LOADED_FIRST, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        address = f"127.0.0.1:{int(process.stdout.readline())}"
        assert handshake(federation, tmp_path, address, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(federation, tmp_path, address, ssl.TLSVersion.TLSv1_2)
        process.stdin.close()
        assert process.wait(10) == 0


QUESTION = 2  # the coordinator's first request id
EMPTY = bytes(8)  # the declared size of an empty body


def seal_pair(end):
    return (end.seal(FrameKind.ANSWER, QUESTION, "echo", EMPTY), end.seal(FrameKind.CANCEL, 1, ""))


def other_session(end):
    first, site = SessionEnd(Role.COORDINATOR, bytes(SESSION_BYTES)), SessionEnd(Role.SITE)
    site.open(first.seal(FrameKind.HELLO, 0, "", hello_body()))
    site.seal(FrameKind.HELLO, 0, "", hello_body())
    return [site.seal(FrameKind.ANSWER, QUESTION, "echo", EMPTY)]


def sealed(kind, request_id, service, body):
    return lambda end: [end.seal(kind, request_id, service, body)]


def declared(size, chunk=b""):
    return struct.pack(">Q", size) + chunk


FRAMES = {
    "replayed": lambda end: [end.seal(FrameKind.ANSWER, QUESTION, "echo", EMPTY)] * 2,
    "out of order": lambda end: seal_pair(end)[1:],  # the first never comes
    "altered": lambda end: [end.seal(FrameKind.ANSWER, QUESTION, "echo", declared(4, b"good"))[:-4] + b"evil"],
    "other session": other_session,
    "garbage": lambda end: [b"garbage"],
    "an answer to no question": sealed(FrameKind.ANSWER, QUESTION + 2, "echo", EMPTY),
    "an answer to a question of its own": sealed(FrameKind.ANSWER, 1, "echo", EMPTY),
    "an answer without a size": sealed(FrameKind.ANSWER, QUESTION, "echo", b"1234567"),
    "a chunk shorter than declared": sealed(FrameKind.ANSWER, QUESTION, "echo", declared(4, b"abc")),
    "a chunk longer than declared": sealed(FrameKind.ANSWER, QUESTION, "echo", declared(4, b"abcde")),
    "a chunk of no request": sealed(FrameKind.MORE, QUESTION + 2, "", b""),
    "two answers": lambda end: [end.seal(FrameKind.ANSWER, QUESTION, "echo", declared(2 * CHUNK_BYTES, b""))] * 2,
    "a failure without a code": sealed(FrameKind.FAIL, QUESTION, "echo", b""),
    "a failure of an unknown code": sealed(FrameKind.FAIL, QUESTION, "echo", b"\xff"),
    "room of no size": sealed(FrameKind.ROOM, QUESTION, "", b"\0"),
    "a question with an id of the other end": sealed(FrameKind.ASK, QUESTION + 2, "echo", EMPTY),
    "giving up what the other end asked": sealed(FrameKind.CANCEL, QUESTION, "", b""),
    "a second HELLO": lambda end: [b"".join((end.seal(FrameKind.CANCEL, 1, "")[:32], b"\1\0", bytes(32)))],
}


@pytest.mark.parametrize("case", FRAMES)
def test_a_bad_frame_closes_the_stream_and_fails_its_asks(federation, case, until):
    async def main():
        async with (
            federation.server() as (server, address),
            raw_channel(federation, address, federation.site("hungary")) as channel,
        ):
            call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
            end = SessionEnd(Role.SITE)
            end.open(await call.read())
            await call.write(end.seal(FrameKind.HELLO, 0, "", hello_body()))
            await server.wait_connected({"hungary"}, 5)
            ask = asyncio.create_task(server.ask("hungary", "echo", b"", 60, 200 * CHUNK_BYTES))
            end.open(await call.read())
            for frame in FRAMES[case](end):
                await call.write(frame)
            await until(lambda: not server.connected())
            assert await call.code() is grpc.StatusCode.DATA_LOSS
            return (await asyncio.gather(ask, return_exceptions=True))[0]

    result = asyncio.run(main())
    assert isinstance(result, Exception) or case == "replayed", "the first of two equal frames is good"
