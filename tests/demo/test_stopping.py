"""Whatever ends the demonstration, and whenever: no process is left within 5 s, and every ledger verifies."""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedhealth.errors import FederationFailed
from fedhealth.privacy.verify import verify_ledger
from fedhealth.processes import Processes

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
SITES = ("cleveland", "hungary")
GONE_SECONDS = 5.0


def running(folder):
    """Return the processes, by pid, whose command line names a folder."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if process.status() != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in words):
                found[process.pid] = words
    return found


class Demo:
    """`fedhealth demo` over two sites and so many rounds that it does not end by itself, in a session of its own."""

    def __init__(self, folder, program=("-m", "fedhealth.cli.main")):
        self.folder = folder / "run"
        (folder / "sites").mkdir()
        for name in SITES:
            (folder / "sites" / name).symlink_to(ROOT / "sites" / name)
        text = (ROOT / "protocols" / "heart-disease-diagnosis.toml").read_text(encoding="utf-8")
        (folder / "protocol.toml").write_text(text.replace("rounds = 20", "rounds = 2000"), encoding="utf-8")
        self.process = subprocess.Popen(
            [
                *(sys.executable, *program, "demo", "--out", str(self.folder)),
                *("--protocol", str(folder / "protocol.toml"), "--sites", str(folder / "sites")),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, what):
        """Wait until a file of the run exists."""
        deadline = time.monotonic() + 60
        while not list(self.folder.glob(what)):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, f"{what} did not appear"
            time.sleep(0.01)

    def pid_of(self, *words):
        """Return the pid of the child whose command begins with these words."""
        ours = ((pid, line) for pid, line in running(self.folder).items() if "fedhealth.cli.main" in line)
        commands = {pid: line[line.index("fedhealth.cli.main") + 1 :] for pid, line in ours}
        return next(pid for pid, command in commands.items() if list(words) == command[: len(words)])

    def wait_gone(self, since):
        """Return the command lines that are left when the time is over."""
        while (left := running(self.folder)) and time.monotonic() < since + GONE_SECONDS:
            time.sleep(0.05)
        return list(left.values())

    def ledgers(self):
        return [verify_ledger(path) for path in sorted(self.folder.glob("state/*/gate/ledger.sqlite"))]

    def end(self):
        for pid in [self.process.pid, *running(self.folder)]:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
        self.process.communicate()


@pytest.fixture
def demo(short_path):
    started = Demo(short_path)
    yield started
    started.end()


# Phase: (what to wait for, seconds to wait after it, ledgers that exist then at least)
PHASES = {
    "while it loads": (None, 0.3, 0),
    "while it sets up": ("state/cleveland/gate/ledger.sqlite", 0.0, 1),
    "while the children load": ("logs/coordinator.log", 0.5, 2),
    "in the middle of the rounds": ("results/checkpoint.safetensors", 0.3, 2),
}


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_stops_every_child_within_5_s_and_every_ledger_verifies(demo, phase):
    what, delay, ledgers = PHASES[phase]
    if what is not None:
        demo.wait_for(what)
    time.sleep(delay)
    pressed = time.monotonic()
    demo.process.send_signal(signal.SIGINT)
    _, said = demo.process.communicate(timeout=GONE_SECONDS)
    assert demo.wait_gone(pressed) == []
    assert time.monotonic() - pressed < GONE_SECONDS
    assert demo.process.returncode == 130
    assert said.strip() == "stopped"
    assert len(demo.ledgers()) >= ledgers
    assert not list(demo.folder.glob("results/*.json"))


CONNECTED = """
import os, signal, sys
import fedhealth.link.enrolment_port as port
from fedhealth.cli.main import main

real, left = port.connect, [int(sys.argv.pop(1))]

def connect(*arguments):
    connection = real(*arguments)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGINT)
    return connection

port.connect = connect
main()
"""


@pytest.mark.parametrize("connection", [1, 3, 6], ids=["asks for the root", "joins", "the second site joins"])
def test_ctrl_c_in_the_midst_of_an_enrolment_says_no_more_than_that_it_stopped(short_path, connection):
    demo = Demo(short_path, ("-c", CONNECTED, str(connection)))
    try:
        _, said = demo.process.communicate(timeout=60)
        assert (demo.process.returncode, said) == (130, "stopped\n")
        assert len(demo.ledgers()) == (0, 1, 2)[connection // 3]
    finally:
        demo.end()


def test_an_impatient_second_and_third_ctrl_c_still_leave_no_process_and_no_traceback(demo):
    demo.wait_for("logs/coordinator.log")
    pressed = time.monotonic()
    for _ in range(3):
        demo.process.send_signal(signal.SIGINT)
        time.sleep(0.15)
    _, said = demo.process.communicate(timeout=GONE_SECONDS)
    assert demo.wait_gone(pressed) == []
    assert demo.process.returncode == 130
    assert "Traceback" not in said


def test_a_demonstration_that_is_killed_leaves_no_child_for_5_s(demo):
    what, delay, ledgers = PHASES["while the children load"]  # the hardest: nothing listens to the lifeline yet
    demo.wait_for(what)
    time.sleep(delay)
    assert len(running(demo.folder)) > len(SITES)
    demo.process.kill()
    assert demo.wait_gone(time.monotonic()) == []
    assert len(demo.ledgers()) == ledgers


@pytest.mark.parametrize(
    ("words", "number", "named"),
    [
        (("site", "gate"), signal.SIGKILL, ["-gate' ended", "SIGKILL"]),
        (("coordinator", "run"), signal.SIGTERM, ["the coordinator ended early", "stopped"]),
    ],
    ids=["gate killed", "coordinator stopped"],
)
def test_a_process_that_ends_in_mid_run_is_named_and_ends_the_rest_unpublished(demo, words, number, named):
    demo.wait_for("results/checkpoint.safetensors")
    demo_pid = demo.pid_of(*words)
    psutil.Process(demo_pid).send_signal(number)
    hit = time.monotonic()
    _, said = demo.process.communicate(timeout=20)
    assert demo.wait_gone(hit) == []
    assert demo.process.returncode == 11
    assert said.count("error:") == 1
    assert "Traceback" not in said
    for word in named:
        assert word in said
    assert str(demo.folder / "logs") in said
    assert len(demo.ledgers()) == len(SITES)
    assert all(ledger.releases >= 1 for ledger in demo.ledgers())
    published = {path.name for path in demo.folder.glob("results/*")}
    assert published <= {"checkpoint.safetensors"}
    assert not (demo.folder / "report.html").exists()


def test_a_child_that_does_not_stop_when_asked_is_killed(tmp_path):
    with Processes(tmp_path) as processes:
        child = processes.start("deaf", ["--help"])
        child.process.wait()
        child.process = subprocess.Popen(
            [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"],
            stdin=subprocess.PIPE,
        )
        time.sleep(0.3)
        start = time.monotonic()
        processes.stop()
    assert child.process.returncode == -signal.SIGKILL
    assert time.monotonic() - start < 3


def test_a_child_that_ends_without_an_error_is_missed_too(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("some-node", ["--help"]).process.wait()
        with pytest.raises(FederationFailed, match="'some-node' ended; got exit code"):
            processes.check()


def test_waiting_for_a_socket_ends_when_its_process_has_ended(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("lost-gate", ["site", "gate", str(tmp_path / "none"), "--state", str(tmp_path / "none")])
        with pytest.raises(FederationFailed, match=r"'lost-gate' ended; got exit code 3: .*none") as caught:
            processes.wait_for(tmp_path / "gate.sock", 30)
    assert str(tmp_path / "lost-gate.log") in str(caught.value)
