"""After an act that takes a time of its own, a gate reads and says nothing until a public time."""

import contextlib
import os
import shutil
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path

import pytest
from gate_by_socket import receive_frame

from fedhealth.link.frames import (
    Outgoing,
)
from fedhealth.site.administration import AdministratorPort, tell_gate
from fedhealth.site.gate_process import serve_gate
from fedhealth.site.instructions import Pause
from fedhealth.site.running_site import quiet_seconds


def test_a_gate_is_quiet_for_a_time_of_public_figures_alone():
    # 1 s, and 100 microseconds for each declared patient, once for reading and once for each study:
    # 1 + 0.0001 * 300 * (1 + 1) = 1.06; 1 + 0.0001 * 1,000,000 * (1 + 2) = 301.
    assert quiet_seconds(300, 1) == pytest.approx(1.06)
    assert quiet_seconds(10**6, 2) == pytest.approx(301.0)


class Echo:
    """A gate whose every reply may leave a moment after the frame came."""

    def __init__(self, after=0.0):
        self.after, self.frames = after, []

    def longest_body(self, start):
        return 0

    def handle(self, frame, digest=None):
        self.frames.append(bytes(frame))
        return Outgoing(b"reply", time.monotonic() + self.after)


@contextlib.contextmanager
def served(gate):
    """Serve a gate that falls quiet for 0.3 s whenever an administrator says anything."""
    folder, quiet = Path(tempfile.mkdtemp(prefix="fh-")), [0.0]
    read, write = os.pipe()

    def fall_quiet(*_):
        quiet[0] = time.monotonic() + 0.3

    port = AdministratorPort(folder / "admin.sock", {os.geteuid()}, fall_quiet, lambda: quiet[0])
    arguments = (gate, folder / "gate.sock", {os.geteuid()}, read, lambda *_: None, port)
    thread = threading.Thread(target=serve_gate, args=arguments)
    thread.start()
    try:
        while not (folder / "gate.sock").exists():
            time.sleep(0.005)
        with socket.socket(socket.AF_UNIX) as node:
            node.settimeout(10)
            node.connect(str(folder / "gate.sock"))
            yield node, folder / "admin.sock", quiet
    finally:
        os.close(write)
        thread.join(20)
        port.close()
        os.close(read)
        shutil.rmtree(folder)
    assert not thread.is_alive()


FRAME = struct.pack("!I", 5) + b"frame"

QUIET = {
    "a frame that comes meanwhile": (b"", FRAME),
    "the rest of a frame that had begun": (FRAME[:6], FRAME[6:]),
    "the rest of a length that had begun": (FRAME[:2], FRAME[2:]),
}


@pytest.mark.parametrize(("before", "after"), QUIET.values(), ids=QUIET)
def test_a_quiet_gate_reads_and_says_nothing_before_its_time(before, after):

    gate = Echo()
    with served(gate) as (node, administrators, quiet):
        assert exchange_raw(node, FRAME) == b"reply"
        node.sendall(before)
        assert tell_gate(administrators, Pause(site="ward-a"))
        node.sendall(after)
        assert receive_frame(node) == b"reply"
        assert time.monotonic() >= quiet[0] > 0
        assert exchange_raw(node, FRAME) == b"reply", "the same connection goes on"
    assert gate.frames == [b"frame"] * 3


def exchange_raw(node, data):
    node.sendall(data)
    return receive_frame(node)


def test_a_reply_that_waits_for_its_public_time_leaves_no_earlier_than_the_quiet_ends():

    with served(Echo(after=0.1)) as (node, administrators, quiet):
        node.sendall(FRAME)
        assert tell_gate(administrators, Pause(site="ward-a"))
        assert tell_gate(administrators, Pause(site="ward-a")), "administrators are heard meanwhile"
        assert receive_frame(node) == b"reply"
        assert time.monotonic() >= quiet[0] > 0
