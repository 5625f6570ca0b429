"""The gate's socket alone, with a gate that answers anything: no node keeps it from ending."""

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
from gate_by_socket import NOBODY, as_user, receive_frame, root_only

from fedhealth.link.frames import (
    Outgoing,
)
from fedhealth.site.gate_process import serve_gate


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
    refused = contextlib.suppress(BrokenPipeError, ConnectionResetError)  # or read its end: whichever is first
    with connected(path) as connection, refused:  # not even root, which is not named
        connection.sendall(struct.pack("!I", 3) + b"ask")
        assert connection.recv(1) == b""
    assert as_user(NOBODY, path) == 4 + len(b"reply")
    assert as_user(1000, path) == 0
