"""A PostgreSQL of one's own: made in a folder, reached by a Unix socket in it, gone with it."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@contextlib.contextmanager
def running_postgres():
    """Yield the URL of a database server; skip where there are no binaries or no user to run it as."""
    if BINARIES is None:
        pytest.skip("no PostgreSQL binaries under /usr/lib/postgresql")
    become = []
    if os.geteuid() == 0:  # its binaries refuse to run as root
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL does not run as root, and there is no setpriv to become another user")
        become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    with tempfile.TemporaryDirectory(prefix="fh-pg-") as name:
        folder = Path(name)
        if become:
            shutil.chown(folder, "nobody", "nogroup")
        data, log = folder / "data", folder / "log"

        def run(binary, *arguments):
            command = [*become, BINARIES / binary, *arguments]
            subprocess.run(command, check=True, capture_output=True, cwd=folder, env={"LC_ALL": "C", "TZ": "UTC"})

        run("initdb", "-D", data, "-U", "coordinator", "--auth=trust", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
        run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield f"postgresql+psycopg://coordinator@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
