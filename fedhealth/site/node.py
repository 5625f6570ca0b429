"""The node: the hospital's end of the link. It has a TLS key and carries bytes; it has no data and reads no frame.

It connects outwards to the coordinator, hands each request to the gate over the Unix socket, one at a time, and hands
the gate's answer back. Were it replaced by something hostile, that could lose or delay frames and nothing else: what
may leave is decided, charged and noised behind the socket.
"""

import asyncio
import logging
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fedhealth.errors import LinkUnavailable
from fedhealth.link.client import run_link
from fedhealth.link.frames import MAX_FRAME_BYTES
from fedhealth.pki.identity import load_identity
from fedhealth.pki.profiles import Role
from fedhealth.site.node_file import NodeFile
from fedhealth.site.state import SiteState

_LOG = logging.getLogger(__name__)


class GateChannel:
    """The node's end of the gate's socket; reconnects when the gate was restarted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, frame: bytes) -> bytes:
        """Return the gate's answer to one frame.

        Raises:
            LinkUnavailable: the gate does not answer.
        """
        async with self._lock:
            try:
                if self._streams is None:
                    self._streams = await asyncio.open_unix_connection(str(self._path))
                reader, writer = self._streams
                writer.write(struct.pack("!I", len(frame)) + frame)
                await writer.drain()
                (length,) = struct.unpack("!I", await reader.readexactly(4))
                if length > MAX_FRAME_BYTES:
                    raise LinkUnavailable("the gate announced a frame that is too large")
                return await reader.readexactly(length)
            except BaseException as error:
                # A half-read answer must not be taken for the next one's.
                await self.close()
                if isinstance(error, (OSError, EOFError)):
                    raise LinkUnavailable(
                        "the gate of this site does not answer",
                        next_step="Start it: fedhealth site gate --help",
                    ) from error
                raise

    async def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def run_node(state: SiteState, file: NodeFile, on_state: Callable[[str], None]) -> None:
    """Keep the site connected until cancelled.

    Args:
        state: the site's state; only its `node/` folder and the socket are touched.
        file: where the coordinator is.
        on_state: told of every change of the link.

    Raises:
        IdentityInvalid: the certificate is expired or wrong; a human must act.
    """
    identity = load_identity(state.node, file.federation, Role.SITE, datetime.now(UTC))
    gate = GateChannel(state.socket)
    try:
        await run_link(identity, file.coordinator, file.federation, {"gate": gate.ask}, on_state)
    finally:
        await gate.close()
