"""The gate as a process: who may speak to it, what it survives, how it ends, and that it has no network."""

import contextlib
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from gate_by_socket import HEAD, NOBODY, Running, as_user, exchange, linux_only, receive_frame, root_only

from fedhealth.link.frames import (
    MAX_BODY_BYTES,
    MAX_FRAME_BYTES,
    Answer,
    AskHead,
    Head,
    PutStudy,
    ReleaseReply,
    pack,
    unpack_reply,
)
from fedhealth.privacy.verify import verify_ledger


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
