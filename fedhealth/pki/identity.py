"""What one end shows and trusts in TLS, and the files that hold it.

`tls.pem` holds a private key, its leaf and the issuing authority's certificate, in this order and in one file, so that
one rename replaces all three; `renewal.pem` is the same for a site's renewal certificate; `root.pem` is the anchor.

Invariants: an identity that `load_identity` returned belongs to this federation and role, descends from the root
beside it, matches its key and was valid at `now`; anything unexpected refuses.

Leaves to others: the chain of a peer's certificate (TLS checks it against the root, names included), renewal
and revocation.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.certificates import certificate_pem, issued, key_pem, load_key, parse_certificate, parse_chain
from fedhealth.pki.leaf import check_leaf
from fedhealth.pki.profiles import Role
from fedhealth.secret_file import SECRET_MODE, read_file, read_secret, replace_file

ROOT_FILE = "root.pem"
IDENTITY_FILE = {Role.SITE: "tls.pem", Role.COORDINATOR: "tls.pem", Role.RENEWAL: "renewal.pem"}


@dataclass(frozen=True)
class TlsIdentity:
    """What one end shows and trusts in TLS; the key is kept out of `repr`.

    Args:
        chain_pem: the own leaf, then the issuing authority's certificate.
        key_pem: its P-256 key.
        root_pem: the only root that the other end may descend from.
    """

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    root_pem: bytes

    @property
    def leaf(self) -> x509.Certificate:
        """The own leaf."""
        return parse_chain(self.chain_pem, 2)[0]


def store_identity(directory: Path, role: Role, key: ec.EllipticCurvePrivateKey, chain_pem: bytes) -> None:
    """Put a key and its certificates in place; a crash leaves the old ones or the new ones, whole.

    Args:
        directory: the folder of the one that the key belongs to, and was made by.
        role: what the leaf is good for; decides the file's name.
        key: the leaf's.
        chain_pem: the leaf, then the issuing authority's certificate.
    """
    replace_file(directory / IDENTITY_FILE[role], key_pem(key) + chain_pem, SECRET_MODE)


def load_identity(directory: Path, federation: str, role: Role, now: datetime) -> TlsIdentity:
    """Read the files of an identity, and check that they can be used now.

    Args:
        directory: the folder that holds them.
        federation: the federation the certificate must name.
        role: what the leaf is good for.
        now: the present, with time zone.

    Raises:
        IdentityInvalid: a file is missing or malformed, the certificate has another profile, federation or
            issuer, is not valid now, or does not belong to the key.
    """
    identity = read_identity(directory, role)
    check_identity(identity, federation, role, now)
    return identity


def read_identity(directory: Path, role: Role) -> TlsIdentity:
    """Read the files of an identity, whatever its dates.

    Raises:
        IdentityInvalid: a file is missing, open to other users or malformed.
    """
    whole = read_secret(directory / IDENTITY_FILE[role])
    key = load_key(whole)
    chain = b"".join(map(certificate_pem, parse_chain(whole, 2)))
    # Written anew, because gRPC finds roots in a text ("TRUSTED CERTIFICATE") that `parse_certificate` passes over.
    root = certificate_pem(parse_certificate(read_file(directory / ROOT_FILE)))
    return TlsIdentity(chain, key_pem(key), root)


def check_identity(identity: TlsIdentity, federation: str, role: Role, now: datetime) -> str:
    """Check an identity as `load_identity` does, and return the site's id, or "coordinator".

    Raises:
        IdentityInvalid: as in `load_identity`.
    """
    (leaf, issuing), root = parse_chain(identity.chain_pem, 2), parse_certificate(identity.root_pem)
    holder = check_leaf(leaf, federation, role)
    name = "the coordinator" if role is Role.COORDINATOR else f"site '{holder}'"
    _check_validity(leaf, name, now)
    _check_validity(issuing, f"the issuing authority of federation '{federation}'", now)
    _check_validity(root, f"the root of federation '{federation}'", now)
    if not issued(leaf, issuing) or not issued(issuing, root):
        raise IdentityInvalid(
            f"certificate of {name} was not issued under the root beside it",
            got=f"issuer {issuing.issuer.rfc4514_string()}",
            wanted=f"a signature by {root.subject.rfc4514_string()}",
            next_step="Restore the files of one federation, or join again with a new invitation.",
        )
    if load_key(identity.key_pem).public_key() != leaf.public_key():
        raise _not_together(name, "a key with another public half")
    return holder


def _check_validity(certificate: x509.Certificate, name: str, now: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    present = f"{now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if now >= end:
        raise IdentityInvalid(
            f"certificate of {name} expired at {end:%Y-%m-%d %H:%M:%S} UTC",
            got=f"the present, {present}",
            wanted="a time before that",
            next_step="Correct this machine's clock, or ask the coordinator's operator for a new invitation.",
        )
    if now < start:
        raise IdentityInvalid(
            f"certificate of {name} is valid only from {start:%Y-%m-%d %H:%M:%S} UTC",
            got=f"the present, {present}",
            wanted="a time after that",
            next_step="Correct this machine's clock.",
        )


def _not_together(name: str, got: str) -> IdentityInvalid:
    return IdentityInvalid(
        f"the TLS key and the certificate of {name} do not belong together",
        got=got,
        wanted="the key that the certificate was issued for",
        next_step="Restore the file from one backup, or join again with a new invitation.",
    )
