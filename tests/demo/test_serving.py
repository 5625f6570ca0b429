"""`fedhealth coordinator serve` as real processes: killed in the midst of a study that was submitted, it ends once."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedhealth.coordinator.evidence import Evidence
from fedhealth.coordinator.research_client import fetch_results, submit_study, watch_study
from fedhealth.coordinator.research_frames import SOCKET_FILE, Over
from fedhealth.coordinator.run_folder import EVIDENCE
from fedhealth.demo.federation import point_node, set_up
from fedhealth.errors import LinkUnavailable
from fedhealth.privacy.verify import verify_ledger
from fedhealth.processes import Processes

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
SITES = ("cleveland", "hungary")
ROUNDS = 25


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Served:
    """`fedhealth coordinator serve` over a federation, which can be killed and started again."""

    def __init__(self, federation, folder):
        self.port, self.log, self.home = free_port(), folder / "serve.log", federation.home.root
        self.socket = self.home / SOCKET_FILE

    def start(self):
        command = ["coordinator", "serve", "--home", self.home, "--allow-unsafe-test-sites"]
        command += ["--address", f"127.0.0.1:{self.port}", "--enrolment", "127.0.0.1:0"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedhealth.cli.main", *command], stdout=log, stderr=subprocess.STDOUT
            )

    def patiently(self, ask):
        """Ask until the coordinator is up."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return ask()
            except LinkUnavailable:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.1)

    def follow(self, study, until):
        """Return the events of a study up to the first for which `until` holds."""
        seen = []
        for event in watch_study(self.socket, study):
            seen.append(event)
            if until(event):
                return seen
        raise AssertionError(seen)


def test_a_submitted_study_survives_kill_9_of_the_serving_coordinator_and_is_charged_once(short_path):
    (short_path / "sites").mkdir()
    for name in SITES:
        (short_path / "sites" / name).symlink_to(ROOT / "sites" / name)
    text = (ROOT / "protocols" / "heart-disease-diagnosis.toml").read_text(encoding="utf-8")
    (short_path / "protocol.toml").write_text(text.replace("rounds = 20\n", f"rounds = {ROUNDS}\n"), encoding="utf-8")
    federation = set_up(short_path / "run", short_path / "protocol.toml", short_path / "sites", unsafe_noise_seed=5)
    served = Served(federation, short_path)
    with Processes(federation.logs) as processes:
        served.start()
        try:
            for site in federation.sites:
                state = str(site.state.root)
                processes.start(f"{site.file.id}-gate", ["site", "gate", str(site.folder), "--state", state])
                point_node(site, f"127.0.0.1:{served.port}")
                processes.wait_for(site.state.socket, 60)
                processes.start(f"{site.file.id}-node", ["site", "node", "--state", state])
            study = served.patiently(lambda: submit_study(served.socket, federation.signed_study.read_bytes())).study
            served.follow(study, lambda event: event.body["event"] == "round" and event.body["round"] >= 8)
            served.process.kill()
            served.process.wait()
            served.start()
            seen = served.patiently(lambda: served.follow(study, lambda event: isinstance(event, Over)))
            fetch_results(served.socket, study, short_path / "fetched")
        finally:
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(20) == 0
    assert seen[-1].state == "done"
    told = [event.body for event in seen[:-1]]
    assert [body["round"] for body in told if body["event"] == "round"] == sorted(
        {body["round"] for body in told if body["event"] == "round"}
    )
    assert any(body["event"] == "resumed" and body["round"] >= 8 for body in told)
    evidence = Evidence.model_validate_json((short_path / "fetched" / EVIDENCE).read_bytes())
    assert not evidence.partial
    assert [(site.rounds, site.unconfirmed) for site in evidence.sites] == [(tuple(range(1, ROUNDS + 1)), 0)] * 2
    assert [verify_ledger(site.state.ledger).releases for site in federation.sites] == [ROUNDS + 1] * 2
