"""What a SuperNode needs of the node's process: a port to ask, a socket for its worker, and its key made known.

The port is opened before the node is confined, the certificate is made for it anew each time. The SuperNode is let
begin, by the certificate's file, once the coordinator has registered its key: a coordinator that runs another engine,
another Flower or another app bundle is told from one that is away, and the administrator learns which it is.

Leaves to others: starting the SuperNode and its worker (`fedhealth.site.supernode_children`).
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from pydantic import ValidationError

from fedhealth.errors import FederationFailed, LinkUnavailable
from fedhealth.flower.fab import FAB_SHA256
from fedhealth.flower.fleet_requests import (
    FLEET,
    JOIN,
    MAX_JOIN_BYTES,
    MAX_PACKED_BYTES,
    JoinAnswer,
    JoinQuestion,
    is_signed,
)
from fedhealth.flower.version import check_flower
from fedhealth.link.bodies import Body
from fedhealth.link.client import SiteLink
from fedhealth.link.services import AskFailed, Failure
from fedhealth.pki.loopback import loopback_certificate
from fedhealth.secret_file import replace_file
from fedhealth.site.fleet_port import FleetPort
from fedhealth.site.frame_socket import FrameFromSocket, FrameSocket
from fedhealth.site.supernode_folder import SuperNodeFolder

_LOG = logging.getLogger(__name__)
_ANSWER_SECONDS = 28.0
"""How long an answer of the SuperLink may take: less than Flower's client waits."""
_JOIN_SECONDS, _JOIN_AGAIN_SECONDS = 30.0, 5.0

REGISTERED = "registered"
OTHER_ENGINE = "other-engine"
_REFUSED = {
    OTHER_ENGINE: (
        "the coordinator does not run engine 'superlink', which this site asks for",
        "no SuperLink there",
        'Start this site with engine = "link" (node.toml), or ask the coordinator\'s operator to change.',
    ),
    "other-flower": (
        "the coordinator runs another version of Flower",
        "Flower {theirs}",
        "Install the same FedHealth at both ends: Flower comes with it.",
    ),
    "other-fab": (
        "the coordinator runs another release of FedHealth: its Flower App Bundle is not this one's",
        "another SHA-256",
        "Install the same FedHealth at both ends.",
    ),
    "key-refused": (
        "the coordinator refuses the key of this site's SuperNode",
        "a key that another site has registered, or one that its SuperLink does not take",
        "Remove node/flower/node.key and start the site again: it makes another.",
    ),
    "not-now": ("the coordinator's SuperLink is not ready", "not now", "Nothing; it is asked again."),
}


class SuperNodeHost:
    """The node's side of one SuperNode; all methods belong to one event loop.

    Args:
        folder: shared with SuperNode and worker.
        listener: for the SuperNode, on the loopback; opened before this process was confined.
        link: asks the coordinator.
        ask_gate: carries a frame to the gate.
        on_state: told `REGISTERED`, or why the SuperNode cannot begin, at each change.
    """

    def __init__(
        self,
        folder: SuperNodeFolder,
        listener: socket.socket,
        link: SiteLink,
        ask_gate: Callable[[FrameFromSocket], Awaitable[Body]],
        on_state: Callable[[str], None],
    ) -> None:
        self._folder, self._link, self._on_state = folder, link, on_state
        key, self._certificate = loopback_certificate("FedHealth node", datetime.now(UTC))
        self._frames = FrameSocket(folder.socket, ask_gate)
        self._port = FleetPort(
            listener,
            _tls(key + self._certificate),
            self._ask,
            lambda headers: is_signed(headers, self._public_key),
            self._frames.tell,
        )
        self._public_key = ""
        self._joining: asyncio.Task[None] | None = None
        self._said = ""

    async def start(self) -> None:
        """Make the folder, and begin to listen.

        Raises:
            LinkUnavailable: the socket cannot be made.
            IdentityInvalid: the key cannot be made.
        """
        self._folder.make()
        self._public_key = self._folder.public_key()
        await self._frames.start()
        await self._port.start()

    def connected(self) -> None:
        """Make the key known, over a link that is new."""
        if self._joining is not None:
            self._joining.cancel()
        self._joining = asyncio.create_task(self._keep_joining())

    async def stop(self) -> None:
        """Hang up on SuperNode and worker."""
        if self._joining is not None:
            self._joining.cancel()
            await asyncio.gather(self._joining, return_exceptions=True)
        await self._port.stop()
        await self._frames.stop()
        self._folder.certificate.unlink(missing_ok=True)

    async def _ask(self, packed: bytes) -> bytes:
        return bytes(await self._link.ask(FLEET, packed, _ANSWER_SECONDS, MAX_PACKED_BYTES))

    async def _keep_joining(self) -> None:
        while True:
            code, theirs = await self._joined()
            if code != self._said:
                self._said = code
                self._on_state(code)
                if code in _REFUSED:
                    what, got, next_step = _REFUSED[code]
                    error = FederationFailed(what, got=got.format(theirs=theirs), next_step=next_step)
                    _LOG.error("no SuperNode is started: %(error)s", {"error": error})
            if code == REGISTERED:
                with contextlib.suppress(OSError):  # a full disk: it is tried again at the next link
                    replace_file(self._folder.certificate, self._certificate)
                return
            await asyncio.sleep(_JOIN_AGAIN_SECONDS)

    async def _joined(self) -> tuple[str, str]:
        question = JoinQuestion(flower=check_flower(), fab=FAB_SHA256, public_key=self._public_key)
        try:
            raw = await self._link.ask(JOIN, question.model_dump_json().encode(), _JOIN_SECONDS, MAX_JOIN_BYTES)
            answer = JoinAnswer.model_validate_json(bytes(raw))
        except AskFailed as error:
            return (OTHER_ENGINE if error.failure is Failure.NO_SUCH_SERVICE else "not-now"), ""
        except (LinkUnavailable, ValidationError):
            return "not-now", ""
        return answer.code, answer.flower


def _tls(pem: bytes) -> ssl.SSLContext:
    """Return a server's context from key and certificate, which Python reads from a file only: one in memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    memory = os.memfd_create("loopback", os.MFD_CLOEXEC)
    try:
        os.write(memory, pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    return context
