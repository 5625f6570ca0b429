"""The issuing authority: below the root, on the coordinator's machine, makes the leaves of a federation.

Source: RFC 5280 (path length 0 below a root of path length 1, name constraints, which TLS enforces), SPIFFE X.509-SVID.

Invariants: the authority sees public keys only, never a private key of a site; a leaf has the profile that
`leaf.check_leaf` asks for, and is checked against it before it is handed out; a leaf never outlives the authority;
key and certificate are one file, so that one rename replaces both.

Leaves to others: who may have a certificate (enrolment, renewal), and which are still good (the coordinator's members).
Whoever holds the issuing key can certify strangers, for a year; they are still not on the coordinator's record.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.certificates import (
    Subject,
    certificate_builder,
    certificate_pem,
    constrained_federation,
    issued,
    key_pem,
    key_usage,
    limited,
    load_key,
    make_key,
    make_request,
    parse_certificate,
)
from fedhealth.pki.identity import ROOT_FILE
from fedhealth.pki.leaf import check_leaf
from fedhealth.pki.names import check_name, coordinator_dns_name, uri_of
from fedhealth.pki.profiles import Role, profiles
from fedhealth.secret_file import PUBLIC_MODE, SECRET_MODE, create_file, read_file, read_secret, replace_file

SOON = timedelta(days=30)
"""Time enough for a ceremony with two people."""
ISSUING_FILE = "issuing.pem"
NEXT_KEY_FILE = "issuing-next.key"
REQUEST_FILE = "issuing.csr"


def request_authority(directory: Path, federation: str) -> Path:
    """Make the key of a new issuing authority and the request that the root shall certify; return the request's path.

    Run again before `install_authority`, it returns the request that is there.

    Args:
        directory: the authority's folder; an authority that is there goes on working until the new one is installed.
        federation: its name.

    Raises:
        IdentityInvalid: the name has another form, or a file cannot be created.
    """
    check_name(federation)
    key_path, request_path = directory / NEXT_KEY_FILE, directory / REQUEST_FILE
    if not key_path.exists():
        create_file(key_path, key_pem(make_key(profiles().issuing.key)))
    key = load_key(read_secret(key_path))
    if not request_path.exists():
        replace_file(request_path, make_request(key, federation, "issuing authority"), PUBLIC_MODE)
    return request_path


def install_authority(directory: Path, certificate_pem_text: bytes, root_pem: bytes, now: datetime) -> "Authority":
    """Put the certificate that the root made beside its key; from then on leaves come from it.

    Args:
        directory: where `request_authority` made the key.
        certificate_pem_text: what `Root.certify_issuer` returned.
        root_pem: the root's certificate; where one is there already, the same.
        now: the present, with time zone.

    Raises:
        IdentityInvalid: the certificate is of another key, root or profile, or not valid now; or the root is another
            than the one that the sites trust.
    """
    root, certificate = parse_certificate(root_pem), parse_certificate(certificate_pem_text)
    key = load_key(read_secret(directory / NEXT_KEY_FILE))
    root_path = directory / ROOT_FILE
    if root_path.exists() and parse_certificate(read_file(root_path)) != root:
        raise _unusable(directory, "another root than the one that is there")
    _check_authority(directory, certificate, root, key)
    for each in (certificate, root):
        if not each.not_valid_before_utc <= now < each.not_valid_after_utc:
            raise _unusable(directory, f"a certificate valid from {each.not_valid_before_utc} only, or ended")
    if not root_path.exists():
        replace_file(root_path, certificate_pem(root), PUBLIC_MODE)
    replace_file(directory / ISSUING_FILE, key_pem(key) + certificate_pem(certificate), SECRET_MODE)
    (directory / NEXT_KEY_FILE).unlink()
    (directory / REQUEST_FILE).unlink(missing_ok=True)
    return open_authority(directory)


def open_authority(directory: Path) -> "Authority":
    """Open the authority that `install_authority` put there.

    Raises:
        IdentityInvalid: a file is missing, open to other users, malformed, or they do not belong together.
    """
    if (directory / NEXT_KEY_FILE).exists() and not (directory / ISSUING_FILE).exists():
        raise IdentityInvalid(
            f"the authority in '{directory}' waits for the root's certificate",
            got=f"the request {directory / REQUEST_FILE}",
            wanted="the certificate that the root makes of it",
            next_step="Take the request to the machine with the root: fedhealth root certify --help",
        )
    whole = read_secret(directory / ISSUING_FILE)
    root, certificate = parse_certificate(read_file(directory / ROOT_FILE)), parse_certificate(whole)
    key = load_key(whole)
    _check_authority(directory, certificate, root, key)
    return Authority(check_name(constrained_federation(root) or ""), certificate, root, key)


@dataclass(frozen=True)
class Authority:
    """An issuing authority's certificate and key, and the root above it; made by `open_authority`."""

    federation: str
    certificate: x509.Certificate
    root: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def root_pem(self) -> bytes:
        """The root certificate: public, and what every member of the federation trusts."""
        return certificate_pem(self.root)

    def ends_soon(self, now: datetime) -> bool:
        """Say whether it is time for next year's ceremony: less than `SOON` is left."""
        return now > self.certificate.not_valid_after_utc - SOON

    def issue(self, public_key: ec.EllipticCurvePublicKey, role: Role, holder: str, now: datetime) -> bytes:
        """Return a new leaf and this authority's certificate, in PEM: what its holder shows in TLS.

        Args:
            public_key: the holder's, on the curve of the role's profile.
            role: what the leaf is good for; decides names, usage and lifetime.
            holder: the site's id; "coordinator" for the coordinator.
            now: the present, with time zone.

        Raises:
            IdentityInvalid: the key or the holder's name is of another kind, or this authority is at its end.
        """
        profile = profiles().of(role)
        end = limited(now, profile.lifetime, self.certificate)
        if end <= now:
            raise IdentityInvalid(
                f"the issuing authority of federation '{self.federation}' is at its end",
                got=f"{now:%Y-%m-%d %H:%M}",
                wanted=f"a time before {self.certificate.not_valid_after_utc:%Y-%m-%d %H:%M}",
                next_step="Make a new one: fedhealth coordinator request-authority --help",
            )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri_of(self.federation, role, holder))]
        if role is Role.COORDINATOR:
            names.append(x509.DNSName(coordinator_dns_name(self.federation)))
        subject = Subject(self.federation, holder, public_key)
        leaf = (
            certificate_builder(subject, self.certificate.subject, self.key.public_key(), now, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([profile.usage]), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA384())
        )
        check_leaf(leaf, self.federation, role)
        return certificate_pem(leaf) + certificate_pem(self.certificate)


def _check_authority(
    directory: Path, certificate: x509.Certificate, root: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    """Refuse what the root of this federation did not make for this key."""
    federation = constrained_federation(root)
    if federation is None or constrained_federation(certificate) != federation:
        raise _unusable(directory, "certificates that are not limited to one federation")
    if not issued(root, root) or not issued(certificate, root):
        raise _unusable(directory, "a certificate that this root did not make")
    if key.public_key() != certificate.public_key():
        raise _unusable(directory, "the certificate of another key")
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    if not constraints.ca or constraints.path_length != profiles().issuing.path_length:
        raise _unusable(directory, "a certificate of another profile")


def _unusable(directory: Path, got: str) -> IdentityInvalid:
    return IdentityInvalid(
        f"the authority in '{directory}' cannot be used",
        got=got,
        wanted="the key made here and the certificate that this federation's root made for it",
        next_step="Take the request to the root again, or restore the folder from one backup.",
    )
