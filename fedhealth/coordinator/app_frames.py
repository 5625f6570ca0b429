"""What the coordinator's two processes say to each other over a Unix socket.

The ServerApp process asks; the coordinator's main process, which holds the link, answers. Each connection carries
one question at a time, framed as the gate's frames are.
"""

import socket
import struct
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from fedhealth.errors import FederationFailed
from fedhealth.link.frames import MAX_FRAME_BYTES, pack, split_frame
from fedhealth.link.memory import Buffer
from fedhealth.privacy.release import StepName
from fedhealth.unix_socket import receive_exactly


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Begin(_Header):
    """What shall I run? Answered by `Start`."""

    kind: Literal["begin"] = "begin"


class AskSite(_Header):
    """Ask a site for a release; the body is the input. Answered by `Payload` or `Nothing`."""

    kind: Literal["ask"] = "ask"
    site: str
    step: StepName
    round: int


class RoundDone(_Header):
    """A round is in the durable checkpoint. Answered by `Go`.

    Attributes:
        round: from 1.
        number: of its releases.
        absent: the public code of each site that gave none.
        checkpoint_sha256: of the checkpoint.
        seconds: how long it took.
    """

    kind: Literal["round-done"] = "round-done"
    round: int
    number: int
    absent: dict[str, str]
    checkpoint_sha256: str
    seconds: float


class Finished(_Header):
    """The model is stored; the body is the `COUNTS`, which of many sites are more than a header. Answered by `Go`.

    Attributes:
        absent: the public code of each site that gave none.
    """

    kind: Literal["finished"] = "finished"
    absent: dict[str, str]


class Halted(_Header):
    """Too few sites gave a release. Answered by `Go`.

    Attributes:
        round: of training; 0 for the evaluation.
        absent: the public code of each site that gave none.
    """

    kind: Literal["halted"] = "halted"
    round: int
    absent: dict[str, str]


class Start(_Header):
    """The sites of the study; the body is the signed study."""

    kind: Literal["start"] = "start"
    sites: tuple[str, ...]


class Payload(_Header):
    """A release; the body is its payload.

    Attributes:
        declared_patients: the public figure of its site.
    """

    kind: Literal["payload"] = "payload"
    declared_patients: int


class Nothing(_Header):
    """No release, and the public code why."""

    kind: Literal["nothing"] = "nothing"
    code: str


class Go(_Header):
    """Noted."""

    kind: Literal["go"] = "go"


Question = Begin | AskSite | RoundDone | Finished | Halted
_QUESTION = TypeAdapter[Question](Annotated[Question, Field(discriminator="kind")])
COUNTS = TypeAdapter(dict[str, dict[str, float]])
"""The released counts of each site that gave them, by cell."""
ReplyHeader = Start | Payload | Nothing | Go
_REPLY = TypeAdapter[ReplyHeader](Annotated[ReplyHeader, Field(discriminator="kind")])


def unpack_question(frame: Buffer) -> tuple[Question, Buffer]:
    """Return a question and its body."""
    head, body = split_frame(frame)
    return _QUESTION.validate_json(head), body


def exchange(connection: socket.socket, question: Question, body: Buffer = b"") -> tuple[ReplyHeader, bytes]:
    """Ask over a blocking socket and return the reply and its body.

    Raises:
        FederationFailed: the coordinator's main process is gone.
    """
    frame = pack(question, body)
    try:
        connection.sendall(struct.pack("!I", len(frame)) + frame)
        (length,) = struct.unpack("!I", receive_exactly(connection, 4))
        if length > MAX_FRAME_BYTES:
            raise ConnectionError("the announced frame is too large")
        head, answer = split_frame(receive_exactly(connection, length))
    except OSError as error:
        raise FederationFailed("the coordinator's main process does not answer", got=type(error).__name__) from error
    return _REPLY.validate_json(head), bytes(answer)
