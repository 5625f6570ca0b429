"""The node's end of the gate's socket, and what the node's process must not load."""

import asyncio
import struct
import subprocess
import sys

import pytest

from fedhealth.errors import LinkUnavailable
from fedhealth.link.bodies import IncomingBody, chunk_count
from fedhealth.link.frames import MAX_FRAME_BYTES
from fedhealth.link.memory import CHUNK_BYTES, MemoryPool
from fedhealth.site import node
from fedhealth.site.node import CHUNKS_AHEAD, GateChannel
from fedhealth.site.shared_ring import NO_RING, RING_WANTED

LIGHT = [
    "fedhealth.site.node",
    "fedhealth.link.client",
    "fedhealth.cli.main",
    "fedhealth.privacy.verify",
    "fedhealth.site.isolation",
]


@pytest.mark.parametrize("module", LIGHT)
def test_loads_no_torch(module):
    program = f"import sys, {module}; print(int('torch' in sys.modules), int('numpy' in sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    torch, numpy = found.stdout.split()
    assert torch == "0"
    if module in ("fedhealth.site.isolation", "fedhealth.cli.main"):
        assert numpy == "0"  # its threads would stay in the network that the gate leaves


async def ask(channel, frame):
    """Ask as the link does: chunks come as room is given for them."""
    sent = 0

    def send(chunks):
        nonlocal sent
        for _ in range(chunks):
            body.feed(frame[sent * CHUNK_BYTES :][:CHUNK_BYTES])
            sent += 1

    body = IncomingBody(len(frame), send, MemoryPool())
    send(1)
    answer = await channel.answer(body)
    parts = [bytes(chunk) async for chunk in answer.chunks]
    assert len(parts) == chunk_count(answer.size)
    return b"".join(parts)


class FakeGate:
    """Answers frames over a Unix socket as `behave(frame, writer)` says; it has no ring."""

    def __init__(self, path, behave):
        self.path, self.behave, self.frames, self.busy = path, behave, [], 0

    async def serve(self, reader, writer):
        try:
            while True:
                word = await reader.readexactly(4)
                if word == RING_WANTED:
                    writer.write(NO_RING)
                    continue
                (length,) = struct.unpack("!I", word)
                self.frames.append(await reader.readexactly(length))
                self.busy += 1
                assert self.busy == 1, "two frames were in flight at once"
                await self.behave(self.frames[-1], writer)
                await writer.drain()
                self.busy -= 1
        except (EOFError, OSError):
            self.busy = 0
        finally:
            writer.close()

    async def __aenter__(self):
        self.server = await asyncio.start_unix_server(self.serve, path=str(self.path), limit=2**25)
        return self

    async def __aexit__(self, *_):
        self.server.close()


def framed(data):
    return struct.pack("!I", len(data)) + data


async def echo(frame, writer):
    await asyncio.sleep(0.005)
    writer.write(framed(frame))


def test_carries_bytes_unread_and_one_frame_at_a_time(tmp_path):
    async def scene():
        async with FakeGate(tmp_path / "gate", echo) as gate:
            channel = GateChannel(gate.path)
            frames = [b"", b"\xff" * 10, b"not a frame at all", bytes(10 * CHUNK_BYTES + 3)]
            assert await asyncio.gather(*(ask(channel, frame) for frame in frames)) == frames
            assert gate.frames == frames
            channel.close()

    asyncio.run(scene())


def test_without_a_gate_the_site_is_away_and_comes_back_when_the_gate_does(tmp_path):
    async def scene():
        channel = GateChannel(tmp_path / "gate")
        for _ in range(2):
            with pytest.raises(LinkUnavailable, match="does not answer"):
                await ask(channel, b"x")
        async with FakeGate(tmp_path / "gate", echo):
            assert await ask(channel, b"x") == b"x"
        channel.close()

    asyncio.run(scene())


def test_a_gate_that_ends_in_mid_answer_is_away_and_the_rest_is_not_taken_for_the_next_answer(tmp_path):
    async def half(frame, writer):
        if frame == b"first":
            writer.write(framed(b"an answer that is cut")[:-7])
            await writer.drain()
            writer.close()
        else:
            writer.write(framed(b"answer to " + frame))

    async def scene():
        async with FakeGate(tmp_path / "gate", half) as gate:
            channel = GateChannel(gate.path)
            with pytest.raises(LinkUnavailable):
                await ask(channel, b"first")
            assert await ask(channel, b"second") == b"answer to second"
            channel.close()

    asyncio.run(scene())


def test_an_answer_that_was_given_up_is_not_taken_for_the_next_one(tmp_path):
    async def slow(frame, writer):
        await asyncio.sleep(0.05 if frame == b"first" else 0)
        writer.write(framed(b"answer to " + frame))

    async def scene():
        async with FakeGate(tmp_path / "gate", slow) as gate:
            channel = GateChannel(gate.path)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ask(channel, b"first"), 0.01)
            await asyncio.sleep(0.08)
            assert await ask(channel, b"second") == b"answer to second"
            channel.close()

    asyncio.run(scene())


def test_an_answer_that_is_announced_too_large_is_not_read(tmp_path):
    async def huge(frame, writer):
        writer.write(struct.pack("!I", MAX_FRAME_BYTES + 1))

    async def scene():
        async with FakeGate(tmp_path / "gate", huge) as gate:
            channel = GateChannel(gate.path)
            with pytest.raises(LinkUnavailable, match="too large"):
                await ask(channel, b"x")
            channel.close()

    asyncio.run(scene())


class Upload:
    """A large question whose chunks come when the test says so."""

    def __init__(self, chunks):
        self.frame, self.sent = bytes(chunks * CHUNK_BYTES), 0
        self.body = IncomingBody(len(self.frame), lambda _room: None, MemoryPool())
        self.body._room = chunks
        self.send(1)

    def send(self, chunks):
        for _ in range(chunks):
            self.body.feed(self.frame[self.sent * CHUNK_BYTES :][:CHUNK_BYTES])
            self.sent += 1


async def whole(channel, upload):
    return b"".join([bytes(chunk) async for chunk in (await channel.answer(upload.body)).chunks])


def test_a_large_question_from_a_slow_line_lets_small_ones_pass_and_is_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "FAST_BYTES_A_SECOND", 2**40)  # the beginning of four chunks is slow at any pace

    async def scene():
        async with FakeGate(tmp_path / "gate", echo) as gate:
            channel, upload = GateChannel(gate.path), Upload(CHUNKS_AHEAD + 3)
            large = asyncio.create_task(whole(channel, upload))
            for _ in range(CHUNKS_AHEAD + 1):
                assert await asyncio.wait_for(ask(channel, b"small"), 5) == b"small"
                assert channel.is_busy, "or the link would change over under it"
                upload.send(1)
            assert not large.done()
            upload.send(1)
            assert await asyncio.wait_for(large, 5) == upload.frame
            assert not channel.is_busy
            channel.close()

    asyncio.run(scene())


def test_of_two_large_questions_from_a_slow_line_one_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "FAST_BYTES_A_SECOND", 2**40)

    async def scene():
        async with FakeGate(tmp_path / "gate", echo) as gate:
            channel, uploads = GateChannel(gate.path), [Upload(CHUNKS_AHEAD + 1) for _ in range(2)]
            tasks = [asyncio.create_task(whole(channel, upload)) for upload in uploads]
            for upload in uploads:
                upload.send(2)
            await asyncio.sleep(0.02)
            assert [upload.body.held_bytes for upload in uploads] == [0, 3 * CHUNK_BYTES]
            for upload in uploads:
                upload.send(CHUNKS_AHEAD - 2)
            assert await asyncio.gather(*tasks) == [upload.frame for upload in uploads]
            channel.close()

    asyncio.run(scene())


def test_a_large_question_that_began_fast_and_slows_down_gives_the_gate_back(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "PAUSE_SECONDS", 0.01)

    async def scene():
        async with FakeGate(tmp_path / "gate", echo) as gate:
            channel, upload = GateChannel(gate.path), Upload(CHUNKS_AHEAD + 4)
            large = asyncio.create_task(whole(channel, upload))
            upload.send(CHUNKS_AHEAD - 1)
            await asyncio.sleep(0.01)
            small = asyncio.create_task(ask(channel, b"small"))
            # The gate waits for the rest of the large one: 8 MiB at 8 MiB/s and 10 ms, so not for longer than 1.01 s.
            with pytest.raises(LinkUnavailable, match="began fast and came slowly"):
                await asyncio.wait_for(large, 10)
            assert await asyncio.wait_for(small, 5) == b"small"
            assert gate.frames == [b"small"], "half a question is none"
            channel.close()

    asyncio.run(scene())


async def begin(channel, frame):
    """Ask for an answer and take its first chunk; return what yields the others."""
    body = IncomingBody(len(frame), lambda _room: None, MemoryPool())
    body.feed(frame)
    chunks = (await channel.answer(body)).chunks
    return [bytes(await anext(chunks))], chunks


async def long_answer(frame, writer):
    writer.write(framed(frame * 5 * CHUNK_BYTES if frame.isupper() else frame))


def test_an_answer_to_a_slow_line_lets_small_questions_pass_and_only_one_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "FAST_BYTES_A_SECOND", 2**40)

    async def scene():
        async with FakeGate(tmp_path / "gate", long_answer) as gate:
            channel = GateChannel(gate.path)
            first, rest_of_first = await begin(channel, b"A")
            first.append(bytes(await anext(rest_of_first)))  # the line has shown how slow it is
            assert await asyncio.wait_for(ask(channel, b"small"), 5) == b"small"
            assert channel.is_busy, "or the link would change over under it"

            second, rest_of_second = await begin(channel, b"B")
            second.append(bytes(await anext(rest_of_second)))
            waiting = asyncio.create_task(ask(channel, b"small"))
            await asyncio.sleep(0.02)
            assert not waiting.done(), "the node holds one answer and no second"
            second += [bytes(chunk) async for chunk in rest_of_second]
            assert await asyncio.wait_for(waiting, 5) == b"small"

            first += [bytes(chunk) async for chunk in rest_of_first]
            assert (b"".join(first), b"".join(second)) == (b"A" * 5 * CHUNK_BYTES, b"B" * 5 * CHUNK_BYTES)
            assert not channel.is_busy
            channel.close()

    asyncio.run(scene())


def test_an_answer_to_a_slow_line_that_is_given_up_frees_the_gate_and_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "FAST_BYTES_A_SECOND", 2**40)

    async def scene():
        async with FakeGate(tmp_path / "gate", long_answer) as gate:
            channel = GateChannel(gate.path)
            for taken in range(1, 4):
                _, rest = await begin(channel, b"A")
                for _ in range(taken - 1):
                    await anext(rest)
                await rest.aclose()
                assert not channel.is_busy
                assert await asyncio.wait_for(ask(channel, b"small"), 5) == b"small"
            channel.close()

    asyncio.run(scene())
