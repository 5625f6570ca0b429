"""How a site stands, for its administrator: certificate, link, budget, and what waits for whom. Writes nothing.

The gate may be running. What this user may not read is said to be unknown, not left out: certificate and link are the
node's, everything else the gate's.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from fedhealth.errors import FedHealthError
from fedhealth.pki.identity import read_identity
from fedhealth.pki.profiles import Role
from fedhealth.privacy.verified_ledger import LedgerContents, Spending
from fedhealth.privacy.verify import read_ledger
from fedhealth.site.loopback_port import LOOPBACK
from fedhealth.site.node_records import is_running, recorded_engine, recorded_link, recorded_supernode
from fedhealth.site.offers import read_offers
from fedhealth.site.state import SiteState
from fedhealth.study.signature import AnySigned

UNKNOWN = "unknown: this user may not look, or the site has not joined"


@dataclass(frozen=True)
class SiteStatus:
    """How a site stands.

    Attributes:
        site: its id.
        certificate: how long the link's certificate lasts.
        renewal: how long the certificate lasts with which it is renewed.
        link: the last that the node said of it, and when; or that no node runs.
        engine: which way frames take, and how a SuperNode stands where it is Flower's.
        gate: whether something listens at its socket.
        spending: per data set and side.
        studies: approved and not withdrawn.
        waits: what waits for somebody, in words; empty if nothing does.
    """

    site: str
    certificate: str
    renewal: str
    link: str
    engine: str
    gate: str
    spending: tuple[Spending, ...]
    studies: int
    waits: tuple[str, ...]


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
        engine=_or_unknown(lambda: _engine(state.node, now)),
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


def _offers(node: Path) -> list[AnySigned]:
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
    return (
        f"{said.state} for {since}"
        if is_running(node)
        else f"no node runs; the last one said '{said.state}' {since} ago"
    )


def _engine(node: Path, now: datetime) -> str:
    try:
        said = recorded_engine(node)
    except FileNotFoundError:
        return "link"  # of a node that has not run yet, or from before there were two
    if said.supernode is None:
        return "link"
    minutes = max(0, int((now - datetime.fromisoformat(said.since)).total_seconds() // 60))
    stands = f"superlink: {said.supernode} for {minutes // 60} h {minutes % 60} min"
    return f"{stands}; SuperNode {'running' if _supernode_answers(node) else 'not running'}"


def _supernode_answers(node: Path) -> bool:
    try:
        with socket.create_connection((LOOPBACK, recorded_supernode(node)), timeout=1.0):
            return True
    except (OSError, ValueError):
        return False


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
