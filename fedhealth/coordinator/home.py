"""What a coordinator keeps: its authority and certificate, its witness key, who joined, and the heads it has seen.

Made once by `init_coordinator`, which leaves a request for the root; `install_chain` puts the root's answer in place,
and from then on the coordinator can certify. `coordinator.toml` says where sites find it.
"""

import fcntl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field

from fedhealth.config import read_toml
from fedhealth.coordinator.members import HeldCertificate, Members
from fedhealth.coordinator.witness import PinnedSite
from fedhealth.errors import ConfigInvalid, IdentityInvalid
from fedhealth.pki.authority import Authority, install_authority, open_authority, request_authority
from fedhealth.pki.certificates import make_key, requested_key
from fedhealth.pki.identity import ROOT_FILE, TlsIdentity, load_identity, store_identity
from fedhealth.pki.leaf import Flaw, LeafRefused
from fedhealth.pki.names import check_name
from fedhealth.pki.profiles import Role, profiles
from fedhealth.privacy.rotation import KeyStatement, follow_rotations
from fedhealth.secret_file import PUBLIC_MODE, create_file, locked_folder, replace_file
from fedhealth.signing import create_signing_key, load_signing_key, public_key_hex

Address = Annotated[str, Field(pattern=r"^[a-zA-Z0-9.-]{1,253}:\d{1,5}$")]


class CoordinatorFile(BaseModel):
    """`coordinator.toml`: who the coordinator is, and where sites find it (not where it listens).

    Attributes:
        federation: name of the federation, part of every certificate.
        link: host and port of the link, as sites reach it.
        enrolment: host and port that a site joins at; open only while an invitation is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    federation: str
    link: Address
    enrolment: Address


@dataclass(frozen=True)
class CoordinatorHome:
    """Where the parts of a coordinator's state are.

    Attributes:
        root: its folder.
    """

    root: Path

    @property
    def authority(self) -> Path:
        """The issuing authority."""
        return self.root / "authority"

    @property
    def tls(self) -> Path:
        """Certificate, key and root."""
        return self.root / "tls"

    @property
    def witnessed(self) -> Path:
        """Last countersigned head of each site."""
        return self.root / "witnessed"

    @property
    def sites(self) -> Path:
        """One file per site that joined."""
        return self.root / "sites"

    @property
    def runs(self) -> Path:
        """One folder per study that was run for a researcher."""
        return self.root / "runs"

    @property
    def searches(self) -> Path:
        """Search studies that are offered to the sites, one signed file each."""
        return self.root / "searches"

    @property
    def corpora(self) -> Path:
        """Corpora of articles that sites publish, for all other sites."""
        return self.root / "corpora"

    @property
    def superlink(self) -> Path:
        """The stock SuperLink's, with `engine = "superlink"`; nothing of a study."""
        return self.root / "superlink"

    @property
    def invitations(self) -> Path:
        """One file per site that is invited."""
        return self.root / "invitations"

    def hold(self) -> BinaryIO:
        """Keep other coordinators away from this state until the returned file is closed.

        Raises:
            ConfigInvalid: another process holds it. Two witnesses of one ledger could countersign a fork.
        """
        held = (self.root / "witness.key").open("rb")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            held.close()
            raise ConfigInvalid(
                f"the coordinator at {self.root} is running already", next_step="Stop it first, or use another state."
            ) from error
        return held

    def file(self) -> CoordinatorFile:
        """Return who this is and where sites find it."""
        return read_toml(self.root / "coordinator.toml", CoordinatorFile, "coordinator file")

    def federation(self) -> str:
        """Return the federation's name."""
        return self.file().federation

    def open_authority(self) -> Authority:
        """Return the issuing authority."""
        return open_authority(self.authority)

    def members(self) -> Members:
        """Return the record of who joined."""
        return Members(self.sites)

    def identity(self, now: datetime) -> TlsIdentity:
        """Return what the coordinator serves with; a new key and leaf where a third of the old one's life is over.

        Raises:
            IdentityInvalid: the authority is missing, damaged or at its end.
        """
        role, profile = Role.COORDINATOR, profiles().coordinator
        try:
            identity = load_identity(self.tls, self.federation(), role, now)
        except IdentityInvalid:
            identity = None
        if identity is None or now >= identity.leaf.not_valid_before_utc + profiles().back_date + profile.renew_after:
            authority, key = self.open_authority(), make_key(profile.key)
            replace_file(self.tls / ROOT_FILE, authority.root_pem, PUBLIC_MODE)
            store_identity(self.tls, role, key, authority.issue(key.public_key(), role, role.value, now))
            identity = load_identity(self.tls, self.federation(), role, now)
        return identity

    def witness_key(self) -> Ed25519PrivateKey:
        """Return the key that countersigns ledgers."""
        return load_signing_key(self.root / "witness.key")

    def known_sites(self) -> dict[str, PinnedSite]:
        """Return all sites that ever joined, by id, with those that were taken out since."""
        return {site: PinnedSite(ledger_key=member.ledger_key) for site, member in self.members().all().items()}

    def joined_sites(self) -> frozenset[str]:
        """Return the sites that joined and were not taken out."""
        return frozenset(site for site, member in self.members().all().items() if member.revoked is None)

    def pinned_sites(self) -> dict[str, PinnedSite]:
        """Return the sites that joined, by id.

        Raises:
            ConfigInvalid: none did.
        """
        joined = self.joined_sites()
        pinned = {site: known for site, known in self.known_sites().items() if site in joined}
        if not pinned:
            raise ConfigInvalid(
                f"no site has joined the coordinator at {self.root}",
                next_step="Invite one: fedhealth coordinator invite --help",
            )
        return pinned


def init_coordinator(home: CoordinatorHome, federation: str, link: str, enrolment: str) -> tuple[str, Path]:
    """Make a coordinator's state.

    Args:
        home: where to; nothing there is overwritten.
        federation: its name, part of every certificate.
        link: host and port of the link, as sites reach it.
        enrolment: host and port that sites join at.

    Returns:
        The public half of its witness key, in hexadecimal, and the request for the machine with the root.

    Raises:
        IdentityInvalid: the state exists already, or the name has another form.
    """
    check_name(federation)
    for folder in (home.root, home.authority, home.tls, home.witnessed, home.sites, home.invitations):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = f'federation = "{federation}"\nlink = "{link}"\nenrolment = "{enrolment}"\n'
    create_file(home.root / "coordinator.toml", text.encode(), PUBLIC_MODE)
    home.file()
    witness = public_key_hex(create_signing_key(home.root / "witness.key"))
    return witness, request_authority(home.authority, federation)


def install_chain(home: CoordinatorHome, issuing_pem: bytes, root_pem: bytes, now: datetime) -> Authority:
    """Put in place what the root made of the coordinator's request.

    Raises:
        IdentityInvalid: it is for another key, federation or root, or not valid now.
    """
    return install_authority(home.authority, issuing_pem, root_pem, now)


def admit_site(
    home: CoordinatorHome,
    site: str,
    tls_key: EllipticCurvePublicKey,
    renewal_key: EllipticCurvePublicKey,
    ledger_key: str,
    now: datetime,
) -> tuple[bytes, bytes]:
    """Let a site join: certify its two TLS keys and pin its ledger's key.

    Args:
        home: the coordinator's state.
        site: the site's id.
        tls_key: the public half of the key of its link, made at the site.
        renewal_key: the public half of the key of its renewal certificate, made at the site.
        ledger_key: raw Ed25519 public key of its ledger, hexadecimal.
        now: the present, with time zone.

    Returns:
        The two certificates, each with its issuer's behind it, PEM.

    Raises:
        IdentityInvalid: a key or name is of another kind, or the site joined before with another ledger.
    """
    authority = home.open_authority()
    leaf = authority.issue(tls_key, Role.SITE, site, now)
    renewal = authority.issue(renewal_key, Role.RENEWAL, site, now)
    held = HeldCertificate.of(leaf, Role.SITE), HeldCertificate.of(renewal, Role.RENEWAL)
    home.members().admit(site, ledger_key, held)
    return leaf, renewal


def renew_site(
    home: CoordinatorHome, site: str, role: Role, request_pem: bytes, shown: x509.Certificate, now: datetime
) -> bytes:
    """Certify a site's new key, and put the certificate on its record.

    Args:
        home: the coordinator's state.
        site: the site's id, as TLS proved it.
        role: what the new certificate is to be good for.
        request_pem: signing request of the new key.
        shown: the certificate that the site showed.
        now: the present, with time zone.

    Returns:
        The leaf and its issuer's certificate, PEM.

    Raises:
        IdentityInvalid: the request is malformed or for the old key, the authority is at its end, or the site was
            revoked meanwhile.
    """
    key = requested_key(request_pem, profiles().of(role).key)
    if key == shown.public_key():
        raise LeafRefused(Flaw.SAME_KEY, "the key it has", "a new key")
    chain = home.open_authority().issue(key, role, site, now)
    home.members().add(site, HeldCertificate.of(chain, role), now)
    return chain


def revoke_site(home: CoordinatorHome, site: str, now: datetime) -> None:
    """Take a site out at once: no certificate of it counts any more, and no invitation.

    A coordinator that is running ends the site's link by itself; one that is not refuses it from its start.

    Args:
        home: the coordinator's state.
        site: the site's id.
        now: the present, with time zone.

    Raises:
        ConfigInvalid: no such site joined.
    """
    with locked_folder(home.invitations):  # or a join that is under way would let it in again
        (home.invitations / f"{check_name(site)}.json").unlink(missing_ok=True)
        home.members().revoke(site, now)


def follow_key(home: CoordinatorHome, statement: KeyStatement) -> tuple[str, str]:
    """Trust the ledger key that a site's key statement leads to from the one that is trusted now.

    Args:
        home: the coordinator's state; the coordinator must not be running.
        statement: as the site's administrator brought it.

    Returns:
        The key that was trusted until now, and the one that is from now on; the same if the statement is old.

    Raises:
        ConfigInvalid: the coordinator is running, or the site has not joined.
        IdentityInvalid: the statement does not lead on from the trusted key.
    """
    members = home.members()
    with home.hold():
        member = members.find(statement.site)
        if member is None:
            raise ConfigInvalid(
                f"site '{statement.site}' has not joined this coordinator",
                next_step="Invite it first: fedhealth coordinator invite --help",
            )
        if statement.rotations and statement.rotations[-1].ledger_key == member.ledger_key:
            return member.ledger_key, member.ledger_key
        key = follow_rotations(statement.site, member.ledger_key, statement.rotations)
        members.repin(statement.site, key)
    return member.ledger_key, key
