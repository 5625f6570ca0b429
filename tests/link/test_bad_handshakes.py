"""Bad handshakes, on real sockets against a real coordinator: all are refused, and its log says why in one word."""

import asyncio
import contextlib
import json
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime

import pytest
from bad_certificates import Issuer, bad_certificates

from fedhealth.coordinator.home import CoordinatorHome, admit_site, init_coordinator, install_chain, revoke_site
from fedhealth.link.session import FrameKind, SessionEnd, hello_body
from fedhealth.link.tls import METHOD, SERVICE, aio, grpc
from fedhealth.pki.certificates import key_pem, make_key
from fedhealth.pki.identity import TlsIdentity
from fedhealth.pki.leaf import Flaw
from fedhealth.pki.names import coordinator_dns_name
from fedhealth.pki.profiles import Role
from fedhealth.pki.root import create_root


class Datacentre:
    """A coordinator in a process of its own, with what it said, and the keys that its ceremony was held with."""

    def __init__(self, folder):
        now, self.home, self.log = datetime.now(UTC), CoordinatorHome(folder / "home"), folder / "log"
        root = create_root(folder / "root", "heart", None, now)
        _, request = init_coordinator(self.home, "heart", "127.0.0.1:7443", "127.0.0.1:7444")
        authority = install_chain(self.home, root.certify_issuer(request.read_bytes(), now), root.pem, now)
        self.root_pem = root.pem
        self.root = Issuer(root.certificate, root.key)
        self.issuing = Issuer(authority.certificate, authority.key, (root.certificate,))
        command = [sys.executable, "-m", "fedhealth.cli.main", "coordinator", "serve", "--home", str(self.home.root)]
        command += ["--address", "127.0.0.1:0", "--enrolment", "127.0.0.1:0", "--lifeline"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self.address = f"127.0.0.1:{json.loads(self.process.stdout.readline())['port']}"

    def joined(self, site):
        """Let a site join; return its leaf and its renewal certificate."""
        keys = [make_key("P-256") for _ in range(2)]
        chains = admit_site(self.home, site, *(key.public_key() for key in keys), "ab" * 32, datetime.now(UTC))
        return [TlsIdentity(chain, key_pem(key), self.root_pem) for key, chain in zip(keys, chains, strict=True)]

    def said(self, start, words, seconds=10.0):
        """Wait for a line after a place in the log that gives one of these words for a refusal; return the lines."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            text = self.log.read_bytes()[start:].decode()
            if set(words.split()) & set(re.findall(r"refused [^\n]*?: ([a-z-]+)[,\n]", text)):
                return text
            time.sleep(0.01)
        raise AssertionError(f"the log does not say {words!r} but {text!r}")

    def quiet(self):
        """Wait until the log says no more of earlier cases, and return its size."""
        size = -1
        while size != self.log.stat().st_size:
            size = self.log.stat().st_size
            time.sleep(0.1)
        return size

    def stop(self):
        self.process.stdin.close()
        assert self.process.wait(10) == 0


@pytest.fixture(scope="module")
def datacentre(tmp_path_factory):
    made = Datacentre(tmp_path_factory.mktemp("datacentre"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def cases(datacentre):
    made = bad_certificates(datacentre.root, datacentre.issuing)
    datacentre.joined("hungary")
    leaf, renewal = datacentre.joined("va")
    revoked, _ = datacentre.joined("long-beach")
    revoke_site(datacentre.home, "long-beach", datetime.now(UTC))
    replaced, _ = datacentre.joined("switzerland")
    datacentre.joined("switzerland")
    return made | {
        "the renewal certificate on the link": (renewal, "renewal-only"),
        "a site that was revoked": (revoked, "revoked"),
        "a certificate from before the site joined again": (replaced, "not-on-record"),
        "a good one": (leaf, None),
    }


def knock(datacentre, shown):
    """Open a stream as a site would; return the code that ended it, None if it came up."""

    async def main():
        credentials = grpc.ssl_channel_credentials(
            datacentre.root_pem,
            private_key=shown.key_pem if shown else None,
            certificate_chain=shown.chain_pem if shown else None,
        )
        options = [
            ("grpc.ssl_target_name_override", coordinator_dns_name("heart")),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        async with aio.secure_channel(datacentre.address, credentials, options) as channel:
            call, end = channel.stream_stream(f"/{SERVICE}/{METHOD}")(), SessionEnd(Role.SITE)
            try:
                end.open(await asyncio.wait_for(call.read(), 10))
                await call.write(end.seal(FrameKind.HELLO, 0, "", hello_body()))
                return None
            except aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE or error.details() == ""
                return error.code()

    return asyncio.run(main())


def knock_by_openssl(datacentre, shown, version=ssl.TLSVersion.TLSv1_3):
    """Shake hands with OpenSSL; return what ended it, None if the other end had something to say."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=datacentre.root_pem.decode())
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # or it would refuse to show a short key
    with tempfile.NamedTemporaryFile() as file:
        file.write(shown.key_pem + shown.chain_pem)
        file.flush()
        context.load_cert_chain(file.name)
    host, port = datacentre.address.split(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=coordinator_dns_name("heart")) as tls,
        ):
            return None if tls.recv(100) else "closed"
    except (ssl.SSLError, ConnectionError) as error:
        return error


def test_tls_1_2_is_refused_and_said(datacentre, cases):
    good, start = cases["a good one"][0], datacentre.quiet()
    assert knock_by_openssl(datacentre, good) is None
    assert knock_by_openssl(datacentre, good, ssl.TLSVersion.TLSv1_2) is not None
    datacentre.said(start, "tls-version")


def test_what_is_no_tls_is_refused_and_said(datacentre):
    start = datacentre.quiet()
    host, port = datacentre.address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in plain.recv(1000)
    datacentre.said(start, "handshake")


CASES = (
    *("no certificate", "another root, all names right", "self-signed", "signature altered", "expired"),
    *("not yet valid", "a leaf that signs as authority", "Ed25519", "P-192", "P-521"),
    *("issuing authority expired", "issuing authority not yet valid", "a site's leaf as authority"),
    *("an authority below the issuing one", "another federation", "authority of another federation"),
    *("server usage only", "coordinator's certificate as a site", "unknown critical extension"),
    *("client and server usage", "client and any usage", "any usage", "no extended usage"),
    *("another key usage", "an authority with a site's name", "two URI names", "no URI name", "no name at all"),
    *("a DNS name beside", "a name of no form", "the coordinator's name for a client", "RSA 1024", "RSA 2048", "P-384"),
    *("lives for a month", "made with a stolen issuing key", "a site that never joined"),
    *("the renewal certificate on the link", "a site that was revoked"),
    "a certificate from before the site joined again",
)


def test_every_case_is_in_the_table(cases):
    assert {*CASES, "a good one"} == set(cases)
    assert len(CASES) >= 20


def test_a_good_certificate_gets_in(datacentre, cases):
    """The control: only the certificate makes the difference."""
    assert knock(datacentre, cases["a good one"][0]) is None


@pytest.mark.parametrize("name", CASES)
def test_refuses_and_says_why(datacentre, cases, name):
    shown, words = cases[name]
    start, way = datacentre.quiet(), knock_by_openssl if shown and getattr(shown, "by_openssl", False) else knock
    assert way(datacentre, shown) is not None
    assert set(words.split()) <= set(Flaw)
    text = datacentre.said(start, words)
    for sent in ("spiffe", "hungary", "lung", "atlantis", "CN=", "BEGIN"):
        assert sent not in text, "a log never repeats what a stranger sent"
