"""A real gate process on a site made for it, and what a node says to it over its socket."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.learning.steps import STEPS
from fedhealth.link.frames import (
    AskHead,
    NeedWitness,
    Witnessed,
    pack,
    unpack_reply,
)
from fedhealth.privacy.checkpoint import Receipt, open_checkpoint, sign_receipt
from fedhealth.signing import public_key_hex
from fedhealth.site.approval import approve_study, examine_study
from fedhealth.site.state import SiteState, init_site
from fedhealth.study.signature import sign_study

NOBODY = 65534
HEAD = pack(AskHead(since=0))
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

# Connects, sends a head question, prints how many bytes come back.
STRANGER = """
import socket, struct, sys
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(5)
connection.connect(sys.argv[1])
frame = bytes.fromhex(sys.argv[2])
try:
    connection.sendall(struct.pack("!I", len(frame)) + frame)
    print(len(connection.recv(65536)))
except OSError:
    print(0)
"""


def as_user(user, path):
    """Return how many bytes a process of another Unix user gets from a gate."""
    return int(
        subprocess.run(
            # The system's own interpreter: the tests' one may lie where others may not read.
            ["/usr/bin/python3", "-I", "-c", STRANGER, str(path), HEAD.hex()],
            user=user,
            group=user,
            extra_groups=[],
            cwd="/",
            check=True,
            capture_output=True,
            text=True,
            timeout=20,
        ).stdout
    )


def receive_exactly(connection, count):
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def receive_frame(connection):
    head = receive_exactly(connection, 4)
    return None if head is None else receive_exactly(connection, *struct.unpack("!I", head))


def exchange(connection, frame):
    connection.sendall(struct.pack("!I", len(frame)) + frame)
    reply = receive_frame(connection)
    return None if reply is None else unpack_reply(reply)


class Running:
    """A real gate process on a site made for it."""

    def __init__(self, folder, study, csv):
        self.root, self.study = folder, study
        self.state = SiteState(folder / "s")
        self.researcher, self.witness = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.folder = site = folder / "ward"
        site.mkdir()
        (site / "patients.csv").write_text(csv)
        (site / "site.toml").write_text(
            'id = "ward-a"\ntitle = "Ward A"\n[data_set]\nname = "ward"\nfile = "patients.csv"\n'
            'patient_column = "id"\ndeclared_patients = 30\n'
        )
        (site / "policy.toml").write_text(
            'tasks = ["diagnosis"]\npurposes = ["scientific-research"]\n'
            'researchers = ["alice"]\nmin_patients_a_side = 2\n'
            "max_epsilon_a_study = 2.5\n"
            # Whole commands run while a release waits, on however busy a machine.
            "witness_wait_seconds = 300\n"
            "[budget.ward]\nepsilon = 5.0\ndelta = 1e-4\n"
        )
        pinned = {"alice": public_key_hex(self.researcher.public_key())}
        init_site(site, self.state, public_key_hex(self.witness.public_key()), pinned)
        # A split that is the same in every run, so that both sides have patients enough.
        (self.state.gate / "split.secret").write_bytes(bytes(32))
        self.signed = sign_study(study, self.researcher)
        approve_study(site, self.state, examine_study(site, self.state, self.signed, STEPS))
        self.log = folder / "gate.log"
        self.launch()

    def launch(self):
        """Start the gate, also again after it ended."""
        self.state.socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fedhealth.cli.main", "site", "gate"),
                    *(str(self.folder), "--state", str(self.state.root), "--lifeline"),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not self.state.socket.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def peak(self):
        """The most memory the process ever had, in KiB."""
        return int(Path(f"/proc/{self.process.pid}/status").read_text().split("VmHWM:")[1].split()[0])

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(str(self.state.socket))
        return connection

    def say(self, frame):
        with self.connect() as connection:
            return exchange(connection, frame)

    def sign(self, header):
        """Return the frame with the coordinator's receipt for a head that was shown."""
        head = open_checkpoint(header.note, "ward-a", self.state.ledger_key().public_key())
        said = Receipt(site="ward-a", size=head.size, root=head.root, challenge=header.challenge)
        return pack(Witnessed(study=self.study.digest, receipt=sign_receipt(said, self.witness)))

    def charge(self, question):
        """Ask a gate that has just started and return what it wants countersigned once it has charged."""
        started = self.say(question)[0]
        charged = self.say(self.sign(started))[0]
        assert isinstance(started, NeedWitness) and isinstance(charged, NeedWitness)
        assert charged.challenge == started.challenge
        return charged

    def end(self):
        """Close the lifeline and return the exit code and the seconds it took."""
        start = time.monotonic()
        self.process.stdin.close()
        return self.process.wait(20), time.monotonic() - start

    def stop(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
