"""Large frames through the memory that gate and node share, and what a node does to that memory."""

import asyncio
import fcntl
import gc
import hashlib
import mmap
import os
import socket
import struct
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from gate_by_socket import receive_exactly, receive_frame
from test_node_channel import ask

from fedhealth.errors import LinkUnavailable
from fedhealth.link.frames import Answer, AskHead, Outgoing, pack
from fedhealth.link.memory import CHUNK_BYTES
from fedhealth.privacy.release import input_digest
from fedhealth.site import node_line
from fedhealth.site.gate_process import serve_gate
from fedhealth.site.node import GateChannel
from fedhealth.site.shared_ring import RING_CHUNKS, RING_WANTED, SharedRing, make_ring

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is shared on Linux alone")

RING_BYTES = RING_CHUNKS * CHUNK_BYTES
HEAD = pack(AskHead(since=0))
START = pack(Answer(study="a" * 64, step="train", round=1))
REST = CHUNK_BYTES + CHUNK_BYTES // 2


class Echo:
    """Takes any frame, answers with the same bytes, and keeps what it was given."""

    def __init__(self, longest=2**28):
        self.longest, self.given = longest, []

    def longest_body(self, _start):
        return self.longest

    def handle(self, frame, digest=None):
        self.given.append((frame, digest))
        return Outgoing(bytes(frame[:10]), time.monotonic(), frame[10:])


@contextmanager
def served(gate):
    """Yield the path of a gate's socket, and what ends the gate and says how long that took."""
    read, write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="fh-") as folder:
        path = Path(folder) / "s"
        thread = threading.Thread(target=serve_gate, args=(gate, path, {os.geteuid()}, read, lambda *_: None))
        thread.start()
        while not path.exists():
            time.sleep(0.005)
        closed = []

        def end():
            if not closed:
                closed.append(os.close(write))
            begun = time.monotonic()
            thread.join(20)
            assert not thread.is_alive()
            return time.monotonic() - begun

        try:
            yield path, end
        finally:
            end()
            os.close(read)


class Node:
    """A node that does as the test says: a connection, and the ring that the gate gave it."""

    def __init__(self, path):
        self.line = socket.socket(socket.AF_UNIX)
        self.line.settimeout(10)
        self.line.connect(str(path))
        self.line.sendall(RING_WANTED)
        word, (self.descriptor,), _, _ = socket.recv_fds(self.line, 4, 1)
        assert word == RING_WANTED
        self.memory = mmap.mmap(self.descriptor, RING_BYTES)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.line.close()
        os.close(self.descriptor)

    def put(self, frame):
        """Hand a frame of at most eight chunks over."""
        self.line.sendall(struct.pack("!I", len(frame)))
        self.memory[: len(frame)] = frame
        self.line.sendall(bytes(-(-len(frame) // CHUNK_BYTES)))

    def take(self):
        """Return an answer of at most eight chunks."""
        (size,) = struct.unpack("!I", receive_exactly(self.line, 4))
        assert receive_exactly(self.line, -(-size // CHUNK_BYTES)) is not None
        return self.memory[:size]


# Every place where a chunk, half a ring or a whole one begins or ends
SIZES = [CHUNK_BYTES * chunks + more for chunks in (1, 4, 8, 12, 16) for more in (-1, 0, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_goes_there_and_back_whole(size):
    gate, frame = Echo(), START + os.urandom(size - len(START))

    async def scene():
        channel = GateChannel(path)
        assert await ask(channel, frame) == frame
        assert await ask(channel, HEAD) == HEAD, "and nothing of it is left in the line"
        assert await ask(channel, frame) == frame
        channel.close()

    with served(gate) as (path, _):
        asyncio.run(scene())


@pytest.mark.parametrize("size", [CHUNK_BYTES, CHUNK_BYTES + 1, RING_BYTES + 1])
def test_a_system_that_gives_no_such_memory_uses_the_socket(size, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", refuse)
    frame = START + os.urandom(size - len(START))

    async def scene():
        channel = GateChannel(path)
        for each in (frame, HEAD, frame):
            assert await ask(channel, each) == each
        channel.close()

    with served(Echo()) as (path, _):
        asyncio.run(scene())


def test_what_a_node_writes_while_the_gate_reads_is_hashed_as_it_is_computed_with():
    gate, over = Echo(), threading.Event()
    frame = START + bytes(6 * CHUNK_BYTES)

    def scribble(memory):
        while not over.is_set():
            for place in range(len(START), len(frame), 4096):
                memory[place : place + 8] = os.urandom(8)

    with served(gate) as (path, _), Node(path) as node:
        writer = threading.Thread(target=scribble, args=(node.memory,))
        writer.start()
        try:
            for _ in range(5):
                node.put(frame)
                node.take()
        finally:
            over.set()
            writer.join()
    for given, digest in gate.given:
        assert digest == input_digest(given[len(START) :])
    assert len({digest for _, digest in gate.given}) > 1, "or nothing was written meanwhile"


def test_what_a_node_writes_after_its_question_changes_nothing():
    gate, frame = Echo(), START + os.urandom(REST)
    with served(gate) as (path, _), Node(path) as node:
        node.put(frame)
        node.take()
        node.memory[:] = bytes(RING_BYTES)
        ((given, digest),) = gate.given
        assert (bytes(given), digest) == (frame, input_digest(frame[len(START) :]))


def test_a_header_that_changes_is_read_once():
    """The header that says what may follow is the one that the frame has later."""
    seen = []

    class Looking(Echo):
        def longest_body(self, start):
            seen.append(bytes(start))
            node.memory[: len(START)] = b"\xff" * len(START)
            return super().longest_body(start)

    gate = Looking()
    with served(gate) as (path, _), Node(path) as node:
        node.put(START + bytes(REST))
        node.take()
    assert seen == [START]
    assert bytes(gate.given[0][0][: len(START)]) == START


@pytest.mark.parametrize("size", [0, CHUNK_BYTES, RING_BYTES - 1, RING_BYTES + 1, 2**30])
def test_the_memory_cannot_be_shrunk_or_grown(size):
    with served(Echo()) as (path, _), Node(path) as node:
        with pytest.raises(PermissionError):
            os.ftruncate(node.descriptor, size)
        node.put(START + bytes(REST))
        assert node.take()


@pytest.mark.parametrize("seal", [fcntl.F_SEAL_WRITE, 0x10], ids=["write", "future-write"])
def test_no_seal_can_be_added(seal):
    with served(Echo()) as (path, _), Node(path) as node, pytest.raises(PermissionError):
        fcntl.fcntl(node.descriptor, fcntl.F_ADD_SEALS, seal)


def test_memory_that_is_given_back_to_the_system_is_zeros_to_the_gate():
    gate = Echo()
    with served(gate) as (path, _), Node(path) as node:
        node.line.sendall(struct.pack("!I", len(START) + REST))
        node.memory[: len(START)] = START
        node.memory[len(START) : len(START) + REST] = b"x" * REST
        # The system makes new pages, of zeros, when the gate looks at those that went.
        node.memory.madvise(mmap.MADV_REMOVE, CHUNK_BYTES, CHUNK_BYTES)
        node.line.sendall(b"\0\0")
        assert node.take()[CHUNK_BYTES:] == bytes(len(START) + REST - CHUNK_BYTES)


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_of_the_node_are_not_taken():
    gate = Echo()
    with served(gate) as (path, _), Node(path) as node:
        gc.collect()  # what tests before this one left open may go at any time, and must not hide one that is kept
        before = open_descriptors()
        for _ in range(20):
            foreign = make_ring()
            socket.send_fds(node.line, [struct.pack("!I", len(HEAD)) + HEAD], [foreign])
            os.close(foreign)
            assert receive_frame(node.line) == HEAD
        gc.collect()
        assert open_descriptors() <= before


def test_a_node_gets_one_ring():
    with served(Echo()) as (path, _):
        with Node(path) as node:
            node.line.sendall(RING_WANTED)
            assert node.line.recv(1) == b""
        with Node(path) as node:
            node.put(START + bytes(REST))
            assert node.take()


def test_what_a_node_kept_mapped_shows_nothing_of_the_next_connection():
    frame = START + b"\1" * REST
    with served(Echo()) as (path, _):
        with Node(path) as first:
            first.put(START + b"\2" * REST)
            first.take()
            before = bytes(first.memory)
        with Node(path) as second:
            assert bytes(second.memory) == bytes(RING_BYTES)
            second.put(frame)
            assert second.take() == frame
            assert bytes(first.memory) == before
            first.memory[:] = bytes(RING_BYTES)
            assert second.memory[: len(frame)] == frame


def test_the_gate_writes_nothing_into_it_but_the_reply():
    secret = hashlib.sha256(b"what the gate knows").digest()

    class Silent(Echo):
        def handle(self, frame, digest=None):
            self.given.append(bytes(frame) + secret)
            return Outgoing(b"no", time.monotonic())

    for gate in (Silent(), Silent(longest=10)):
        with served(gate) as (path, _), Node(path) as node:
            written = START + os.urandom(REST)
            node.put(written)
            assert receive_frame(node.line) == b"no"
            assert bytes(node.memory) == written.ljust(RING_BYTES, b"\0")
    assert gate.given == [START + b"\0" + secret], "what no step takes is dropped"


SILENCES = {
    "before the first chunk": lambda node: node.line.sendall(struct.pack("!I", 3 * CHUNK_BYTES)),
    "in the middle of a frame": lambda node: node.line.sendall(struct.pack("!I", 3 * CHUNK_BYTES) + b"\0"),
    "instead of taking the answer": lambda node: node.line.sendall(struct.pack("!I", 3) + b"ask"),
}


class Long(Echo):
    """Answers with more than a ring holds."""

    def handle(self, frame, digest=None):
        return Outgoing(b"start", time.monotonic(), bytes(2 * RING_BYTES))


@pytest.mark.parametrize("silence", SILENCES)
def test_a_node_that_falls_silent_is_hung_up_on(silence, monkeypatch):
    monkeypatch.setattr(node_line, "_PART_SECONDS", 0.2)
    with served(Long()) as (path, _), Node(path) as node:
        SILENCES[silence](node)
        while node.line.recv(100):
            pass
        with Node(path):
            pass  # it hears the next


@pytest.mark.parametrize("silence", SILENCES)
def test_a_node_that_falls_silent_cannot_keep_the_gate_from_ending(silence):
    with served(Long()) as (path, end), Node(path) as node:
        SILENCES[silence](node)
        time.sleep(0.1)
        assert end() < 2


def test_room_that_was_not_given_and_chunks_that_were_not_declared_end_the_connection_alone():
    with served(Echo()) as (path, _):
        with Node(path) as node:
            node.line.sendall(struct.pack("!I", 2 * CHUNK_BYTES) + b"\xff" * 10_000)
            while True:
                try:
                    if not node.line.recv(2**16):
                        break
                except ConnectionResetError:
                    break
        with Node(path) as node:
            node.put(START + bytes(REST))
            assert node.take()


def sealed(size, *seals):
    descriptor = os.memfd_create("not a ring", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    for seal in seals:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seal)
    return descriptor


@pytest.mark.parametrize(
    ("size", "seals"),
    [(RING_BYTES, ()), (RING_BYTES - 4096, (fcntl.F_SEAL_SHRINK,)), (RING_BYTES + 1, (fcntl.F_SEAL_SHRINK,))],
    ids=["not sealed", "too small", "too large"],
)
def test_a_node_takes_no_memory_that_could_end_under_it(size, seals):
    descriptor = sealed(size, *seals)
    with pytest.raises(LinkUnavailable, match="not sealed, or of another size"):
        SharedRing.received(descriptor)
    os.close(descriptor)
