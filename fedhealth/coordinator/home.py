"""What a coordinator keeps: its certificate, its witness key, the sites that joined, and the heads it has seen.

Made once by `init_coordinator`; a site joins with `admit_site`, which certifies the site's public TLS key and pins
the key of its ledger.
"""

import fcntl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.coordinator.witness import PinnedSite
from fedhealth.errors import ConfigInvalid
from fedhealth.pki.authority import create_authority, open_authority
from fedhealth.pki.identity import (
    CERTIFICATE_FILE,
    KEY_FILE,
    ROOT_FILE,
    Role,
    coordinator_uri,
    create_tls_key,
    site_uri,
)
from fedhealth.privacy.rotation import KeyStatement, follow_rotations
from fedhealth.secret_file import PUBLIC_MODE, create_file, replace_file
from fedhealth.signing import create_signing_key, load_signing_key, public_key_hex


@dataclass(frozen=True)
class CoordinatorHome:
    """Where the parts of a coordinator's state are.

    Attributes:
        root: its folder.
    """

    root: Path

    @property
    def authority(self) -> Path:
        """The small CA."""
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

    def federation(self) -> str:
        """Return the federation's name."""
        return open_authority(self.authority).federation

    def witness_key(self) -> Ed25519PrivateKey:
        """Return the key that countersigns ledgers."""
        return load_signing_key(self.root / "witness.key")

    def pinned_sites(self) -> dict[str, PinnedSite]:
        """Return the sites that joined, by id.

        Raises:
            ConfigInvalid: none did.
        """
        pinned = {
            path.stem: PinnedSite.model_validate_json(path.read_bytes()) for path in sorted(self.sites.glob("*.json"))
        }
        if not pinned:
            raise ConfigInvalid(f"no site has joined the coordinator at {self.root}", next_step="Admit a site first.")
        return pinned


def init_coordinator(home: CoordinatorHome, federation: str, now: datetime) -> str:
    """Make a coordinator's state and return the public half of its witness key, in hexadecimal.

    Args:
        home: where to; nothing there is overwritten.
        federation: its name, part of every certificate.
        now: the present, with time zone.

    Raises:
        IdentityInvalid: the state exists already.
    """
    for folder in (home.root, home.tls, home.witnessed, home.sites):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = create_authority(home.authority, federation, now)
    key = create_tls_key(home.tls / KEY_FILE)
    leaf = authority.issue_leaf(key, coordinator_uri(federation), Role.COORDINATOR, now)
    create_file(home.tls / CERTIFICATE_FILE, leaf, PUBLIC_MODE)
    create_file(home.tls / ROOT_FILE, authority.root_pem, PUBLIC_MODE)
    return public_key_hex(create_signing_key(home.root / "witness.key"))


def admit_site(
    home: CoordinatorHome, site: str, tls_key: EllipticCurvePublicKey, ledger_key: str, now: datetime
) -> tuple[bytes, bytes]:
    """Let a site join: certify its TLS key and pin its ledger's key.

    Args:
        home: the coordinator's state.
        site: the site's id.
        tls_key: the public half of a key made at the site.
        ledger_key: raw Ed25519 public key of its ledger, hexadecimal.
        now: the present, with time zone.

    Returns:
        The site's certificate and the federation's root, both PEM.
    """
    authority = open_authority(home.authority)
    leaf = authority.issue_leaf(tls_key, site_uri(authority.federation, site), Role.SITE, now)
    pinned = PinnedSite(ledger_key=ledger_key)
    create_file(home.sites / f"{site}.json", pinned.model_dump_json().encode(), PUBLIC_MODE)
    return leaf, authority.root_pem


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
    path = home.sites / f"{statement.site}.json"
    with home.hold():
        if not path.is_file():
            raise ConfigInvalid(f"site '{statement.site}' has not joined this coordinator", next_step="Admit it first.")
        pinned = PinnedSite.model_validate_json(path.read_bytes())
        if statement.rotations and statement.rotations[-1].ledger_key == pinned.ledger_key:
            return pinned.ledger_key, pinned.ledger_key
        key = follow_rotations(statement.site, pinned.ledger_key, statement.rotations)
        replace_file(path, pinned.model_copy(update={"ledger_key": key}).model_dump_json().encode())
    return pinned.ledger_key, key
