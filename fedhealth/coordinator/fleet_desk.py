"""The coordinator's end of what SuperNodes ask: looks at each request, and asks the SuperLink on this machine.

A site is who its link's certificate says. Its requests must be signed with the node key that this site registered, and
be calls that a node makes; everything else that a SuperLink serves on its one port is out of a site's reach.

Of what it serves nodes, a SuperLink gives each node everybody's. So a site's SuperNode is let name only what was
announced to it (`fleet_fence`), and few of a site's requests are with the SuperLink at a time, so that the others' come
in between.

A SuperNode that is told "no message" sleeps for three seconds. So its question for messages waits here until there is
one for its site, for as long as Flower's client waits with ease.

A SuperLink hands a message out once, whoever dies over it, and a SuperNode that cannot take one in or send a reply
drops it without a word. But a SuperNode has one under way at a time: when it asks for messages, the one before has been
answered or never will be. And when the SuperLink has none for it, then none of those that were put there is to come.

A SuperLink takes a SuperNode that was killed for alive until its last sign of life is a minute old, and lets none begin
in its place. So when one begins, the former is signed off first, in its name: what signs a call to begin signs any.

A SuperNode that is told, in the midst of taking a message in, that its run is over (403) keeps a task for it that can
never be done. Told anything else that is final it drops both, so that is what it is told. Once it has all of a message,
a worker may have answered it already, and a reply whose message was dropped would be taken for that to the next one:
so that it has it is confirmed, and the reply ends where it is sent.

Leaves to others: registering a key at the SuperLink, saying when a message waits, and starting the SuperLink.
"""

import asyncio
import contextlib
import logging
import ssl
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

import httpx
from pydantic import ValidationError

from fedhealth.errors import FedHealthError
from fedhealth.flower.fab import FAB_SHA256
from fedhealth.flower.fleet_fence import FleetFence
from fedhealth.flower.fleet_requests import (
    ACTIVATE,
    CONFIRM,
    DEACTIVATE,
    FLEET,
    HEADERS,
    JOIN,
    MAX_BODY_BYTES,
    MAX_JOIN_BYTES,
    MAX_PACKED_BYTES,
    PUBLIC_KEY,
    PULL,
    PULL_OBJECT,
    VERSION,
    FleetAnswer,
    FleetInvalid,
    FleetRequest,
    JoinAnswer,
    JoinQuestion,
    deactivation,
    key_header,
    pack_fleet,
    unpack_fleet,
)
from fedhealth.flower.version import check_flower, is_supported
from fedhealth.link.quota import Bucket
from fedhealth.link.services import Service, service_of

_LOG = logging.getLogger(__name__)
HOLD_SECONDS = 20.0
"""How long a question for messages may wait; Flower's client waits 30 s for an answer."""
_ANSWER_SECONDS = 25.0
_AROUND_BYTES = 2**20
"""What Flower writes around a frame, in all parts of a reply."""
_AT_ONCE = 4
"""Requests of one site that the SuperLink has at a time, however many are asked: it is slow, and all sites' alike."""
_JOINS, _JOINS_A_SECOND = 5.0, 0.1
"""Joins of one site: so many at once, then one in ten seconds; each makes the SuperLink look through all its nodes."""
_OK, _FORBIDDEN, _GONE, _AWAY = 200, 403, 410, 503

Register = Callable[[str, bytes], Awaitable[int]]
"""Register a site's public key, in OpenSSH's form, and return its node's id; raises `FedHealthError`."""


class _Mail:
    """The messages that a SuperLink has for a site and that its SuperNode has not taken."""

    def __init__(self) -> None:
        self.there, self.came = set[str](), asyncio.Event()

    def add(self, message: str) -> None:
        self.there.add(message)
        self.came.set()

    def remove(self, messages: frozenset[str]) -> None:
        self.there -= messages
        if not self.there:
            self.came.clear()


class FleetDesk:
    """Answers the SuperNodes of all sites; all methods belong to one event loop.

    Args:
        superlink: `host:port` of the SuperLink, on this machine.
        certificate: PEM of the certificate that it shows.
        register: registers a node's key.
        on_active: told of a site whose SuperNode has just begun, with an empty memory.
        on_reply: told of each message to which the reply is whole.
        on_lost: told of each message that nobody will answer.
    """

    def __init__(
        self,
        superlink: str,
        certificate: bytes,
        register: Register,
        on_active: Callable[[str], None],
        on_reply: Callable[[str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        context = ssl.create_default_context(cadata=certificate.decode("ascii"))
        # No proxy of the environment: the SuperLink is on this machine.
        self._client = httpx.AsyncClient(
            base_url=f"https://{superlink}", verify=context, timeout=_ANSWER_SECONDS, trust_env=False
        )
        self._register, self._on_active = register, on_active
        self._on_reply, self._on_lost = on_reply, on_lost
        self._keys: dict[str, str] = {}
        self._nodes: dict[str, int] = {}
        self._joins: defaultdict[str, Bucket] = defaultdict(lambda: Bucket(_JOINS_A_SECOND, _JOINS, time.monotonic))
        self._mail: defaultdict[str, _Mail] = defaultdict(_Mail)
        self._began: defaultdict[str, int] = defaultdict(int)
        self._fences: defaultdict[str, FleetFence] = defaultdict(FleetFence)
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_AT_ONCE))

    def services(self, site: str) -> Mapping[str, Service]:
        """Return what one site's SuperNode may ask over its link."""
        return {
            JOIN: service_of(lambda question: self._join(site, question), MAX_JOIN_BYTES),
            FLEET: service_of(lambda question: self._fleet(site, question), MAX_PACKED_BYTES),
        }

    @property
    def joined(self) -> frozenset[str]:
        """The sites whose node key is registered."""
        return frozenset(self._keys)

    def mail(self, site: str, message: str, longest: int) -> None:
        """Say that the SuperLink has one more message for a site now; a SuperNode takes one at a time.

        Args:
            site: its id.
            message: Flower's id of it.
            longest: of the frame that may come back, in bytes.
        """
        fence = self._fences[site]
        fence.expect(longest + _AROUND_BYTES)
        if not fence.knows(message):
            self._mail[site].add(message)
        elif (replied := fence.has_replied(message)) is not None:  # the SuperNode was faster than who says so
            (self._on_reply if replied else self._on_lost)(message)

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    async def _join(self, site: str, raw: bytes) -> bytes:
        code = await self._joined(site, raw)
        if code != "registered":
            _LOG.error("site '%(site)s': its SuperNode is not let in: %(code)s", {"site": site, "code": code})
        return JoinAnswer.model_validate({"code": code, "flower": check_flower()}).model_dump_json().encode()

    async def _joined(self, site: str, raw: bytes) -> str:
        if not self._joins[site].has_one():
            return "not-now"
        try:
            question = JoinQuestion.model_validate_json(raw)
            header = key_header(question.public_key)
        except (ValidationError, FleetInvalid):
            return "key-refused"
        if not is_supported(question.flower):
            return "other-flower"
        if question.fab != FAB_SHA256:
            return "other-fab"
        if header in {key for other, key in self._keys.items() if other != site}:
            return "key-refused"
        try:
            self._nodes[site] = await self._register(site, question.public_key.encode())
        except FedHealthError as error:
            _LOG.error("site '%(site)s': %(error)s", {"site": site, "error": error})
            return "key-refused"
        self._keys[site] = header
        return "registered"

    async def _fleet(self, site: str, raw: bytes) -> bytes:
        try:
            request, body = unpack_fleet(FleetRequest, raw)
        except FleetInvalid as error:
            _LOG.warning("site '%(site)s': a request is refused: %(error)s", {"site": site, "error": error})
            return pack_fleet(FleetAnswer(status=_FORBIDDEN), b"")
        if site not in self._keys or request.headers.get(PUBLIC_KEY) != self._keys[site]:
            _LOG.warning("site '%(site)s': a request that its node key did not sign is refused", {"site": site})
            return pack_fleet(FleetAnswer(status=_FORBIDDEN), b"")
        if request.path == ACTIVATE and not is_supported(request.headers.get(VERSION, "")):
            # Flower itself lets it in; the site's software said another version when it joined.
            _LOG.error("site '%(site)s': its SuperNode is of another version of Flower: not let in", {"site": site})
            return pack_fleet(FleetAnswer(status=_FORBIDDEN), b"")
        if request.path == PULL:
            return pack_fleet(*await self._pulled(site, request, body))
        if not self._fences[site].lets(request.path, self._nodes[site], body):
            _LOG.warning("site '%(site)s': a request for what is not its own is refused", {"site": site})
            return pack_fleet(_as_flower_bears(request, FleetAnswer(status=_FORBIDDEN)), b"")
        if request.path == ACTIVATE:
            self._fences[site].begin()
            former = FleetRequest(path=DEACTIVATE, headers=request.headers)
            await self._asked(site, former, deactivation(self._nodes[site]))  # refused where none is there
        answer, content = await self._asked(site, request, body)
        if (borne := _as_flower_bears(request, answer)) is not answer:
            answer, content = borne, b""
        if request.path == ACTIVATE and answer.status == _OK:
            self._began[site] += 1
            self._on_active(site)
        if answer.status == _OK:
            self._fences[site].take_in(request.path, body, content)
        return pack_fleet(answer, content)

    async def _pulled(self, site: str, request: FleetRequest, body: bytes) -> tuple[FleetAnswer, bytes]:
        """Wait for a message, or long enough, and ask the SuperLink for it."""
        for message, replied in self._fences[site].end().items():
            (self._on_reply if replied else self._on_lost)(message)
        mail, began = self._mail[site], self._began[site]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOLD_SECONDS):
                await mail.came.wait()
        if began != self._began[site]:
            return FleetAnswer(status=_AWAY), b""  # to a SuperNode that was killed; the message is for the next one
        there = frozenset(mail.there)
        answer, content = await self._asked(site, request, body)
        if answer.status == _OK:
            announced = self._fences[site].announce(content)
            mail.remove(announced or there)
            for message in there if not announced else ():
                self._on_lost(message)  # it was handed out before, and never came
        return answer, content

    async def _asked(self, site: str, request: FleetRequest, body: bytes) -> tuple[FleetAnswer, bytes]:
        try:
            async with self._turns[site]:
                given = await self._client.post(request.path, content=body, headers=request.headers)
        except httpx.HTTPError as error:
            _LOG.warning("the SuperLink does not answer: %(defect)s", {"defect": type(error).__name__})
            return FleetAnswer(status=_AWAY), b""
        if len(given.content) > MAX_BODY_BYTES or given.status_code < _OK:
            return FleetAnswer(status=_AWAY), b""
        kept = {name: given.headers[name] for name in HEADERS if name in given.headers}
        return FleetAnswer(status=given.status_code, headers=kept), given.content


def _as_flower_bears(request: FleetRequest, answer: FleetAnswer) -> FleetAnswer:
    """Return an answer, or in place of a 403 what leaves neither a task nor a reply behind; its body is empty then."""
    if answer.status != _FORBIDDEN or request.path not in (PULL_OBJECT, CONFIRM):
        return answer
    if request.path == PULL_OBJECT:
        return FleetAnswer(status=_GONE)
    return FleetAnswer(status=_OK, headers={"content-type": request.headers.get("content-type", "")})
