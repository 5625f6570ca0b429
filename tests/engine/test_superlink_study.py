"""The same study over both engines, as real processes: the same bytes, also when every process of Flower's is killed.

Two hospitals of the demonstration, each with a gate and a node, and with `engine = "superlink"` a stock SuperNode and a
worker; a coordinator with a stock SuperLink and SuperExec, which starts a ServerApp. Both runs begin from copies of one
federation, secrets and all, so whatever differed in a question would differ in a release.
"""

import json
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from fedhealth.coordinator.home import CoordinatorHome
from fedhealth.demo.federation import Federation, set_up
from fedhealth.demo.run import run_processes
from fedhealth.link.engine import Engine
from fedhealth.privacy.verify import read_ledger, verify_ledger
from fedhealth.site.state import SiteState

pytestmark = [pytest.mark.engines, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
SITES = ("cleveland", "hungary")
ROUNDS, SEED = 7, 20261122
ENDING_SECONDS = 60.0
"""A ServerApp whose SuperExec was killed has no parent: it ends when the coordinator hangs up, under load later."""
KILLED = {
    1: ("coordinator", "flower-superlink"),
    2: ("coordinator", "flower-superexec"),
    3: ("coordinator", "flwr-serverapp"),
    4: ("hungary", "supernode"),
    5: ("cleveland", "worker"),
}
"""After which round what is killed: the program's name is in its command line, and its owner's folder."""


def killed(folder: Path, owner: str, program: str) -> list[int]:
    """Kill -9 the processes of one owner that run a program, and return their ids."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            named = any(Path(word).name == program for word in words)
            if named and any(str(folder / "state" / owner) in word for word in words):
                process.kill()
                found.append(process.pid)
    return found


def made_federation(folder: Path) -> Federation:
    """Make the federation whose copies run: with the same keys and secrets of every site."""
    protocol, sites = folder / "protocol.toml", folder / "sites"
    text = (ROOT / "protocols" / "heart-disease-diagnosis.toml").read_text(encoding="utf-8")
    protocol.write_text(text.replace("rounds = 20", f"rounds = {ROUNDS}"), encoding="utf-8")
    for site in SITES:
        shutil.copytree(ROOT / "sites" / site, sites / site)
    return set_up(folder / "made", protocol, sites, SEED)


class Run:
    """One run of a copy of the federation, by an engine."""

    def __init__(self, made: Federation, engine: Engine, kills: dict[int, tuple[str, str]]):
        self.folder, self.events, self.victims, self._kills = made.folder.parent / engine, [], {}, kills
        shutil.copytree(made.folder, self.folder)
        state = self.folder / "state"
        self.federation = replace(
            made,
            folder=self.folder,
            home=CoordinatorHome(state / "coordinator"),
            sites=tuple(replace(site, state=SiteState(state / site.file.id)) for site in made.sites),
            signed_study=self.folder / made.signed_study.name,
        )
        self.evidence = run_processes(
            self.federation,
            Console(file=StringIO()),
            allow_unsafe_test_sites=True,
            on_event=self._heard,
            engine=engine,
        )
        deadline = time.monotonic() + ENDING_SECONDS
        while (running := self._running()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.left_running = running

    def _running(self):
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess):
                here = str(self.folder) in " ".join(process.cmdline())
                found += [process.pid] if here and process.status() != psutil.STATUS_ZOMBIE else []
        return found

    def _heard(self, event):
        self.events.append(event)
        victim = self._kills.get(event.get("round", 0)) if event["event"] == "round" else None
        if victim is not None:  # the next round has begun when this is heard: a moment later it is in its midst
            timer = threading.Timer(0.4, lambda: self.victims.setdefault(victim, killed(self.folder, *victim)))
            timer.start()

    @property
    def model(self) -> bytes:
        return (self.federation.results / "model.safetensors").read_bytes()

    def releases(self, site: str) -> list[tuple[str, str]]:
        """Return name and payload hash of each release in a site's ledger, in its order."""
        (state,) = (each.state for each in self.federation.sites if each.file.id == site)
        entries = [json.loads(entry) for entry in read_ledger(state.ledger).entries]
        return [(entry["release"], entry["payload_sha256"]) for entry in entries if entry["kind"] == "stored"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_federation(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def linked(made):
    return Run(made, Engine.LINK, {})


@pytest.fixture(scope="module")
def flowered(made):
    return Run(made, Engine.SUPERLINK, KILLED)


def test_all_of_flowers_processes_were_killed_in_mid_round_and_the_study_was_completed(flowered):
    assert {victim: len(pids) for victim, pids in flowered.victims.items()} == dict.fromkeys(KILLED.values(), 1)
    assert flowered.evidence.rounds_completed == ROUNDS
    assert not flowered.evidence.partial
    assert [event["round"] for event in flowered.events if event["event"] == "round"] == list(range(1, ROUNDS + 1))


def test_the_model_is_the_same_bytes_over_both_engines(linked, flowered):
    assert flowered.model == linked.model


@pytest.mark.parametrize("site", SITES)
def test_each_ledger_has_the_same_releases_and_nothing_was_charged_twice(linked, flowered, site):
    releases = flowered.releases(site)
    assert len(releases) == ROUNDS + 1, "one of each round, and the evaluation's"
    assert releases == linked.releases(site)
    (state,) = (each.state for each in flowered.federation.sites if each.file.id == site)
    assert verify_ledger(state.ledger).releases == ROUNDS + 1


def test_the_evidence_says_which_engine_it_was(linked, flowered):
    assert (linked.evidence.engine, flowered.evidence.engine) == (Engine.LINK, Engine.SUPERLINK)


def test_nothing_is_left_running(flowered):
    assert flowered.left_running == []
    assert not [pid for pids in flowered.victims.values() for pid in pids if psutil.pid_exists(pid)]
