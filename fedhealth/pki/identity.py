"""What a TLS certificate of this federation looks like, and the three PEM texts that one end needs.

Source: RFC 5280; SPIFFE X.509-SVID (exactly one URI name). The profile: P-256, not a CA, and either
`spiffe://<federation>/site/<id>` with EKU clientAuth only, or `spiffe://<federation>/coordinator` with EKU
serverAuth only.

Invariants: an identity that `load_identity` returned belongs to this federation and role, was issued by the
root beside it, matches its key and was valid at `now`; anything unexpected refuses.

Leaves to others: the chain of a peer's certificate (TLS checks it against the root, names included), renewal
and revocation.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from fedhealth.errors import IdentityInvalid
from fedhealth.secret_file import create_file, read_file, read_secret

CERTIFICATE_FILE = "tls.pem"
KEY_FILE = "tls.key"
ROOT_FILE = "root.pem"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Role(StrEnum):
    """The two kinds of party that hold a TLS certificate."""

    SITE = "site"
    COORDINATOR = "coordinator"


ROLE_USAGE = {
    Role.SITE: ExtendedKeyUsageOID.CLIENT_AUTH,
    Role.COORDINATOR: ExtendedKeyUsageOID.SERVER_AUTH,
}
"""The one extended key usage of each role: a site can never pose as the server, nor the other way round."""


@dataclass(frozen=True)
class TlsIdentity:
    """What one end shows and trusts in TLS; the key is kept out of `repr`.

    Args:
        certificate_pem: the own leaf.
        key_pem: its P-256 key.
        root_pem: the only root that the other end may descend from.
    """

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)
    root_pem: bytes


def site_uri(federation: str, site: str) -> str:
    """Return `spiffe://<federation>/site/<site>`.

    Args:
        federation: 1-63 lower-case letters, digits and hyphens, no hyphen at either end.
        site: of the same form.

    Raises:
        IdentityInvalid: a name of another form.

    Example:
        >>> site_uri("heart", "hungary")
        'spiffe://heart/site/hungary'
    """
    return f"spiffe://{check_name(federation)}/site/{check_name(site)}"


def coordinator_uri(federation: str) -> str:
    """Return `spiffe://<federation>/coordinator`.

    Raises:
        IdentityInvalid: a federation name of another form than in `site_uri`.
    """
    return f"spiffe://{check_name(federation)}/coordinator"


def coordinator_dns_name(federation: str) -> str:
    """Return the DNS name that only this federation's coordinator is certified for, wherever it runs.

    A gRPC client in Python can compare DNS names but not URI names, so this one stands for the URI. It is
    never looked up: `.internal` is reserved for private use.

    Raises:
        IdentityInvalid: a federation name of another form than in `site_uri`.

    Example:
        >>> coordinator_dns_name("heart")
        'coordinator.heart.fedhealth.internal'
    """
    return f"coordinator.{check_name(federation)}.fedhealth.internal"


def check_name(name: str) -> str:
    """Return a federation's or site's name if it has the form that certificates allow.

    Raises:
        IdentityInvalid: it has another form.
    """
    if _NAME.fullmatch(name) is None:
        raise IdentityInvalid(
            "a federation or site has a name that no certificate can carry",
            got=repr(name[:80]),
            wanted="1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end",
            next_step="Choose another name, such as 'long-beach'.",
        )
    return name


def create_tls_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Make a P-256 key and store it as PEM PKCS#8, mode 0600; run by the party that the key belongs to.

    Args:
        path: a file that does not exist yet.

    Returns:
        The public half: all that the authority needs to see.

    Raises:
        IdentityInvalid: the file exists or cannot be created.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    create_file(path, pem)
    return key.public_key()


def load_identity(directory: Path, federation: str, role: Role, now: datetime) -> TlsIdentity:
    """Read `tls.pem`, `tls.key` and `root.pem`, and check that they can be used now.

    Args:
        directory: the folder that holds the three files.
        federation: the federation the certificate must name.
        role: what the holder is.
        now: the present, with time zone.

    Raises:
        IdentityInvalid: a file is missing or malformed, the certificate has another profile, federation or
            issuer, is not valid now, or does not belong to the key.
    """
    identity = TlsIdentity(
        certificate_pem=read_file(directory / CERTIFICATE_FILE),
        key_pem=read_secret(directory / KEY_FILE),
        root_pem=read_file(directory / ROOT_FILE),
    )
    check_identity(identity, federation, role, now)
    return identity


def check_identity(identity: TlsIdentity, federation: str, role: Role, now: datetime) -> str:
    """Check an identity as `load_identity` does, and return the site's id, or "coordinator".

    Raises:
        IdentityInvalid: as in `load_identity`.
    """
    certificate, root = parse_certificate(identity.certificate_pem), parse_certificate(identity.root_pem)
    holder = check_leaf(certificate, federation, role)
    name = f"site '{holder}'" if role is Role.SITE else "the coordinator"
    _check_validity(certificate, name, now)
    _check_validity(root, f"the root of federation '{federation}'", now)
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IdentityInvalid(
            f"certificate of {name} was not issued by the root beside it",
            got=f"issuer {certificate.issuer.rfc4514_string()}",
            wanted=f"a signature by {root.subject.rfc4514_string()}",
            next_step=f"Fetch {ROOT_FILE} and {CERTIFICATE_FILE} again from the same federation.",
        ) from error
    try:
        key = serialization.load_pem_private_key(identity.key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityInvalid(
            f"the TLS key of {name} cannot be read",
            wanted="a PEM key without password",
            next_step="Create a new key and ask for a new certificate.",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise IdentityInvalid(
            f"the TLS key and the certificate of {name} do not belong together",
            got="a key with another public half",
            wanted="the key that the certificate was issued for",
            next_step=f"Put the matching {KEY_FILE} back, or ask for a new certificate for this key.",
        )
    return holder


def check_leaf(certificate: x509.Certificate, federation: str, expected_role: Role) -> str:
    """Check a certificate's profile, not its chain or its dates, and return whose it is.

    Args:
        certificate: the leaf, as TLS received it.
        federation: the federation that its one URI name must be of.
        expected_role: the role that name and key usage must be of.

    Returns:
        The site's id, or "coordinator".

    Raises:
        IdentityInvalid: not exactly one URI name, another federation or role, any other extended key usage
            than the role's own, a key that is not P-256, a CA certificate, or extensions that cannot be read.
    """
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _wrong_profile("key", type(key).__name__, "a P-256 key")
    try:
        extensions = certificate.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usages = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise _wrong_profile("extensions", type(error).__name__, "one each of name, key usage and CA:FALSE") from error
    if is_ca:
        raise _wrong_profile("basic constraints", "a CA", "a leaf")
    if usages != [ROLE_USAGE[expected_role]]:
        got = ", ".join(usage.dotted_string for usage in usages)
        raise _wrong_profile("extended key usage", got, f"only {ROLE_USAGE[expected_role].dotted_string}")
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise _wrong_profile("URI names", str(len(uris)), "exactly one")
    return holder_of(uris[0], federation, expected_role)


def holder_of(uri: str, federation: str, role: Role) -> str:
    """Return the site's id, or "coordinator", that a URI name stands for.

    Raises:
        IdentityInvalid: it is not a name of this federation and role.

    Example:
        >>> holder_of("spiffe://heart/site/hungary", "heart", Role.SITE)
        'hungary'
    """
    if role is Role.COORDINATOR:
        if uri != coordinator_uri(federation):
            raise _wrong_profile("URI name", repr(uri[:200]), coordinator_uri(federation))
        return role.value
    prefix = f"spiffe://{check_name(federation)}/site/"
    site = uri.removeprefix(prefix)
    if not uri.startswith(prefix) or _NAME.fullmatch(site) is None:
        raise _wrong_profile("URI name", repr(uri[:200]), f"{prefix}<id>")
    return site


def parse_certificate(pem: bytes) -> x509.Certificate:
    """Return the one certificate of a PEM text.

    Raises:
        IdentityInvalid: there is no certificate in it, or more than one.
    """
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError:
        certificates = []
    if len(certificates) != 1:
        raise IdentityInvalid(
            "a certificate file cannot be read",
            got=f"{len(certificates)} certificates",
            wanted="exactly one, in PEM",
            next_step="Fetch the file again from the federation's authority.",
        )
    return certificates[0]


def _check_validity(certificate: x509.Certificate, name: str, now: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    present = f"{now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if now >= end:
        raise IdentityInvalid(
            f"certificate of {name} expired at {end:%Y-%m-%d %H:%M:%S} UTC",
            got=f"the present, {present}",
            wanted="a time before that",
            next_step="Ask the federation's authority for a new one, or correct this machine's clock.",
        )
    if now < start:
        raise IdentityInvalid(
            f"certificate of {name} is valid only from {start:%Y-%m-%d %H:%M:%S} UTC",
            got=f"the present, {present}",
            wanted="a time after that",
            next_step="Correct this machine's clock.",
        )


def _wrong_profile(what: str, got: str, wanted: str) -> IdentityInvalid:
    return IdentityInvalid(
        f"certificate does not have this federation's profile: {what}",
        got=got,
        wanted=wanted,
        next_step="Ask the federation's authority for a certificate of the right kind.",
    )
