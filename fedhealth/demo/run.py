"""Run the demonstration: start a federation's processes, follow them, verify what they left, show the result."""

import json
import os
import select
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fedhealth.coordinator.evidence import Evidence
from fedhealth.coordinator.report import Reference, render_report
from fedhealth.coordinator.wording import partial_words
from fedhealth.demo.federation import Federation, point_node, set_up
from fedhealth.errors import ApprovalMissing, FederationFailed, FedHealthError, IdentityInvalid, LinkUnavailable
from fedhealth.learning.figures import Figure
from fedhealth.link.engine import Engine
from fedhealth.privacy.verified_ledger import VerifiedLedger
from fedhealth.privacy.verify import verify_ledger
from fedhealth.processes import Child, Processes
from fedhealth.site.supernode_children import SuperNodeChildren

_START_SECONDS = 60.0
_CHECK_SECONDS = 0.2
_ERRORS: Mapping[int, type[FedHealthError]] = {
    error.exit_code: error for error in (ApprovalMissing, IdentityInvalid, LinkUnavailable)
}
"""What a coordinator that ended with this exit code reports, beside `FederationFailed`."""


@dataclass(frozen=True)
class DemoResult:
    """What a demonstration left.

    Attributes:
        evidence: of the run.
        report: the page to open.
        ledgers: each site's ledger, verified after the processes had stopped.
    """

    evidence: Evidence
    report: Path
    ledgers: tuple[VerifiedLedger, ...]


def run_demo(
    folder: Path,
    protocol: Path,
    sites: Path,
    console: Console,
    *,
    address: str = "127.0.0.1:0",
    unsafe_noise_seed: int | None = None,
    engine: Engine = Engine.LINK,
) -> DemoResult:
    """Run a study over every site in `sites`, each as two processes, and write evidence, reference and report.

    Args:
        folder: where everything goes; must not exist.
        protocol: the study protocol.
        sites: a folder with one folder per site.
        console: where progress is shown.
        address: where the coordinator listens.
        unsafe_noise_seed: known noise, for tests.
        engine: which way frames take.

    Raises:
        FedHealthError: something went wrong; every process is stopped.
    """
    with _waiting(console, "Setting up: keys, certificates, ledgers, approvals"):
        federation = set_up(folder, protocol, sites, unsafe_noise_seed)
    evidence = run_processes(
        federation, console, address=address, allow_unsafe_test_sites=unsafe_noise_seed is not None, engine=engine
    )
    ledgers = tuple(verify_ledger(site.state.ledger) for site in federation.sites)
    reference = None
    if all(site.file.public_data for site in federation.sites):
        with _waiting(console, "Working out the reference figures, which only public data allow"):
            reference = _reference(federation, protocol)
    titles = {site.file.id: site.file.title for site in federation.sites}
    report = federation.folder / "report.html"
    report.write_text(render_report(evidence, federation.study, titles, reference), encoding="utf-8")
    console.print(_summary(evidence, ledgers))
    for line in (
        f"Report:    {report}",
        f"Published: {federation.results}",
        "           (evidence, report and model, as a real federation could)",
        f"All {len(ledgers)} ledgers verify. Check one yourself:",
        f"  fedhealth audit verify {shlex.quote(str(federation.sites[0].state.gate))}",
    ):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    return DemoResult(evidence, report, ledgers)


def run_processes(
    federation: Federation,
    console: Console,
    *,
    address: str = "127.0.0.1:0",
    allow_unsafe_test_sites: bool = False,
    on_event: Callable[[Mapping[str, Any]], None] = lambda _: None,
    engine: Engine = Engine.LINK,
) -> Evidence:
    """Run a federation's study as real processes and return its evidence; no process is left when this returns.

    Args:
        federation: as `set_up` made it.
        console: where progress is shown.
        address: where the coordinator listens.
        allow_unsafe_test_sites: for tests.
        on_event: told every event of the coordinator.
        engine: which way frames take; with "superlink" each site has a SuperNode and its worker beside its two.

    Raises:
        FederationFailed: a process ended, or the study did.
    """
    with Processes(federation.logs) as processes, Processes(federation.logs) as flower:
        with _waiting(console, f"Starting the coordinator and {len(federation.sites)} sites, each a node and a gate"):
            options = ["--address", address, "--engine", engine.value]
            options += ["--allow-unsafe-test-sites"] if allow_unsafe_test_sites else []
            supernodes = _supernodes(flower, federation) if engine is Engine.SUPERLINK else {}
            coordinator, events = _start(processes, federation, options, supernodes)
        _follow(events, federation, console, on_event)
        if coordinator.process.wait() != 0:
            _fail(coordinator)
    return Evidence.model_validate_json((federation.results / "evidence.json").read_bytes())


def _start(
    processes: Processes, federation: Federation, options: list[str], supernodes: Mapping[str, SuperNodeChildren]
) -> tuple[Child, Iterator[dict[str, Any]]]:
    """Start everything, and return the coordinator with the events that follow."""
    for site in federation.sites:
        arguments = ["site", "gate", str(site.folder), "--state", str(site.state.root)]
        processes.start(f"{site.file.id}-gate", arguments)
    coordinator = processes.start(
        "coordinator",
        [
            *("coordinator", "run", str(federation.signed_study), "--home", str(federation.home.root)),
            *("--out", str(federation.results), *options),
        ],
        events=True,
    )
    events = _events(coordinator, processes, supernodes)
    port = next((event["port"] for event in events if event["event"] == "listening"), None)
    if port is None:
        _fail(coordinator)
    host = options[1].rpartition(":")[0]
    for site in federation.sites:
        point_node(site, f"{host if host.startswith('127.') else '127.0.0.1'}:{port}")
        processes.wait_for(site.state.socket, _START_SECONDS)
        way = supernodes[site.file.id].node_arguments() if supernodes else []
        processes.start(f"{site.file.id}-node", ["site", "node", "--state", str(site.state.root), *way])
    return coordinator, events


def _supernodes(processes: Processes, federation: Federation) -> dict[str, SuperNodeChildren]:
    """Return what keeps a SuperNode and its worker running at each site, by its id."""
    return {
        site.file.id: SuperNodeChildren(processes, site.state.root.absolute(), None, lambda _: None, f"{site.file.id}-")
        for site in federation.sites
    }


def _events(
    coordinator: Child, processes: Processes, supernodes: Mapping[str, SuperNodeChildren]
) -> Iterator[dict[str, Any]]:
    """Yield the coordinator's events as they come, and watch the other processes meanwhile.

    Raises:
        FederationFailed: another process ended.
    """
    assert coordinator.process.stdout is not None  # noqa: S101 - it was started with events
    source, rest = coordinator.process.stdout.fileno(), b""
    while True:
        processes.check()
        for each in supernodes.values():
            each.look()
        if not select.select([source], [], [], _CHECK_SECONDS)[0]:
            continue
        part = os.read(source, 1 << 16)
        if not part:
            return
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _follow(
    events: Iterator[dict[str, Any]],
    federation: Federation,
    console: Console,
    on_event: Callable[[Mapping[str, Any]], None],
) -> None:
    """Show rounds, sites, epsilon and the time left until the coordinator's last event."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("rounds", total=federation.study.rounds, state="waiting for sites")
        connected: set[str] = set()
        for event in events:
            on_event(event)
            if event["event"] == "site" and not progress.finished:
                (connected.add if event["connected"] else connected.discard)(event["site"])
                progress.update(task, state=f"{len(connected)} of {len(federation.sites)} sites connected")
            elif event["event"] == "round":
                state = f"{event['sites']} sites, epsilon {event['epsilon']:.2f}"
                progress.update(task, completed=event["round"], state=state)
            elif event["event"] == "evaluated":
                progress.update(task, state="evaluated on held-out patients")


def _reference(federation: Federation, protocol: Path) -> Reference:
    """Have the figures that only public data allow made by a process of its own, and read them."""
    path = federation.folder / "reference.json"
    command = [sys.executable, "-P", "-m", "fedhealth.demo.reference", "--out", str(path)]
    command += ["--protocol", str(protocol), "--model", str(federation.results / "model.safetensors")]
    for site in federation.sites:
        command += ["--site-folder", str(site.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    if done.returncode != 0:
        raise FederationFailed("the reference figures could not be made", got=done.stderr.strip()[-500:])
    return Reference.model_validate_json(path.read_bytes())


def _summary(evidence: Evidence, ledgers: tuple[VerifiedLedger, ...]) -> Table:
    table = Table(title="Held-out patients, with 95 % intervals that include the noise", title_justify="left")
    for column in ("hospital", "accuracy", "rounds", "epsilon", "of budget"):
        table.add_column(column, justify="left" if column == "hospital" else "right")
    ledger_of = {ledger.ledger_key: ledger for ledger in ledgers}
    for site in evidence.sites:
        ledger = ledger_of[site.ledger.ledger_key]
        used = max(line.share_spent for line in ledger.spending)
        rounds, epsilon = f"{len(site.rounds)}/{evidence.rounds_planned}", f"{site.epsilon:.2f}"
        accuracy = _say(site.figures.headline.figure) if site.figures else ""
        table.add_row(site.site, accuracy, rounds, epsilon, f"{used:.0%}")
    table.add_section()
    table.add_row("all together", _say(evidence.pooled.headline.figure), "", "", "")
    table.caption = partial_words(evidence) or None
    return table


def _say(figure: Figure) -> str:
    if figure.estimate is None or figure.low is None or figure.high is None:
        return "too few patients"
    return f"{figure.estimate:.0%} ({figure.low:.0%}-{figure.high:.0%})"


def _fail(coordinator: Child) -> NoReturn:
    """Raise what the coordinator said before it ended."""
    error = _ERRORS.get(coordinator.process.wait(), FederationFailed)
    raise error("the coordinator ended early", got=coordinator.end(), next_step=f"Its log: {coordinator.log}")


@contextmanager
def _waiting(console: Console, what: str) -> Iterator[None]:
    """Show what takes the next seconds: a line, and a spinner where somebody watches."""
    if console.is_terminal:
        with console.status(f"{what} ..."):
            yield
        return
    console.print(f"{what} ...", soft_wrap=True)
    yield
