import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhealth.link.client import run_link
from fedhealth.link.server import LinkServer
from fedhealth.pki.authority import install_authority, request_authority
from fedhealth.pki.certificates import certificate_pem, key_pem, key_usage, make_key
from fedhealth.pki.identity import TlsIdentity
from fedhealth.pki.leaf import Flaw, LeafRefused
from fedhealth.pki.profiles import Role
from fedhealth.pki.root import create_root

SITES = frozenset({"cleveland", "hungary", "switzerland", "va"})


def admit(site, _leaf, _role):
    """What a coordinator's record of members does, for a fixed set of them."""
    if site not in SITES:
        raise LeafRefused(Flaw.NOT_A_MEMBER, "a stranger", "a member")


class Federation:
    """A root, an issuing authority, the identities it issues, and running ends, on real sockets."""

    def __init__(self, directory):
        self.now = datetime.now(UTC)
        year = self.now - timedelta(days=200)  # so that it could issue what has expired since
        self.root = create_root(directory / "root", "heart", None, year)
        self.authority = self.new_authority(directory, year)
        self.coordinator = self.issue(Role.COORDINATOR, "coordinator")

    def new_authority(self, directory, now):
        request = request_authority(directory, "heart")
        return install_authority(directory, self.root.certify_issuer(request.read_bytes(), now), self.root.pem, now)

    def issue(self, role, holder, now=None):
        key = make_key("P-256")
        chain = self.authority.issue(key.public_key(), role, holder, now or self.now)
        return TlsIdentity(chain, key_pem(key), self.authority.root_pem)

    def site(self, name, now=None):
        return self.issue(Role.SITE, name, now)

    def forge(self, uris, usages=(ExtendedKeyUsageOID.CLIENT_AUTH,), dns=(), curve=None):
        """A leaf that the authority would refuse to issue, signed with its key."""
        key = ec.generate_private_key(curve or ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(uri) for uri in uris] + [x509.DNSName(name) for name in dns]
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged")]))
            .issuer_name(self.authority.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(minutes=5))
            .not_valid_after(self.now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.authority.key, hashes.SHA384())
        )
        chain = certificate_pem(leaf) + certificate_pem(self.authority.certificate)
        return TlsIdentity(chain, key_pem(key), self.authority.root_pem)

    @contextlib.asynccontextmanager
    async def server(self, address="127.0.0.1:0", identity=None, on_change=None):
        server = LinkServer(identity or self.coordinator, "heart", admit, on_change)
        port = await server.start(address)
        try:
            yield server, f"127.0.0.1:{port}"
        finally:
            await server.stop()

    @contextlib.asynccontextmanager
    async def node(self, name, address, services=None, states=None, identity=None, proxy=None):
        """Run a site; `states` collects what it tells about itself."""
        states = [] if states is None else states
        task = asyncio.create_task(
            run_link(identity or self.site(name), address, "heart", services or {}, states.append, proxy=proxy)
        )
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


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
