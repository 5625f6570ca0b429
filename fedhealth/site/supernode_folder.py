"""`node/flower/`: what a SuperNode and its worker may see of a site, and all that they may.

| file | holds | written by |
|---|---|---|
| `node.key` | the SuperNode's private key, P-384 in OpenSSH's form; made here, once | the node |
| `worker.secret` | what SuperNode and worker know, so that nobody else takes the SuperNode's tasks | the node |
| `superlink.pem` | the certificate of the node's port for it; there once the coordinator has the key | the node |
| `frames.sock` | where one frame goes in and one comes out | the node |
| `home/` | `FLWR_HOME` and temporary files | the SuperNode |
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.hazmat.primitives.serialization.ssh import load_ssh_private_key

from fedhealth.errors import IdentityInvalid
from fedhealth.secret_file import create_file, read_file, read_secret

_SECRET_BYTES = 32


@dataclass(frozen=True)
class SuperNodeFolder:
    """The folder, by its path.

    Attributes:
        root: `flower` in the node's folder.
    """

    root: Path

    @property
    def key(self) -> Path:
        """The node key."""
        return self.root / "node.key"

    @property
    def secret(self) -> Path:
        """The worker's secret."""
        return self.root / "worker.secret"

    @property
    def certificate(self) -> Path:
        """The certificate that the SuperNode trusts."""
        return self.root / "superlink.pem"

    @property
    def socket(self) -> Path:
        """The worker's way to the gate."""
        return self.root / "frames.sock"

    @property
    def home(self) -> Path:
        """What the SuperNode may change."""
        return self.root / "home"

    def make(self) -> None:
        """Make what is not there yet, and take the certificate away: the SuperNode of before is over.

        Raises:
            OSError: it cannot be written.
        """
        self.root.mkdir(mode=0o700, exist_ok=True)
        self.home.mkdir(mode=0o700, exist_ok=True)
        if not self.key.exists():
            key = ec.generate_private_key(ec.SECP384R1())
            create_file(self.key, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        if not self.secret.exists():
            create_file(self.secret, secrets.token_bytes(_SECRET_BYTES))
        self.certificate.unlink(missing_ok=True)

    def public_key(self) -> str:
        """Return the public half of the node key, in OpenSSH's form.

        Raises:
            IdentityInvalid: the file is damaged.
        """
        try:
            key = load_ssh_private_key(read_file(self.key), None)
        except (ValueError, OSError) as error:
            raise IdentityInvalid(
                f"the SuperNode's key {self.key} cannot be read",
                got=type(error).__name__,
                next_step="Remove the file: the node makes another, which the coordinator takes in its place.",
            ) from error
        return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()

    def worker_secret(self) -> bytes:
        """Return the worker's secret.

        Raises:
            IdentityInvalid: it is not there, or others can read it.
        """
        return read_secret(self.secret)


def supernode_folder(node: Path) -> SuperNodeFolder:
    """Return the folder in a node's folder."""
    return SuperNodeFolder(node / "flower")
