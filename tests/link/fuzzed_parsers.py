"""Whatever a peer sends: each parser that faces the network says no in its own words, and keeps nothing.

What it may raise is listed; anything else is a crash. All examples together may take no more than 64 MiB, which is
measured of the whole process: `test_fuzz` runs this file in one of its own.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.errors import FedHealthError, LinkUnavailable
from fedhealth.link.bodies import Body
from fedhealth.link.exchange import Exchange
from fedhealth.link.frames import Answer, AskHead, FrameInvalid, pack, unpack_reply, unpack_request
from fedhealth.link.quota import QUOTA_OF_COORDINATOR, QUOTA_OF_SITE
from fedhealth.link.services import Service
from fedhealth.link.session import (
    SESSION_BYTES,
    FrameKind,
    FrameRejected,
    ProtocolMismatch,
    SessionEnd,
    SessionFrame,
    check_hello,
    hello_body,
)
from fedhealth.link.stream import FrameStream
from fedhealth.pki.certificates import parse_certificate
from fedhealth.pki.profiles import Role
from fedhealth.privacy.checkpoint import SignedReceipt, open_checkpoint, open_receipt
from fedhealth.signing import load_public_key
from fedhealth.site.gate import Outgoing
from fedhealth.site.gate_process import serve_gate
from fedhealth.study.signature import open_signed_study

EXAMPLES = settings(max_examples=300, deadline=None)
KEY = load_public_key("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
NESTED = st.sampled_from([b"[" * 50_000, b'{"a":' * 50_000, b'"' + b"\\ud800" * 1000 + b'"', b"1" * 50_000, b"1e999"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
KINDS = ["put-study", "answer", "witnessed", "head", "accepted", "need-witness", "release", "refused"]
HEADERS = st.builds(
    lambda kind, rest: json.dumps({**rest, "kind": kind}).encode(),
    st.sampled_from(KINDS) | st.text(max_size=10),
    st.dictionaries(
        st.sampled_from(["study", "step", "round", "since", "receipt", "note", "proof", "code", "release"]), JSON
    ),
)
FRAMES = st.binary(max_size=200) | st.builds(
    lambda length, head, body: struct.pack("!I", len(head) if length is None else length) + head + body,
    st.none() | st.integers(0, 2**32 - 1),
    HEADERS | st.binary(max_size=100) | NESTED,
    st.binary(max_size=100),
)


def peak_kib():
    """The most memory that this process had. `getrusage` would count that of the process which started it."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


@pytest.fixture(scope="module", autouse=True)
def little_memory():
    before = peak_kib()
    yield
    assert peak_kib() - before < 64 * 1024


@EXAMPLES
@given(data=FRAMES)
def test_frames_of_the_gate(data):
    for parse in (unpack_request, unpack_reply):
        for frame in (data, memoryview(data)):
            with contextlib.suppress(FrameInvalid):
                parse(frame)


@EXAMPLES
@given(data=st.binary(max_size=300), started=st.booleans())
def test_frames_of_a_session(data, started):
    site = SessionEnd(Role.SITE)
    if started:
        site.open(SessionEnd(Role.COORDINATOR, bytes(SESSION_BYTES)).seal(FrameKind.HELLO, 0, "", hello_body()))
    with pytest.raises(FrameRejected):
        site.open(data)
    with contextlib.suppress(FrameRejected, ProtocolMismatch):
        check_hello(data, Role.COORDINATOR)


@EXAMPLES
@given(
    data=st.binary(max_size=300) | HEADERS | NESTED | st.text(max_size=300).map(str.encode),
    pem=st.booleans(),
)
def test_studies_notes_receipts_and_certificates(data, pem):
    text = data.decode("utf-8", "replace")
    certificate = b"-----BEGIN CERTIFICATE-----\n" + data + b"\n-----END CERTIFICATE-----\n" if pem else data
    for parse in (
        lambda: open_signed_study(data),
        lambda: open_checkpoint(text, "va", KEY),
        lambda: parse_certificate(certificate),
    ):
        with pytest.raises(FedHealthError):
            parse()
    try:
        receipt = SignedReceipt.model_validate_json(data)
    except ValueError:
        return
    with pytest.raises(FedHealthError):
        open_receipt(receipt, KEY)


async def never(_question):
    await asyncio.Event().wait()


async def takes_all(question):
    return Body.of(await question.whole())


SERVICES = {"never": Service(never, 2**24), "echo": Service(takes_all, 2**40)}
ANY_FRAME = st.builds(
    lambda kind, number, name, size, body: (
        kind,
        number,
        name,
        (b"" if size is None else struct.pack(">Q", size)) + body,
    ),
    st.sampled_from([kind for kind in FrameKind if kind is not FrameKind.HELLO]),
    st.integers(0, 12) | st.integers(0, 2**64 - 1),
    st.sampled_from(["never", "echo", "", "x" * 255]),
    st.none() | st.integers(0, 20) | st.integers(0, 2**64 - 1),
    st.binary(max_size=20),
)


@settings(max_examples=200, deadline=None)
@given(
    side=st.sampled_from([Role.COORDINATOR, Role.SITE]), frames=st.lists(ANY_FRAME, max_size=30), asks=st.integers(0, 3)
)
def test_sealed_frames_of_any_kind_in_any_order(side, frames, asks):
    """A peer with a good certificate and the session's key: all that is left to it are kinds, ids, sizes and order."""

    async def scene():
        waits = asyncio.Event()
        stream = FrameStream(SessionEnd(Role.SITE), waits.wait, lambda _message: waits.wait())
        end = Exchange(side, stream, SERVICES, QUOTA_OF_COORDINATOR, "the peer")
        waiting = [asyncio.create_task(end.ask("echo", b"question", 60, 100)) for _ in range(asks)]
        await asyncio.sleep(0)
        for kind, number, name, body in frames:
            try:
                end.on_frame(SessionFrame(b"", 0, number, kind, name, memoryview(body)))
            except LinkUnavailable:
                break  # the stream would be closed
            await asyncio.sleep(0)
            assert len(end._answering) <= QUOTA_OF_COORDINATOR.open_requests
            assert sum(body.held_bytes for body in end._incoming.values()) <= 2**20
        end.end(LinkUnavailable("over"))
        await end.stopped()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not (end._answering or end._questions or end._incoming or end._outflows)

    asyncio.run(scene())


def test_a_declared_size_takes_no_memory_before_the_bytes_come():
    async def scene():
        waits = asyncio.Event()
        stream = FrameStream(SessionEnd(Role.SITE), waits.wait, lambda _message: waits.wait())
        end = Exchange(Role.COORDINATOR, stream, SERVICES, QUOTA_OF_SITE, "site 'va'")
        question = asyncio.create_task(end.ask("gate", b"", 60, 1000))
        await asyncio.sleep(0)
        size = struct.pack(">Q", 2**40)
        end.on_frame(SessionFrame(b"", 0, 2, FrameKind.ANSWER, "gate", size + bytes(2**20)))  # more than was asked for
        with pytest.raises(LinkUnavailable, match="larger than its reader takes"):
            await question
        end.end(LinkUnavailable("over"))
        await end.stopped()

    asyncio.run(scene())


class AnyGate:
    """A gate that looks at frames as the real one does, and knows one study of 100,000 weights."""

    def longest_body(self, start):
        try:
            return 800_000 if isinstance(unpack_request(start)[0], Answer) else 0
        except FrameInvalid:
            return 0

    def handle(self, frame, digest=None):
        try:
            unpack_request(frame)
        except FrameInvalid:
            return Outgoing(b"no", 0.0)
        return Outgoing(b"yes", 0.0)


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    path = tmp_path_factory.mktemp("g") / "s"
    end, lifeline = os.pipe()
    arguments = (AnyGate(), path, {os.geteuid()}, end, lambda *_: None)
    thread = threading.Thread(target=serve_gate, args=arguments)
    thread.start()
    while not path.exists():
        pass
    yield path
    os.close(lifeline)
    thread.join(10)
    assert not thread.is_alive()
    os.close(end)


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.tuples(st.none() | st.integers(0, 2**32 - 1), FRAMES, st.integers(0, 2**21)), max_size=4))
def test_bytes_at_the_gates_socket(gate, parts):
    with socket.socket(socket.AF_UNIX) as node:
        node.settimeout(0.05)  # a node that does not read its answers is stuck, by its own doing
        node.connect(str(gate))
        try:
            for length, frame, padding in parts:
                data = frame + bytes(padding if length is None and padding > 2**20 else 0)
                node.sendall(struct.pack("!I", len(data) if length is None else length) + data)
        except OSError:
            pass  # the gate hung up, or waits
    with socket.socket(socket.AF_UNIX) as node:  # and it goes on with the next
        node.settimeout(5)
        node.connect(str(gate))
        good = pack(AskHead(since=0))
        node.sendall(struct.pack("!I", len(good)) + good)
        assert node.recv(100) == struct.pack("!I", 3) + b"yes"
