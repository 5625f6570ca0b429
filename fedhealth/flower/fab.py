"""The Flower App Bundle of `engine = "superlink"`: a description that ships no code.

A bundle is a zip file. This one holds Flower's description of an app, which names modules that are installed at both
ends, and the list of its files that Flower asks for. Its bytes are the same wherever they are made (nothing is
compressed, dates are fixed), so both ends know its SHA-256 beforehand and compare before anything of it is used: Flower
puts the folder of a bundle that it loads first on `sys.path`, so a bundle with a module in it would be code that
travels.

Source: the format that `flwr build` of Flower 1.41 makes.
"""

import hashlib
import io
import zipfile

from fedhealth.errors import FederationFailed

SERVER_APP = "fedhealth.coordinator.superlink_app:app"
CLIENT_APP = "fedhealth.site.superlink_app:app"

FAB_SHA256 = "6f2ccf647e4c73e700376fa6f5dea023dc8888f47b495da40beeb567db527c1c"
"""Of this release's bundle; a test makes the bundle again and compares."""

_DESCRIPTION = f"""\
[project]
name = "fedhealth-frames"
version = "1.0.0"
description = "Carries FedHealth's frames between coordinator and gates; holds no code."

[tool.flwr.app]
publisher = "fedhealth"

[tool.flwr.app.components]
serverapp = "{SERVER_APP}"
clientapp = "{CLIENT_APP}"
""".encode()

_DATE = (2024, 10, 1, 0, 0, 0)


def fab_bytes() -> bytes:
    """Return the bundle."""
    listed = f"pyproject.toml,{hashlib.sha256(_DESCRIPTION).hexdigest()},{len(_DESCRIPTION) * 8}"
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (("pyproject.toml", _DESCRIPTION), (".info/CONTENT", listed.encode())):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # else they say which system made it
            archive.writestr(entry, content)
    return bundle.getvalue()


def check_fab(content: bytes) -> None:
    """Refuse every bundle but this release's.

    Args:
        content: the bundle's bytes; never its name or the hash that somebody states.

    Raises:
        FederationFailed: it is another one.
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest != FAB_SHA256:
        raise FederationFailed(
            "a Flower App Bundle is refused: it is not the one of this release",
            got=f"SHA-256 {digest}",
            wanted=FAB_SHA256,
            next_step="Install the same FedHealth at the coordinator and at every site; nothing of it was loaded.",
        )
