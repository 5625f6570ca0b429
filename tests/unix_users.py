"""Processes of several Unix users: numbers that nobody has, and how a Python of each is started."""

import os
import shutil
import sys
from pathlib import Path

from fedhealth.site.landlock import landlock_abi

GROUP, GATE, NODE, STRANGER = 61000, 61001, 61002, 61003
"""Of the socket between them, of the gate and the data, of the node, and of somebody else in the group."""

PACKAGE = Path(__file__).resolve().parents[1]


def why_not():
    """Return why this machine cannot run the probes, or an empty text."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "only root on Linux can start processes of two users"
    if landlock_abi() < 6:
        return "the kernel's Landlock is older than what the node uses"
    if not all(shutil.which(name) for name in ("unshare", "setpriv")):
        return "there is no unshare or setpriv"
    return "" if interpreter() else "no Python of this version that other users may execute"


def interpreter():
    """Return a Python like this one that any user may execute; the tests' own may lie in somebody's home."""
    for path in (Path(sys.executable).resolve(), Path(f"/usr/bin/python3.{sys.version_info.minor}")):
        if path.exists() and all(parent.stat().st_mode & 0o1 for parent in path.parents):
            return str(path)
    return None


def as_user(user, *arguments):
    """Return a command that runs Python as one of the users, in the group of the socket, without any rights."""
    groups = f"{GROUP},{user}"
    rights = ("--inh-caps=-all", "--bounding-set=-all")
    return ["setpriv", f"--reuid={user}", f"--regid={GROUP}", f"--groups={groups}", *rights, interpreter(), *arguments]


def environment():
    """Return what lets another user's Python find the package and what it needs."""
    packages = [path for path in sys.path if Path(path).name == "site-packages"]
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join([str(PACKAGE), *packages]), "PYTHONDONTWRITEBYTECODE": "1"}
