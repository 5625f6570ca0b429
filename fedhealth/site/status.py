"""How a site stands, for its administrator: certificate, link, budget, and what waits for whom. Writes nothing.

The gate may be running. What this user may not read is said to be unknown, not left out: certificate and link are the
node's, everything else the gate's.
"""

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fedhealth.errors import FedHealthError
from fedhealth.pki.identity import read_identity
from fedhealth.pki.profiles import Role
from fedhealth.privacy.verified_ledger import LedgerContents, Spending
from fedhealth.privacy.verify import read_ledger
from fedhealth.secret_file import read_plain_file
from fedhealth.site.offers import read_offers
from fedhealth.site.state import SiteState
from fedhealth.study.signature import SignedStudy

_LONGEST_LINK = 4096
UNKNOWN = "unknown: this user may not look, or the site has not joined"


@dataclass(frozen=True)
class SiteStatus:
    """How a site stands.

    Attributes:
        site: its id.
        certificate: how long the link's certificate lasts.
        renewal: how long the certificate lasts with which it is renewed.
        link: the last that the node said of it, and when; or that no node runs.
        gate: whether something listens at its socket.
        spending: per data set and side.
        studies: approved and not withdrawn.
        waits: what waits for somebody, in words; empty if nothing does.
    """

    site: str
    certificate: str
    renewal: str
    link: str
    gate: str
    spending: tuple[Spending, ...]
    studies: int
    waits: tuple[str, ...]


class RecordedLink(BaseModel):
    """The last that the node said of its link; anything at all that has this shape.

    Attributes:
        state: one of `fedhealth.link.client.LinkState`.
        since: ISO 8601, with time zone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    state: Annotated[str, Field(pattern=r"^[a-z-]{1,40}$")]
    since: Annotated[str, Field(max_length=40)]


def recorded_link(node: Path) -> RecordedLink:
    """Return what `record_link` kept; the folder is the node's, and whoever reads it may be root.

    Raises:
        OSError, ValueError: there is nothing, or nothing that can be believed.
    """
    return RecordedLink.model_validate_json(read_plain_file(node / "link.json", _LONGEST_LINK))


def record_link(node: Path, change: str, now: datetime) -> None:
    """Keep the last state of the link where `site status` finds it; the node's folder."""
    said = {"state": str(change), "since": now.isoformat(timespec="seconds")}
    new = node / "link.json.new"
    new.write_text(json.dumps(said), encoding="utf-8")  # nothing that must survive a power cut
    new.replace(node / "link.json")


@contextmanager
def seen_running(node: Path) -> Iterator[None]:
    """Let `status_of` see that a node runs; the kernel takes this back however the process ends."""
    folder = _open_folder(node)
    try:
        fcntl.flock(folder, fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)


def status_of(state: SiteState, now: datetime) -> SiteStatus:
    """Return how a site stands.

    Args:
        state: its state.
        now: the present, with time zone.

    Raises:
        LedgerDamaged: the ledger cannot be read or does not verify.
    """
    contents = read_ledger(state.gate, held=True)
    account = contents.account
    return SiteStatus(
        site=contents.verified.head.site,
        certificate=_or_unknown(lambda: _life(state, Role.SITE, now)),
        renewal=_or_unknown(lambda: _life(state, Role.RENEWAL, now)),
        link=_or_unknown(lambda: _link(state.node, now)),
        gate=_gate(state.socket),
        spending=contents.verified.spending,
        studies=len(account.approved.keys() - account.withdrawn),
        waits=tuple(_waiting(state, contents)),
    )


def _waiting(state: SiteState, contents: LedgerContents) -> list[str]:
    account, waits = contents.account, []
    mark = state.hold.mark()
    if state.hold.restored:
        waits.append("the ledger came from a backup: start gate and node, then fedhealth site recover-ledger")
    elif mark is not None:
        waits.append(f"the ledger is held ({mark.kind}): fedhealth site recover-ledger --help")
    elif not contents.verified.anchored:
        waits.append("ledger.anchor is missing: find it, or see fedhealth site recover-ledger --help")
    if contents.verified.paused:
        waits.append("the site is paused: fedhealth site resume")
    decisions = account.decisions
    decided = account.approved.keys() | decisions.rejected.keys() | decisions.first.keys()
    offered = {signed.study.digest for signed in _offers(state.node)} - decided
    if offered:
        waits.append(f"{len(offered)} offered studies wait to be looked at: fedhealth site studies")
    if decisions.first:
        waits.append(f"{len(decisions.first)} studies wait for a second person: fedhealth site studies")
    charged = len(account.reserved.keys() - account.stored.keys() - account.closed)
    if charged:
        waits.append(f"{charged} charged releases wait for the coordinator's signature or for the gate")
    behind = contents.verified.head.size - contents.verified.witnessed
    if behind > 0:
        waits.append(f"{behind} entries of the ledger wait for the coordinator's signature")
    return waits


def _offers(node: Path) -> list[SignedStudy]:
    try:
        return list(read_offers(node).values())
    except OSError:
        return []  # the node's, and not for this user


def _life(state: SiteState, role: Role, now: datetime) -> str:
    leaf = read_identity(state.node, role).leaf
    left = leaf.not_valid_after_utc - now
    if left <= timedelta(0):
        return f"expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    days = f"{left.days} d " if left.days else ""
    return f"{days}{left.seconds // 3600} h {left.seconds % 3600 // 60} min left"


def _link(node: Path, now: datetime) -> str:
    said = recorded_link(node)
    minutes = max(0, int((now - datetime.fromisoformat(said.since)).total_seconds() // 60))
    since = f"{minutes // 60} h {minutes % 60} min"
    return f"{said.state} for {since}" if _runs(node) else f"no node runs; the last one said '{said.state}' {since} ago"


def _runs(node: Path) -> bool:
    folder = _open_folder(node)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(folder)
    return False


def _open_folder(node: Path) -> int:
    return os.open(node, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _gate(path: Path) -> str:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
    except PermissionError:
        return UNKNOWN
    except OSError:
        return "not running"
    return "running"


def _or_unknown(read: Callable[[], str]) -> str:
    try:
        return read()
    except (FedHealthError, OSError, ValueError, TypeError):
        return UNKNOWN
