"""A study runs to its end where each site's gate and node are two users without rights, and the gate has no network."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from unix_users import GATE, GROUP, NODE, as_user, environment, interpreter, why_not

from fedhealth.demo.federation import point_node, set_up
from fedhealth.privacy.verify import verify_ledger
from fedhealth.processes import Processes

ROOT = Path(__file__).resolve().parents[2]
SITES = ("hungary", "switzerland")

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "it runs"),
]


def own(path, user, group):
    for each in (path, *path.rglob("*")):
        os.chown(each, user, group)


@pytest.fixture
def federation():
    folder = Path(tempfile.mkdtemp(prefix="fh-"))  # short and open to other users, which pytest's own is not
    folder.chmod(0o755)
    for name in SITES:
        shutil.copytree(ROOT / "sites" / name, folder / "sites" / name)
    protocol = (ROOT / "protocols" / "heart-disease-diagnosis.toml").read_text(encoding="utf-8")
    (folder / "protocol.toml").write_text(protocol.replace("rounds = 20", "rounds = 3"), encoding="utf-8")
    ready = set_up(folder / "run", folder / "protocol.toml", folder / "sites")
    for path in (ready.folder, ready.folder / "state"):
        path.chmod(0o755)
    for site in ready.sites:
        own(site.folder, 0, GATE)
        site.folder.chmod(0o750)
        own(site.state.root, GATE, GROUP)
        site.state.root.chmod(0o750)
        own(site.state.gate, GATE, GATE)
        own(site.state.node, NODE, NODE)
    yield ready
    shutil.rmtree(folder)


def test_a_study_runs_with_gate_and_node_as_two_users(federation):
    started, logs = [], {}

    def start(name, command):
        logs[name] = federation.logs / f"{name}.log"
        with logs[name].open("wb") as log:
            started.append(subprocess.Popen(command, env=environment(), cwd="/", stdout=log, stderr=log))

    program = ("-m", "fedhealth.cli.main", "site")
    try:
        with Processes(federation.logs) as processes:
            for site in federation.sites:
                words = ("gate", str(site.folder), "--state", str(site.state.root), "--node-user", str(NODE))
                start(f"{site.file.id}-gate", ["unshare", "--net", *as_user(GATE, *program, *words)])
            arguments = ["--home", str(federation.home.root), "--out", str(federation.results)]
            run = ["coordinator", "run", str(federation.signed_study), *arguments, "--address", "127.0.0.1:0"]
            coordinator = processes.start("coordinator", run, events=True)
            port = json.loads(coordinator.process.stdout.readline())["port"]
            for site in federation.sites:
                point_node(site, f"127.0.0.1:{port}")
                own(site.state.node, NODE, NODE)
                deadline = time.monotonic() + 180
                while not site.state.socket.exists():
                    assert time.monotonic() < deadline, [log.read_text() for log in logs.values()]
                    time.sleep(0.05)
                start(f"{site.file.id}-node", as_user(NODE, *program, "node", "--state", str(site.state.root)))
            coordinator.process.stdout.read()
            assert coordinator.process.wait(60) == 0, [log.read_text() for log in federation.logs.iterdir()]
    finally:
        for process in started:
            process.terminate()
            process.wait()
    for site in federation.sites:
        assert verify_ledger(site.state.gate).releases == 4  # three rounds and one evaluation
        egress = (site.state.gate / "egress" / "releases.jsonl").read_text().splitlines()
        assert len(egress) == 4
    assert "Landlock" not in "".join(log.read_text() for log in logs.values())


# These users have no entry that says which groups they are in.
START = f"""
import sys
from pathlib import Path
from fedhealth.processes import Processes
from fedhealth.site import starting
from fedhealth.site.state import SiteState
starting.groups_of = lambda user: (int(user), frozenset({{{GROUP}, int(user)}}))
with Processes(None) as processes:
    site, state = Path(sys.argv[1]), SiteState(Path(sys.argv[2]))
    starting.keep_running(site, state, processes, lambda line: print(line, flush=True))
"""


def test_root_starts_gate_and_node_as_two_users_and_the_gate_without_a_network(federation):
    site, log = federation.sites[0], federation.logs / "start.log"
    point_node(site, "127.0.0.1:1")
    own(site.state.node, NODE, NODE)
    words = [interpreter(), "-c", START, str(site.folder), str(site.state.root)]
    with log.open("wb") as output:
        process = subprocess.Popen(words, env=environment(), cwd="/", stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 180
        while "node: waits for the coordinator" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        users, networks = {}, {}
        for child in map(Path, (f"/proc/{pid}" for pid in children)):
            words = child.joinpath("cmdline").read_bytes().split(b"\0")
            verb = words[words.index(b"site") + 1].decode()
            users[verb] = child.joinpath("status").read_text().split("Uid:")[1].split()[:4]
            networks[verb] = child.joinpath("ns", "net").readlink()
        assert users == {"gate": [str(GATE)] * 4, "node": [str(NODE)] * 4}
        ours = Path("/proc/self/ns/net").readlink()
        assert networks["node"] == ours != networks["gate"]
        assert "keeps its network" not in log.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
