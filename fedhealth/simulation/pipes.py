"""What a simulation and the processes that compute for it say to each other, over standard input and output.

A message is two lengths of eight bytes, a header in JSON, and a body of bytes. The main process asks, one thing at a
time; a worker answers, and ends when its standard input does, so that it never outlives who started it.
"""

import struct
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from fedhealth.coordinator.evidence import LedgerHead
from fedhealth.policy.site_file import SiteFile
from fedhealth.privacy.release import Digest, StepName
from fedhealth.study.protocol import Study

_LENGTHS = struct.Struct("!QQ")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SiteRecords(_Message):
    """A simulated site; the fields of a `SimulatedSite` and its `Table`."""

    file: SiteFile
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    row_word: str
    split_key: Digest
    naming_secret: Digest
    noise_seed: int


class Open(_Message):
    """Open the gates of these sites. Answered by `Done`.

    Attributes:
        study: the protocol.
        researcher: raw private key of whoever signs the simulated study, hexadecimal.
        sites: each with its records.
    """

    kind: Literal["open"] = "open"
    study: Study
    researcher: Digest
    sites: tuple[SiteRecords, ...]


class AskSites(_Message):
    """Ask sites for a release; the body is their inputs, each once. Answered by `Answers`.

    Attributes:
        step: of the study.
        round: number of the release.
        sites: for each site, which of the inputs is its.
        length: of an input, in bytes.
    """

    kind: Literal["ask"] = "ask"
    step: StepName
    round: int
    sites: dict[str, int]
    length: int


class Answers(_Message):
    """Each site's answer: the length of its release in the body, or the public code why there is none."""

    kind: Literal["answers"] = "answers"
    sites: dict[str, int | str]


class AskHeads(_Message):
    """Show the countersigned heads. Answered by `Heads`."""

    kind: Literal["ask-heads"] = "ask-heads"


class Heads(_Message):
    """The countersigned head of each site's ledger."""

    kind: Literal["heads"] = "heads"
    sites: dict[str, LedgerHead]


class WriteLedgers(_Message):
    """Write the ledgers to a new file. Answered by `Done`."""

    kind: Literal["write-ledgers"] = "write-ledgers"
    path: str


class Done(_Message):
    """It is done."""

    kind: Literal["done"] = "done"


Message = Open | AskSites | Answers | AskHeads | Heads | WriteLedgers | Done
_MESSAGE = TypeAdapter[Message](Annotated[Message, Field(discriminator="kind")])


def send(stream: IO[bytes], message: Message, body: bytes = b"") -> None:
    """Write a message."""
    head = message.model_dump_json().encode()
    stream.write(_LENGTHS.pack(len(head), len(body)) + head + body)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[Message, bytes] | None:
    """Read a message and its body; None where the stream ends."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head_bytes, body_bytes = _LENGTHS.unpack(lengths)
    head, body = stream.read(head_bytes), stream.read(body_bytes)
    if len(head) + len(body) < head_bytes + body_bytes:
        return None
    return _MESSAGE.validate_json(head), body
