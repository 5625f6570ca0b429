"""A node that was taken over attacks its gate, as another Unix user: nothing of what it tries succeeds.

The probes (`probes.py`) run several times: after the node's own confinement, after a SuperNode's and a worker's, as the
node's user without any (an older kernel), and, to see that each of them can succeed at all, as the gate's own user
against a gate that is not confined.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from small_study import protocol
from unix_users import GATE, GROUP, NODE, STRANGER, as_user, environment, why_not

from fedhealth.learning.steps import STEPS
from fedhealth.signing import public_key_hex
from fedhealth.site.approval import approve_study, examine_study
from fedhealth.site.state import SiteState, init_site
from fedhealth.site.supernode_folder import supernode_folder
from fedhealth.study.signature import sign_study

PACKAGE = Path(__file__).resolve().parents[2]
PROBES = Path(__file__).with_name("probes.py")


pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "it runs"),
]

ONLY_BY_CONFINEMENT = {
    "connect to another service",
    "connect to an abstract socket",
    "listen",
    "mount in a namespace of its own",
    "execute a shell",
    "signal another process of its own user",
    "write to /tmp",
    "write to /dev/shm",
}
"""What a Unix user may do on any machine, and which touches nothing of the gate's."""

THE_NODES_OWN = {
    "read the node's key",
    "list the node's folder",
    "write into the node's folder",
    "point the node at another coordinator",
    "leave a file beside its own key",
    "change its own key",
}
"""What a SuperNode runs beside, as the same Unix user."""

NOT_TO_BE_HAD = {
    # Stopped by the kernel for everybody but root, whoever the target is.
    "watch all files",
    "become root",
    "become root by a set-user-id program",
    "read physical memory",
    "read the kernel's memory",
    "enter the gate's network",
    "enter the gate's mounts",
    "read the gate's stack",
    "preload a library into the gate",
    "plant code in the program",
    "change the service's unit",
    # Stopped by the gate's protocol for its own user as well.
    "use one signature for another",
    "witness a charge itself",
    "have a release without a witness",
    "have its own study run",
    "use up the gate's memory",
    "stop the gate with half a frame",
    "stop the gate with half a length",
    "stop the gate with garbage",
    "stop the gate with an empty frame",
    "stop the gate with connections",
    "shrink the memory that the gate shares",
    "grow the memory that the gate shares",
    "seal the memory that the gate shares",
    "find in shared memory what did not leave",
    "change a question while the gate reads it",
    "use up the gate's descriptors",
    "stop the gate by half a frame in shared memory",
    # A gate has none of these to be found.
    "find the gate's files in /dev/shm",
    "read the gate's keyring",
    "find the gate's shared memory",
}
"""What does not succeed even as the gate's own user against a gate that is not confined."""

BARE_GATE = """
import sys
from pathlib import Path
from fedhealth.learning.steps import STEPS
from fedhealth.site.administration import AdministratorPort
from fedhealth.site.gate_process import SYSTEM_CLOCK, open_gate, serve_gate
from fedhealth.site.running_site import RunningSite
from fedhealth.site.state import SiteState
state = SiteState(Path(sys.argv[2]))
gate, ledger = open_gate(Path(sys.argv[1]), state, STEPS)
users = set(map(int, sys.argv[3:]))
site = RunningSite(Path(sys.argv[1]), state, gate, ledger, SYSTEM_CLOCK)
port = AdministratorPort(state.administrators_socket, users, site.administer, lambda: site.quiet_until)
serve_gate(gate, state.socket, users, None, lambda *_: None, port)
"""


ASK_HEAD = """
import socket, struct, sys
from fedhealth.link.frames import AskHead, pack
frame = pack(AskHead(since=0))
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(20)
    client.connect(sys.argv[1])
    try:
        client.sendall(struct.pack("!I", len(frame)) + frame)
        print(len(client.recv(4)))
    except OSError:
        print(0)
"""


class Hospital:
    """A site laid out as deploy/systemd does it, with gate and node as two users, or all as one."""

    def __init__(self, root, study, csv, *, one_user=False):
        self.root, self.folder, self.state = root, root / "site", SiteState(root / "state")
        self.one_user, self.study, self.running = one_user, study, contextlib.ExitStack()
        self.folder.mkdir()
        (self.folder / "patients.csv").write_text(csv)
        (self.folder / "site.toml").write_text(
            'id = "ward-a"\ntitle = "Ward A"\n[data_set]\nname = "ward"\nfile = "patients.csv"\n'
            'patient_column = "id"\ndeclared_patients = 30\n'
        )
        (self.folder / "policy.toml").write_text(
            'tasks = ["diagnosis"]\npurposes = ["scientific-research"]\n'
            'researchers = ["alice"]\nmin_patients_a_side = 2\n'
            "max_epsilon_a_study = 2.5\n[budget.ward]\nepsilon = 5.0\ndelta = 1e-4\n"
        )
        researcher, witness = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        pinned = {"alice": public_key_hex(researcher.public_key())}
        ledger_key = init_site(self.folder, self.state, public_key_hex(witness.public_key()), pinned)
        (self.state.gate / "split.secret").write_bytes(bytes(32))  # both sides have patients enough in every run
        self.signed = sign_study(study, researcher)
        approve_study(self.folder, self.state, examine_study(self.folder, self.state, self.signed, STEPS))
        for name in ("egress", "tmp"):
            (self.state.gate / name).mkdir(mode=0o700, exist_ok=True)
        (self.state.gate / "egress" / "others.jsonl").touch(mode=0o600)
        self.state.index.mkdir(mode=0o700)
        (self.state.index / "current").write_text("generation-1\n")
        (self.state.gate / "ledger.sqlite-wal").write_bytes(b"")
        self.state.node.mkdir()
        (self.state.node / "ledger.pub").write_text(ledger_key)
        (self.state.node / "tls.pem").write_text("the node's own")
        (self.state.node / "node.toml").write_text("the node's own")
        supernode_folder(self.state.node).make()
        self._own(root, 0, 0, 0o755)
        self._own(self.state.root, GATE, GROUP, 0o750)
        for path in self.state.root.rglob("*"):
            self._own(path, GATE, GATE, 0o700 if path.is_dir() else 0o600)
        for path in (self.state.node, *self.state.node.rglob("*")):
            self._own(path, NODE, NODE, 0o700 if path.is_dir() else 0o600)
        for path in (self.folder, *self.folder.iterdir()):
            self._own(path, 0, GATE, 0o750 if path.is_dir() else 0o640)

    def _own(self, path, user, group, mode):
        os.chown(path, GATE if self.one_user and user else user, group)
        if self.one_user and path.is_relative_to(self.folder):
            os.chown(path, GATE, GATE)
        path.chmod(mode)

    def start(self):
        """Start the gate: without a network and confined, or bare."""
        words = [str(self.folder), str(self.state.root)]
        if self.one_user:
            command = as_user(GATE, "-c", BARE_GATE, *words, str(GATE), str(NODE))
        else:
            program = ("-m", "fedhealth.cli.main", "site", "gate", words[0], "--state", words[1])
            command = ["unshare", "--net", *as_user(GATE, *program, "--node-user", str(NODE))]
        self.log = self.root / "gate.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment(), cwd="/", stdout=log, stderr=log, start_new_session=True
            )
        self.running.callback(self._end)
        deadline = time.monotonic() + 90
        while not self.state.socket.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def _end(self):
        self.process.kill()
        self.process.wait()

    def attack(self, mode, user):
        """Run every probe as a user; returns what came of each."""
        with contextlib.ExitStack() as stack:
            own = stack.enter_context(subprocess.Popen(as_user(user, "-c", "import time; time.sleep(200)")))
            stack.callback(own.kill)
            ports = []
            for _ in range(2):
                server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                ports.append(str(server.getsockname()[1]))
            abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
            abstract.bind(f"\0escape-{ports[1]}")
            abstract.listen()
            places = (str(self.process.pid), str(self.folder), str(self.state.root))
            rest = (*ports, str(own.pid), str(GATE), self.signed.hex())
            done = subprocess.run(
                as_user(user, str(PROBES), mode, *places, *rest),
                env=environment(),
                cwd="/",
                capture_output=True,
                text=True,
                timeout=200,
            )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hospital():
    made = []

    def make(**arguments):
        folder = Path(tempfile.mkdtemp(prefix="fh-"))  # short and open to other users, which pytest's own is not
        study = protocol()
        rows = [f"p{patient},{20 + patient},{patient % 10},{patient % 2}" for patient in range(24)]
        made.append(Hospital(folder, study, "id,age,dose,ill\n" + "\n".join(rows) + "\n", **arguments))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.running.close()
        shutil.rmtree(each.root)


@pytest.fixture(scope="module")
def two_users(hospital):
    return hospital()


@pytest.fixture(scope="module")
def confined(two_users):
    return two_users.attack("confined", NODE)


def succeeded(outcome):
    return {name for name, what in outcome.items() if what == "succeeded"}


def defects(outcome):
    return {name: what for name, what in outcome.items() if str(what).startswith("defect")}


def test_nothing_that_a_confined_node_tries_succeeds(confined, two_users):
    answered = confined.pop("the gate answers at the end")
    assert succeeded(confined) == set()
    assert defects(confined) == {}
    assert len(confined) >= 30
    assert answered is True
    assert two_users.process.poll() is None
    sys.stdout.write(f"escape probes: {len(confined)} as two users, 0 succeeded (target: at least 30, and 0)\n")


@pytest.mark.parametrize("process", ["supernode", "worker"])
def test_nothing_that_a_supernode_or_its_worker_tries_succeeds_nor_is_the_nodes_own_theirs(two_users, process):
    outcome = two_users.attack(process, NODE)
    assert outcome.pop("the gate answers at the end") is True
    assert (succeeded(outcome), defects(outcome)) == (set(), {})
    assert outcome.keys() > THE_NODES_OWN
    sys.stdout.write(f"escape probes: {len(outcome)} as a {process}, 0 succeeded\n")


def test_without_the_nodes_own_confinement_the_gate_is_as_safe(two_users):
    outcome = two_users.attack("plain", NODE)
    assert outcome.pop("the gate answers at the end") is True
    assert defects(outcome) == {}
    assert succeeded(outcome) == ONLY_BY_CONFINEMENT | THE_NODES_OWN  # which shows that these can succeed


def test_the_same_probes_succeed_against_a_gate_that_is_neither_confined_nor_another_user(hospital, confined):
    outcome = hospital(one_user=True).attack("plain", GATE)
    assert outcome.pop("the gate answers at the end") is True
    assert defects(outcome) == {}
    assert set(outcome) - succeeded(outcome) == NOT_TO_BE_HAD


def test_a_stranger_in_the_group_of_the_socket_is_not_answered(two_users):
    def as_(user):
        command = as_user(user, "-c", ASK_HEAD, str(two_users.state.socket))
        done = subprocess.run(command, env=environment(), cwd="/", capture_output=True, text=True, timeout=60)
        return int(done.stdout)

    assert as_(STRANGER) == 0
    assert as_(NODE) > 0


def test_the_gate_as_a_user_of_its_own_is_confined_and_says_what_was_tried(two_users):
    status = Path(f"/proc/{two_users.process.pid}/status").read_text()
    assert f"Uid:\t{GATE}\t{GATE}\t{GATE}\t{GATE}" in status
    assert "NoNewPrivs:\t1" in status
    expected = ("a process of another user", "a study was refused")
    lines = two_users.log.read_text().splitlines()
    assert [line for line in lines if not any(words in line for words in expected)] == []
