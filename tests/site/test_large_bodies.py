"""A model that is larger than a frame, from the coordinator through link, node and the gate's socket, and back."""

import asyncio
import hashlib
import os
import sys
import tempfile
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "link"))
from test_exchange import Wire

from fedhealth.link.frames import (
    MAX_FRAME_BYTES,
    Answer,
    AskHead,
    PutStudy,
    ReleaseReply,
    pack,
    pack_start,
    unpack_reply,
    unpack_request,
)
from fedhealth.link.memory import CHUNK_BYTES
from fedhealth.link.services import AskFailed, Service
from fedhealth.privacy.release import input_digest
from fedhealth.site.gate import Outgoing
from fedhealth.site.gate_process import serve_gate
from fedhealth.site.node import GateChannel

STUDY = "a" * 64
SIZE = 7 * CHUNK_BYTES + 24
QUESTION = pack(Answer(study=STUDY, step="train", round=1), os.urandom(SIZE))


class LargeGate:
    """Takes inputs of one size and answers with a payload of another; remembers what it was given."""

    def __init__(self):
        self.payload, self.given = os.urandom(5 * CHUNK_BYTES + 1), []

    def longest_body(self, start):
        return SIZE if isinstance(unpack_request(start)[0], Answer) else 0

    def handle(self, frame, digest=None):
        _, body = unpack_request(frame)
        self.given.append((len(body), digest, bytes(body[:100])))
        start = pack_start(ReleaseReply(release="b" * 64, signature="c" * 128), len(self.payload))
        return Outgoing(start, time.monotonic(), self.payload, hashlib.sha256(self.payload).hexdigest())


@pytest.fixture
def served():
    with tempfile.TemporaryDirectory(prefix="fh-") as folder:
        gate, path, left = LargeGate(), Path(folder) / "s", []
        end, lifeline = os.pipe()
        arguments = (gate, path, {os.geteuid()}, end, lambda *leaving: left.append(leaving[1:]))
        thread = threading.Thread(target=serve_gate, args=arguments)
        thread.start()
        while not path.exists():
            time.sleep(0.005)
        yield gate, path, left
        os.close(lifeline)
        thread.join(12)
        assert not thread.is_alive()
        os.close(end)


@asynccontextmanager
async def coordinator_of(path):
    """The coordinator's end of a wire to a gate's socket, the wire, and the node's channel between them."""
    channel = GateChannel(path)
    async with Wire({"gate": Service(channel.answer, MAX_FRAME_BYTES)}) as wire:
        yield wire.ends["coordinator"], wire, channel
        channel.close()


def test_a_model_goes_there_and_another_back_beside_small_questions(served):
    gate, path, left = served

    async def scene():
        async with coordinator_of(path) as (end, *_):
            answers = await asyncio.gather(
                *(end.ask("gate", QUESTION, 20, 6 * CHUNK_BYTES) for _ in range(3)),
                *(end.ask("gate", pack(AskHead(since=0)), 20, 6 * CHUNK_BYTES) for _ in range(3)),
            )
            assert all(unpack_reply(answer)[1] == gate.payload for answer in answers)

    asyncio.run(scene())
    digest = input_digest(QUESTION[-SIZE:])
    assert [given for given in gate.given if given[0]] == [(SIZE, digest, QUESTION[-SIZE:][:100])] * 3
    payload_digest = hashlib.sha256(gate.payload).hexdigest()
    assert {(size, name) for _, size, name in left} == {(len(gate.payload), payload_digest)}


def test_an_answer_longer_than_was_asked_for_frees_the_gate_for_the_next(served):
    gate, path, _ = served

    async def scene():
        async with coordinator_of(path) as (end, *_):
            for _ in range(3):
                with pytest.raises(AskFailed, match="larger than its reader takes"):
                    await end.ask("gate", pack(AskHead(since=0)), 20, 5 * CHUNK_BYTES)
            answer = await end.ask("gate", pack(AskHead(since=0)), 20, 6 * CHUNK_BYTES)
            assert unpack_reply(answer)[1] == gate.payload

    asyncio.run(scene())


def test_who_gives_up_in_the_middle_of_a_model_frees_the_gate_for_the_next(served):
    gate, path, _ = served

    async def scene():
        async with coordinator_of(path) as (end, wire, channel):
            ask = asyncio.create_task(end.ask("gate", QUESTION, 20, 6 * CHUNK_BYTES))
            while "MORE" not in wire.kinds("site"):
                await asyncio.sleep(0)
            ask.cancel()
            await asyncio.gather(ask, return_exceptions=True)
            answer = await end.ask("gate", QUESTION, 20, 6 * CHUNK_BYTES)
            assert unpack_reply(answer)[1] == gate.payload
            assert not channel.is_busy

    asyncio.run(scene())
    assert [size for size, *_ in gate.given] == [SIZE], "the half of one never reached the gate's rules"


def test_a_study_that_is_too_long_is_refused_by_the_gate(served):
    gate, path, _ = served

    async def scene():
        async with coordinator_of(path) as (end, *_):
            await end.ask("gate", pack(PutStudy(), bytes(2 * CHUNK_BYTES)), 20, 6 * CHUNK_BYTES)

    asyncio.run(scene())
    assert gate.given == [(1, None, b"\0")], "one byte stands for what was dropped"
