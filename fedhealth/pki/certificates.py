"""The parts of X.509 that root, issuing authority and leaves have in common.

Source: RFC 5280, sections 4.1 and 4.2.

Leaves to others: which profile is whose (`profiles`), and who may have a certificate.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.profiles import CURVES, profiles

KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True)
class Subject:
    """Whom a certificate is for: names for people to read (nothing is decided by them), and the public key."""

    federation: str
    common_name: str
    public_key: ec.EllipticCurvePublicKey

    @property
    def name(self) -> x509.Name:
        """The distinguished name."""
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "FedHealth"),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, self.federation),
                x509.NameAttribute(NameOID.COMMON_NAME, self.common_name),
            ]
        )


def certificate_builder(
    subject: Subject, issuer: x509.Name, issuer_key: ec.EllipticCurvePublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    """Return a builder with names, key, random serial, dates and key identifiers.

    Args:
        subject: whom it is for.
        issuer: the issuer's distinguished name.
        issuer_key: the issuer's public key.
        now: the present, with time zone; `notBefore` lies `back_date` earlier.
        end: `notAfter`.
    """
    present = now.astimezone(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject.name)
        .issuer_name(issuer)
        .public_key(subject.public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(present - profiles().back_date)
        .not_valid_after(end.astimezone(UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject.public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def with_authority_extensions(
    builder: x509.CertificateBuilder, federation: str, path_length: int
) -> x509.CertificateBuilder:
    """Return the builder of a certificate that certifies others, of this federation's names only."""
    constraints = x509.NameConstraints(
        permitted_subtrees=[
            x509.UniformResourceIdentifier(federation),
            x509.DNSName(f"{federation}.fedhealth.internal"),
        ],
        excluded_subtrees=None,
    )
    return (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage("key_cert_sign"), critical=True)
        .add_extension(constraints, critical=True)
    )


def key_usage(only: str) -> x509.KeyUsage:
    """Return a key usage with one bit set, by its name in `KEY_USAGES`."""
    return x509.KeyUsage(**{usage: usage == only for usage in KEY_USAGES})


def constrained_federation(certificate: x509.Certificate) -> str | None:
    """Return the federation that an authority's names are limited to, None if it is not limited to exactly one."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None
    uris = [n.value for n in constraints.permitted_subtrees or () if isinstance(n, x509.UniformResourceIdentifier)]
    return uris[0] if len(uris) == 1 else None


def make_key(curve: str) -> ec.EllipticCurvePrivateKey:
    """Make a key on "P-256" or "P-384" from the operating system's randomness."""
    return ec.generate_private_key(CURVES[curve]())


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """Return a key as PEM PKCS#8, encrypted where there is a passphrase."""
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the elliptic-curve key in a PEM text without password.

    Raises:
        IdentityInvalid: there is none, or it is of another kind.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unreadable_key("what cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unreadable_key("a key of another kind")
    return key


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def make_request(key: ec.EllipticCurvePrivateKey, federation: str, common_name: str) -> bytes:
    """Return a signing request in PEM: the public key, and a signature that proves the private one is there."""
    name = Subject(federation, common_name, key.public_key()).name
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def requested_key(request_pem: bytes, curve: str) -> ec.EllipticCurvePublicKey:
    """Return the public key of a signing request; of the request, nothing else is used.

    Args:
        request_pem: PEM of any origin.
        curve: "P-256" or "P-384".

    Raises:
        IdentityInvalid: it cannot be read, is not signed by its own key, or asks for another kind of key.
    """
    try:
        request = x509.load_pem_x509_csr(request_pem)
        valid, key = request.is_signature_valid, request.public_key()
    except (ValueError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion) as error:
        raise _bad_request("what is not one, or of no known kind", "a signing request in PEM") from error
    if not valid:
        raise _bad_request("a signature by another key", "one by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVES[curve]):
        raise _bad_request("a key of another kind", f"a {curve} key")
    return key


def parse_chain(pem: bytes, length: int) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a PEM text.

    Raises:
        IdentityInvalid: there are not exactly `length` of them.
    """
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        for each in certificates:  # its parts are read only when they are asked for, and fail only then
            _ = each.subject, each.issuer, each.extensions, each.public_key(), each.not_valid_before_utc
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion):
        certificates = []
    if len(certificates) != length:
        raise IdentityInvalid(
            "a certificate file cannot be read",
            got=f"{len(certificates)} that can be read",
            wanted=f"exactly {length}, in PEM, and nothing of another form",
            next_step="Fetch the file again from the federation's authority.",
        )
    return tuple(certificates)


def parse_certificate(pem: bytes) -> x509.Certificate:
    """Return the one certificate of a PEM text.

    Raises:
        IdentityInvalid: there is no certificate in it, or more than one.
    """
    return parse_chain(pem, 1)[0]


def fingerprint_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's DER, as 64 lower-case hexadecimal digits.

    `openssl x509 -in root.pem -noout -fingerprint -sha256` prints the same, with colons.
    """
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Say whether `issuer` signed `certificate`."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def limited(now: datetime, lifetime: timedelta, issuer: x509.Certificate) -> datetime:
    """Return the end of a certificate's life: `lifetime` from now, and never after its issuer's."""
    return min(now + lifetime, issuer.not_valid_after_utc)


def _unreadable_key(got: str) -> IdentityInvalid:
    return IdentityInvalid(
        "a private key cannot be read",
        got=got,
        wanted="an elliptic-curve key in PEM, without password, before any certificates",
        next_step="Restore the file from one backup, or make a new key and have it certified.",
    )


def _bad_request(got: str, wanted: str) -> IdentityInvalid:
    return IdentityInvalid(
        "a signing request is refused", got=got, wanted=wanted, next_step="Make the key and the request again."
    )
