"""What a researcher, and who runs a node or a coordinator, can get wrong: one message, and nothing is made."""

import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from one_message import PROTOCOL, RESEARCHER, ROOT, check_one_message, serve

from fedhealth.coordinator.home import CoordinatorHome, admit_site, init_coordinator, install_chain
from fedhealth.pki.authority import install_authority, request_authority
from fedhealth.pki.certificates import make_key
from fedhealth.pki.identity import ROOT_FILE, store_identity
from fedhealth.pki.profiles import Role
from fedhealth.pki.root import create_root
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import create_signing_key, public_key_hex
from fedhealth.study.protocol import load_study
from fedhealth.study.signature import sign_study

# The researcher's protocol: name: (text, replacement, words); None for the whole file.
IN_A_PROTOCOL = {
    "broken TOML": ("[endpoint]", "[endpoint", ["is not TOML", "line", "Correct the file"]),
    "unknown key": ("learning_rate", "learing_rate", ["unknown key 'training.learing_rate'", "'learning_rate'?"]),
    "unknown section": ("[evaluation]", "[evalution]", ["unknown key 'evalution'", "'evaluation'?"]),
    "missing key": ("rounds = 20\n", "", ["key 'training.rounds' is missing"]),
    "range the wrong way round": ("range = [30, 80]", "range = [80, 30]", ["'age'", "[80.0, 30.0]", "lower value"]),
    "endpoint among the features": ('column = "chol"', 'column = "num"', ["endpoint 'num' is among the features"]),
    "column twice": ('column = "chol"', 'column = "age"', ["features name a column twice: age"]),
    "text for a number": ("rounds = 20", 'rounds = "many"', ["training.rounds", "integer"]),
    "epsilon of nothing": ("training_epsilon = 2.0", "training_epsilon = nan", ["privacy.training_epsilon"]),
    "a class path": ('kind = "logistic-regression"', 'kind = "os.system"', ["model.kind"]),
}


@pytest.mark.parametrize("case", IN_A_PROTOCOL)
def test_a_wrong_protocol_is_one_message_and_nothing_is_made(command, tmp_path, case):
    old, new, words = IN_A_PROTOCOL[case]
    text, file = PROTOCOL.read_text(encoding="utf-8"), tmp_path / "protocol.toml"
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    ended, said = command("demo", "--out", tmp_path / "out", "--protocol", file, "--sites", ROOT / "sites")
    assert ended == 3
    check_one_message(said, ["study protocol", "protocol.toml", "Correct the file", *words])
    assert not (tmp_path / "out").exists()


def test_a_protocol_in_another_encoding_is_one_message(command, tmp_path):
    (tmp_path / "p.toml").write_bytes(b'title = "\xff\xfe"')
    ended, said = command(
        "demo", "--out", tmp_path / "out", "--protocol", tmp_path / "p.toml", "--sites", ROOT / "sites"
    )
    assert ended == 3
    check_one_message(said, ["p.toml is not TOML", "utf-8"])


def test_the_demo_in_another_folder_says_where_to_run_it(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended, said = command("demo", "--out", tmp_path / "out")
    assert ended == 3
    check_one_message(said, ["protocols/heart-disease-diagnosis.toml", "No such file"])
    ended, said = command("demo", "--out", tmp_path / "out", "--protocol", PROTOCOL)
    assert ended == 3
    check_one_message(said, ["too few sites in sites", "at least 2", "Run this where sites/ and protocols/ are"])
    assert list(tmp_path.iterdir()) == []


def test_the_demo_overwrites_nothing(command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("kept")
    there = ("--protocol", PROTOCOL, "--sites", ROOT / "sites")
    ended, said = command("demo", "--out", tmp_path / "out", *there)
    assert ended == 3
    check_one_message(said, ["exists already", "--out"])
    ended, said = command("demo", "--out", tmp_path / "out" / "kept" / "below", *there)
    assert ended == 3
    check_one_message(said, ["kept", "Not a directory", "Check the path"])
    assert (tmp_path / "out" / "kept").read_text() == "kept"


def made_node(folder, now):
    """Make a node's state whose certificate was issued at `now`."""
    root = create_root(folder / "root", "demo", None, now)
    (folder / "authority").mkdir()
    request = request_authority(folder / "authority", "demo")
    issuer = root.certify_issuer(request.read_bytes(), now)
    authority = install_authority(folder / "authority", issuer, root.pem, now)
    node = folder / "state" / "node"
    node.mkdir(parents=True)
    for role in (Role.SITE, Role.RENEWAL):
        key = make_key("P-256")
        store_identity(node, role, key, authority.issue(key.public_key(), role, "hungary", now))
    (node / ROOT_FILE).write_bytes(authority.root_pem)
    (node / "node.toml").write_text('site = "hungary"\nfederation = "demo"\ncoordinator = "127.0.0.1:9"\n')
    return folder / "state"


def test_two_certificates_that_ended_stop_the_node_at_its_start(tmp_path):
    state = made_node(tmp_path, datetime.now(UTC) - timedelta(days=100))
    ended, said = serve("site", "node", "--state", state)
    assert ended == 8
    check_one_message(said, ["certificate", "expired"])


def test_a_node_file_with_an_unknown_key_or_no_port_stops_the_node(tmp_path):
    state = made_node(tmp_path, datetime.now(UTC))
    file = state / "node" / "node.toml"
    whole = file.read_text()
    file.write_text(whole.replace("coordinator", "cordinator"))
    ended, said = serve("site", "node", "--state", state)
    assert ended == 3
    check_one_message(said, ["unknown key 'cordinator'", "'coordinator'?"])
    file.write_text(whole.replace("127.0.0.1:9", "127.0.0.1"))
    ended, said = serve("site", "node", "--state", state)
    assert ended == 3
    check_one_message(said, ["node.toml", "coordinator"])


@pytest.fixture
def coordinator(tmp_path):
    """The coordinator's home with one site that joined."""
    now, home = datetime.now(UTC), CoordinatorHome(tmp_path / "home")
    root = create_root(tmp_path / "root", "demo", None, now)
    _, request = init_coordinator(home, "demo", "127.0.0.1:7443", "127.0.0.1:7444")
    install_chain(home, root.certify_issuer(request.read_bytes(), now), root.pem, now)
    ledger_key = public_key_hex(create_signing_key(tmp_path / "ledger.key"))
    keys = [make_key("P-256").public_key() for _ in range(2)]
    admit_site(home, "hungary", *keys, ledger_key, now)
    (tmp_path / "study.signed").write_bytes(sign_study(load_study(PROTOCOL), RESEARCHER))
    return ("coordinator", "run", tmp_path / "study.signed", "--home", home.root, "--out", tmp_path / "results")


def test_a_port_in_use_is_one_message(coordinator, command, tmp_path):
    with socket.socket(socket.AF_INET) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended, said = command(*coordinator, "--address", address)
    assert ended == 9
    check_one_message(said, [f"cannot listen at {address}", "port in use", "free port", "choose another port"])
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:x", ":0", ""])
def test_an_address_that_is_none_is_one_message_before_anything_is_made(coordinator, command, address, tmp_path):
    out = tmp_path / "out"
    for words in (coordinator, ("demo", "--out", out, "--protocol", PROTOCOL, "--sites", ROOT / "sites")):
        ended, said = command(*words, "--address", address)
        assert ended == 3
        check_one_message(said, [f"--address {address}", "HOST:PORT", "65535", "Correct the address"])
    assert not out.exists()


@pytest.mark.parametrize("address", ["no-such-host.invalid:0", "8.8.8.8:1"])
def test_an_address_that_cannot_be_used_is_one_message(coordinator, command, address):
    ended, said = command(*coordinator, "--address", address)
    assert ended == 9
    check_one_message(said, [f"cannot listen at {address}", "this machine"])


def test_sites_that_stay_away_are_named(coordinator, command):
    ended, said = command(*coordinator, "--patience", "0.2")
    assert ended == 9
    check_one_message(said, ["not all sites connected", "nothing from hungary", "1 sites", "log of the node"])


def test_a_coordinator_without_state_or_study_is_one_message(coordinator, command, tmp_path):
    run, verb, study, _, _, *out = coordinator
    ended, said = command(run, verb, study, "--home", tmp_path / "nowhere", *out)
    assert ended == 3
    check_one_message(said, ["nowhere", "No such file"])
    ended, said = command(run, verb, tmp_path / "no-study", *coordinator[3:])
    assert ended == 3
    check_one_message(said, ["no-study", "No such file", "Check the path"])


@pytest.mark.processes
def test_the_demo_on_a_port_in_use_says_so_with_its_code_and_leaves_no_charge(tmp_path):
    (tmp_path / "sites").mkdir()
    for name in ("cleveland", "hungary"):
        (tmp_path / "sites" / name).symlink_to(ROOT / "sites" / name)
    with socket.socket(socket.AF_INET) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        demo = [sys.executable, "-m", "fedhealth.cli.main", "demo", "--out", tmp_path / "out", "--address", address]
        demo += ["--protocol", PROTOCOL, "--sites", tmp_path / "sites"]
        done = subprocess.run(demo, capture_output=True, text=True, timeout=60)
    assert done.returncode == 9
    check_one_message(done.stderr, ["the coordinator ended early", f"cannot listen at {address}", "coordinator.log"])
    for ledger in tmp_path.glob("out/state/*/gate/ledger.sqlite"):
        assert verify_ledger(ledger).releases == 0


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["demo", "--nonsense"], ["site", "nonsense"], ["site", "approve"], ["audit", "verify"], []],
    ids=" ".join,
)
def test_a_wrong_command_line_says_what_to_try(command, arguments):
    ended, said = command(*arguments)
    assert ended == 2
    assert "Traceback" not in said
