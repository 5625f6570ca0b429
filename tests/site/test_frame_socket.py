"""The socket between a worker and the node: one frame in, one out, and nothing of half a frame reaches the gate."""

import asyncio
import contextlib
import socket
import struct
import tempfile
from pathlib import Path

import pytest

from fedhealth.errors import LinkUnavailable
from fedhealth.link.bodies import Body
from fedhealth.link.frames import MAX_FRAME_BYTES
from fedhealth.link.memory import CHUNK_BYTES
from fedhealth.site import frame_socket
from fedhealth.site.frame_socket import FrameSocket, News, exchange_frame


@contextlib.asynccontextmanager
async def serving(ask):
    with tempfile.TemporaryDirectory(prefix="fh-") as folder:
        path = Path(folder) / "frames.sock"
        served = FrameSocket(path, ask)
        await served.start()
        try:
            yield path
        finally:
            await served.stop()
        assert not path.exists()


async def backwards(frame):
    """Answer a frame with its bytes the other way round."""
    data = b"".join([bytes(chunk) async for chunk in frame.chunks()])
    assert len(data) == frame.size
    return Body.of(data[::-1])


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_frame_of_any_size_goes_in_and_one_comes_out(size):
    async def work():
        frame = bytes(range(256)) * (size // 256) + bytes(size % 256)
        async with serving(backwards) as path:
            assert await asyncio.to_thread(exchange_frame, path, frame) == frame[::-1]
            assert path.stat().st_mode & 0o777 == 0o600

    asyncio.run(work())


@pytest.mark.parametrize("said", [struct.pack("!I", MAX_FRAME_BYTES + 1), b"\0\0"])
def test_what_is_no_frame_is_hung_up_on_and_the_gate_hears_nothing(said):
    async def work():
        heard = []

        async def ask(frame):
            heard.append(frame)
            return await backwards(frame)

        async with serving(ask) as path:
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(said)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            assert await asyncio.to_thread(exchange_frame, path, b"abc") == b"cba"
        assert len(heard) == 1

    asyncio.run(work())


def test_a_small_frame_that_stalls_is_given_up_before_the_gate_hears_of_it(monkeypatch):
    async def work():
        monkeypatch.setattr(frame_socket, "STALL_SECONDS", 0.05)

        async def ask(_frame):
            raise AssertionError("the gate would be held up")

        async with serving(ask) as path:
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(struct.pack("!I", 100) + b"half")
            assert await reader.read() == b""
            writer.close()

    asyncio.run(work())


def test_a_worker_hears_of_a_message_when_the_supernode_has_it_also_of_one_from_before_it_asked():
    async def work():
        with tempfile.TemporaryDirectory(prefix="fh-") as folder:
            path = Path(folder) / "frames.sock"
            served, news = FrameSocket(path, backwards), News(path)
            await served.start()
            served.tell()
            await asyncio.to_thread(news.wait)  # at once: it was told before
            waiting = asyncio.create_task(asyncio.to_thread(news.wait))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            served.tell()
            await waiting
            assert await asyncio.to_thread(exchange_frame, path, b"abc") == b"cba"  # frames pass beside it
            await served.stop()
            await asyncio.to_thread(news.wait)  # a node that is away is waited for, and no error
            await served.start()
            served.tell()
            await asyncio.to_thread(news.wait)
            await asyncio.to_thread(news.close)
            await served.stop()

    asyncio.run(work())


def test_a_worker_without_news_looks_for_a_task_itself_after_some_seconds(monkeypatch):
    monkeypatch.setattr(frame_socket, "NEWS_SECONDS", 0.05)

    async def work():
        async with serving(backwards) as path:
            news = News(path)
            await asyncio.to_thread(news.wait)
            await asyncio.to_thread(news.close)

    asyncio.run(work())


def test_without_a_gate_or_a_node_the_worker_is_told_so():
    async def no_gate(_frame):
        raise LinkUnavailable("no gate")

    async def work():
        async with serving(no_gate) as path:
            with pytest.raises(LinkUnavailable, match="does not answer"):
                await asyncio.to_thread(exchange_frame, path, b"abc")
        with pytest.raises(LinkUnavailable, match="does not answer"):
            await asyncio.to_thread(exchange_frame, path, b"abc")

    asyncio.run(work())


def test_an_answer_that_announces_too_much_is_refused():
    with tempfile.TemporaryDirectory(prefix="fh-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "frames.sock"
        listener.bind(str(path))
        listener.listen()

        async def work():
            asking = asyncio.create_task(asyncio.to_thread(exchange_frame, path, b"abc"))
            connection, _ = await asyncio.to_thread(listener.accept)
            with connection:
                connection.recv(7)
                connection.sendall(struct.pack("!I", MAX_FRAME_BYTES + 1))
                with pytest.raises(LinkUnavailable, match="too large"):
                    await asking

        asyncio.run(work())
