"""The federation's root: made once on a machine without network, used once a year to certify the issuing authority.

Source: RFC 5280; the ceremony is in `certs/README.md`.

Invariants: the root certifies nothing but issuing authorities of its own federation, each from a request that
proves it has its key; neither root nor request ever carries another's private key.

Leaves to others: issuing leaves (`authority`). Whoever holds `root.key` and its passphrase can make any party of
the federation: keep both apart, and both off every machine that has a network.
"""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.certificates import (
    Subject,
    certificate_builder,
    certificate_pem,
    constrained_federation,
    key_pem,
    limited,
    make_key,
    parse_certificate,
    requested_key,
    with_authority_extensions,
)
from fedhealth.pki.identity import ROOT_FILE
from fedhealth.pki.names import check_name
from fedhealth.pki.profiles import profiles
from fedhealth.secret_file import PUBLIC_MODE, create_file, read_file, read_secret

ROOT_KEY_FILE = "root.key"


@dataclass(frozen=True)
class Root:
    """A federation's root certificate and key; made by `create_root` or `open_root`."""

    federation: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> bytes:
        """The root certificate: public, and what every member of the federation trusts."""
        return certificate_pem(self.certificate)

    def certify_issuer(self, request_pem: bytes, now: datetime) -> bytes:
        """Return the certificate of an issuing authority in PEM.

        Args:
            request_pem: the request that `fedhealth coordinator init` wrote.
            now: the present, with time zone.

        Raises:
            IdentityInvalid: the request is malformed or not signed by its own key, its key is of another kind, or
                the root is at its end.
        """
        profile = profiles().issuing
        if now >= self.certificate.not_valid_after_utc:
            raise IdentityInvalid(
                f"the root of federation '{self.federation}' is at its end",
                got=f"{now:%Y-%m-%d}",
                wanted=f"a day before {self.certificate.not_valid_after_utc:%Y-%m-%d}",
                next_step="Make a new root and invite every site again, or correct this machine's clock.",
            )
        subject = Subject(self.federation, "issuing authority", requested_key(request_pem, profile.key))
        builder = certificate_builder(
            subject,
            self.certificate.subject,
            self.key.public_key(),
            now,
            limited(now, profile.lifetime, self.certificate),
        )
        builder = with_authority_extensions(builder, self.federation, profile.path_length)
        return certificate_pem(builder.sign(self.key, hashes.SHA384()))


def create_root(directory: Path, federation: str, passphrase: bytes | None, now: datetime) -> Root:
    """Make a federation's root: `root.pem`, and `root.key` with mode 0600.

    Args:
        directory: a folder that holds neither file; it is created if missing.
        federation: its name, 1-63 lower-case letters, digits and hyphens.
        passphrase: what the key is encrypted with; None only where the root is not to last.
        now: the present, with time zone.

    Raises:
        IdentityInvalid: one of the files exists already, or the name has another form.
    """
    profile = profiles().root
    check_name(federation)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    existing = [name for name in (ROOT_FILE, ROOT_KEY_FILE) if (directory / name).exists()]
    if existing:
        raise IdentityInvalid(
            f"folder '{directory}' holds a root already",
            got=" and ".join(existing),
            wanted="a folder without one",
            next_step="Use the root that is there, or choose another folder.",
        )
    key = make_key(profile.key)
    subject = Subject(federation, "root", key.public_key())
    builder = certificate_builder(subject, subject.name, key.public_key(), now, now + profile.lifetime)
    certificate = with_authority_extensions(builder, federation, profile.path_length).sign(key, hashes.SHA384())
    create_file(directory / ROOT_KEY_FILE, key_pem(key, passphrase))
    create_file(directory / ROOT_FILE, certificate_pem(certificate), PUBLIC_MODE)
    return Root(federation, certificate, key)


def open_root(directory: Path, passphrase: bytes | None) -> Root:
    """Open the root that `create_root` made.

    Raises:
        IdentityInvalid: a file is missing, open to other users, malformed, the passphrase is wrong, or the files do
            not belong together.
    """
    certificate = parse_certificate(read_file(directory / ROOT_FILE))
    try:
        key = serialization.load_pem_private_key(read_secret(directory / ROOT_KEY_FILE), passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _damaged(directory, "a key that does not open, or another passphrase") from error
    federation = constrained_federation(certificate)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise _damaged(directory, "a key of another root")
    if federation is None:
        raise _damaged(directory, "a root of no federation")
    return Root(check_name(federation), certificate, key)


def _damaged(directory: Path, got: str) -> IdentityInvalid:
    return IdentityInvalid(
        f"the root in '{directory}' cannot be used",
        got=got,
        wanted=f"{ROOT_FILE} and {ROOT_KEY_FILE} of one federation, as created, and the passphrase",
        next_step="Try the passphrase again, or restore both files from the same backup.",
    )
