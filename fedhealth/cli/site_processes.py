"""`fedhealth site gate | node | egress`: the two processes of a site, and what left the first."""

import gc
import logging
import re
import signal
import sys
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from fedhealth.cli.completion import approved_studies
from fedhealth.cli.lifeline import Lifeline, loading, run_until_stopped
from fedhealth.cli.output import answer, remark, say, say_step
from fedhealth.cli.site_arguments import EngineChoice, Folder, State, made_state
from fedhealth.errors import ConfigInvalid
from fedhealth.link.engine import Engine

if TYPE_CHECKING:
    from fedhealth.link.client import SiteLink
    from fedhealth.site.landlock import Sandbox
    from fedhealth.site.node import GateChannel
    from fedhealth.site.supernode_host import SuperNodeHost

_LOG = logging.getLogger(__name__)

Users = Annotated[
    list[str] | None, typer.Option("--node-user", help="A Unix user whose node may connect; this user by default.")
]


NodePort = Annotated[
    int, typer.Option(min=0, max=65535, help="Where a SuperNode finds it, on the loopback; 0 for any free port.")
]

Administrators = Annotated[
    list[str] | None,
    typer.Option(
        "--administrator",
        help="A Unix user who may pause, approve, forget and so on while the gate runs; this user and root by default. "
        "The socket's permissions let in these two at most: naming one shuts out the other.",
    ),
]


def gate(
    folder: Folder,
    state: State,
    node_user: Users = None,
    administrator: Administrators = None,
    lifeline: Lifeline = False,
) -> None:
    """Run the gate: it has the data and no network. Serves until it is stopped.

    Example: fedhealth site gate sites/hungary --state state/hungary
    """
    from fedhealth.local_log import withhold_tracebacks
    from fedhealth.site.confinement import confine_gate
    from fedhealth.site.isolation import has_network, leave_network, user_ids

    withhold_tracebacks()
    allowed = user_ids(node_user or [])
    administrators = user_ids(administrator) if administrator else user_ids([]) | {0}
    # Both before anything is imported that starts threads. Root is let go: where it looks like anybody, it is refused.
    if not leave_network(allowed | (administrators - {0})) and has_network():
        _LOG.warning(
            "the gate keeps its network: it cannot leave it here without losing sight of who connects. "
            "Let the service manager take it away (PrivateNetwork=yes)."
        )
    tell_incomplete("gate", confine_gate(folder, made_state(state)))
    with loading(lifeline):
        from fedhealth.learning.steps import STEPS
        from fedhealth.policy.site_file import load_site_file
        from fedhealth.site.administration import AdministratorPort
        from fedhealth.site.egress import EgressLog
        from fedhealth.site.gate_process import SYSTEM_CLOCK, open_gate, serve_gate
        from fedhealth.site.running_site import RunningSite
        from fedhealth.site.state import SiteState
        from fedhealth.training.device import choose_device
        from fedhealth.training.per_patient import make_deterministic

        make_deterministic()
        device = choose_device(load_site_file(folder).device)
        gc.freeze()  # torch is not searched for garbage again: half a second when the gate ends
    site_state = SiteState(state)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: sys.exit(0))
    opened, ledger = open_gate(folder, site_state, STEPS, device=device)
    site = RunningSite(folder, site_state, opened, ledger, SYSTEM_CLOCK)
    try:
        with (
            closing(EgressLog(site_state.gate, SYSTEM_CLOCK.unix_ms)) as log,
            closing(
                AdministratorPort(
                    site_state.administrators_socket, administrators, site.administer, lambda: site.quiet_until
                )
            ) as port,
        ):
            say_step("", {"event": "open", "socket": site_state.socket})
            serve_gate(opened, site_state.socket, allowed, sys.stdin.fileno() if lifeline else None, log.record, port)
    finally:
        ledger.close()


def node(state: State, engine: EngineChoice = None, supernode_port: NodePort = 0, lifeline: Lifeline = False) -> None:
    """Run the node: it has the network and no data. Keeps the site connected until it is stopped.

    Example: fedhealth site node --state state/hungary
    """
    from fedhealth.local_log import withhold_tracebacks
    from fedhealth.site.article_folders import make_article_folders
    from fedhealth.site.confinement import confine_node
    from fedhealth.site.node_file import load_node_file

    withhold_tracebacks()
    with suppress(OSError):  # where they are another user's to make, they are made already
        make_article_folders(state)

    file = load_node_file(state / "node")
    listener = None
    if (engine or file.engine) is Engine.SUPERLINK:
        from fedhealth.site.loopback_port import listen_on_loopback

        listener = listen_on_loopback(supernode_port)  # a confined node can open no port
    sandbox = confine_node(state, file.port_outwards)
    tell_incomplete("node", sandbox)  # before anything is imported that starts threads
    with loading(lifeline):
        from fedhealth.site.node import run_node
        from fedhealth.site.node_records import record_engine, record_link, seen_running
        from fedhealth.site.state import SiteState

        if listener is not None:
            from fedhealth.site.supernode_folder import supernode_folder
            from fedhealth.site.supernode_host import SuperNodeHost

    def on_state(change: str) -> None:
        _LOG.info("link: %(state)s", {"state": str(change)})
        say_step("", {"event": "link", "state": change})
        with suppress(OSError):  # a full disk is no reason to lose the link
            record_link(state / "node", change, datetime.now(UTC))

    def on_engine(change: str) -> None:
        _LOG.info("SuperNode: %(state)s", {"state": change})
        say_step("", {"event": "supernode", "state": change})
        with suppress(OSError):
            record_engine(state / "node", change, datetime.now(UTC))

    def host_for(link: "SiteLink", gate: "GateChannel") -> "SuperNodeHost":
        assert listener is not None  # noqa: S101 - asked for only then
        return SuperNodeHost(supernode_folder(state / "node"), listener, link, gate.answer, on_engine)

    with suppress(OSError):
        record_engine(state / "node", None if listener is None else "waiting", datetime.now(UTC))
    work = run_node(SiteState(state), file, on_state, None if listener is None else host_for)
    with seen_running(state / "node"):
        run_until_stopped(work, lifeline)


def egress(
    state: State,
    study: Annotated[
        str | None,
        typer.Option(help="Only for the study whose digest begins so.", autocompletion=approved_studies),
    ] = None,
) -> None:
    """List what left the gate: when, what, for which study, how many bytes, which hash. The gate may be running.

    Every release that ever left is listed with its first time; of heads, refusals and repeats, the last 200,000 or so.

    Example: fedhealth site egress --state state/hungary
    """
    from fedhealth.site.egress import read_egress

    if study is not None and not re.fullmatch("[0-9a-f]{1,64}", study):
        raise ConfigInvalid(
            "no study can have this digest",
            got=f"--study {study[:80]}",
            wanted="the first hexadecimal digits of a study's digest, in lower case",
            next_step="Leave --study out to see what left for each.",
        )
    found = read_egress(made_state(state) / "gate")
    lines = [line for line in found.lines if study is None or (line.study or "").startswith(study)]
    answer({"lines": [line.model_dump() for line in lines], "unreadable": found.unreadable})
    for line in lines:
        at = datetime.fromtimestamp(line.at / 1000, UTC)
        study_name, size = (line.study or "-")[:12], f"{line.bytes:,}"
        say(f"{at:%Y-%m-%d %H:%M:%S}  {line.kind:<20} {study_name:<12} {size:>12}  {line.sha256[:10]}")
    releases = sum(line.release is not None for line in lines)
    say(f"{len(lines)} frames, {sum(line.bytes for line in lines):,} bytes; {releases} with a release")
    if found.unreadable:
        remark(f"{found.unreadable} lines were cut off and cannot be read")


def tell_incomplete(process: str, sandbox: "Sandbox") -> None:
    """Say in the local log what this kernel cannot do of a process's confinement."""
    if not sandbox.complete:
        _LOG.warning(
            "this kernel's Landlock (interface %(abi)s) does not confine the %(process)s in full; separate users and "
            "the units in deploy/systemd still hold. deploy/README.md says what is missing.",
            {"abi": sandbox.abi, "process": process},
        )
