"""Questions and answers on one stream, in both directions: the same for coordinator and site.

A service is a name, a request and a response. What may be asked is one dict at each end; the coordinator asks the
gate of a site, a site asks the coordinator which studies wait for it.

| frame | carries | sent by |
|---|---|---|
| ASK | name of the service, size of the question (`u64`), its first chunk | who asks |
| ANSWER | size of the answer (`u64`), its first chunk | who answers |
| MORE | the next chunk of the question or of the answer | who sends that body |
| ROOM | how many further chunks may come (`u32`) | who receives that body |
| FAIL | why there is no answer, or no more of it: one byte of `Failure` | who answers |
| CANCEL | nothing: the answer is no longer wanted | who asked |

Request ids of the coordinator are even, those of a site odd, each higher than the one before.

Invariants: nothing of a body is kept before its declared size was compared with what the service or the asker wants;
a request beyond the quota is refused with a code; a service that fails is reported without details (the log holds the
exception's type, not its text: it could hold a patient's value); when the stream ends, every question waiting on it
fails at once and every service at work is cancelled.

Leaves to others: the stream itself (`stream`), what may be asked and why there is no answer (`services`), who is at the
other end, idempotence (a question may be cancelled half-way, and is then asked again).
"""

import asyncio
import contextlib
import logging
import struct
from collections.abc import Mapping

from fedhealth.errors import LinkUnavailable
from fedhealth.link.bodies import Body, BodyInvalid, IncomingBody, chunk_count
from fedhealth.link.memory import CHUNK_BYTES, Buffer, MemoryPool
from fedhealth.link.quota import Bucket, Quota
from fedhealth.link.services import AskFailed, Failure, Service, away
from fedhealth.link.session import FrameKind, FrameRejected, SessionFrame, check_service_name
from fedhealth.link.stream import FrameStream
from fedhealth.pki.profiles import Role

logger = logging.getLogger(__name__)

MAX_ASKS_IN_FLIGHT = 200
"""Own questions at a time; below what the other end's quota allows."""
SLOWEST_BYTES_A_SECOND = 64 * 2**10
"""A body may take as long as it would at this rate, beside the time the asker gives: half a megabit a second."""
_SIZE = struct.Struct(">Q")
_ROOM = struct.Struct(">I")
_FAILURES = {int(failure): failure for failure in Failure}


class _Outflow:
    """A body that this end sends: the room the other end gave, and may give still."""

    def __init__(self, size: int) -> None:
        self.room = asyncio.Semaphore(0)
        self.not_given = chunk_count(size) - 1  # the first chunk needs none


class _Question:
    """A question of this end that waits for its answer."""

    def __init__(self, longest_answer: int) -> None:
        self.longest_answer = longest_answer
        self.answer: asyncio.Future[IncomingBody] = asyncio.get_running_loop().create_future()

    def fail(self, error: LinkUnavailable) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
        elif not self.answer.cancelled() and self.answer.exception() is None:
            self.answer.result().fail(error)


class Exchange:
    """The questions and answers of one stream; all methods belong to one event loop.

    Args:
        side: which end this is.
        frames: the stream, driven by somebody else, who gives each frame but HELLO to `on_frame`.
        services: what the other end may ask, by name.
        quota: how much of it.
        peer: who is at the other end, for messages.
    """

    def __init__(
        self, side: Role, frames: FrameStream, services: Mapping[str, Service], quota: Quota, peer: str
    ) -> None:
        self._frames, self._services, self._quota, self._peer = frames, services, quota, peer
        self._own = 0 if side is Role.COORDINATOR else 1
        self._last_own, self._last_theirs = self._own, 1 - self._own
        self._rate = Bucket(quota.requests_a_second, quota.requests_a_second, asyncio.get_running_loop().time)
        self._questions: dict[int, _Question] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}
        self._incoming: dict[int, IncomingBody] = {}
        self._outflows: dict[int, _Outflow] = {}
        self._pool = MemoryPool()
        self._ended: LinkUnavailable | None = None

    async def ask(self, service: str, body: Buffer, timeout_seconds: float, longest_answer: int) -> Buffer:
        """Ask a service at the other end and return its answer.

        Args:
            service: its name.
            body: the question.
            timeout_seconds: how long to wait, beside what question and longest answer take on a slow line.
            longest_answer: in bytes; a longer one is refused when it is declared.

        Returns:
            Bytes, or a view of memory that is used again once the view is gone.

        Raises:
            PeerAway: the stream ended, or the time is over.
            AskFailed: no answer, or one that is too long.
            LinkUnavailable: too many questions at once.
            ValueError: not a service name (a mistake in the program).
        """
        check_service_name(service)
        if self._ended is not None:
            raise self._ended
        if len(self._questions) >= MAX_ASKS_IN_FLIGHT:
            raise LinkUnavailable(
                f"too many questions to {self._peer} at once",
                got=f"{len(self._questions)} in flight",
                wanted=f"fewer than {MAX_ASKS_IN_FLIGHT}",
                next_step="Wait for some answers first.",
            )
        self._last_own = request_id = self._last_own + 2
        question = self._questions[request_id] = _Question(longest_answer)
        large = len(body) + longest_answer - 2 * CHUNK_BYTES
        sending = asyncio.create_task(self._send(FrameKind.ASK, request_id, service, Body.of(body)))
        sending.add_done_callback(_look_at)
        answered = False
        try:
            async with asyncio.timeout(timeout_seconds + max(0, large) / SLOWEST_BYTES_A_SECOND):
                answer = await (await question.answer).whole()
                answered = True
                return answer
        except TimeoutError:
            raise away(self._peer, f"no answer within {timeout_seconds:g} s") from None
        finally:
            sending.cancel()
            del self._questions[request_id]
            self._incoming.pop(request_id, None)
            if not answered and not _failed(question):
                self._frames.send(FrameKind.CANCEL, request_id, "")

    def on_frame(self, frame: SessionFrame) -> None:
        """Take in a frame of the other end; what is raised must end the stream.

        Raises:
            FrameRejected: it does not belong here.
            BodyInvalid: a chunk that was not declared or has no room.
        """
        kind, own = frame.kind, frame.request_id & 1 == self._own
        if kind is FrameKind.ASK and not own and frame.request_id > self._last_theirs:
            self._last_theirs = frame.request_id
            self._begin(frame)
        elif frame.request_id > (self._last_own if own else self._last_theirs) or kind is FrameKind.ASK:
            raise _misplaced("one about no request")
        elif kind is FrameKind.MORE:
            if (body := self._incoming.get(frame.request_id)) is not None:
                body.feed(frame.body)  # else the request is over, and this was on its way
        elif kind is FrameKind.ROOM:
            self._give(frame)
        elif kind is FrameKind.CANCEL and not own:
            if (task := self._answering.get(frame.request_id)) is not None:
                task.cancel()
        elif kind is FrameKind.ANSWER and own:
            self._answered(frame)
        elif kind is FrameKind.FAIL and own:
            failure = _FAILURES.get(frame.body[0]) if len(frame.body) == 1 else None
            if failure is None:
                raise _misplaced("a failure of no known code")
            if (question := self._questions.get(frame.request_id)) is not None:
                question.fail(AskFailed(self._peer, frame.service, failure))
        else:
            raise _misplaced(f"{kind.name} from the wrong end")

    def end(self, error: LinkUnavailable) -> None:
        """The stream is over: fail every question at once, and refuse new ones."""
        self._ended = error
        for question in self._questions.values():
            question.fail(error)
        for task in self._answering.values():
            task.cancel()

    async def stopped(self) -> None:
        """Wait until no service is at work any more, after `end`."""
        await asyncio.gather(*self._answering.values(), return_exceptions=True)

    def _begin(self, frame: SessionFrame) -> None:
        size, chunk = _declared(frame)
        service = self._services.get(frame.service)
        held = sum(body.held_bytes for body in self._incoming.values())
        if service is None:
            self._refuse(frame, Failure.NO_SUCH_SERVICE)
        elif size > service.longest_question:
            self._refuse(frame, Failure.TOO_LARGE)
        elif (
            len(self._answering) >= self._quota.open_requests
            or held + len(chunk) > self._quota.held_bytes
            or not self._rate.has_one()
        ):
            self._refuse(frame, Failure.BUSY)
        else:
            question = self._receive(frame.request_id, size, chunk)
            task = asyncio.create_task(self._answer(frame.request_id, frame.service, service, question))
            task.add_done_callback(_look_at)
            self._answering[frame.request_id] = task

    def _refuse(self, frame: SessionFrame, failure: Failure) -> None:
        logger.warning(
            "refused a question to '%(service)s': %(code)s", {"service": frame.service, "code": failure.name}
        )
        self._frames.send(FrameKind.FAIL, frame.request_id, frame.service, bytes([failure]))

    async def _answer(self, request_id: int, name: str, service: Service, question: IncomingBody) -> None:
        try:
            body = await service.answer(question)
            self._incoming.pop(request_id, None)
            await self._send(FrameKind.ANSWER, request_id, name, body)
        except Exception as error:  # any failure is the same to the other side
            logger.warning(
                "service '%(service)s' failed: %(defect)s", {"service": name, "defect": type(error).__name__}
            )
            self._frames.send(FrameKind.FAIL, request_id, name, bytes([Failure.FAILED]))
        finally:
            self._incoming.pop(request_id, None)
            del self._answering[request_id]

    def _answered(self, frame: SessionFrame) -> None:
        question = self._questions.get(frame.request_id)
        if question is None:
            return  # it came after its time
        if question.answer.done():
            raise _misplaced("a second answer")
        size, chunk = _declared(frame)
        if size > question.longest_answer:
            question.fail(AskFailed(self._peer, frame.service, Failure.TOO_LARGE))
            self._frames.send(FrameKind.CANCEL, frame.request_id, "")
            return
        question.answer.set_result(self._receive(frame.request_id, size, chunk))

    def _receive(self, request_id: int, size: int, chunk: Buffer) -> IncomingBody:
        def give_room(chunks: int) -> None:
            self._frames.send(FrameKind.ROOM, request_id, "", _ROOM.pack(chunks))

        body = IncomingBody(size, give_room, self._pool)
        body.feed(chunk)
        self._incoming[request_id] = body
        return body

    def _give(self, frame: SessionFrame) -> None:
        if len(frame.body) != _ROOM.size:
            raise _misplaced("room of no size")
        flow = self._outflows.get(frame.request_id)
        if flow is None:
            return  # sent or given up meanwhile
        (chunks,) = _ROOM.unpack(frame.body)
        if chunks > flow.not_given:
            raise _misplaced("room for more than the body has")
        flow.not_given -= chunks
        for _ in range(chunks):
            flow.room.release()

    async def _send(self, kind: FrameKind, request_id: int, service: str, body: Body) -> None:
        """Send a body as the other end gives room; two bodies that are sent at once take turns.

        One chunk is on its way while the next is made ready; that is asked for once the one before is sealed.
        """
        flow = self._outflows[request_id] = _Outflow(body.size)
        sealed, sent = asyncio.Semaphore(0), 0
        try:
            async with contextlib.aclosing(body.chunks) as chunks:
                async for chunk in chunks:
                    if sent:
                        await flow.room.acquire()
                    parts = (chunk,) if sent else (_SIZE.pack(body.size), chunk)
                    self._frames.send(kind, request_id, service, *parts, on_sent=sealed.release)
                    await sealed.acquire()
                    kind, service, sent = FrameKind.MORE, "", sent + 1
            if sent != chunk_count(body.size):
                raise BodyInvalid("a service's answer ended early", got=f"{sent} chunks")
        finally:
            del self._outflows[request_id]


def _declared(frame: SessionFrame) -> tuple[int, Buffer]:
    if len(frame.body) < _SIZE.size:
        raise _misplaced("a body without a size")
    (size,) = _SIZE.unpack_from(frame.body)
    return size, frame.body[_SIZE.size :]


def _failed(question: _Question) -> bool:
    return question.answer.done() and not question.answer.cancelled() and question.answer.exception() is not None


def _look_at(task: asyncio.Task[None]) -> None:
    """Take note of how a task ended: only a stream that is over makes it fail, and that is told elsewhere."""
    if not task.cancelled():
        task.exception()


def _misplaced(got: str) -> FrameRejected:
    return FrameRejected("a frame of the link is refused", got=got, wanted="one that follows from those before")
