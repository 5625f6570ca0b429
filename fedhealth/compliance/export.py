"""Bundles for a regulator, of one site or of many: what each ledger says, signed by its own key. Torch-free."""

from collections.abc import Mapping
from pathlib import Path

from fedhealth.compliance.bundle import make_bundle, read_bundle
from fedhealth.compliance.federation import BUNDLE_ENDING, SiteLedger
from fedhealth.errors import ConfigInvalid
from fedhealth.secret_file import create_file
from fedhealth.signing import load_signing_key


def bundle_of(ledger: SiteLedger, key: Path | None, by: str, at_ms: int) -> bytes:
    """Return a site's bundle: the same bytes where one was read, else one signed now.

    Args:
        ledger: a verified ledger.
        key: the file of the ledger's key; None for `ledger.key` beside it.
        by: the local user who exports.
        at_ms: now, in Unix milliseconds.

    Raises:
        IdentityInvalid: the key is missing, or another ledger's.
    """
    if ledger.exported is not None:
        return ledger.path.read_bytes()
    beside = ledger.path if ledger.path.is_dir() else ledger.path.parent
    data = make_bundle(ledger.history, load_signing_key(key or beside / "ledger.key"), by, at_ms)
    read_bundle(data)
    return data


def write_bundles(bundles: Mapping[str, bytes], output: Path, *, folder: bool) -> None:
    """Write bundles: one to a new file, or each to `SITE.bundle` in a new folder.

    Raises:
        ConfigInvalid: the folder exists already.
        IdentityInvalid: the file does.
    """
    if not folder:
        for data in bundles.values():
            create_file(output, data)
        return
    try:
        output.mkdir(mode=0o700)
    except FileExistsError as error:
        raise ConfigInvalid(
            f"will not write into '{output}'", got="a folder or file that exists", wanted="a new name"
        ) from error
    for site, data in bundles.items():
        create_file(output / f"{site}{BUNDLE_ENDING}", data)
