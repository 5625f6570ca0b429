"""The federation's own certificate authority: one P-384 root that issues short-lived P-256 leaves.

Source: RFC 5280 (path length 0, URI name constraint on the root, which TLS enforces), SPIFFE X.509-SVID.

Invariants: the authority sees public keys only, never a private key of a site or the coordinator; a leaf has
the profile that `identity.check_leaf` asks for, and is checked against it before it is handed out; a leaf
never outlives the root.

Leaves to others: who may have a certificate (enrolment), carrying it there, renewal and revocation. Whoever
holds `root.key` can pose as any site and as the coordinator: keep it off the federation's own machines.
"""

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.identity import (
    ROLE_USAGE,
    ROOT_FILE,
    Role,
    check_leaf,
    check_name,
    coordinator_dns_name,
    holder_of,
    parse_certificate,
)
from fedhealth.secret_file import PUBLIC_MODE, create_file, read_file, read_secret

ROOT_KEY_FILE = "root.key"
ROOT_LIFETIME = timedelta(days=3653)
"""Ten years: a federation outlives its studies, and a new root means a visit to every hospital."""
LEAF_LIFETIME = timedelta(hours=24)
"""A day: a stolen leaf is useless tomorrow, which stands in for revocation lists."""
BACK_DATE = timedelta(minutes=5)
"""Hospital clocks that are a little behind must accept a fresh certificate."""


def create_authority(directory: Path, federation: str, now: datetime) -> "Authority":
    """Create a federation's root: `root.pem`, and `root.key` with mode 0600.

    Args:
        directory: a folder that holds neither file; it is created if missing.
        federation: its name, 1-63 lower-case letters, digits and hyphens.
        now: the present, with time zone.

    Raises:
        IdentityInvalid: one of the files exists already, or the name has another form.
    """
    check_name(federation)
    directory.mkdir(parents=True, exist_ok=True)
    existing = [name for name in (ROOT_FILE, ROOT_KEY_FILE) if (directory / name).exists()]
    if existing:
        raise IdentityInvalid(
            f"folder '{directory}' holds an authority already",
            got=" and ".join(existing),
            wanted="a folder without one",
            next_step="Use the authority that is there, or choose another folder.",
        )
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(federation)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key.public_key(), now, ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(
            x509.NameConstraints(
                permitted_subtrees=[x509.UniformResourceIdentifier(federation)], excluded_subtrees=None
            ),
            critical=True,
        )
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA384())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    create_file(directory / ROOT_KEY_FILE, pem)
    create_file(directory / ROOT_FILE, certificate.public_bytes(serialization.Encoding.PEM), PUBLIC_MODE)
    return Authority(federation, certificate, key)


def open_authority(directory: Path) -> "Authority":
    """Open the authority that `create_authority` made.

    Args:
        directory: the folder that holds `root.pem` and `root.key`.

    Raises:
        IdentityInvalid: a file is missing, open to other users, malformed, or they do not belong together.
    """
    certificate = parse_certificate(read_file(directory / ROOT_FILE))
    try:
        key = serialization.load_pem_private_key(read_secret(directory / ROOT_KEY_FILE), password=None)
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
        raise _damaged(directory, "files that cannot be read") from error
    permitted = [name.value for name in constraints.permitted_subtrees or []]
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise _damaged(directory, "a key of another root")
    if len(permitted) != 1 or not isinstance(permitted[0], str):
        raise _damaged(directory, "a root of no federation")
    return Authority(check_name(permitted[0]), certificate, key)


@dataclass(frozen=True)
class Authority:
    """A federation's root certificate and key; made by `create_authority` or `open_authority`."""

    federation: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def root_pem(self) -> bytes:
        """The root certificate: public, and what every member of the federation trusts."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue_leaf(
        self,
        public_key: ec.EllipticCurvePublicKey | x509.CertificateSigningRequest,
        spiffe_id: str,
        role: Role,
        now: datetime,
        lifetime: timedelta = LEAF_LIFETIME,
    ) -> bytes:
        """Return a new leaf certificate in PEM, valid from five minutes ago.

        Args:
            public_key: the holder's P-256 public key, or a signing request, of which only the key is used.
            spiffe_id: `identity.site_uri(...)` or `identity.coordinator_uri(...)` of this federation.
            role: what the holder is; decides the key usage. The coordinator's leaf is also good for
                `identity.coordinator_dns_name(...)`, `localhost` and 127.0.0.1.
            now: the present, with time zone.
            lifetime: from `now`; more than zero, and not beyond the root's end.

        Raises:
            IdentityInvalid: the request's signature does not hold, the key is not P-256, the name is not of
                this federation and role, or the lifetime does not fit.
        """
        holder = holder_of(spiffe_id, self.federation, role)
        if isinstance(public_key, x509.CertificateSigningRequest):
            if not public_key.is_signature_valid:
                raise IdentityInvalid("the signing request is not signed by its own key")
            requested = public_key.public_key()
        else:
            requested = public_key
        if not isinstance(requested, ec.EllipticCurvePublicKey):
            raise IdentityInvalid(
                "cannot certify this key",
                got=type(requested).__name__,
                wanted="a P-256 key",
                next_step="Make a new key: TLS leaves of this federation are P-256.",
            )
        if lifetime <= timedelta(0) or now + lifetime > self.certificate.not_valid_after_utc:
            raise IdentityInvalid(
                f"cannot certify '{spiffe_id}' for that time",
                got=f"until {now + lifetime}",
                wanted=f"a time after {now} and before {self.certificate.not_valid_after_utc}",
                next_step="Choose another lifetime, or create a new root.",
            )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id)]
        if role is Role.COORDINATOR:
            names += [
                x509.DNSName(coordinator_dns_name(self.federation)),
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
            ]
        leaf = (
            _builder(_name(holder), self.certificate.subject, requested, now, lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ROLE_USAGE[role]]), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA384())
        )
        check_leaf(leaf, self.federation, role)
        return leaf.public_bytes(serialization.Encoding.PEM)


def _name(common_name: str) -> x509.Name:
    """Return a name for people to read; nothing is decided by it."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "FedHealth"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    present = now.astimezone(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(present - BACK_DATE)
        .not_valid_after(present + lifetime)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _damaged(directory: Path, got: str) -> IdentityInvalid:
    return IdentityInvalid(
        f"the authority in '{directory}' cannot be used",
        got=got,
        wanted=f"{ROOT_FILE} and {ROOT_KEY_FILE} of one federation, as created",
        next_step="Restore both files from the same backup.",
    )
