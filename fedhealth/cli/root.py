"""`fedhealth root`: the ceremony, on a machine without network (`certs/README.md`)."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.output import passphrase, say

app = typer.Typer(
    help="For the keepers of the root: make it, and certify the coordinator with it. On a machine without network.",
    no_args_is_help=True,
)

Directory = Annotated[Path, typer.Option("--root", help="The folder with root.key and root.pem.")]
Unencrypted = Annotated[
    bool, typer.Option("--unencrypted", help="The key has no passphrase: for tests, never for a federation.")
]


@app.command()
def create(
    federation: Annotated[str, typer.Argument(help="Its name: 1 to 63 lower-case letters, digits, hyphens.")],
    root: Directory,
    unencrypted: Unencrypted = False,
) -> None:
    """Make a federation's root, once. Prints its fingerprint.

    Example: fedhealth root create heart --root /media/root
    """
    from fedhealth.pki.certificates import fingerprint_of
    from fedhealth.pki.root import create_root

    made = create_root(root, federation, None if unencrypted else passphrase(twice=True), datetime.now(UTC))
    fingerprint = fingerprint_of(made.certificate)
    say(fingerprint, federation=federation, fingerprint=fingerprint)


@app.command()
def certify(
    request: Annotated[Path, typer.Argument(help="The coordinator's issuing.csr.")],
    root: Directory,
    out: Annotated[Path, typer.Option("-o", "--output", help="Where to write the certificate; a new file.")],
    unencrypted: Unencrypted = False,
) -> None:
    """Certify the coordinator's issuing authority for a year.

    Example: fedhealth root certify issuing.csr --root /media/root -o issuing.crt
    """
    from fedhealth.pki.root import open_root
    from fedhealth.secret_file import PUBLIC_MODE, create_file, read_file

    opened = open_root(root, None if unencrypted else passphrase(twice=False))
    create_file(out, opened.certify_issuer(read_file(request), datetime.now(UTC)), PUBLIC_MODE)
    federation = opened.federation
    say(
        f"certified the issuing authority of federation '{federation}': take {out} and root.pem back",
        federation=federation,
        wrote=str(out),
    )
