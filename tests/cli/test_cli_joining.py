"""Joining as people do it: two commands, one line carried between them, and one message where it does not work."""

import json
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from connect_proxy import ConnectProxy

from fedhealth.coordinator.home import CoordinatorHome, init_coordinator, install_chain
from fedhealth.pki.root import create_root

SITES = Path(__file__).resolve().parents[2] / "sites"


@pytest.fixture
def home(coordinator):
    return coordinator[0]


@pytest.fixture
def coordinator(tmp_path):
    """The home of a coordinator that serves in a process of its own, and the port of its link."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    now, made = datetime.now(UTC), CoordinatorHome(tmp_path / "home")
    root = create_root(tmp_path / "root", "heart", None, now)
    _, request = init_coordinator(made, "heart", "127.0.0.1:7443", f"127.0.0.1:{port}")
    install_chain(made, root.certify_issuer(request.read_bytes(), now), root.pem, now)
    command = [sys.executable, "-m", "fedhealth.cli.main", "coordinator", "serve", "--home", str(made.root)]
    command += ["--address", "127.0.0.1:0", "--enrolment", f"127.0.0.1:{port}", "--lifeline"]
    said = tmp_path / "serve.log"
    with (
        said.open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        listening = json.loads(process.stdout.readline())
        assert listening["event"] == "listening"
        yield made, listening["port"]
        process.stdin.close()
        assert process.wait(10) == 0
    assert "Traceback" not in said.read_text()


def patiently(run, seconds=10.0):
    """Run until the port is open, which it is within a second of the invitation."""
    deadline = time.monotonic() + seconds
    while (result := run())[0] == 9 and time.monotonic() < deadline:
        time.sleep(0.1)
    return result


def test_two_commands_and_one_line_join_a_site_and_one_takes_it_out(home, fedhealth, tmp_path):
    code, line, said = fedhealth("coordinator", "invite", "hungary", "--home", home.root)
    assert code == 0 and line.startswith("fedhealth-1/heart/hungary/") and "60 minutes" in said
    enrol = ("site", "enrol", SITES / "hungary", line, "--state", tmp_path / "state")
    code, key, said = patiently(lambda: fedhealth(*enrol))
    assert (code, len(key)) == (0, 64) and "joined federation 'heart'" in said
    code, again, _ = fedhealth("coordinator", "invite", "hungary", "--home", home.root, "--json")
    code, joined, said = patiently(lambda: fedhealth(*enrol[:3], json.loads(again)["invitation"], *enrol[4:], "--json"))
    assert (code, said, json.loads(joined)) == (0, "", {"ledger_key": key, "site": "hungary", "federation": "heart"})
    code, listed, _ = fedhealth("coordinator", "members", "--home", home.root)
    assert code == 0 and key in listed and "hungary: " in listed and "renewal certificate until" in listed
    code, said, _ = fedhealth("coordinator", "revoke", "hungary", "--home", home.root, "--json")
    assert (code, json.loads(said)) == (0, {"revoked": "hungary"})
    assert "revoked" in fedhealth("coordinator", "members", "--home", home.root)[1]
    code, _, said = fedhealth("coordinator", "revoke", "atlantis", "--home", home.root)
    assert code == 3 and "never joined" in said and "Traceback" not in said


def test_a_confined_node_goes_out_through_the_proxy_that_was_named_when_it_joined(coordinator, fedhealth, tmp_path):
    home, port = coordinator
    line, state = fedhealth("coordinator", "invite", "hungary", "--home", home.root)[1], tmp_path / "state"
    enrolment = line.split("/")[3]
    with ConnectProxy({enrolment: enrolment, "127.0.0.1:7443": f"127.0.0.1:{port}"}) as proxy:
        enrol = ("site", "enrol", SITES / "hungary", line, "--state", state, "--proxy", proxy.url)
        assert patiently(lambda: fedhealth(*enrol))[0] == 0
        command = [sys.executable, "-m", "fedhealth.cli.main", "site", "node", "--state", str(state)]
        command += ["--lifeline", "--json"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **pipes) as node:
            deadline = time.monotonic() + 90
            status = ("site", "status", "--state", state, "--json")
            while not json.loads(fedhealth(*status)[1])["link"].startswith("connected"):
                assert node.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
            node.stdin.close()
            assert node.wait(10) == 0
            events = [json.loads(line) for line in node.stdout]
    assert {"event": "link", "state": "connected"} in events
    assert proxy.asked[-1] == ("CONNECT", "127.0.0.1:7443")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda line: line[:-1], 8, ["mistyped or cut", "Copy it again"]),
        (lambda line: line.replace("hungary", "hungery"), 8, ["mistyped or cut"]),
        (lambda line: "", 8, ["mistyped or cut"]),
        (lambda line: line.replace("fedhealth-1", "fedhealth-2"), 8, ["Upgrade this site first"]),
    ],
    ids=["cut", "mistyped", "empty", "newer"],
)
def test_a_line_that_is_none_is_one_message(fedhealth, tmp_path, change, code, words):
    now, made = datetime.now(UTC), CoordinatorHome(tmp_path / "home")
    root = create_root(tmp_path / "root", "heart", None, now)
    _, request = init_coordinator(made, "heart", "127.0.0.1:7443", "127.0.0.1:9")
    install_chain(made, root.certify_issuer(request.read_bytes(), now), root.pem, now)
    _, line, _ = fedhealth("coordinator", "invite", "hungary", "--home", made.root)
    ended, _, said = fedhealth("site", "enrol", SITES / "hungary", change(line), "--state", tmp_path / "state")
    assert ended == code and said.count("error: ") == 1 and "Traceback" not in said
    assert all(word in said for word in words)
    assert not (tmp_path / "state").exists()


def test_a_site_cannot_be_invited_before_the_ceremony(fedhealth, tmp_path):
    init_coordinator(CoordinatorHome(tmp_path / "home"), "heart", "127.0.0.1:7443", "127.0.0.1:9")
    code, _, said = fedhealth("coordinator", "invite", "hungary", "--home", tmp_path / "home")
    assert code == 8 and "waits for the root's certificate" in said and "fedhealth root certify" in said
