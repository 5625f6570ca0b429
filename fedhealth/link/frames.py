"""The four frames of the gate, and its answers: the whole interface between a gate and the world.

`put_study`, `answer`, `witnessed` and `head` go in; `Accepted`, `NeedWitness`, `ReleaseReply`, `Refused` and `Head`
come out. Nothing else is understood, and a gate has no other ear for the node. A frame is a four-byte length, that
many bytes of canonical JSON, and a body of bytes; its size is declared and limited before it is read. No field holds
anything that depends on patients, but the body of a `ReleaseReply`, which is noised and charged.

Coordinator and gate both live by this file; the node and the link carry the bytes unread.
"""

import hashlib
import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import FedHealthError, RefusalCode
from fedhealth.link.memory import Buffer
from fedhealth.privacy.checkpoint import Signature, SignedReceipt
from fedhealth.privacy.release import Digest, StepName

MAX_HEADER_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024
"""A model of 32 million weights in double precision. A gate takes no more than its approved studies need."""
MAX_FRAME_BYTES = 4 + MAX_HEADER_BYTES + MAX_BODY_BYTES

Note = Annotated[str, StringConstraints(max_length=1000)]
Proof = Annotated[tuple[Digest, ...], Field(max_length=128)]


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PutStudy(_Header):
    """Is this study approved here? The body is the signed study."""

    kind: Literal["put-study"] = "put-study"


class Answer(_Header):
    """Ask for a release; the body is the step's input."""

    kind: Literal["answer"] = "answer"
    study: Digest
    step: StepName
    round: Annotated[int, Field(ge=1, le=2**31)]


class Witnessed(_Header):
    """The coordinator has seen a head. To a site that is behind it, the body gives back a page of sealed entries.

    Attributes:
        study: the study whose release waits for it; None to acknowledge only.
        receipt: its signature, which also names the releases it holds durably.
    """

    kind: Literal["witnessed"] = "witnessed"
    study: Digest | None
    receipt: SignedReceipt


class AskHead(_Header):
    """Ask for the signed head and the proof that it extends a tree of `since` entries.

    Attributes:
        since: size of the earlier tree.
        copies_from: position of the first entry whose sealed copy is wanted; None for no copies.
    """

    kind: Literal["head"] = "head"
    since: Annotated[int, Field(ge=0, le=2**53 - 1)]
    copies_from: Annotated[int, Field(ge=0, le=2**53 - 1)] | None = None


Request = PutStudy | Answer | Witnessed | AskHead


class Accepted(_Header):
    """The study is approved here; what follows is public and signed into the site's ledger.

    Attributes:
        study: its digest.
        declared_patients: the site's public round figure.
        reply_after_ms: public duration of each step's reply.
        unsafe_test_site: the site's noise is known; coordinators refuse it unless started for tests.
        signature: of the site's ledger key over all of the above, so that a node cannot change it.
    """

    kind: Literal["accepted"] = "accepted"
    study: Digest
    declared_patients: Annotated[int, Field(ge=1, le=10**9)]
    reply_after_ms: dict[StepName, Annotated[int, Field(ge=1, le=86_400_000)]]
    unsafe_test_site: bool
    signature: Signature

    def statement(self) -> bytes:
        """Return the bytes that are signed, in the domain "accepted"."""
        return canonical_bytes(self.model_dump(mode="json", exclude={"signature"}))


class NeedWitness(_Header):
    """The release is charged; it is computed once the coordinator has countersigned this head.

    A gate that has just started says so before it charges anything: its first receipt tells it that its ledger is no
    older copy. The body is a page of sealed copies of the entries since the last receipt.

    Attributes:
        note: the signed head.
        proof: that it extends the head of the last receipt.
        challenge: random, of this process of the gate; a receipt that repeats it is no older than the process.
        signature: of the site's ledger key over all of the above and the body.
    """

    kind: Literal["need-witness"] = "need-witness"
    note: Note
    proof: Proof
    challenge: Digest
    signature: Signature


class ReleaseReply(_Header):
    """A release; the body is its payload.

    Attributes:
        release: its name.
        signature: of the site's ledger key over name and payload, so that a node cannot make one up.
    """

    kind: Literal["release"] = "release"
    release: Digest
    signature: Signature


class Refused(_Header):
    """One code of the closed list; nothing more is ever said."""

    kind: Literal["refused"] = "refused"
    code: RefusalCode


class Head(_Header):
    """The signed head and the proof that was asked for; the body is a page of the copies that were.

    Attributes:
        note: the signed head.
        proof: that it extends the tree that was named.
        challenge: as in `NeedWitness`.
        entries: how many entries the site has, with those that were given back and wait for its administrator.
        signature: of the site's ledger key over all of the above and the body.
    """

    kind: Literal["head"] = "head"
    note: Note
    proof: Proof
    challenge: Digest
    entries: Annotated[int, Field(ge=1, le=2**53 - 1)]
    signature: Signature


def head_statement(shown: NeedWitness | Head, body: Buffer) -> bytes:
    """Return the bytes that are signed for a head that is shown, in the domain "head-reply"."""
    return canonical_bytes([shown.model_dump(mode="json", exclude={"signature"}), hashlib.sha256(body).hexdigest()])


def release_statement(release: Digest, payload_sha256: Digest) -> bytes:
    """Return the bytes that are signed for a release, in the domain "release-reply"."""
    return canonical_bytes([release, payload_sha256])


Reply = Accepted | NeedWitness | ReleaseReply | Refused | Head

_REQUEST = TypeAdapter[Request](Annotated[Request, Field(discriminator="kind")])
_REPLY = TypeAdapter[Reply](Annotated[Reply, Field(discriminator="kind")])


@dataclass(frozen=True)
class StoredPayload:
    """A payload that is read while it leaves.

    Attributes:
        size: in bytes.
        read: yields it in parts, each to be taken before the next; to be closed if it is not read to its end. Each is
            put where the argument says, or into memory of its own without one.
    """

    size: int
    read: Callable[[Callable[[], memoryview] | None], Generator[Buffer, None, None]]

    def __len__(self) -> int:
        return self.size


@dataclass(frozen=True)
class Outgoing:
    """A reply and the monotonic second before which it must not leave.

    Attributes:
        start: the frame, up to its body if it has one.
        leaves_at: in seconds.
        body: what follows.
        body_sha256: of the body, if it has one.
    """

    start: bytes
    leaves_at: float
    body: Buffer | StoredPayload = b""
    body_sha256: Digest | None = None

    def parts(self, memory: Callable[[], memoryview] | None = None) -> Generator[Buffer, None, None]:
        """Yield the body, each part to be taken before the next; to be closed if it is not read to its end.

        Args:
            memory: asked before each part where that is to be put; None for wherever it lies.
        """
        if isinstance(self.body, StoredPayload):
            yield from self.body.read(memory)
        elif memory is None:
            yield self.body
        else:
            rest = memoryview(self.body)
            while rest:
                part = memory()[: len(rest)]
                part[:], rest = rest[: len(part)], rest[len(part) :]
                yield part

    @property
    def frame(self) -> bytes:
        """The whole frame, copied."""
        return self.start + b"".join(bytes(part) for part in self.parts())


class FrameInvalid(FedHealthError):
    """The bytes are not a frame of this protocol."""

    exit_code = 9


def pack(header: BaseModel, body: Buffer = b"") -> bytes:
    """Return a frame.

    Raises:
        FrameInvalid: the header or the body is larger than a frame may hold.
    """
    return pack_start(header, len(body)) + body


def pack_start(header: BaseModel, body_bytes: int) -> bytes:
    """Return a frame up to its body, which follows and is not copied.

    Raises:
        FrameInvalid: as `pack`.
    """
    head = canonical_bytes(header)
    if len(head) > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise FrameInvalid(
            "a frame is too large",
            got=f"a header of {len(head)} bytes and a body of {body_bytes}",
            wanted=f"at most {MAX_HEADER_BYTES} and {MAX_BODY_BYTES}",
        )
    return struct.pack("!I", len(head)) + head


def split_frame(frame: Buffer) -> tuple[bytes, Buffer]:
    """Return the header's bytes and the body of a frame; of a view, the body is a view.

    Raises:
        FrameInvalid: too short, too long, or a length that does not fit.
    """
    if not 4 <= len(frame) <= MAX_FRAME_BYTES:
        raise FrameInvalid("a frame has an impossible size", got=f"{len(frame)} bytes")
    (length,) = struct.unpack_from("!I", frame)
    if length > MAX_HEADER_BYTES or 4 + length > len(frame) or len(frame) - 4 - length > MAX_BODY_BYTES:
        raise FrameInvalid("a frame's header has an impossible length", got=str(length))
    return bytes(frame[4 : 4 + length]), frame[4 + length :]


def unpack_request(frame: Buffer) -> tuple[Request, Buffer]:
    """Return a request and its body.

    Raises:
        FrameInvalid: anything but one of the four frames.
    """
    head, body = split_frame(frame)
    try:
        request = _REQUEST.validate_json(head)
    except ValidationError as error:
        raise FrameInvalid("a frame is not one of the four of the gate") from error
    if body and isinstance(request, AskHead):
        raise FrameInvalid(f"a frame of kind '{request.kind}' has a body", got=f"{len(body)} bytes")
    return request, body


def unpack_reply(frame: Buffer) -> tuple[Reply, Buffer]:
    """Return a reply and its body.

    Raises:
        FrameInvalid: anything but a reply of a gate.
    """
    head, body = split_frame(frame)
    try:
        reply = _REPLY.validate_json(head)
    except ValidationError as error:
        raise FrameInvalid("a frame is not a reply of a gate") from error
    if body and isinstance(reply, Accepted | Refused):
        raise FrameInvalid(f"a frame of kind '{reply.kind}' has a body", got=f"{len(body)} bytes")
    return reply, body
