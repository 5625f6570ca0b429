"""A federation of separate hosts: two hospitals and a datacentre, each in a network of its own.

Between them a firewall that lets one port through and a line of two seconds a round trip (`network`, `relay`). All that
runs is the commands that people type; at each hospital node and gate are two users without rights.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from network import DATACENTRE, ENROLMENT, HOSPITALS, LINK, WIDE, Eye, Network
from relay import Carried, Relay
from unix_users import GATE, GROUP, NODE, as_user, environment, why_not

from fedhealth.privacy.verify import verify_ledger
from fedhealth.secret_file import PUBLIC_MODE, create_file
from fedhealth.signing import create_signing_key, load_signing_key, public_key_hex
from fedhealth.site.egress import read_egress
from fedhealth.site.state import SiteState
from fedhealth.study.protocol import load_study
from fedhealth.study.signature import sign_study

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3
STEPS = ("-m", "fedhealth.cli.main")


def no_hosts():
    """Return why this machine cannot be several hosts, or an empty text."""
    if missing := why_not():
        return missing
    if not all(shutil.which(name) for name in ("ip", "nsenter")):
        return "there is no ip (iproute2) or nsenter"
    try:
        Network().close()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces with rules of routing can be made: {error}"
    return ""


WHY_NOT = no_hosts()
pytestmark = [
    pytest.mark.processes,
    pytest.mark.hosts,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "it runs"),
]


@pytest.fixture
def network():
    made = Network()
    yield made
    made.close()


@pytest.fixture
def folder():
    made = Path(tempfile.mkdtemp(prefix="fh-"))  # short and open to other users, which pytest's own is not
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


# What is tried with the firewall as it is in a run; only the first may succeed.
PORTS = (LINK, ENROLMENT, 22, 53, 80, 443, LINK - 1, 7445, 8443, 50051)


def reaches(host, address, port, from_port=0):
    """Return whether something answers there when it is asked from this host."""

    def knock():
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("", from_port))
            tried.settimeout(1)
            tried.connect((address, port))
            tried.settimeout(10)
            return tried.recv(4) == b"here"
        return False

    return host.inside(knock)


class Doors:
    """Something that listens at every one of the ports on every host, and says so to who connects."""

    def __init__(self, hosts):
        self.datagrams = [host.listen(53, socket.SOCK_DGRAM) for host in hosts]
        self._processes = [
            subprocess.Popen(
                host.command([sys.executable, "-c", self.PROGRAM, *map(str, PORTS)]), stdin=subprocess.PIPE
            )
            for host in hosts
        ]

    PROGRAM = """
import select, socket, sys
doors = [socket.create_server(("", int(port))) for port in sys.argv[1:]]
while sys.stdin not in (ready := select.select([sys.stdin, *doors], [], [])[0]):
    for door in ready:
        caller, _ = door.accept()
        caller.sendall(b"here")
        caller.close()
"""

    def close(self):
        for each in self._processes:
            each.stdin.close()
        for each in self._processes:
            each.wait()
        for each in self.datagrams:
            each.close()


def test_one_port_passes_outwards_and_none_inwards(network):
    hosts = {DATACENTRE: network.datacentre}
    hosts |= {HOSPITALS[name]: host for name, host in network.hospitals.items()}
    doors = Doors(hosts.values())
    try:
        deadline = time.monotonic() + 20
        for address, host in hosts.items():  # or what follows would show nothing
            for port in PORTS:
                while not reaches(host, address, port):
                    assert time.monotonic() < deadline
        with Relay(network.wide) as relay:
            for port in (LINK, ENROLMENT):
                relay.listen(port)
            ways = [(source, WIDE, port) for source in HOSPITALS.values() for port in PORTS]
            ways += [(source, to, port) for source in hosts for to in hosts if to != source for port in PORTS]
            with ThreadPoolExecutor(16) as together:
                answers = together.map(lambda way: reaches(hosts[way[0]], *way[1:]), ways)
            passed = [way for way, answered in zip(ways, answers, strict=True) if answered]
            assert passed == [(source, WIDE, LINK) for source in HOSPITALS.values()]
            # The firewall knows answers by their source port. The datacentre may send from it, and still gets nowhere.
            assert not any(reaches(network.datacentre, to, 22, from_port=LINK) for to in HOSPITALS.values())
        others = [(host, to) for address, host in hosts.items() for to in (WIDE, *hosts) if to != address]
        for host, to in others:
            with host.inside(lambda: socket.socket(type=socket.SOCK_DGRAM)) as asked, contextlib.suppress(OSError):
                asked.sendto(b"a question", (to, 53))
        time.sleep(0.2)
        for each in doors.datagrams:
            each.setblocking(False)
            with pytest.raises(BlockingIOError):
                each.recv(100)
    finally:
        doors.close()


class Running:
    """The processes of a federation; none is left when this is over."""

    def __init__(self, logs):
        self._logs, self._started = logs, {}
        logs.mkdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._started.values():
            process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start(self, name, command):
        """Start a command that ends when its standard input closes, as it does with this process."""
        with (self._logs / f"{name}.out").open("wb") as out, (self._logs / f"{name}.log").open("wb") as log:
            self._started[name] = subprocess.Popen(
                [*command, "--lifeline"],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
                env=environment(),
                cwd="/",
                start_new_session=True,
            )

    def stop(self, name):
        process = self._started.pop(name)
        process.stdin.close()
        assert process.wait(20) == 0, self.told()

    def ended(self, name):
        return self._started[name].poll()

    def events(self, name):
        """Return the events that a coordinator has written so far."""
        return [json.loads(line) for line in (self._logs / f"{name}.out").read_text().split("\n")[:-1]]

    def told(self):
        return {path.name: path.read_text()[-3000:] for path in self._logs.glob("*.log")}

    def until(self, condition, seconds, serving=()):
        """Wait until something is true, while what serves does not end."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, self.told()
            assert all(self.ended(name) is None for name in serving), self.told()
            time.sleep(0.02)
        return found


def typed(*words, host=None):
    """Start one command as root types it."""
    command = [sys.executable, *STEPS, *map(str, words)]
    return subprocess.Popen(
        host.command(command) if host else command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd="/",
    )


def said(process):
    """Wait for a typed command, which must succeed, and return what it printed."""
    out, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    return out.strip()


def found_federation(folder):
    """Hold the ceremony, and return the coordinator's home."""
    root, home = folder / "root", folder / "home"
    said(typed("root", "create", "heart", "--root", root, "--unencrypted"))
    addresses = ("--link", f"{WIDE}:{LINK}", "--enrolment", f"{WIDE}:{ENROLMENT}")
    said(typed("coordinator", "init", "heart", "--home", home, *addresses))
    request = next(home.rglob("*.csr"))
    said(typed("root", "certify", request, "--root", root, "-o", folder / "issuing.crt", "--unencrypted"))
    said(typed("coordinator", "install", folder / "issuing.crt", root / "root.pem", "--home", home))
    return home


def make_hospital(folder, name):
    """Make a hospital's folders, each of its one user, as deploy/README.md has them."""
    site, state = folder / "sites" / name, SiteState(folder / "state" / name)
    shutil.copytree(ROOT / "sites" / name, site)
    state.root.mkdir(parents=True)
    state.node.mkdir()
    for path, user, group, mode in (
        *((each, 0, GATE, 0o640) for each in site.iterdir()),
        (site, 0, GATE, 0o750),
        (state.root, GATE, GROUP, 0o750),
        (state.node, NODE, NODE, 0o700),
    ):
        os.chown(path, user, group)
        path.chmod(mode)
    return site, state


def sign_short_study(folder):
    """Sign the project's own study, shorter; return the file and the researcher's public key."""
    protocol = (ROOT / "protocols" / "heart-disease-diagnosis.toml").read_text(encoding="utf-8")
    # Without spare rounds what was approved is spent to the last release, and one more would be seen.
    short = protocol.replace("\nrounds = 20\n", f"\nrounds = {ROUNDS}\n").replace(
        "spare_rounds = 2 ", "spare_rounds = 0 "
    )
    (folder / "protocol.toml").write_text(short, encoding="utf-8")
    create_signing_key(folder / "researcher.key")
    key = load_signing_key(folder / "researcher.key")
    study = load_study(folder / "protocol.toml")
    assert (study.training.rounds, study.training.spare_rounds) == (ROUNDS, 0)
    create_file(folder / "study.signed", sign_study(study, key), PUBLIC_MODE)
    return folder / "study.signed", public_key_hex(key.public_key())


def left(state, kind):
    """Return how many answers of a kind have left a gate."""
    return sum(line.kind == kind for line in read_egress(state.gate).lines)


def test_a_study_survives_a_slow_line_that_is_cut_in_mid_round_and_nothing_is_charged_twice(network, folder):
    home = found_federation(folder)
    signed, researcher = sign_short_study(folder)
    sites = {name: make_hospital(folder, name) for name in HOSPITALS}
    eyes = [(network.firewall, name) for name in HOSPITALS]
    with (
        Eye(*eyes) as outwards,
        Eye((network.wide, "datacentre")) as inwards,
        Relay(network.wide) as relay,
        Running(folder / "logs") as running,
    ):
        for port in (LINK, ENROLMENT):
            relay.listen(port)

        # Joining: the firewall lets its port through as long as it takes.
        at = ("--address", f"0.0.0.0:{LINK}")
        serve = [sys.executable, *STEPS, "coordinator", "serve", "--home", str(home), *at]
        running.start("serve", network.datacentre.command([*serve, "--enrolment", f"0.0.0.0:{ENROLMENT}"]))
        lines = {name: said(typed("coordinator", "invite", name, "--home", home)) for name in sites}
        running.until(lambda: network.datacentre.inside(is_open(ENROLMENT)), 30, ["serve"])
        network.allow(ENROLMENT)
        joining = [
            typed(
                *("site", "enrol", site, lines[name], "--state", state.root, "--trust", f"demo={researcher}"),
                host=network.hospitals[name],
            )
            for name, (site, state) in sites.items()
        ]
        ledger_keys = [said(each) for each in joining]
        network.forbid(ENROLMENT)
        running.stop("serve")
        assert sorted(relay.carried) == sorted(Carried(name, ENROLMENT) for name in sites for _ in range(3))
        approving = [
            typed("site", "approve", site, signed, "--state", state.root, "--yes") for site, state in sites.values()
        ]
        for each in approving:
            said(each)
        for _, state in sites.values():  # root approved, because these users have no name; deploy/README.md
            for path in (state.gate, *state.gate.rglob("*")):
                os.chown(path, GATE, GATE)

        # The study, over one port.
        for name, (site, state) in sites.items():
            gate = as_user(GATE, *STEPS, "site", "gate", str(site), "--state", str(state.root))
            running.start(f"{name}-gate", ["unshare", "--net", *gate, "--node-user", str(NODE)])
        run = ["coordinator", "run", str(signed), "--home", str(home), "--out", str(folder / "results"), *at]
        running.start("run", network.datacentre.command([sys.executable, *STEPS, *run]))

        def happened(**wanted):
            return sum(wanted.items() <= event.items() for event in running.events("run"))

        running.until(lambda: happened(event="listening"), 60, ["run"])
        for name, (_, state) in sites.items():
            node = as_user(NODE, *STEPS, "site", "node", "--state", str(state.root))
            running.start(f"{name}-node", network.hospitals[name].command(node))
        serving = [f"{name}-{part}" for name in sites for part in ("gate", "node")]
        running.until(lambda: happened(event="round", round=1), 120, [*serving, "run"])
        before = {name: left(state, "release") for name, (_, state) in sites.items()}
        charged = {name: left(state, "need-witness") for name, (_, state) in sites.items()}

        # Round 2: charged at Hungary, and the answer that says so is lost, with RST to both ends.
        running.until(lambda: left(sites["hungary"][1], "need-witness") > charged["hungary"], 30, serving)
        relay.reset("hungary")
        # Released at Switzerland, and the line dies before the release is across: not a packet more, either way.
        running.until(lambda: left(sites["switzerland"][1], "release") > before["switzerland"], 30, serving)
        relay.hold("switzerland")
        network.swallow("switzerland")
        running.until(lambda: happened(event="site", site="switzerland", connected=False), 90, [*serving, "run"])
        assert not happened(event="round", round=2)
        network.restore("switzerland")
        relay.go_on("switzerland")

        running.until(lambda: running.ended("run") is not None, 120, serving)
        assert running.ended("run") == 0, running.told()

    evidence = json.loads((folder / "results" / "evidence.json").read_text())
    assert [site["rounds"] for site in evidence["sites"]] == [[1, 2, 3]] * 2
    assert [event["round"] for event in running.events("run") if event["event"] == "round"] == [1, 2, 3]
    for name, (_, state) in sites.items():
        ledger = verify_ledger(state.ledger)
        assert ledger.ledger_key in ledger_keys
        assert ledger.releases == ROUNDS + 1  # one for each round, one to evaluate
        assert all(line.share_spent == line.share_set_aside for line in ledger.spending)  # what was approved, no more
        releases = {line.release for line in read_egress(state.gate).lines} - {None}
        assert len(releases) == ROUNDS + 1
        assert happened(event="site", site=name, connected=True) == 2  # once, and once more after the cut

    # What crossed the line, and that nothing went any other way.
    assert relay.carried[2 * 3 :].count(Carried("hungary", LINK)) == 2
    assert relay.carried[2 * 3 :].count(Carried("switzerland", LINK)) == 2
    assert len(relay.carried) == 2 * 3 + 2 * 2
    assert not outwards.strange and not inwards.strange
    ways = {(packet.source, packet.destination, packet.protocol, packet.port) for packet in outwards.seen}
    assert ways == {
        (address, WIDE, socket.IPPROTO_TCP, port) for address in HOSPITALS.values() for port in (LINK, ENROLMENT)
    }
    assert {(packet.protocol, packet.source_port) for packet in inwards.seen} == {
        (socket.IPPROTO_TCP, port) for port in (LINK, ENROLMENT)
    }
    assert not any(packet.opens for packet in inwards.seen)  # the datacentre opened no connection


def is_open(port):
    def knock():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    return knock
