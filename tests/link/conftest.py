import asyncio
import contextlib
import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhealth.link.client import run_link
from fedhealth.link.server import LinkServer
from fedhealth.pki.authority import create_authority
from fedhealth.pki.identity import Role, TlsIdentity, coordinator_uri, site_uri

SITES = frozenset({"cleveland", "hungary", "switzerland", "va"})


class Federation:
    """An authority, the identities it issues, and running ends, on real sockets."""

    def __init__(self, directory):
        self.now = datetime.now(UTC)
        self.authority = create_authority(directory, "heart", self.now)
        self.coordinator = self.issue(coordinator_uri("heart"), Role.COORDINATOR)

    def issue(self, uri, role, now=None):
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self.authority.issue_leaf(key.public_key(), uri, role, now or self.now)
        return TlsIdentity(leaf, pem(key), self.authority.root_pem)

    def site(self, name, now=None):
        return self.issue(site_uri("heart", name), Role.SITE, now)

    def forge(self, uris, usages=(ExtendedKeyUsageOID.CLIENT_AUTH,), dns=(), curve=None):
        """A leaf that the authority would refuse to issue, signed with its key."""
        key = ec.generate_private_key(curve or ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(uri) for uri in uris] + [x509.DNSName(name) for name in dns]
        names += [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))] if dns else []
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged")]))
            .issuer_name(self.authority.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(minutes=5))
            .not_valid_after(self.now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.authority.key, hashes.SHA384())
        )
        return TlsIdentity(leaf.public_bytes(serialization.Encoding.PEM), pem(key), self.authority.root_pem)

    @contextlib.asynccontextmanager
    async def server(self, address="127.0.0.1:0", identity=None, on_change=None):
        server = LinkServer(identity or self.coordinator, "heart", SITES, on_change)
        port = await server.start(address)
        try:
            yield server, f"127.0.0.1:{port}"
        finally:
            await server.stop()

    @contextlib.asynccontextmanager
    async def node(self, name, address, services=None, states=None, identity=None):
        """Run a site; `states` collects what it tells about itself."""
        states = [] if states is None else states
        task = asyncio.create_task(
            run_link(identity or self.site(name), address, "heart", services or {}, states.append)
        )
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="session")
def federation(tmp_path_factory):
    return Federation(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def foreign(tmp_path_factory):
    """Another authority that calls its federation by the same name."""
    return Federation(tmp_path_factory.mktemp("foreign"))


@pytest.fixture
def until():
    """Wait until a condition holds, at most five seconds."""

    async def wait(condition, seconds=5.0):
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)

    return wait
