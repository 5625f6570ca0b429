"""What a researcher and the coordinator say to each other over the research socket; both ends live by this file.

One connection, one question: a frame as the gate's are (a length, JSON, a body), behind its whole length in four bytes.
`Watch` is answered by one `Happened` after another until the study is over; every other question by one reply, or by
`Declined` with what the researcher must read. Studies are signed end to end, and a stop is signed by the same key, or
comes from the coordinator's own user: whoever else reaches the socket can submit what sites refuse, read results, and
no more.
"""

import struct
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from fedhealth.declined import Declined
from fedhealth.errors import LinkUnavailable
from fedhealth.link.frames import MAX_FRAME_BYTES, MAX_HEADER_BYTES, FrameInvalid, pack, split_frame
from fedhealth.link.memory import Buffer
from fedhealth.privacy.release import Digest
from fedhealth.study.signature import MAX_SIGNED_STUDY_BYTES

SOCKET_FILE = "research.sock"
MAX_QUESTION_BYTES = 4 + MAX_HEADER_BYTES + MAX_SIGNED_STUDY_BYTES
LENGTH = struct.Struct("!I")

Prefix = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{4,64}$")]
"""The first digits of a study's digest, or all of them."""
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Submit(_Header):
    """Take in this study; the body is its signed bytes. Answered by `Studies` with it alone."""

    kind: Literal["submit"] = "submit"


class ListStudies(_Header):
    """Which studies are there? Answered by `Studies`."""

    kind: Literal["list"] = "list"


class Watch(_Header):
    """What happened to a study after an event, and what happens now? Answered by `Happened`, at last by `Over`."""

    kind: Literal["watch"] = "watch"
    study: Prefix
    after: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Stop(_Header):
    """Stop a study. Answered by `Studies` with it alone.

    Attributes:
        study: its digest.
        signature: by the key that signed the study; None from the coordinator's own Unix user, its operator.
    """

    kind: Literal["stop"] = "stop"
    study: Digest
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")] | None


class ListResults(_Header):
    """What was published of a study? Answered by `Files`."""

    kind: Literal["list-results"] = "list-results"
    study: Prefix


class Fetch(_Header):
    """Give me a published file. Answered by `File`."""

    kind: Literal["fetch"] = "fetch"
    study: Prefix
    name: FileName


class Summary(_Header):
    """A study as the coordinator knows it.

    Attributes:
        study: its digest.
        name: of its protocol.
        researcher: public key that signed it.
        state: one of "offered", "running", "waiting", "stopped", "done".
        reason: why, where the state does not say it.
        approved: sites that approved it.
        refused: the code of each site that answered otherwise.
        rounds: training rounds that are done.
        removed: its results were removed at their time.
    """

    study: Digest
    name: str
    researcher: str
    state: str
    reason: str
    approved: tuple[str, ...]
    refused: dict[str, str]
    rounds: int
    removed: bool


class Studies(_Header):
    """Studies, in the order in which they came: the body is a JSON list of `Summary`, which may outgrow a header."""

    kind: Literal["studies"] = "studies"


class Happened(_Header):
    """An event of a study.

    Attributes:
        number: in order, over all studies.
        at: milliseconds of Unix time.
        body: what happened; its key "event" says which kind.
    """

    kind: Literal["happened"] = "happened"
    number: int
    at: int
    body: dict[str, Any]


class Over(_Header):
    """The study is over, or stands where only people can move it; nothing more comes."""

    kind: Literal["over"] = "over"
    state: str


class Files(_Header):
    """The published files of a study, by name, with their sizes in bytes."""

    kind: Literal["files"] = "files"
    files: dict[FileName, int]


class File(_Header):
    """A published file; the body is its content."""

    kind: Literal["file"] = "file"


Question = Submit | ListStudies | Watch | Stop | ListResults | Fetch
Reply = Studies | Happened | Over | Files | File | Declined
_QUESTION = TypeAdapter[Question](Annotated[Question, Field(discriminator="kind")])
_SUMMARIES = TypeAdapter(tuple[Summary, ...])
_REPLY = TypeAdapter[Reply](Annotated[Reply, Field(discriminator="kind")])


def pack_sized(header: BaseModel, body: Buffer = b"") -> bytes:
    """Return a frame behind its length."""
    frame = pack(header, body)
    return LENGTH.pack(len(frame)) + frame


def unpack_question(frame: bytes) -> tuple[Question, bytes]:
    """Return a question and its body.

    Raises:
        FrameInvalid: it is none.
    """
    head, body = split_frame(frame)
    try:
        return _QUESTION.validate_json(head), bytes(body)
    except ValidationError as error:
        raise FrameInvalid("this is no question of the research socket") from error


def unpack_reply(frame: Buffer) -> tuple[Reply, bytes]:
    """Return a reply and its body.

    Raises:
        LinkUnavailable: it is none; another version is at the other end.
    """
    try:
        head, body = split_frame(frame)
        return _REPLY.validate_json(head), bytes(body)
    except (ValidationError, FrameInvalid) as error:
        raise _unknown_answer() from error


def pack_summaries(studies: Iterable[Summary]) -> bytes:
    """Return the body of `Studies`."""
    return _SUMMARIES.dump_json(tuple(studies))


def unpack_summaries(body: bytes) -> tuple[Summary, ...]:
    """Return the studies in the body of `Studies`.

    Raises:
        LinkUnavailable: it is none; another version is at the other end.
    """
    try:
        return _SUMMARIES.validate_json(body)
    except ValidationError as error:
        raise _unknown_answer() from error


def _unknown_answer() -> LinkUnavailable:
    return LinkUnavailable(
        "the coordinator's answer is none", next_step="Use the same version of fedhealth as the coordinator."
    )


def check_reply_length(length: int) -> int:
    """Return the length of a reply that may be read.

    Raises:
        LinkUnavailable: no reply is so long.
    """
    if length > MAX_FRAME_BYTES:
        raise LinkUnavailable("the coordinator announces an answer that is too long", got=f"{length} bytes")
    return length
