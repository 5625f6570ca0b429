"""The ceremony that founds a federation, for tests."""

from datetime import UTC, datetime

from fedhealth.pki.authority import install_authority, request_authority
from fedhealth.pki.root import create_root

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def found(folder, federation="heart", now=NOW):
    """Hold the ceremony in a folder: `root/` and `ca/`."""
    root = create_root(folder / "root", federation, None, now)
    (folder / "ca").mkdir()
    request = request_authority(folder / "ca", federation)
    return install_authority(folder / "ca", root.certify_issuer(request.read_bytes(), now), root.pem, now)
