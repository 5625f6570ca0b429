"""What the coordinator and the ServerApp that carries its frames say to each other over a Unix socket.

The coordinator says `Carry` with a frame and the Flower node it is for; the ServerApp says `Sent` once the SuperLink
has it. When the coordinator sees that the node has answered it, it says `Look`, and the ServerApp says `Arrived` with
the site's reply, or `Lost`: so each order is answered soon. Each message is two lengths, a header of canonical JSON
and a frame.
"""

import struct
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from fedhealth.canonical import canonical_bytes
from fedhealth.link.frames import MAX_FRAME_BYTES
from fedhealth.link.memory import Buffer

SOCKET = "FEDHEALTH_CARRIED_FRAMES"
"""Where the socket is, in the environment of the SuperExec and the apps that it starts."""
LENGTHS = struct.Struct("!II")
"""Of the header and of the frame."""
_MAX_HEADER_BYTES = 1024
Number = Annotated[int, Field(ge=0, le=2**53 - 1)]


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    number: Number


class Carry(_Header):
    """Carry a frame; it is the body.

    Attributes:
        number: of the frame, in this coordinator's life.
        node: Flower's id of the site's node, up to 64 bits, in decimal.
        seconds: how long the reply is waited for.
        longest: of the reply, in bytes.
    """

    kind: Literal["carry"] = "carry"
    node: Annotated[str, Field(pattern=r"^\d{1,20}$")]
    seconds: float
    longest: Number


class Look(_Header):
    """The reply is there now, if there will be one."""

    kind: Literal["look"] = "look"


class Sent(_Header):
    """The SuperLink has the message that carries the frame.

    Attributes:
        message: Flower's id of it.
    """

    kind: Literal["sent"] = "sent"
    message: Annotated[str, Field(min_length=1, max_length=100)]


class Arrived(_Header):
    """The reply is the body."""

    kind: Literal["arrived"] = "arrived"


class Lost(_Header):
    """There will be no reply: Flower gave an error, something else than a frame, or nothing."""

    kind: Literal["lost"] = "lost"


Order = Carry | Look
_ORDER = TypeAdapter[Order](Annotated[Order, Field(discriminator="kind")])
Told = Sent | Arrived | Lost
_TOLD = TypeAdapter[Told](Annotated[Told, Field(discriminator="kind")])


def message_of(header: BaseModel, frame: Buffer = b"") -> bytes:
    """Return a message as it goes over the socket."""
    head = canonical_bytes(header)
    return b"".join((LENGTHS.pack(len(head), len(frame)), head, frame))


def lengths_in(start: Buffer) -> tuple[int, int]:
    """Return how long header and frame of a message are.

    Raises:
        ConnectionError: longer than they may be; the other end is not what it should be.
    """
    header, frame = LENGTHS.unpack(start)
    if header > _MAX_HEADER_BYTES or frame > MAX_FRAME_BYTES:
        raise ConnectionError("a message that is too large was announced")
    return header, frame


def read_order(header: bytes) -> Order:
    """Return what the coordinator says."""
    return _ORDER.validate_json(header)


def read_told(header: bytes) -> Told:
    """Return what the ServerApp says."""
    return _TOLD.validate_json(header)
