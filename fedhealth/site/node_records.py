"""What a node says of itself for those who look at the site: link, engine, SuperNode, that it runs.

The files are in the node's folder and need not survive a power cut. Whoever reads them may be root, so they are read as
a stranger's: plain, small, of one shape. Loads nothing heavy, because a SuperNode is confined soon after it writes.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fedhealth.secret_file import read_plain_file

_LONGEST = 4096
_State = Annotated[str, Field(pattern=r"^[a-z-]{1,40}$")]
_Time = Annotated[str, Field(max_length=40)]


class RecordedLink(BaseModel):
    """The last that the node said of its link; anything at all that has this shape.

    Attributes:
        state: one of `fedhealth.link.client.LinkState`.
        since: ISO 8601, with time zone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    state: _State
    since: _Time


class RecordedEngine(BaseModel):
    """The last that the node said of its engine; anything at all that has this shape.

    Attributes:
        supernode: how the SuperNode's key stands with the coordinator; None where the link alone carries frames.
        since: ISO 8601, with time zone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    supernode: _State | None
    since: _Time


class _RecordedPort(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    port: Annotated[int, Field(ge=1, le=65535)]


def record_link(node: Path, change: str, now: datetime) -> None:
    """Keep the last state of the link where `site status` finds it; the node's folder."""
    _record(node / "link.json", RecordedLink(state=str(change), since=now.isoformat(timespec="seconds")))


def recorded_link(node: Path) -> RecordedLink:
    """Return what `record_link` kept.

    Raises:
        OSError, ValueError: there is nothing, or nothing that can be believed.
    """
    return RecordedLink.model_validate_json(read_plain_file(node / "link.json", _LONGEST))


def record_engine(node: Path, supernode: str | None, now: datetime) -> None:
    """Keep how the SuperNode stands with the coordinator, or None where there is none."""
    _record(node / "engine.json", RecordedEngine(supernode=supernode, since=now.isoformat(timespec="seconds")))


def recorded_engine(node: Path) -> RecordedEngine:
    """Return what `record_engine` kept.

    Raises:
        OSError, ValueError: as `recorded_link`.
    """
    return RecordedEngine.model_validate_json(read_plain_file(node / "engine.json", _LONGEST))


def record_supernode(node: Path, port: int) -> None:
    """Keep where the SuperNode listens."""
    _record(node / "supernode.json", _RecordedPort(port=port))


def recorded_supernode(node: Path) -> int:
    """Return the port that `record_supernode` kept.

    Raises:
        OSError, ValueError: as `recorded_link`.
    """
    return _RecordedPort.model_validate_json(read_plain_file(node / "supernode.json", _LONGEST)).port


@contextmanager
def seen_running(node: Path) -> Iterator[None]:
    """Let `status_of` see that a node runs; the kernel takes this back however the process ends."""
    folder = _open_folder(node)
    try:
        fcntl.flock(folder, fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)


def is_running(node: Path) -> bool:
    """Say whether a node runs, by the lock of `seen_running`; raises `OSError` where this user may not look."""
    folder = _open_folder(node)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(folder)
    return False


def _record(path: Path, said: BaseModel) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(said.model_dump_json(), encoding="utf-8")
    new.replace(path)


def _open_folder(node: Path) -> int:
    return os.open(node, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
