"""The gate as a process: who may speak to it, what it survives, how it ends, and that it has no network."""

import contextlib
import json
import os
import pwd
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.diagnosis import STEPS
from fedhealth.link.frames import (
    MAX_BODY_BYTES,
    MAX_FRAME_BYTES,
    Answer,
    AskHead,
    Head,
    NeedWitness,
    Outgoing,
    PutStudy,
    ReleaseReply,
    Witnessed,
    pack,
    unpack_reply,
)
from fedhealth.privacy.checkpoint import Receipt, open_checkpoint, sign_receipt
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import public_key_hex
from fedhealth.site.approval import approve_study, examine_study
from fedhealth.site.gate_process import serve_gate
from fedhealth.site.isolation import leave_network, user_ids
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
            'tasks = ["diagnosis"]\nresearchers = ["alice"]\nmin_patients_a_side = 2\n'
            "max_epsilon_a_study = 2.5\n[budget.ward]\nepsilon = 5.0\ndelta = 1e-4\n"
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


@pytest.fixture(scope="module")
def start(make_protocol, make_csv):
    """Start gates in folders that other users may enter, under a short path."""
    started, folders = [], []

    def make():
        folder = Path(tempfile.mkdtemp(prefix="fh-"))
        folder.chmod(0o755)
        folders.append(folder)
        started.append(Running(folder, make_protocol(), make_csv()))
        return started[-1]

    yield make
    for each in started:
        each.stop()
    for folder in folders:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def running(start):
    return start()


pytestmark = pytest.mark.processes


def test_the_socket_is_for_the_gates_user_and_group_only(running):
    assert stat.S_IMODE(running.state.socket.stat().st_mode) == 0o660


@linux_only
def test_an_oversized_announcement_is_hung_up_on_without_memory(running):
    before = running.peak()
    for length in (0xFFFFFFFF, MAX_FRAME_BYTES + 1):
        with running.connect() as connection:
            connection.sendall(struct.pack("!I", length))
            with contextlib.suppress(OSError):
                connection.sendall(bytes(1 << 20))
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    assert running.peak() - before < 4096  # KiB
    assert isinstance(running.say(HEAD)[0], Head)


@linux_only
@pytest.mark.parametrize(
    ("header", "code"),
    [
        (lambda study: PutStudy(), "bad-request"),
        (lambda study: Answer(study=study, step="train", round=1), "bad-request"),
        (lambda study: Answer(study="0" * 64, step="train", round=1), "not-approved"),
        (lambda study: AskHead(since=0), "bad-request"),
        (None, "bad-request"),
    ],
    ids=["study", "input of an approved study", "input of another study", "head", "garbage"],
)
def test_a_body_that_no_approved_step_takes_is_dropped_as_it_comes(running, header, code):
    start = pack(header(running.study.digest)) if header else b"\xff" * 100
    before = running.peak()
    with running.connect() as connection:
        connection.sendall(struct.pack("!I", len(start) + MAX_BODY_BYTES) + start)
        for _ in range(MAX_BODY_BYTES // 2**20):
            connection.sendall(bytes(2**20))
        header, body = unpack_reply(receive_frame(connection))
        assert (header.kind, header.code.value, body) == ("refused", code, b"")
        assert isinstance(exchange(connection, HEAD)[0], Head), "the connection goes on"
    assert running.peak() - before < 8192  # KiB, of 256 MiB


def test_garbage_is_refused_and_the_connection_goes_on(running):
    with running.connect() as connection:
        for garbage in (b"", b"\0", b"GET / HTTP/1.1\r\n\r\n", os.urandom(1000), b"\xff" * 70_000):
            header, body = exchange(connection, garbage)
            assert (header.kind, header.code.value, body) == ("refused", "bad-request", b"")
        assert isinstance(exchange(connection, HEAD)[0], Head)


def test_a_node_that_hangs_up_in_mid_frame_makes_room_for_the_next(running):
    with running.connect() as connection:
        connection.sendall(struct.pack("!I", 1000) + b"half")
    assert isinstance(running.say(HEAD)[0], Head)


def test_one_node_after_another_sees_the_same_ledger(running):
    heads = [running.say(HEAD)[0] for _ in range(3)]
    assert heads[0] == heads[1] == heads[2]


def test_a_release_goes_over_several_connections_and_waits_for_its_public_time(running):
    accepted = running.say(pack(PutStudy(), running.signed))[0]
    reply_after = accepted.reply_after_ms["train"] / 1000
    question = pack(Answer(study=running.study.digest, step="train", round=1), bytes(24))
    first = running.say(running.sign(running.charge(question)))
    assert isinstance(first[0], ReleaseReply)
    start = time.monotonic()
    assert running.say(question) == first
    assert time.monotonic() - start >= reply_after


@linux_only
@root_only
def test_no_thread_of_the_gate_has_the_networks_of_this_machine(running):
    ours = Path("/proc/self/ns/net").readlink()
    tasks = list(Path(f"/proc/{running.process.pid}/task").iterdir())
    assert tasks
    assert all((task / "ns" / "net").readlink() != ours for task in tasks)
    interfaces = Path(f"/proc/{running.process.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
    assert "does not let the gate leave the network" not in running.log.read_text()


@linux_only
def test_every_thread_of_the_gate_is_confined_and_its_memory_is_private(running):
    process = Path(f"/proc/{running.process.pid}")
    for task in (process / "task").iterdir():
        assert "NoNewPrivs:\t1" in (task / "status").read_text()
    assert (process / "limits").read_text().split("Max core file size")[1].split()[:2] == ["0", "0"]
    assert (process / "mem").stat().st_uid == 0  # what the kernel does where a process is not dumpable
    assert "Landlock" not in running.log.read_text()


@linux_only
def test_the_gate_never_loads_grpc(running):
    loaded = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert "libtorch" in loaded  # the file says what it should
    assert "cygrpc" not in loaded
    assert "/grpc/" not in loaded


@root_only
def test_a_process_of_another_unix_user_is_refused(running):
    # File permissions aside, so that what refuses is the check of the peer.
    running.state.root.chmod(0o755)
    running.state.socket.chmod(0o666)
    assert as_user(NOBODY, running.state.socket) == 0
    assert as_user(1000, running.state.socket) == 0
    assert "another user" in running.log.read_text()
    assert isinstance(running.say(HEAD)[0], Head)


def test_nothing_of_a_patient_is_in_the_log(running):
    text = running.log.read_text()
    assert "p17" not in text
    assert "Traceback" not in text


def test_closing_its_input_ends_the_gate_and_leaves_an_intact_ledger(running):
    code, seconds = running.end()
    assert code == 0, running.log.read_text()
    assert seconds < 5
    assert verify_ledger(running.state.gate).releases == 1
    found = subprocess.run(
        [sys.executable, "-m", "fedhealth.cli.main", "audit", "verify", str(running.state.gate), "--json"],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0
    assert json.loads(found.stdout)["releases"] == 1


def test_a_gate_that_is_killed_after_the_charge_gives_that_release_once_it_is_back(start):
    gate = start()
    question = pack(Answer(study=gate.study.digest, step="train", round=1), bytes(24))
    header = gate.charge(question)
    gate.process.kill()  # SIGKILL: nothing is closed or flushed
    gate.process.wait()
    gate.launch()
    again = gate.say(question)[0]
    assert again.note == header.note
    assert again.challenge != header.challenge  # another process: an old receipt says nothing of the time since
    assert gate.say(gate.sign(header))[0].note == header.note
    released = gate.say(gate.sign(again))
    assert isinstance(released[0], ReleaseReply)
    gate.process.kill()
    gate.process.wait()
    gate.launch()
    assert gate.say(question) == released
    gate.process.terminate()  # SIGTERM is a wish, not a crash
    assert gate.process.wait(10) == 0
    assert verify_ledger(gate.state.gate).releases == 1


# The socket alone, with a gate that answers anything: no process is needed.


class Echo:
    """A gate that answers every frame with the same bytes at once."""

    def __init__(self, reply=b"reply"):
        self.reply = reply

    def handle(self, frame, digest=None):
        return Outgoing(self.reply, time.monotonic())


@pytest.fixture
def served():
    """Serve a gate in a thread; returns its path and a function that closes its lifeline and waits."""
    folder = Path(tempfile.mkdtemp(prefix="fh-"))
    folder.chmod(0o755)
    threads = []

    def start(gate=None, allowed=None, on_leaving=lambda *_: None):
        path = folder / "gate.sock"
        read, write = os.pipe()
        users = allowed or {os.geteuid()}
        thread = threading.Thread(target=serve_gate, args=(gate or Echo(), path, users, read, on_leaving), daemon=True)
        thread.start()
        threads.append((thread, write))
        while not path.exists():
            time.sleep(0.005)
        time.sleep(0.02)  # it listens a moment after the file appears

        def end():
            begun = time.monotonic()
            with contextlib.suppress(OSError):
                os.close(write)
            thread.join(20)
            assert not thread.is_alive()
            return time.monotonic() - begun

        return path, end

    yield start
    for thread, write in threads:
        if thread.is_alive():
            with contextlib.suppress(OSError):
                os.close(write)
        thread.join(12)
    shutil.rmtree(folder)


def connected(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(str(path))
    return connection


@pytest.mark.parametrize("sent", [b"\x00\x00", struct.pack("!I", 1000) + b"half"], ids=["length", "frame"])
def test_a_node_that_stops_in_mid_frame_cannot_keep_the_gate_from_ending(served, sent):
    path, end = served()
    with connected(path) as connection:
        connection.sendall(sent)
        time.sleep(0.1)
        assert end() < 2


def test_a_node_that_does_not_read_cannot_keep_the_gate_from_ending(served):
    path, end = served(Echo(bytes(8 * 2**20)))
    with connected(path) as connection:
        connection.sendall(struct.pack("!I", 3) + b"ask")
        time.sleep(0.1)
        assert end() < 2


def test_a_large_reply_arrives_whole(served):
    reply = os.urandom(8 * 2**20 + 5)
    path, _ = served(Echo(reply))
    with connected(path) as connection:
        connection.sendall(struct.pack("!I", 3) + b"ask")
        assert receive_frame(connection) == reply


@root_only
def test_only_the_users_that_are_named_may_connect(served):
    path, _ = served(allowed={NOBODY})
    path.chmod(0o666)
    with connected(path) as connection:  # not even root, which is not named
        connection.sendall(struct.pack("!I", 3) + b"ask")
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert as_user(NOBODY, path) == 4 + len(b"reply")
    assert as_user(1000, path) == 0


@root_only
@linux_only
def test_a_gate_without_roots_rights_leaves_the_network_only_if_it_can_still_tell_users_apart():
    # In a user namespace the kernel calls every user but one's own alike (65534), so that a gate there could not
    # tell the node's user from a stranger.
    package = Path(__file__).resolve().parents[2]
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from fedhealth.site.isolation import leave_network\n"
        "import socket, struct\n"
        "left = leave_network(frozenset(map(int, sys.argv[2:])))\n"
        "pair = socket.socketpair()\n"
        "user = struct.unpack('3i', pair[0].getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]\n"
        "print(int(left), os.getuid(), user, os.readlink('/proc/self/ns/net'))"
    )

    def run(*allowed):
        words = subprocess.run(
            ["/usr/bin/python3", "-B", "-c", program, str(package), *map(str, allowed)],
            user=1000,
            group=1000,
            extra_groups=[],
            cwd="/",
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        return int(words[0]), int(words[1]), int(words[2]), words[3]

    ours = str(Path("/proc/self/ns/net").readlink())
    left, *users, namespace = run(1000)
    if not left:
        pytest.skip("this kernel gives user namespaces to root only")
    assert (users, namespace != ours) == ([1000, 1000], True)
    left, *users, namespace = run(1000, 1001)
    assert (left, users, namespace) == (0, [1000, 1000], ours)


@root_only
@linux_only
def test_a_process_whose_network_was_taken_away_has_none():
    program = "import sys; from fedhealth.site.isolation import has_network; sys.exit(3 if has_network() else 4)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 3
    assert subprocess.run(["unshare", "--net", sys.executable, "-c", program]).returncode == 4


def test_users_are_named_as_unix_knows_them():
    own = pwd.getpwuid(os.getuid())
    assert user_ids([]) == {os.getuid()}
    assert user_ids([own.pw_name]) == {own.pw_uid}
    assert user_ids([own.pw_name, "61002"]) == {own.pw_uid, 61002}  # in a container a user need not have a name
    with pytest.raises(ConfigInvalid, match="no such Unix user"):
        user_ids(["no-such-user-here"])
    assert callable(leave_network)
