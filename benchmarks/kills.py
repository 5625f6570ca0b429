"""kill -9 of any process of a real federation, again and again, in the middle of a study.

A federation of four hospitals is set up once, with known noise, and copied. One copy runs undisturbed. In the other,
one process at a time (the coordinator, its ServerApp, a gate, a node) is killed at a random moment after the study has
gone on, and started again, as a service manager would; a study that a gate has stopped because it was killed twice in
one computation is resumed by its administrator, as the gate asks. At the end the model has the same bits, each ledger
verifies, and each patient was charged for exactly the rounds and the evaluation.

Run: .venv/bin/python benchmarks/kills.py [--kills 200] [--rounds 400] [--seed 1]
Ends with code 1 if a figure misses its target.
"""

import argparse
import json
import logging
import os
import queue
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from fedhealth.config import parse_toml
from fedhealth.coordinator.run_folder import MODEL
from fedhealth.coordinator.store.database import open_database
from fedhealth.coordinator.store.runs import Runs
from fedhealth.demo.federation import Federation, point_node, set_up
from fedhealth.errors import FedHealthError
from fedhealth.privacy.verify import verify_ledger
from fedhealth.processes import Child, Processes
from fedhealth.signing import public_key_hex
from fedhealth.site.acts import resume_study
from fedhealth.site.state import SiteState
from fedhealth.study.protocol import Study

ROOT = Path(__file__).resolve().parents[1]
STALL_SECONDS = 90.0
"""A study that has not gone on for so long is stuck."""

logging.getLogger("fedhealth").setLevel(logging.ERROR)


class Running:
    """A federation whose processes are watched, killed and started again."""

    def __init__(self, federation: Federation, processes: Processes) -> None:
        self._federation, self._processes = federation, processes
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._port = 0
        self.children: dict[str, Child] = {}
        self._stops: Counter[str] = Counter()
        for site in federation.sites:
            self.start(f"{site.file.id} gate")
        self.start("coordinator")
        for site in federation.sites:
            processes.wait_for(site.state.socket, STALL_SECONDS)
            self.start(f"{site.file.id} node")

    def start(self, name: str) -> None:
        """Start a process that is not running."""
        if name == "coordinator":
            self._start_coordinator()
            return
        site = next(site for site in self._federation.sites if site.file.id == name.split()[0])
        state = ["--state", str(site.state.root)]
        verb = ["gate", str(site.folder), *state] if name.endswith("gate") else ["node", *state]
        self.children[name] = self._processes.start(name.replace(" ", "-"), ["site", *verb])

    def kill(self, name: str) -> bool:
        """Kill a process with SIGKILL; say whether it was there."""
        if name == "ServerApp":
            try:
                apps = psutil.Process(self.children["coordinator"].process.pid).children()
            except psutil.NoSuchProcess:
                return False
            for app in apps:
                os.kill(app.pid, signal.SIGKILL)
            return bool(apps)
        child = self.children[name]
        if child.process.poll() is not None:
            return False
        child.process.send_signal(signal.SIGKILL)
        child.process.wait()
        self._processes.forget(child)
        return True

    def next_event(self) -> dict[str, Any] | None:
        """Return what the coordinator said next, or None if it said nothing for a moment; mend what a person would."""
        try:
            return self._events.get(timeout=1.0)
        except queue.Empty:
            for site in self._federation.sites:
                stops = (self._federation.logs / f"{site.file.id}-gate.log").read_text().count("is stopped here")
                if stops > self._stops[site.file.id]:
                    self._stops[site.file.id] = stops
                    resume_study(site.folder, site.state, self._federation.study.digest)
            return None

    @property
    def resumed(self) -> int:
        """How often a study that was killed twice in one computation was resumed."""
        return self._stops.total()

    def ended(self) -> int | None:
        """Return the coordinator's exit code once it has ended by itself."""
        return self.children["coordinator"].process.poll()

    def _start_coordinator(self) -> None:
        federation = self._federation
        arguments = ["coordinator", "run", str(federation.signed_study), "--home", str(federation.home.root)]
        arguments += ["--out", str(federation.results), "--address", f"127.0.0.1:{self._port}", "--patience", "600"]
        child = self._processes.start("coordinator", [*arguments, "--allow-unsafe-test-sites"], events=True)
        self.children["coordinator"] = child
        threading.Thread(target=self._read, args=(child,), daemon=True).start()
        if self._port == 0:
            event = self._events.get(timeout=STALL_SECONDS)
            assert event["event"] == "listening", event
            self._port = event["port"]
            for site in federation.sites:
                point_node(site, f"127.0.0.1:{self._port}")

    def _read(self, child: Child) -> None:
        assert child.process.stdout is not None
        for line in child.process.stdout:
            try:
                self._events.put(json.loads(line))
            except ValueError:  # cut off by a kill
                return


def run(federation: Federation, kills: int, chance: random.Random) -> tuple[Counter[str], int]:
    """Run the study to its end and return how often each kind of process was killed, and studies resumed by hand."""
    killed: Counter[str] = Counter()
    names = [f"{site.file.id} {part}" for site in federation.sites for part in ("gate", "node")]
    with Processes(federation.logs) as processes:
        running = Running(federation, processes)
        last = time.monotonic()
        while True:
            event = running.next_event()
            if running.ended() is not None:
                assert running.ended() == 0, running.children["coordinator"].end()
                return killed, running.resumed
            if event is None or event["event"] != "round":
                assert time.monotonic() - last < STALL_SECONDS, f"stuck after {killed}"
                continue
            last = time.monotonic()
            if sum(killed.values()) >= kills:
                continue
            time.sleep(chance.expovariate(1 / 0.05))
            # Half of the kills hit the datacentre, half a hospital.
            name = chance.choice(["coordinator", "ServerApp"] if chance.random() < 0.5 else names)
            if running.kill(name):
                killed[name.split()[-1]] += 1
                if name != "ServerApp":  # which its parent starts again
                    time.sleep(chance.random() * 0.2)
                    running.start(name)


def charged_once(federation: Federation) -> bool:
    """Say whether every ledger verifies and holds exactly one charge for each round and one for the evaluation."""
    rounds = federation.study.training.rounds
    for site in federation.sites:
        found = verify_ledger(site.state.ledger)
        if found.releases != rounds + 1:
            print(f"{site.file.id}: {found.releases} charges, wanted {rounds + 1}")
            return False
    return True


def copy_of(federation: Federation, folder: Path) -> Federation:
    """Copy a federation that has not run yet."""
    shutil.copytree(federation.folder, folder)
    sites = tuple(
        replace(site, state=SiteState(folder / site.state.root.relative_to(federation.folder)))
        for site in federation.sites
    )
    home = type(federation.home)(folder / federation.home.root.relative_to(federation.folder))
    return replace(federation, folder=folder, home=home, sites=sites, signed_study=folder / "study.signed")


def starts_of(federation: Federation) -> int:
    """Return how often the coordinator took up the run, from its own store."""
    engine = open_database(federation.home.root, None, public_key_hex(federation.home.witness_key().public_key()))
    try:
        found = Runs(engine).find(federation.study.digest)
        return 0 if found is None else found.starts
    finally:
        engine.dispose()


def main() -> int:
    """Run the campaign and print its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    heart = (ROOT / "protocols" / "heart-disease-diagnosis.toml").read_text()
    text = heart.replace("\nrounds = 20\n", f"\nrounds = {asked.rounds}\n")
    study = parse_toml(text.encode(), Path("kills.toml"), Study, "study protocol")
    assert study.training.rounds == asked.rounds
    with tempfile.TemporaryDirectory(prefix="fedhealth-kills-") as folder:
        protocol = Path(folder) / "kills.toml"
        protocol.write_text(text)
        killed_one = set_up(Path(folder) / "killed", protocol, ROOT / "sites", unsafe_noise_seed=asked.seed)
        calm_one = copy_of(killed_one, Path(folder) / "calm")
        run(calm_one, 0, random.Random(0))  # noqa: S311 - no secret
        start = time.monotonic()
        killed, resumed = run(killed_one, asked.kills, random.Random(asked.seed))  # noqa: S311 - no secret
        seconds = time.monotonic() - start
        same = (killed_one.results / MODEL).read_bytes() == (calm_one.results / MODEL).read_bytes()
        once = charged_once(calm_one) and charged_once(killed_one)
        print(f"kill -9 in {asked.rounds} rounds: {sum(killed.values())} in {seconds:.0f} s: {dict(killed)}")
        print(f"  the run was taken up {starts_of(killed_one)} times; studies resumed by hand: {resumed}")
        print(
            f"  recovered                               {sum(killed.values())} of {sum(killed.values())}, target: all"
        )
        print(f"  model has the bits of an undisturbed run {same}, target: True")
        print(f"  each round charged once at each site     {once}, target: True")
        return 0 if same and once and sum(killed.values()) >= asked.kills else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FedHealthError as error:
        sys.exit(f"error: {error}")
