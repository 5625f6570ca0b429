"""Questions and answers over a wire in memory: any interleaving, any damage, and what a peer may take."""

import asyncio
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.errors import LinkUnavailable
from fedhealth.link import bodies, exchange, memory
from fedhealth.link.bodies import Body, BodyInvalid, IncomingBody, chunk_count
from fedhealth.link.exchange import Exchange
from fedhealth.link.memory import MemoryPool
from fedhealth.link.quota import QUOTA_OF_COORDINATOR, Bucket, Quota
from fedhealth.link.services import AskFailed, Failure, PeerAway, Service, away, service_of
from fedhealth.link.session import SESSION_BYTES, FrameKind, SessionEnd, hello_body
from fedhealth.link.stream import FrameStream
from fedhealth.link.tls import aio
from fedhealth.pki.profiles import Role

CHUNK = 16
LONGEST = 2**16
PATIENT = "patient 4711 has HIV"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    for module in (bodies, memory):
        monkeypatch.setattr(module, "CHUNK_BYTES", CHUNK)


class Wire:
    """Two ends joined by queues of messages; `damage(direction, number, message)` returns what arrives instead."""

    def __init__(self, services=(), quota=QUOTA_OF_COORDINATOR, damage=lambda _way, _number, message: [message]):
        self.damage, self.seen, self.ended = damage, {"coordinator": [], "site": []}, []
        self._queues = {"coordinator": asyncio.Queue(), "site": asyncio.Queue()}
        self._streams, self._tasks = [], []
        self.ends = {}
        for side, other in ((Role.COORDINATOR, "site"), (Role.SITE, "coordinator")):
            session = SessionEnd(side, os.urandom(SESSION_BYTES) if side is Role.COORDINATOR else None)
            stream = FrameStream(session, self._queues[str(side)].get, lambda m, to=other: self._write(to, m))
            self.ends[str(side)] = Exchange(side, stream, dict(services), quota, f"the {other}")
            self._streams.append((side, stream))

    async def _write(self, to, message):
        self.seen[to].append(message)
        for each in self.damage(to, len(self.seen[to]) - 1, message):
            self._queues[to].put_nowait(each)

    async def _drive(self, side, stream):
        end, said = self.ends[str(side)], asyncio.Event()

        def on_frame(frame):
            if frame.kind is not FrameKind.HELLO:
                end.on_frame(frame)
                return
            if side is Role.SITE:
                stream.send(FrameKind.HELLO, 0, "", hello_body())
            said.set()
            self.ready[str(side)].set()

        if side is Role.COORDINATOR:
            stream.send(FrameKind.HELLO, 0, "", hello_body())
        try:
            await stream.run(on_frame)
        except LinkUnavailable as error:
            self.ended.append(error)
        finally:
            end.end(away("the other end", "a link that ended"))
            for queue in self._queues.values():
                queue.put_nowait(aio.EOF)

    async def __aenter__(self):
        self.ready = {"coordinator": asyncio.Event(), "site": asyncio.Event()}
        self._tasks = [asyncio.create_task(self._drive(*each)) for each in self._streams]
        for _ in range(50):  # turns of the event loop: enough for two HELLOs
            await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_):
        for _, stream in self._streams:
            stream.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self.ends.values():
            await end.stopped()

    def kinds(self, to):
        """The kinds of the frames that went to an end."""
        return [FrameKind(message[32]).name for message in self.seen[to]]


async def echo(body):
    return body


async def never(_question):
    await asyncio.Event().wait()


ECHO = {"echo": service_of(echo, LONGEST)}
SIZES = st.integers(0, 5 * CHUNK + 1)


@settings(max_examples=60, deadline=None)
@given(asks=st.lists(st.tuples(st.sampled_from(["coordinator", "site"]), SIZES), max_size=8))
def test_bodies_of_any_size_both_ways_at_once_each_come_back_whole(asks):
    async def scene():
        async with Wire(ECHO) as wire:
            questions = [(side, os.urandom(size)) for side, size in asks]
            answers = await asyncio.gather(*(wire.ends[side].ask("echo", q, 5, LONGEST) for side, q in questions))
            assert [bytes(answer) for answer in answers] == [question for _, question in questions]
            assert wire.ended == []
            for end in wire.ends.values():
                assert not (end._questions or end._answering or end._incoming or end._outflows), "nothing is left"

    asyncio.run(scene())


def other_session_frame(kind=FrameKind.MORE):
    coordinator, site = SessionEnd(Role.COORDINATOR, os.urandom(SESSION_BYTES)), SessionEnd(Role.SITE)
    site.open(coordinator.seal(FrameKind.HELLO, 0, "", hello_body()))
    return coordinator.seal(kind, 2, "", b"foreign")


class Damage:
    """Does one thing to one message of one direction."""

    def __init__(self, to, number, how):
        self.to, self.number, self.how, self.done, self.kept = to, number, how, False, None

    def __call__(self, to, number, message):
        if to != self.to or self.done:
            return [message]
        if self.kept is not None:
            self.done = True
            return [message, self.kept]
        if number != self.number:
            return [message]
        if self.how == "swapped":
            self.kept = message
            return []
        self.done = True
        return {
            "dropped": [],
            "repeated": [message, message],
            "cut": [message[:-1]],
            "extended": [message + b"\0"],
            "flipped": [message[:-1] + bytes([message[-1] ^ 1])],
            "emptied": [b""],
            "of another session": [other_session_frame(), message],
            "sent back": [message[:16] + message[16:40][::-1] + message[40:], message],
        }[self.how]


HOWS = ["dropped", "repeated", "swapped", "cut", "extended", "flipped", "emptied", "of another session", "sent back"]


@settings(max_examples=120, deadline=None)
@given(
    to=st.sampled_from(["coordinator", "site"]),
    number=st.integers(0, 12),
    how=st.sampled_from(HOWS),
    sizes=st.lists(SIZES, min_size=1, max_size=4),
)
def test_whatever_is_done_to_a_frame_no_answer_is_wrong_and_the_stream_ends(to, number, how, sizes):
    async def scene():
        damage = Damage(to, number, how)
        async with Wire(ECHO, damage=damage) as wire:
            if not all(event.is_set() for event in wire.ready.values()):
                return  # a HELLO was damaged: nothing can be asked
            questions = [os.urandom(size) for size in sizes]
            asks = (wire.ends["coordinator"].ask("echo", question, 0.1, LONGEST) for question in questions)
            answers = await asyncio.gather(*asks, return_exceptions=True)
            for question, answer in zip(questions, answers, strict=True):
                assert isinstance(answer, LinkUnavailable) or bytes(answer) == question
            for _ in range(50):
                await asyncio.sleep(0)
            # What is missing is noticed with the next frame of its direction, which may never come.
            if damage.done and how not in ("dropped", "swapped"):
                assert "refused" in str(wire.ended[0])
            elif not damage.done and damage.kept is None:
                assert wire.ended == []

    asyncio.run(scene())


def asked(services, question=b"", quota=QUOTA_OF_COORDINATOR, times=1, timeout=5.0, longest=LONGEST, service="s"):
    """Ask a site so many times at once and return what came of each, and the wire."""

    async def scene():
        async with Wire(services, quota) as wire:
            end = wire.ends["coordinator"]
            asks = (end.ask(service, question, timeout, longest) for _ in range(times))
            results = await asyncio.gather(*asks, return_exceptions=True)
            assert wire.ended == [], "the stream goes on"
            assert await wire.ends["site"].ask("echo", b"still here", 5, LONGEST) == b"still here"
            return results, wire

    services = {**ECHO, **services}
    return asyncio.run(scene())


def failure(result):
    assert isinstance(result, AskFailed), result
    return result.failure


async def fail(_question):
    raise RuntimeError(PATIENT)


async def ends_early(_question):
    async def chunks():
        yield bytes(CHUNK)

    return Body(3 * CHUNK, chunks())


async def breaks_off(_question):
    async def chunks():
        yield bytes(CHUNK)
        raise RuntimeError(PATIENT)

    return Body(3 * CHUNK, chunks())


REFUSALS = {
    "no such service": ("unknown", {}, 10, Failure.NO_SUCH_SERVICE),
    "a question that is too long": ("s", {"s": service_of(echo, CHUNK)}, CHUNK + 1, Failure.TOO_LARGE),
    "an answer that is too long": ("s", {"s": service_of(echo, 2 * LONGEST)}, LONGEST + 1, Failure.TOO_LARGE),
    "a service that fails": ("s", {"s": Service(fail, LONGEST)}, 10, Failure.FAILED),
    "an answer that ends early": ("s", {"s": Service(ends_early, LONGEST)}, 10, Failure.FAILED),
    "an answer that breaks off": ("s", {"s": Service(breaks_off, LONGEST)}, 10, Failure.FAILED),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses_with_a_code_and_goes_on(case, caplog):
    service, services, size, code = REFUSALS[case]
    (result,), wire = asked(services, bytes(size), service=service)
    assert failure(result) is code
    assert PATIENT not in str(result) + caplog.text
    if code is Failure.TOO_LARGE and service == "s" and size == CHUNK + 1:
        assert "MORE" not in wire.kinds("site"), "no chunk of it was sent beyond the first"


def test_a_service_may_use_the_memory_of_a_chunk_again_for_the_next():
    async def one_memory(_question):
        memory = bytearray(CHUNK)

        async def chunks():
            for number in range(20):
                memory[:] = bytes([number]) * CHUNK
                yield memoryview(memory)

        return Body(20 * CHUNK, chunks())

    async def scene():
        async with Wire({"many": Service(one_memory, 0)}) as wire:
            asks = [wire.ends["coordinator"].ask("many", b"", 20, 20 * CHUNK) for _ in range(2)]
            for answer in await asyncio.gather(*asks):
                assert answer == b"".join(bytes([number]) * CHUNK for number in range(20))

    asyncio.run(scene())


def test_requests_beyond_the_open_ones_are_busy():
    quota = Quota(open_requests=3, held_bytes=2**20, requests_a_second=1000)
    results, _ = asked({"s": Service(never, LONGEST)}, quota=quota, times=5, timeout=0.1)
    assert [failure(result) for result in results[3:]] == [Failure.BUSY] * 2
    assert all(isinstance(result, PeerAway) for result in results[:3])


def test_bytes_that_no_service_takes_are_held_up_to_a_limit():
    quota = Quota(open_requests=100, held_bytes=5 * CHUNK, requests_a_second=1000)
    results, wire = asked({"s": Service(never, LONGEST)}, bytes(3 * CHUNK), quota, times=8, timeout=0.1)
    assert [isinstance(result, PeerAway) for result in results] == [True] * 5 + [False] * 3
    assert {failure(result) for result in results[5:]} == {Failure.BUSY}
    assert "MORE" not in wire.kinds("site"), "a service that does not read gets its first chunk and no more"


def test_requests_beyond_the_rate_are_busy():
    quota = Quota(open_requests=100, held_bytes=2**20, requests_a_second=4)
    results, _ = asked(ECHO, b"x", quota, times=6, service="echo")
    assert results[:4] == [b"x"] * 4
    assert {failure(result) for result in results[4:]} == {Failure.BUSY}


def test_a_reader_that_stops_is_sent_a_window_and_no_more():
    async def reads_one(question):
        async for _ in question.chunks():
            await asyncio.Event().wait()

    _, wire = asked({"s": Service(reads_one, LONGEST)}, bytes(100 * CHUNK), timeout=0.1)
    assert wire.kinds("site").count("MORE") == bodies.WINDOW_CHUNKS - 1


def gives_room(*given):
    """A service that gives room as it likes, and keeps what comes."""

    async def answer(question):
        for room in given:
            question._room += room
            question._give_room(room)
        await asyncio.Event().wait()

    return {"s": Service(answer, LONGEST)}


@pytest.mark.parametrize("given", [(99,), (60, 39)])
def test_a_body_of_100_chunks_may_be_given_room_for_all_after_its_first_at_once(given):
    _, wire = asked(gives_room(*given), bytes(100 * CHUNK), timeout=0.1)
    assert wire.kinds("site").count("MORE") == 99


@pytest.mark.parametrize("given", [(100,), (60, 40), (2**32 - 101,)])
def test_a_peer_that_gives_room_for_more_than_the_body_has_is_hung_up_on(given):
    async def scene():
        async with Wire(gives_room(*given)) as wire:
            with pytest.raises(PeerAway):
                await wire.ends["coordinator"].ask("s", bytes(100 * CHUNK), 5, LONGEST)
            assert "room for more than the body has" in str(wire.ended[0])

    asyncio.run(scene())


def test_a_large_body_that_waits_does_not_hold_up_a_small_question():
    async def scene():
        async with Wire({**ECHO, "s": Service(never, LONGEST)}) as wire:
            end = wire.ends["coordinator"]
            large = asyncio.create_task(end.ask("s", bytes(1000 * CHUNK), 5, LONGEST))
            await asyncio.sleep(0.01)
            assert await end.ask("echo", b"small", 1, LONGEST) == b"small"
            large.cancel()
            await asyncio.gather(large, return_exceptions=True)

    asyncio.run(scene())


def test_who_stops_waiting_stops_the_service():
    stopped = []

    async def watched(_question):
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    asked({"s": Service(watched, LONGEST)}, timeout=0.05)
    assert stopped == [True]


def test_a_sender_that_stalls_is_given_up(monkeypatch):
    monkeypatch.setattr(bodies, "STALL_SECONDS", 0.05)

    async def stalls(_question):
        async def chunks():
            yield bytes(CHUNK)
            await asyncio.Event().wait()

        return Body(2 * CHUNK, chunks())

    (result,), _ = asked({"s": Service(stalls, LONGEST)})
    assert isinstance(result, BodyInvalid)
    assert "stalled" in str(result)


def test_a_question_needs_the_link_and_too_many_are_not_asked(monkeypatch):
    monkeypatch.setattr(exchange, "MAX_ASKS_IN_FLIGHT", 1)
    results, wire = asked({"s": Service(never, LONGEST)}, times=2, timeout=0.05)
    assert isinstance(results[0], PeerAway)
    assert "too many questions" in str(results[1])
    for end in wire.ends.values():  # the wire is down by now
        with pytest.raises(PeerAway, match="a link that ended"):
            asyncio.run(end.ask("echo", b"", 1, 1))


def test_memory_of_large_bodies_is_used_again_but_never_while_somebody_looks():
    pool = MemoryPool()
    first = pool.take(1000 * CHUNK)
    first[:4] = b"mine"
    second = pool.take(1000 * CHUNK)
    second[:4] = b"next"
    assert bytes(first[:4]) == b"mine"
    part = second[:4]
    del second
    third = pool.take(1000 * CHUNK)
    third[:4] = b"last"
    assert bytes(part) == b"next", "a slice is a look as well"
    del first
    assert bytes(pool.take(500 * CHUNK)[:4]) == b"mine", "the memory itself, without a copy or a fill"


@given(size=SIZES, lengths=st.lists(st.integers(0, CHUNK + 1), min_size=1, max_size=8))
def test_a_body_takes_exactly_the_chunks_it_declared(size, lengths):
    async def scene():
        given_room = []
        body = IncomingBody(size, given_room.append, MemoryPool())
        wanted = [min(CHUNK, size - CHUNK * n) for n in range(chunk_count(size))]
        # Without a reader there is room for the first chunk only.
        for place, length in enumerate(lengths):
            if place == 0 and length == wanted[0]:
                body.feed(bytes(length))
            else:
                with pytest.raises(BodyInvalid):
                    body.feed(bytes(length))
                break

    asyncio.run(scene())


def test_a_bucket_fills_up_at_its_rate_and_no_further():
    now = [0.0]
    bucket = Bucket(a_second=2, most=3, clock=lambda: now[0])
    assert [bucket.has_one() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.5  # one token later
    assert [bucket.has_one() for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [bucket.take() for _ in range(3)] == [0, 0, 0]
    assert bucket.take() == 0.5  # at two a second, the fourth is half a second away
    assert bucket.take() == 1.0
