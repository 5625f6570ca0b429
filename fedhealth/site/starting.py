"""A site's processes as the children of one: started, kept running, and what they wait for said in plain words.

As root gate and node become the users that their folders belong to, and the gate has no network; else both run as this
user. A node that ends is started again, later each time; when the gate ends a person must look, so everything stops.
Where the site has an index for its own searches, a process of the gate's user fills it, every few minutes and whatever
the coordinator asks meanwhile; it ends by itself and stops nothing.

Leaves to others: what a machine must have (`fedhealth.site.preflight`), that no child outlives this process
(`fedhealth.processes`), and starting at boot (`deploy/systemd`).
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fedhealth.errors import ConfigInvalid, FederationFailed
from fedhealth.flower.version import check_flower
from fedhealth.link.engine import Engine
from fedhealth.processes import Child, Processes, RunAs
from fedhealth.site.article_folders import make_article_folders
from fedhealth.site.file_rights import groups_of
from fedhealth.site.isolation import spawning_without_network
from fedhealth.site.node_file import load_node_file
from fedhealth.site.node_records import RecordedLink, recorded_link
from fedhealth.site.restart_waits import RestartWaits
from fedhealth.site.state import SiteState
from fedhealth.site.supernode_children import SuperNodeChildren

_LOOK_SECONDS = 0.2
_FILLING_SECONDS = 300.0
"""Between the end of one filling of the index and the next: a new document's vectors may wait so long."""

_LINK_WORDS = {
    "connecting": "waits for the coordinator at {coordinator}",
    "connected": "connected to the coordinator; waits for studies (fedhealth site studies lists them)",
    "disconnected": "waits for the coordinator at {coordinator}, which does not answer; it goes on trying",
    "refused": "refused by the coordinator at {coordinator}; ask its operator whether this site is a member",
    "replaced": "another node of this site has connected in its place; is one running elsewhere?",
    "coordinator-older": "waits for the coordinator's operator: it runs an older FedHealth and must be upgraded",
}


def users_of(state: SiteState) -> tuple[RunAs | None, RunAs | None]:
    """Return as whom gate and node run: the users that their folders belong to; None for this process's own.

    Raises:
        ConfigInvalid: this user cannot start both, or they share no group for the socket between them.
    """
    own, gate, node = os.geteuid(), state.gate.stat().st_uid, state.node.stat().st_uid
    if own != 0 and {gate, node} != {own}:
        raise ConfigInvalid(
            "this user cannot start the gate and the node",
            got=f"folders that belong to users number {gate} and {node}",
            next_step="Run this as root; or start the units in deploy/systemd.",
        )
    if {gate, node} == {own}:
        return None, None
    (_, of_gate), (_, of_node) = groups_of(str(gate)), groups_of(str(node))
    shared = state.root.stat().st_gid
    if gate != node and shared not in of_gate & of_node:
        raise ConfigInvalid(
            f"gate and node share no group that {state.root} belongs to",
            got=f"group number {shared}",
            wanted="one that both users are in",
            next_step="See deploy/README.md: systemd-sysusers makes users and group, and chgrp gives it the folder.",
        )
    return RunAs(gate, shared, of_gate), RunAs(node, shared, of_node)


def keep_running(
    folder: Path, state: SiteState, processes: Processes, say: Callable[[str], None], engine: Engine | None = None
) -> NoReturn:
    """Start gate and node, and where the engine says so a SuperNode, and keep them running until this is stopped.

    Args:
        folder: the site's folder.
        state: its state.
        processes: owns them; whoever does stops them.
        say: told what is waited for, a line at a time.
        engine: which way frames take; None for what `node.toml` says.

    Raises:
        ConfigInvalid: as `users_of`, or the site has not joined.
        FederationFailed: the gate ended.
    """
    file = load_node_file(state.node)
    gate_user, node_user = users_of(state)
    place = ["--state", str(state.root.absolute())]
    make_article_folders(state.root)
    supernode = None
    if (engine or file.engine) is Engine.SUPERLINK:
        check_flower()
        supernode = SuperNodeChildren(processes, state.root.absolute(), node_user, say)
    allowed = ["--node-user", str(node_user.user)] if node_user and node_user != gate_user else []
    before, last = _mark_of(state.socket), _link_of(state)
    say("gate: reads the data and prepares the approved studies")
    with spawning_without_network():
        gate = processes.start("gate", ["site", "gate", str(folder.absolute()), *place, *allowed], run_as=gate_user)
    while _mark_of(state.socket) in (None, before):
        _check(gate)
        time.sleep(_LOOK_SECONDS)
    say("gate: ready")
    waits, node, due = RestartWaits(), None, time.monotonic()
    filling = _Filling(processes, state, gate_user, say)
    while True:
        _check(gate)
        filling.look()
        if node is not None and node.process.poll() is not None:
            wait = waits.after(time.monotonic() - due)
            say(f"node: ended with {node.end()}; it is started again in {wait:g} seconds")
            processes.forget(node)
            node, due = None, time.monotonic() + wait
        if node is None and time.monotonic() >= due:
            due = time.monotonic()
            way = supernode.node_arguments() if supernode else ["--engine", Engine.LINK.value]
            node = processes.start("node", ["site", "node", *place, *way], run_as=node_user)
        if supernode is not None and node is not None:
            supernode.look()
        link = _link_of(state)
        if link not in (None, last):
            last = link
            if words := _LINK_WORDS.get(link.state if link else ""):
                say(f"node: {words.format(coordinator=file.coordinator)}")
        time.sleep(_LOOK_SECONDS)


class _Filling:
    """Starts what fills the index of the site's own searches, again and again, from when there is one."""

    def __init__(
        self, processes: Processes, state: SiteState, run_as: RunAs | None, say: Callable[[str], None]
    ) -> None:
        self._processes, self._state, self._run_as, self._say = processes, state, run_as, say
        self._child: Child | None = None
        self._due, self._failed = time.monotonic(), False

    def look(self) -> None:
        """Start it where it is due; say once that it fails."""
        if self._child is not None and self._child.process.poll() is not None:
            failed = self._child.process.returncode != 0
            if failed and not self._failed:
                self._say(f"index: cannot be filled ({self._child.end()}); it is tried again every few minutes")
            self._processes.forget(self._child)
            self._child, self._failed, self._due = None, failed, time.monotonic() + _FILLING_SECONDS
        if self._child is None and time.monotonic() >= self._due:
            self._due = time.monotonic() + _FILLING_SECONDS
            if self._state.index.is_dir():
                words = ["site", "index", "fill", "--state", str(self._state.root.absolute())]
                with spawning_without_network():
                    self._child = self._processes.start("index", words, run_as=self._run_as)


def _check(gate: Child) -> None:
    if gate.process.poll() is not None:
        raise FederationFailed(
            "the gate ended, so the site is stopped",
            got=gate.end(),
            next_step="Its reason stands above. When it is dealt with, start the site again.",
        )


def _mark_of(path: Path) -> tuple[int, int] | None:
    """Return what changes when a socket is made anew; one that a killed gate left is no gate."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def _link_of(state: SiteState) -> RecordedLink | None:
    try:
        return recorded_link(state.node)
    except (OSError, ValueError):
        return None
