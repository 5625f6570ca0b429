"""The port at which sites join, under strangers: memory while 400 MiB are sent to it, and how long joining takes.

Strangers hold 64 connections at a time: plain TCP, half a handshake, and TLS with what is no message. Afterwards a site
joins over the same port. Peak memory is the coordinator's own, as the kernel counts it (`VmHWM`).

Run: .venv/bin/python benchmarks/enrolment.py [--mebibytes 400]
"""

import argparse
import dataclasses
import json
import logging
import re
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from revocation import founded
from unauthenticated import bytes_sent_by_strangers

from fedhealth.coordinator.enrolling import invite_site
from fedhealth.coordinator.home import CoordinatorHome
from fedhealth.pki.invitation import parse_invitation
from fedhealth.site.enrolling import NewSite, enrol_site
from fedhealth.site.state import SiteState

ROOT = Path(__file__).resolve().parents[1]
TARGET_MEBIBYTES = 32


def main() -> None:
    """Print memory before and after, and the seconds of one joining."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=400)
    amount = parser.parse_args().mebibytes
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="fedhealth-bench-") as folder:
        home, port = founded(Path(folder)), free_port()
        invite_site(home, "stranger", datetime.now(UTC))  # so that the port opens
        command = [sys.executable, "-m", "fedhealth.cli.main", "coordinator", "serve", "--home", str(home.root)]
        command += ["--address", "127.0.0.1:0", "--enrolment", f"127.0.0.1:{port}", "--lifeline"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdin is not None and process.stdout is not None
        json.loads(process.stdout.readline())
        join(home, port, Path(folder), "cleveland")  # so that everything that is loaded once is loaded
        before = peak_mebibytes(process.pid)
        sent = bytes_sent_by_strangers(port, amount * 2**20)
        growth = peak_mebibytes(process.pid) - before
        seconds = join(home, port, Path(folder), "hungary")
        process.stdin.close()
        process.wait()
    for how, taken in sent.items():
        print(f"sent {how:40} {taken / 2**20:7.1f} MiB taken of {amount} tried")
    print(
        f"peak memory {before:.0f} MiB before, {growth:+.1f} MiB after  (target: at most +{TARGET_MEBIBYTES})", end=" "
    )
    print(growth <= TARGET_MEBIBYTES)
    print(f"a site joined afterwards in {seconds:.2f} s, its ledger and keys made and verified in it")


def join(home: CoordinatorHome, port: int, folder: Path, site: str) -> float:
    """Return the seconds in which a site joined."""
    invitation = parse_invitation(invite_site(home, site, datetime.now(UTC)))
    there, state = dataclasses.replace(invitation, address=f"127.0.0.1:{port}"), SiteState(folder / site)
    begin, deadline = time.perf_counter(), time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.05)
    enrol_site(ROOT / "sites" / site, state, there, NewSite({}), datetime.now(UTC))
    return time.perf_counter() - begin


def peak_mebibytes(process: int) -> float:
    """Return the most memory that a process ever had, in MiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


if __name__ == "__main__":
    main()
