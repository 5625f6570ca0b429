"""`fedhealth site start`: the whole site with one command."""

import dataclasses
from datetime import UTC, datetime

from fedhealth.cli.lifeline import leaving_at_once
from fedhealth.cli.output import say_step
from fedhealth.cli.site_arguments import EngineChoice, Folder, State, made_state
from fedhealth.errors import ConfigInvalid

_WAITED_FOR = frozenset({"port", "TLS"})
"""Checks of the line to the coordinator: what is wrong there may come right while the node tries."""


def start(folder: Folder, state: State, engine: EngineChoice = None) -> None:
    """Check the machine, run gate and node, and keep them running until Ctrl-C; says what it waits for.

    As root, gate and node become the two users that their folders belong to, and the gate has no network; else both
    run as this user. A node that ends is started again; when the gate ends, everything stops. With engine "superlink" a
    stock Flower SuperNode and its worker run as the node's user, confined, without data. Exit codes: 3 if a check
    of `fedhealth site preflight` fails that waiting cannot cure, 11 if the gate ended, 130 when it was stopped.

    Example: fedhealth site start sites/hungary --state state/hungary
    """
    with leaving_at_once():
        from fedhealth.processes import Processes
        from fedhealth.site.file_rights import groups_of
        from fedhealth.site.preflight import inspect_site
        from fedhealth.site.starting import keep_running, users_of
        from fedhealth.site.state import SiteState

        site_state, node = SiteState(made_state(state)), None
        if not site_state.node.is_dir():
            raise ConfigInvalid("the site has not joined a federation", next_step="Join: fedhealth site enrol --help")
        gate_user, node_user = users_of(site_state)
        if node_user and gate_user and node_user.user != gate_user.user:
            node = groups_of(str(node_user.user))
        wrong = []
        for finding in inspect_site(folder, site_state, node, datetime.now(UTC)):
            if finding.verdict in ("warning", "wrong"):
                said = f"{finding.verdict}: {finding.check}: {finding.found}\n  -> {finding.remedy}"
                say_step(said, {"event": "finding"} | dataclasses.asdict(finding))
            if finding.verdict == "wrong" and finding.check not in _WAITED_FOR:
                wrong.append(finding.check)
    if wrong:
        raise ConfigInvalid(
            "this machine cannot run the site", got=f"wrong: {', '.join(wrong)}", next_step="Do what is said above."
        )
    with Processes(None) as processes:
        keep_running(folder, site_state, processes, _say, engine)


def _say(text: str) -> None:
    say_step(text, {"event": "state", "text": text})
