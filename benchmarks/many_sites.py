"""Many made-up sites on one machine, several to a process: all else of a site is the real thing.

Each has keys, certificate, policy, ledger on disk, gate, Unix socket and node of its own, and joined, and approved the
study, as a hospital does; its records are those of one of the four hospitals. A process holds the gates of several
sites, each in a thread, or the nodes of several, on one loop; they are not confined. Coordinator and ServerApp are the
product's own processes.

Leaves to others: what is measured (`rounds.py`).
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fedhealth.demo.federation import Federation, point_node, set_up
from fedhealth.learning.steps import STEPS
from fedhealth.processes import Processes
from fedhealth.site.egress import EgressLog
from fedhealth.site.gate_process import SYSTEM_CLOCK, open_gate, serve_gate
from fedhealth.site.node import run_node
from fedhealth.site.node_file import load_node_file
from fedhealth.site.state import SiteState
from fedhealth.training.per_patient import make_deterministic

GATE_PROCESSES = 2


def set_up_many(folder: Path, protocol: Path, hospitals: Path, sites: int) -> Federation:
    """Make a federation of so many sites, the folders of which are copies of the hospitals'."""
    originals = sorted(path.parent for path in hospitals.glob("*/site.toml"))
    for number in range(sites):
        name, original = f"s{number:03}", originals[number % len(originals)]
        copy = folder / "sites" / name
        shutil.copytree(original, copy)
        text = (copy / "site.toml").read_text()
        (copy / "site.toml").write_text(re.sub('^id = ".*"', f'id = "{name}"', text, count=1, flags=re.MULTILINE))
    return set_up(folder / "run", protocol, folder / "sites")


def run_many(federation: Federation) -> Iterator[float]:
    """Run the federation's study; yields the seconds of each round as it ends."""
    with Processes(federation.logs) as processes:
        coordinator = processes.start(
            "coordinator",
            [
                *("coordinator", "run", str(federation.signed_study), "--home", str(federation.home.root)),
                *("--out", str(federation.results), "--address", "127.0.0.1:0"),
            ],
            events=True,
        )
        with ExitStack() as started:
            for first in range(GATE_PROCESSES):
                started.enter_context(_several("gates", federation, first))
            assert coordinator.process.stdout is not None
            for event in map(json.loads, coordinator.process.stdout):
                if event["event"] == "listening":
                    for site in federation.sites:
                        point_node(site, f"127.0.0.1:{event['port']}")
                    for site in federation.sites:
                        processes.wait_for(site.state.socket, 120)
                    started.enter_context(_several("nodes", federation))
                elif event["event"] == "round":
                    assert not event["absent"], event
                    yield event["seconds"]
        assert coordinator.process.wait() == 0, coordinator.end()


@contextmanager
def _several(what: str, federation: Federation, first: int = 0) -> Iterator[None]:
    """Run the gates of every `GATE_PROCESSES`-th site, or all nodes, in a process of their own."""
    sites = federation.sites[first :: GATE_PROCESSES if what == "gates" else 1]
    places = [f"{site.folder}:{site.state.root}" for site in sites]
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "many_sites", what, *places]
    with (federation.logs / f"{what}-{first}.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env=os.environ | {"PYTHONPATH": path})
    try:
        yield
    finally:
        process.kill()
        process.wait()


def serve_gates(places: list[tuple[Path, Path]]) -> None:
    """Serve the gates of some sites, each in a thread."""
    make_deterministic()
    for folder, root in places:
        state = SiteState(root)
        gate, _ = open_gate(folder, state, STEPS)
        leaving = EgressLog(state.gate, SYSTEM_CLOCK.unix_ms).record
        threading.Thread(target=serve_gate, args=(gate, state.socket, {os.geteuid()}, None, leaving)).start()


async def run_nodes(places: list[tuple[Path, Path]]) -> None:
    """Run the nodes of some sites."""
    states = [SiteState(root) for _, root in places]
    await asyncio.gather(*(run_node(state, load_node_file(state.node), lambda _: None) for state in states))


if __name__ == "__main__":
    _, kind, *named = sys.argv
    pairs = [(Path(folder), Path(root)) for folder, _, root in (each.partition(":") for each in named)]
    if kind == "gates":
        serve_gates(pairs)
    else:
        asyncio.run(run_nodes(pairs))
