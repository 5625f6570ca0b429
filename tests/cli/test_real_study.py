"""The walk of docs/real-study.md as it is written: its own shell commands, real processes, real sockets and keys."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "real-study.md").read_text(encoding="utf-8")
INSTALLING, *BLOCKS = re.findall(r"^```sh(?: terminal=(\w+))?\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
ANSWERS = {"Passphrase: ": "a phrase\n", "Repeat for confirmation: ": "a phrase\n", "[y/N]: ": "y\n"}
"""By question; its last blank comes when the program listens."""
READY = {"coordinator": '"event": "listening"', "north": "node: connected", "south": "node: connected"}


class Walk:
    """Somebody who types the page, in one folder, and opens a terminal where the page says so.

    Args:
        folder: an empty one with a short path, because sockets lie in it.
    """

    def __init__(self, folder):
        (folder / "bin").mkdir()
        program = folder / "bin" / "fedhealth"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fedhealth.cli.main "$@"\n')
        program.chmod(0o755)
        (folder / "fedhealth").symlink_to(ROOT)
        self.folder, self._terminals, self._ports = folder, {}, [str(port) for port in free_ports(2)]
        socket_path = folder / "datacentre" / "home" / "research.sock"
        self._environment = os.environ | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "80",
            "FEDHEALTH_COORDINATOR": str(socket_path),
        }

    def types(self, commands, terminal):
        """Type a block; return what it printed."""
        for said, taken in zip(("7443", "7444"), self._ports, strict=True):
            commands = commands.replace(f":{said}", f":{taken}")
        if terminal:
            return self.open(terminal, self.with_ports(commands))
        code, printed = at_a_terminal(["bash", "-euo", "pipefail", "-c", commands], self.folder, self._environment)
        assert "Traceback" not in printed and code == 0, (commands, printed)
        return printed

    def shows(self, words, command):
        """Type a command; say whether it prints these words."""
        return words in self.types(command, "")

    def with_ports(self, commands):
        """Let the coordinator listen where this machine has a free port, not at the page's own."""
        link, enrolment = self._ports
        return commands.replace("serve ", f"serve --address 127.0.0.1:{link} --enrolment 127.0.0.1:{enrolment} ")

    def open(self, terminal, commands):
        """Run what has a terminal of its own, and wait until it says that it is ready."""
        log = self.folder / f"{terminal}.log"
        with log.open("wb") as written:
            self._terminals[terminal] = subprocess.Popen(
                ["bash", "-c", f"exec {commands}"],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(lambda: READY[terminal] in log.read_text(), log.read_text)
        return ""

    def end(self):
        """Press Ctrl-C in every terminal; return what still ran afterwards."""
        left = []
        for process in self._terminals.values():
            process.send_signal(signal.SIGINT)
        for name, process in self._terminals.items():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                left.append(name)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
                left.append(name)
        return left


def at_a_terminal(command, folder, environment, columns=80):
    """Run a command at a terminal, answer what it asks; return its exit code and what stood on the screen."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, environment)  # noqa: S606 - our own words
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    screen, answered, deadline = "", 0, time.monotonic() + 60
    with contextlib.suppress(OSError):  # the terminal's end, once nobody has it open
        while select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
            screen += os.read(terminal, 65536).decode(errors="replace")
            screen = re.sub(r"[^\n]*\r(?!\r*\n)(?=.)", "", screen.replace("\r\n", "\n"))
            question = max((screen.rfind(words) + len(words), answer) for words, answer in ANSWERS.items())
            if screen.endswith(tuple(ANSWERS)) and question[0] > answered:
                os.write(terminal, question[1].encode())
                answered = question[0]
    if time.monotonic() > deadline:
        os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.close(terminal)  # not before, because that hangs up on whoever is there
    return code, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen)  # without colours


def free_ports(count):
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def until(holds, said):
    """Wait until something holds."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, said()
        time.sleep(0.05)


@pytest.fixture
def walk():
    with tempfile.TemporaryDirectory(prefix="fh-") as folder:
        person = Walk(Path(folder))
        try:
            yield person
        finally:
            person.end()


@pytest.mark.processes
@pytest.mark.timeout(240)
def test_three_people_type_the_page_and_a_fourth_finds_everything_in_order(walk):
    setting_up = INSTALLING[1].splitlines()
    assert setting_up[0].startswith("make ") and setting_up[1].startswith("export ") and len(setting_up) == 3
    walk.types(setting_up[2], "")
    said = []
    for terminal, commands in BLOCKS:
        if "site studies" in commands:
            listing = commands.splitlines()[0]  # which lists it "within seconds", says the page
            until(partial(walk.shows, "waits", listing), lambda: "the study is not listed")
        said.append(walk.types(commands, terminal))
    everything = "\n".join(said)
    assert [line for line in everything.splitlines() if len(line) > 80] == []
    fingerprints = re.findall(r"^([0-9a-f]{64})$", said[0], re.MULTILINE)
    assert len(fingerprints) == 2 and len(set(fingerprints)) == 1, said[0]
    for words in ("round 20 of 20: 2 sites", "it is done", "ledger of north: 21 of at most 21 charges", "intact"):
        assert words in everything, words
    assert "<html" in (walk.folder / "officer" / "register.html").read_text()
    assert "heart disease" in (walk.folder / "stick" / "results" / "report.html").read_text()
    assert walk.end() == []


def test_the_page_asks_for_nothing_that_is_left_to_guess():
    commands = "\n".join(block for _, block in BLOCKS)
    verbs = set(re.findall(r"^fedhealth (\w+ \w+)", commands, re.MULTILINE))
    assert {"coordinator serve", "site enrol", "site approve", "study submit", "study results", "audit verify"} <= verbs
    for path in re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (ROOT / "docs" / path).exists(), path
