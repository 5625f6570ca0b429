"""The record of which site's SuperNode has which key: a key speaks for one site, and for no other ever after.

A site makes the key itself and shows its public half over the link, where its certificate has proven who it is. The
record outlives the SuperLink's database, which can be made anew from it.
"""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedhealth.errors import FederationFailed
from fedhealth.pki.names import check_name
from fedhealth.secret_file import PUBLIC_MODE, read_file, replace_file


class NodeKeys:
    """One file per site.

    Args:
        folder: made if it must be.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder

    def all(self) -> dict[str, bytes]:
        """Return the key of every site that has one: PEM, SubjectPublicKeyInfo."""
        return {path.stem: read_file(path) for path in sorted(self._folder.glob("*.pub"))}

    def check(self, site: str, key: bytes) -> None:
        """Return if a key is this site's or nobody's.

        Raises:
            FederationFailed: another site registered it.
        """
        owner = next((other for other, theirs in self.all().items() if theirs == key and other != site), None)
        if owner is not None:
            raise FederationFailed(
                f"the SuperNode of site '{site}' is refused: its key is that of site '{owner}'",
                wanted="a key of its own for each site",
                next_step=f"Ask the administrator of '{site}' to make a new one; '{owner}' goes on undisturbed.",
            )

    def keep(self, site: str, key: bytes) -> None:
        """Write down a site's key, in the place of an earlier one."""
        replace_file(self._folder / f"{check_name(site)}.pub", key, PUBLIC_MODE)


def node_key(site: str, public_key: bytes) -> bytes:
    """Return a SuperNode's key as a SuperLink has it: PEM, SubjectPublicKeyInfo.

    Args:
        site: whose, for the message.
        public_key: in OpenSSH's format.

    Raises:
        FederationFailed: it is no P-384 key.
    """
    try:
        key = serialization.load_ssh_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise FederationFailed(
            f"the SuperNode of site '{site}' is refused: its key is none",
            wanted="a P-384 key in OpenSSH's format",
            next_step=f"Ask the administrator of '{site}' to make a new one.",
        )
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
