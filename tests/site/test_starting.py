"""`fedhealth site start`: a site as one command, from outside: what it says, restarts and stops."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from fedhealth.demo.federation import point_node, set_up
from fedhealth.errors import ConfigInvalid, FederationFailed
from fedhealth.privacy.verify import verify_ledger
from fedhealth.processes import Processes
from fedhealth.site.restart_waits import RestartWaits
from fedhealth.site.starting import users_of

ROOT = Path(__file__).resolve().parents[2]
SITES = ("hungary", "switzerland")

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest.fixture
def federation():
    folder = Path(tempfile.mkdtemp(prefix="fh-"))
    for name in SITES:
        shutil.copytree(ROOT / "sites" / name, folder / "sites" / name)
    protocol = (ROOT / "protocols" / "heart-disease-diagnosis.toml").read_text(encoding="utf-8")
    (folder / "protocol.toml").write_text(protocol.replace("rounds = 20", "rounds = 3"), encoding="utf-8")
    yield set_up(folder / "run", folder / "protocol.toml", folder / "sites")
    shutil.rmtree(folder)


class Started:
    """`fedhealth site start`, in a session of its own."""

    def __init__(self, site, log, *more):
        self.site, self.log = site, log
        words = ["site", "start", str(site.folder), "--state", str(site.state.root), *more]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedhealth.cli.main", *words],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def said(self):
        return self.log.read_text()

    def children(self):
        """The running processes of this site but the one that was started, by verb."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                here = str(self.site.state.root.absolute()) in words and process.pid != self.process.pid
                if here and process.status() != psutil.STATUS_ZOMBIE:
                    found[words[words.index("site") + 1]] = process
        return found

    def wait_for(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def stop(self, number=signal.SIGINT):
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def start(federation):
    started = []

    def begin(site, *more):
        started.append(Started(site, federation.logs / f"{site.file.id}-start.log", *more))
        return started[-1]

    yield begin
    for each in started:
        each.stop(signal.SIGTERM)


def test_a_study_runs_over_sites_that_were_each_started_with_one_command_although_a_node_is_killed(federation, start):
    with Processes(federation.logs) as processes:
        arguments = ["--home", str(federation.home.root), "--out", str(federation.results)]
        run = ["coordinator", "run", str(federation.signed_study), *arguments, "--address", "127.0.0.1:0"]
        coordinator = processes.start("coordinator", run, events=True)
        port = json.loads(coordinator.process.stdout.readline())["port"]
        sites = []
        for site in federation.sites:
            point_node(site, f"127.0.0.1:{port}")
            sites.append(start(site))
        first = sites[0]
        first.wait_for(lambda: "node" in first.children())
        first.children()["node"].kill()
        first.wait_for(lambda: "started again in 1 second" in first.said)
        coordinator.process.stdout.read()
        assert coordinator.process.wait(60) == 0, [log.read_text() for log in federation.logs.iterdir()]
    assert "SIGKILL" in first.said
    for each in sites:
        for words in ("gate: ready", "node: connected to the coordinator"):
            assert words in each.said
        assert verify_ledger(each.site.state.gate).releases == 4  # three rounds and one evaluation
    for each, number in zip(sites, (signal.SIGINT, signal.SIGTERM), strict=True):
        assert each.stop(number) == 130
        assert each.children() == {}
        assert each.said.endswith("stopped\n")


def test_a_site_that_asks_for_another_engine_is_told_so_once_and_disturbs_no_study(federation, start):
    with Processes(federation.logs) as processes:
        arguments = ["--home", str(federation.home.root), "--out", str(federation.results)]
        run = ["coordinator", "run", str(federation.signed_study), *arguments, "--address", "127.0.0.1:0"]
        coordinator = processes.start("coordinator", run, events=True)
        port = json.loads(coordinator.process.stdout.readline())["port"]
        for site in federation.sites:
            point_node(site, f"127.0.0.1:{port}")
        other, _ = start(federation.sites[0], "--engine", "superlink"), start(federation.sites[1])
        coordinator.process.stdout.read()
        assert coordinator.process.wait(60) == 0, [log.read_text() for log in federation.logs.iterdir()]
    other.wait_for(lambda: "does not run engine 'superlink'" in other.said)
    assert other.said.count("does not run engine 'superlink'") == 1
    assert other.children().keys() == {"gate", "node"}  # no SuperNode that could only wait
    assert verify_ledger(other.site.state.gate).releases == 4


def make_empty_index(site):
    pytest.importorskip("tantivy", reason="the extra `search` is not installed")
    from fedhealth.site.search_consent import make_index_folder, read_consent
    from fedhealth.site.search_index import open_index

    index, _ = open_index(make_index_folder(site.state), read_consent(site.state, site.folder), create=True)
    index.close()


def test_without_a_coordinator_it_says_what_it_waits_for_and_stops_when_the_gate_ends(federation, start):
    site, policies = federation.sites[0], set()
    point_node(site, "127.0.0.1:1")
    make_empty_index(site)
    started = start(site)

    def index_is_filled():
        with contextlib.suppress(KeyError, ProcessLookupError):
            policies.add(os.sched_getscheduler(started.children()["index"].pid))
        return os.SCHED_IDLE in policies  # what nobody times, so that no load of it shows in a reply

    started.wait_for(index_is_filled)
    started.wait_for(lambda: "node: waits for the coordinator at 127.0.0.1:1" in started.said)
    assert "nothing listens there" in started.said  # and is no reason not to start
    started.children()["gate"].kill()
    assert started.process.wait(20) == FederationFailed.exit_code
    assert "the gate ended, so the site is stopped; got SIGKILL" in started.said
    assert started.children() == {}


def test_a_machine_that_fails_a_check_starts_nothing(federation, start):
    site = federation.sites[0]
    (site.folder / "patients.csv").unlink()
    started = start(site)
    assert started.process.wait(60) == ConfigInvalid.exit_code
    assert "wrong: data:" in started.said and "this machine cannot run the site" in started.said
    assert not site.state.socket.exists()


def test_a_program_reads_events_one_a_line(federation):
    site = federation.sites[0]
    program = [sys.executable, "-m", "fedhealth.cli.main", "site"]
    place = [str(site.folder), "--state", str(site.state.root), "--json"]
    with subprocess.Popen(
        [*program, "gate", *place, "--lifeline"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as gate:
        assert json.loads(gate.stdout.readline()) == {"event": "open", "socket": str(site.state.socket)}
        gate.stdin.close()
        assert (gate.wait(20), gate.stdout.read()) == (0, b"")
    (site.folder / "patients.csv").unlink()
    done = subprocess.run([*program, "start", *place], capture_output=True, text=True, timeout=60)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert ("finding", "data", "wrong") in {(each["event"], each["check"], each["verdict"]) for each in events}
    assert done.returncode == ConfigInvalid.exit_code
    assert json.loads(done.stderr)["error"]["what"] == "this machine cannot run the site"


def test_a_site_that_has_not_joined_is_told_to(ward, capsys, monkeypatch):
    from fedhealth.cli.main import main

    here = ward()
    monkeypatch.setattr(sys, "argv", ["fedhealth", "site", "start", str(here.folder), "--state", str(here.state.root)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == ConfigInvalid.exit_code
    assert "fedhealth site enrol" in capsys.readouterr().err


def test_a_node_that_ends_again_and_again_is_started_later_each_time():
    waits = RestartWaits()
    # Doubled from 1 s to the longest of 60 s; one that ran for a minute begins anew.
    assert [waits.after(5) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [waits.after(60), waits.after(5)] == [1, 2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders away")
def test_two_users_without_a_group_in_common_are_told_apart_before_anything_starts(ward):
    here = ward()
    here.state.node.mkdir()
    assert users_of(here.state) == (None, None)
    os.chown(here.state.gate, 61001, 61001)
    os.chown(here.state.node, 61002, 61002)
    with pytest.raises(ConfigInvalid, match="share no group"):
        users_of(here.state)
