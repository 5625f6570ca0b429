"""What gate and node can still do once they confined themselves, by trying it; without confinement they could."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fedhealth.site.landlock import Right, Sandbox, landlock_abi

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Landlock is Linux's"),
]
ABI = landlock_abi() if sys.platform.startswith("linux") else 0

# Confines itself as argv[1] says ("gate", "node", "nothing"), tries everything, prints what worked.
TRIES = """
import ctypes, json, os, signal, socket, subprocess, sys
from pathlib import Path

role, root = sys.argv[1], Path(sys.argv[2])
port, other_port, outsider = map(int, sys.argv[3:])
state = root / "state"
if role != "nothing":
    from fedhealth.site.confinement import confine_gate, confine_index, confine_node
    index = state / "gate" / "index"
    {
        "gate": lambda: confine_gate(root / "site", state),
        "node": lambda: confine_node(state, port),
        "search": lambda: confine_index(index),
        "index": lambda: confine_index(index, root / "site", state / "published", state / "fetched"),
    }[role]()

def connect(number):
    with socket.create_connection(("127.0.0.1", number), timeout=5):
        pass

def listen():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))

def make_socket():
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(state / "gate.sock~"))
    (state / "gate.sock~").replace(state / "gate.sock")

def speak():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(state / "open.sock"))

def abstract():
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\\0fedhealth-test-%d" % outsider)

def trace():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if libc.ptrace(16, outsider, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(outsider, 0x40000000)
    libc.ptrace(17, outsider, None, None)

def gain_rights():
    if "NoNewPrivs:\\t1" in Path("/proc/self/status").read_text():
        raise OSError("no_new_privs")

def dump_core():
    if ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0:
        raise OSError("not dumpable")

def write(path):
    path.write_text("x")

def change_folder(folder):
    (folder / "made").mkdir()
    (folder / "made" / "file").write_text("x")
    (folder / "made" / "file").replace(folder / "made" / "other")
    (folder / "made" / "other").unlink()
    (folder / "made").rmdir()

def call(name, *arguments):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

TRIES = {
    "read data": lambda: (root / "site" / "patients.csv").read_text(),
    "list data": lambda: os.listdir(root / "site"),
    "write data": lambda: write(root / "site" / "patients.csv"),
    "read gate state": lambda: (state / "gate" / "ledger.key").read_text(),
    "write gate state": lambda: write(state / "gate" / "new"),
    "change gate state": lambda: change_folder(state / "gate"),
    "read the index": lambda: (state / "gate" / "index" / "texts").read_text(),
    "change the index": lambda: change_folder(state / "gate" / "index"),
    "read node state": lambda: (state / "node" / "tls.key").read_text(),
    "write node state": lambda: write(state / "node" / "tls.key"),
    "read published articles": lambda: (state / "published" / "open").read_text(),
    "publish articles": lambda: change_folder(state / "published"),
    "read fetched articles": lambda: (state / "fetched" / "open").read_text(),
    "keep fetched articles": lambda: change_folder(state / "fetched"),
    "make the socket": make_socket,
    "connect to a socket that is a file": speak,
    "read a stranger's file": lambda: (root / "other" / "secret").read_text(),
    "read a file of the working folder": lambda: Path("beside").read_text(),
    "write elsewhere": lambda: write(root / "other" / "new"),
    "truncate elsewhere": lambda: os.truncate(root / "other" / "secret", 0),
    "write to /tmp": lambda: write(Path("/tmp") / ("fedhealth-test-%d" % outsider)),
    "write to /dev/shm": lambda: write(Path("/dev/shm") / ("fedhealth-test-%d" % outsider)),
    "read the program": lambda: Path(os.__file__).read_text(),
    "read random bytes": lambda: open("/dev/urandom", "rb").read(1),
    "execute a program": lambda: subprocess.run(["/bin/true"], check=True),
    "connect to the coordinator's port": lambda: connect(port),
    "connect to another port": lambda: connect(other_port),
    "listen": listen,
    "connect to an abstract socket": abstract,
    "signal another process": lambda: os.kill(outsider, signal.SIGCONT),
    "trace another process": trace,
    "gain rights": gain_rights,
    "dump core": dump_core,
    "close a file to others": lambda: os.chmod(state / "gate" / "ledger.key", 0o600),
    "open a file to others": lambda: os.chmod(state / "gate" / "ledger.key", 0o644),
    "open a folder to others": lambda: os.chmod(state / "gate", 0o755),
    "give a file away": lambda: os.chown(state / "gate" / "ledger.key", -1, os.getgid()),
    "share memory by name": lambda: call("shmget", 0, 4096, 0o1666),
    "start a child": lambda: os.waitpid(os.fork() or os._exit(0), 0),
    "have namespaces of its own": lambda: call("unshare", 0x10000000),
}
worked = {}
for name, attempt in TRIES.items():
    try:
        attempt()
        worked[name] = True
    except OSError:
        worked[name] = False
print(json.dumps(worked))
"""

LEFT_TO_THE_UNITS = {
    "close a file to others",
    "open a file to others",
    "open a folder to others",
    "give a file away",
    "share memory by name",
    "start a child",
    "have namespaces of its own",
}
"""What Landlock knows nothing of: the service manager takes it, where the processes do not themselves."""

GATE = {
    "read data",
    "list data",
    "read gate state",
    "write gate state",
    "change gate state",
    "read the index",
    "change the index",
    "make the socket",
    "connect to a socket that is a file",  # the socket's owner asks who is calling
    "read the program",
    "read random bytes",
    *LEFT_TO_THE_UNITS,
}
NODE = {
    "read node state",
    "write node state",
    "read published articles",
    "read fetched articles",
    "keep fetched articles",
    "connect to a socket that is a file",
    "read the program",
    "read random bytes",
    "connect to the coordinator's port",
    *LEFT_TO_THE_UNITS,
}
SEARCH = {
    "read the index",
    "change the index",
    "close a file to others",
    "start a child",
    "read the program",
    "read random bytes",
}
INDEX = SEARCH | {"read data", "list data", "read published articles", "read fetched articles"}


@pytest.fixture
def attempt(tmp_path):
    """Run the tries in a process confined as a role; returns the names of those that worked."""
    if ABI < 6:
        pytest.skip(f"this kernel's Landlock (interface {ABI}) is older than what is tested here (6)")
    for name in ("site", "other", "cwd", "state/gate/index", "state/node", "state/published", "state/fetched"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("site/patients.csv", "state/gate/ledger.key", "state/node/tls.key", "other/secret", "cwd/beside"):
        (tmp_path / name).write_text("secret")
    for name in ("gate/index/texts", "published/open", "fetched/open"):
        (tmp_path / "state" / name).write_text("secret")
    program = tmp_path / "cwd" / "tries.py"
    program.write_text(TRIES)
    with contextlib.ExitStack() as stack:
        outsider = stack.enter_context(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        stack.callback(outsider.kill)
        ports = []
        for _ in range(2):
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports.append(str(server.getsockname()[1]))
        for name in (f"\0fedhealth-test-{outsider.pid}", str(tmp_path / "state" / "open.sock")):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(name)
            server.listen()
        for name in ("/tmp", "/dev/shm"):  # noqa: S108 - what is tested is that nothing lands there
            stack.callback(Path(name, f"fedhealth-test-{outsider.pid}").unlink, missing_ok=True)

        def run(role):
            done = subprocess.run(
                [sys.executable, str(program), role, str(tmp_path), *ports, str(outsider.pid)],
                cwd=tmp_path / "cwd",
                env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            return {name for name, worked in json.loads(done.stdout).items() if worked}

        yield run


def test_a_confined_gate_reads_its_data_changes_its_own_state_and_nothing_else(attempt):
    assert attempt("gate") == GATE


def test_a_confined_node_changes_its_own_state_reaches_the_coordinator_and_nothing_else(attempt):
    assert attempt("node") == NODE


def test_a_search_has_the_index_alone_and_filling_it_the_data_as_well(attempt):
    assert attempt("search") == SEARCH
    assert attempt("index") == INDEX


def test_without_confinement_every_one_of_the_tries_works(attempt):
    worked = attempt("nothing")
    assert worked >= GATE | NODE
    assert {"execute a program", "read a stranger's file", "signal another process", "dump core"} <= worked
    if os.geteuid() == 0:
        assert len(worked) == 40  # all of them


def test_a_process_with_threads_is_refused_rather_than_half_confined(tmp_path):
    if ABI == 0:
        pytest.skip("this kernel has no Landlock")
    program = (
        "import threading, sys; from pathlib import Path\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "from fedhealth.site.confinement import confine_node\n"
        "from fedhealth.errors import ConfigInvalid\n"
        "try: confine_node(Path(sys.argv[1]), 1)\n"
        "except ConfigInvalid as error: sys.exit('several threads' in str(error) and 7)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == 7


def test_a_kernel_that_cannot_do_all_of_it_is_told_from_one_that_can():
    # Interface 6 brought the last of what is used: abstract sockets and signals (Linux 6.12).
    assert [Sandbox(abi).complete for abi in (0, 1, 4, 5, 6, 7)] == [False] * 4 + [True] * 2


def test_the_rights_have_the_kernels_numbers():
    # linux/landlock.h: READ_DIR is bit 3, MAKE_REG 8, MAKE_SOCK 9, REFER 13, TRUNCATE 14, IOCTL_DEV 15.
    assert [Right.READ_FOLDER, Right.MAKE_FILE, Right.MAKE_SOCKET, Right.MOVE, Right.TRUNCATE] == [
        8,
        256,
        512,
        8192,
        16384,
    ]
    assert Right.CONTROL_DEVICE == 1 << 15
    assert Right.EXECUTE not in Right.CHANGE
