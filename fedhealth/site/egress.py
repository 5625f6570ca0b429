"""What left the gate: one line for every frame, written before the frame is sent.

A line says when, what kind of answer, for which study, how many bytes and a SHA-256; for a release its name, under
which the ledger has it. It says nothing that the node does not see pass by, and lies in `gate/`, where no node reads.

Why not in the ledger: a ledger's commit waits for the disk, and anybody who may ask for a head could make it grow. A
release is durable in the ledger before it leaves; what this log adds are times, repeats, refusals and heads.

Invariants: no frame leaves without its line; if the line cannot be written, the frame stays and the gate ends. A line
survives the end of the process at once; a power cut can take the last seconds of lines, and no release. The first
sending of each release is kept for ever, however often a node asks for other things: refusals, heads and repeats are in
a second file, of which only the last `KEPT_FILES` times `FILE_BYTES` are kept.
"""

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhealth.errors import LedgerDamaged
from fedhealth.link.frames import MAX_HEADER_BYTES
from fedhealth.link.memory import Buffer
from fedhealth.privacy.release import Digest

FILE_BYTES = 8 * 1024 * 1024
"""Size at which the file of repeats, refusals and heads is put aside: about 40,000 lines."""

KEPT_FILES = 5

_FIRSTS, _OTHERS = "releases.jsonl", "others.jsonl"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Leaving(BaseModel):
    """One frame that left the gate.

    Attributes:
        at: Unix time in milliseconds.
        kind: of the answer; for a refusal "refused" and its code.
        study: the study it was for; None where a request names none.
        release: name of the release; None for everything else.
        bytes: of the whole frame.
        sha256: of a release's payload, as its entry in the ledger has it; of everything else, of the whole frame.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: Annotated[int, Field(ge=0)]
    kind: str
    study: Digest | None
    release: Digest | None
    bytes: Annotated[int, Field(ge=0)]
    sha256: Digest


@dataclass(frozen=True)
class Egress:
    """What the log holds.

    Attributes:
        lines: oldest first.
        unreadable: how many lines were cut off, by a power cut for example.
    """

    lines: tuple[Leaving, ...]
    unreadable: int


class EgressLog:
    """Writes the log; owns the folder `egress` of the gate's state, which it makes.

    Args:
        gate: the gate's part of the site's state.
        unix_ms: the clock, in milliseconds since 1970.
    """

    def __init__(self, gate: Path, unix_ms: Callable[[], int]) -> None:
        self._folder, self._unix_ms = gate / "egress", unix_ms
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._known = {line.release for line in _read(self._folder / _FIRSTS)[0]}
        self._files = {name: _open(self._folder / name) for name in (_FIRSTS, _OTHERS)}

    def record(self, request: Buffer, reply: bytes, body_bytes: int = 0, body_sha256: Digest | None = None) -> None:
        """Write down a reply that is about to leave.

        Args:
            request: the node's frame, anything at all.
            reply: the gate's answer, up to its body if that is given by itself.
            body_bytes: size of the body that follows.
            body_sha256: of the body that follows.

        Raises:
            LedgerDamaged: it cannot be written; the reply must not leave.
        """
        asked, said = _header(request), _header(reply)
        code = said.get("code")
        line = Leaving(
            at=self._unix_ms(),
            kind=" ".join(str(part) for part in (said.get("kind", "unknown"), code) if part),
            study=_digest(asked.get("study")) or _digest(said.get("study")),
            release=_digest(said.get("release")),
            bytes=len(reply) + body_bytes,
            sha256=body_sha256 or hashlib.sha256(reply).hexdigest(),
        )
        first = line.release is not None and line.release not in self._known
        try:
            self._write(_FIRSTS if first else _OTHERS, line.model_dump_json().encode() + b"\n")
        except OSError as error:
            raise LedgerDamaged(
                "what leaves the gate cannot be written down, so nothing leaves",
                got=error.strerror or "an error",
                next_step=f"Free disk space at {self._folder}, then start the gate again.",
            ) from error
        if first:
            self._known.add(line.release)

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def _write(self, name: str, line: bytes) -> None:
        if name == _OTHERS and os.fstat(self._files[name]).st_size + len(line) > FILE_BYTES:
            self._put_aside()
        if os.write(self._files[name], line) != len(line):
            raise OSError(0, "the disk is full")

    def _put_aside(self) -> None:
        older = _others(self._folder)
        for number in range(KEPT_FILES - 1, 0, -1):
            if older[number - 1].exists():
                older[number - 1].replace(older[number])
        os.close(self._files[_OTHERS])
        self._files[_OTHERS] = _open(older[0])


def read_egress(gate: Path) -> Egress:
    """Return what left the gate, as far as it is kept; the gate may be running.

    Args:
        gate: the gate's part of the site's state.
    """
    folder = gate / "egress"
    parts = [_read(path) for path in (folder / _FIRSTS, *_others(folder))]
    lines = sorted((line for part, _ in parts for line in part), key=lambda line: line.at)
    return Egress(tuple(lines), sum(unreadable for _, unreadable in parts))


def _others(folder: Path) -> list[Path]:
    """Return the names of the files of repeats, refusals and heads, newest first."""
    return [folder / _OTHERS, *(folder / f"others.{number}.jsonl" for number in range(1, KEPT_FILES))]


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")  # the last line was cut off; the next must not be lost with it
    return descriptor


def _read(path: Path) -> tuple[list[Leaving], int]:
    lines: list[Leaving] = []
    unreadable = 0
    if path.exists():
        for raw in path.read_bytes().splitlines():
            try:
                lines.append(Leaving.model_validate_json(raw))
            except ValidationError:
                unreadable += 1
    return lines, unreadable


def _header(frame: Buffer) -> dict[str, Any]:
    """Return a frame's header as far as it is one; the node may have sent anything."""
    try:
        (length,) = struct.unpack_from("!I", frame)
        if length > MAX_HEADER_BYTES:
            return {}
        header = json.loads(bytes(frame[4 : 4 + length]))
    except (struct.error, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def _digest(value: object) -> Digest | None:
    return value if isinstance(value, str) and _DIGEST.fullmatch(value) else None
