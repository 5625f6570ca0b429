"""Who of this hospital may have other hospitals count: its asking key, and the certificates it gives with it.

The key signs nothing but certificates of askers. It is made when it is first wanted; a search study names its public
half. It lies beside the gate's folder and not in it, where a confined gate cannot read it: with it, a gate that was
taken over could make up askers, and with their names say something to the outside.
"""

import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import ConfigInvalid
from fedhealth.secret_file import PUBLIC_MODE, create_file, read_file
from fedhealth.signing import create_signing_key, load_signing_key
from fedhealth.site.state import SiteState
from fedhealth.study.count_query import AskerCertificate, Role, vouch

_MAX_CERTIFICATE_BYTES = 4096


def asking_key_of(state: SiteState) -> Ed25519PrivateKey:
    """Return the site's asking key; made if there is none."""
    path = state.root / "asking.key"
    if not path.exists():
        create_signing_key(path)
    return load_signing_key(path)


def write_certificate(state: SiteState, site: str, key: str, role: Role, until: str, path: Path) -> None:
    """Write a hospital's word for an asker.

    Raises:
        ConfigInvalid: the key is no key, or the quarter no quarter, or the file exists.
    """
    if not re.fullmatch("[0-9a-f]{64}", key) or not re.fullmatch("20[0-9]{2}-Q[1-4]", until):
        raise ConfigInvalid(
            "nobody can be vouched for like this",
            got=f"key of {len(key)} characters, until {until}",
            wanted="a public key of 64 hexadecimal digits, and a quarter such as 2026-Q4",
            next_step="The asker prints the key with: fedhealth study keygen my.key",
        )
    if path.exists():
        raise ConfigInvalid(f"{path} exists already", next_step="Choose another file with -o.")
    create_file(path, canonical_bytes(vouch(site, key, role, until, asking_key_of(state))), PUBLIC_MODE)


def read_certificate(path: Path) -> AskerCertificate:
    """Read an asker's certificate.

    Raises:
        ConfigInvalid: it is none.
    """
    try:
        return AskerCertificate.model_validate_json(read_file(path)[:_MAX_CERTIFICATE_BYTES])
    except ValidationError as error:
        raise ConfigInvalid(
            f"{path} is no asker's certificate",
            next_step="Ask the administrator of this site for one: fedhealth site vouch --help",
        ) from error
