"""What a person can get wrong: one message (what, got, wanted, next step), a stable exit code, nothing charged."""

import os
import re
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.cli.main import main
from fedhealth.coordinator.home import CoordinatorHome, admit_site, init_coordinator, install_chain
from fedhealth.pki.authority import install_authority, request_authority
from fedhealth.pki.certificates import make_key
from fedhealth.pki.identity import ROOT_FILE, store_identity
from fedhealth.pki.profiles import Role
from fedhealth.pki.root import create_root
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import create_signing_key, public_key_hex
from fedhealth.site.state import SiteState, init_site
from fedhealth.study.protocol import load_study
from fedhealth.study.signature import sign_study

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = ROOT / "protocols" / "heart-disease-diagnosis.toml"
RESEARCHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
KEY = public_key_hex(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32).public_key())


@pytest.fixture
def command(capsys, monkeypatch):
    """Run the command line in this process; return its exit code and what it said on standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedhealth", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    return run


def serve(*arguments):
    """Start a process that serves, whose start fails; it confines itself, so it cannot be this process."""
    command = [sys.executable, "-m", "fedhealth.cli.main", *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def check_one_message(said, words):
    assert said.count("error:") == 1, said
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert said.count("\n") == 1, "a message is one line"
    for word in words:
        assert word in said, f"'{word}' is not in: {said}"
    # The next step is a sentence of its own after what, got and wanted.
    assert re.search(r"\. [A-Z].*", said), said


class Site:
    """A site that an administrator has just made: its folder, its state and a study that it could approve."""

    def __init__(self, root):
        self.folder, self.state, self.study = root / "site", SiteState(root / "state"), root / "study.signed"

    @property
    def csv(self):
        return self.folder / "patients.csv"

    def edit(self, name, old, new):
        file = self.folder / name
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    def edit_csv(self, change):
        self.csv.write_text("\n".join(change(self.csv.read_text(encoding="utf-8").splitlines())), encoding="utf-8")

    def approve(self):
        return ("site", "approve", self.folder, self.study, "--state", self.state.root, "--yes")

    def size(self):
        return verify_ledger(self.state.gate).head.size


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("made"))
    shutil.copytree(ROOT / "sites" / "hungary", site.folder)
    init_site(site.folder, site.state, KEY, {"demo": public_key_hex(RESEARCHER.public_key())})
    site.study.write_bytes(sign_study(load_study(PROTOCOL), RESEARCHER))
    return site.folder.parent


@pytest.fixture
def site(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    return Site(tmp_path / "copy")


def with_line(number, change):
    """Return an edit of one line of the CSV, counted from 1, as a person's editor counts."""

    def edit(lines):
        return [change(line) if place == number else line for place, line in enumerate(lines, 1)]

    return edit


def cells(place, new):
    """Return an edit of one cell of a line."""
    return lambda line: ",".join(new if i == place else cell for i, cell in enumerate(line.split(",")))


# What the administrator meets at approval: name: (what is wrong, exit code, words of the message).
AT_APPROVAL = {
    "the CSV is missing": (
        lambda site: site.csv.unlink(),
        4,
        ["patients.csv cannot be read", "No such file", "`file` in site.toml"],
    ),
    "the CSV is a folder": (
        lambda site: (site.csv.unlink(), site.csv.mkdir()),
        4,
        ["patients.csv cannot be read", "directory", "permissions"],
    ),
    "the CSV is empty": (lambda site: site.csv.write_text(""), 4, ["header", "empty", "Correct the header"]),
    "the CSV has a header only": (lambda site: site.edit_csv(lambda lines: lines[:1]), 4, ["no rows", "Export"]),
    "the CSV is in another encoding": (
        lambda site: site.csv.write_bytes("id,größe\n1,2\n".encode("latin-1")),
        4,
        ["patients.csv is not", "in UTF-8", "Export it again"],
    ),
    "a column is missing": (
        lambda site: site.edit_csv(with_line(1, lambda line: line.replace("chol", "cholesterol"))),
        4,
        ["lacks what study", "16 columns, 11 of them asked for", "also chol", "Add the columns"],
    ),
    "there is no header, and the first line is a patient's": (
        lambda site: site.edit_csv(with_line(1, lambda _: "SECRET-VALUE," + ",".join(map(str, range(15))))),
        4,
        ["lacks what study", "16 columns, 0 of them asked for", "a header in the first line"],
    ),
    "a column stands twice": (
        lambda site: site.edit_csv(with_line(1, lambda line: line.replace("thal,", "age,"))),
        4,
        ["names a column twice", "Correct the header"],
    ),
    "text stands in a numeric column": (
        lambda site: site.edit_csv(with_line(7, cells(1, "SECRET-VALUE"))),
        4,
        ["line 7, column 'age'", "text or a number that is not finite", "wanted a number", "Correct the cell"],
    ),
    "infinity stands in a numeric column": (
        lambda site: site.edit_csv(with_line(7, cells(5, "inf"))),
        4,
        ["line 7, column 'trestbps'", "not finite"],
    ),
    "a line is short": (
        lambda site: site.edit_csv(with_line(9, lambda line: "1,SECRET-VALUE")),
        4,
        ["line 9", "got 2 cells", "wanted 16", "Correct the line"],
    ),
    "there are too few patients": (
        lambda site: site.edit("policy.toml", "min_patients_a_side = 20", "min_patients_a_side = 5000"),
        4,
        ["too few patients", "at least 5000", "min_patients_a_side", "The coordinator learns nothing"],
    ),
    "site.toml has an unknown key": (
        lambda site: site.edit("site.toml", "title =", "titel ="),
        3,
        ["site.toml is not valid", "unknown key 'titel'", "did you mean 'title'?", "Correct the file"],
    ),
    "policy.toml has an unknown key": (
        lambda site: site.edit("policy.toml", "max_epsilon_a_study", "max_epsilon_study"),
        3,
        ["policy.toml is not valid", "unknown key 'max_epsilon_study'", "did you mean 'max_epsilon_a_study'?"],
    ),
    "policy.toml is not TOML": (
        lambda site: site.edit("policy.toml", 'tasks = ["diagnosis"]', 'tasks = ["diagnosis"'),
        3,
        ["policy.toml is not TOML", "line", "Correct the file"],
    ),
    "site.toml is in another encoding": (
        lambda site: (site.folder / "site.toml").write_bytes(b'id = "\xe9"'),
        3,
        ["site.toml is not TOML", "utf-8", "Correct the file"],
    ),
    "site.toml is missing": (
        lambda site: (site.folder / "site.toml").unlink(),
        3,
        ["site.toml cannot be read", "No such file", "Check the path"],
    ),
    "the data file lies outside the folder": (
        lambda site: site.edit("site.toml", 'file = "patients.csv"', 'file = "../../../etc/passwd"'),
        3,
        ["points outside the site's folder", "etc/passwd", "a path inside"],
    ),
    "the policy allows no researcher": (
        lambda site: site.edit("policy.toml", '["demo"]', "[]"),
        6,
        ["rule 'researchers'", "got a study signed by key", "wanted a key pinned here", "policy.toml"],
    ),
    "the policy allows less": (
        lambda site: site.edit("policy.toml", "max_epsilon_a_study = 2.5", "max_epsilon_a_study = 1.5"),
        6,
        ["rule 'max_epsilon_a_study'", "got epsilon 2.0", "epsilon 1.5 at delta 0.0001"],
    ),
    "the signed study was changed": (
        lambda site: site.study.write_bytes(site.study.read_bytes().replace(b'"rounds":20', b'"rounds":21')),
        8,
        ["signed study cannot be trusted", "changed", "sign and submit the protocol again"],
    ),
    "the offered study is a pipe": (
        lambda site: (site.study.unlink(), os.mkfifo(site.study)),
        3,
        ["study.signed cannot be read", "no plain file", "wanted a plain file of at most"],
    ),
    "the offered study is a link to a device": (
        lambda site: (site.study.unlink(), site.study.symlink_to("/dev/zero")),
        3,
        ["study.signed cannot be read", "got a link", "Check the path"],
    ),
    "the offered study is larger than any is": (
        lambda site: os.truncate(site.study, 2**34),
        3,
        ["study.signed cannot be read", "larger than", "Check the path"],
    ),
    "the signed study is missing": (
        lambda site: site.study.unlink(),
        3,
        ["study.signed cannot be read", "No such file", "Check the path"],
    ),
}


@pytest.mark.parametrize("case", AT_APPROVAL)
def test_approval_refuses_with_one_message_and_charges_nothing(site, command, case):
    spoil, code, words = AT_APPROVAL[case]
    before = site.size()
    spoil(site)
    ended, said = command(*site.approve())
    assert ended == code, said
    check_one_message(said, words)
    assert "SECRET-VALUE" not in said
    assert site.size() == before
    assert not list(site.state.studies.iterdir())


def test_the_same_site_can_approve_once_the_mistake_is_corrected(site, command):
    whole = site.csv.read_bytes()
    site.edit_csv(with_line(7, cells(1, "abc")))
    assert command(*site.approve())[0] == 4
    site.csv.write_bytes(whole)
    assert command(*site.approve()) == (0, "")
    assert site.size() == 3


def test_a_patient_column_that_looks_like_visits_is_said_before_anything_is_approved(site, monkeypatch, capsys):
    words = [str(word) for word in site.approve() if word != "--yes"]
    monkeypatch.setattr(sys, "argv", ["fedhealth", *words])
    monkeypatch.setattr("typer.confirm", lambda question: False)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert "WARNING: column 'id' has a new value in 100% of the rows: it looks like a visit number" in said
    assert said.index("WARNING") < said.index("not approved")
    assert (ended.value.code, site.size()) == (6, 2)


def test_a_budget_already_spent_is_said_and_nothing_more_is_set_aside(site, command, tmp_path):
    shutil.rmtree(site.state.root)
    site.edit("policy.toml", "epsilon = 3.0", "epsilon = 2.1")
    init_site(site.folder, site.state, KEY, {"demo": public_key_hex(RESEARCHER.public_key())})
    assert command(*site.approve())[0] == 0
    second = tmp_path / "second.toml"
    second.write_text(PROTOCOL.read_text(encoding="utf-8").replace('name = "heart', 'name = "second-heart', 1), "utf-8")
    site.study.write_bytes(sign_study(load_study(second), RESEARCHER))
    ended, said = command(*site.approve())
    assert ended == 5
    check_one_message(said, ["data set 'heart-disease'", "got a cost of", "that is left", "Lower the study's epsilon"])
    assert site.size() == 3


def test_a_study_is_approved_once(site, command):
    assert command(*site.approve())[0] == 0
    ended, said = command(*site.approve())
    assert ended == 6
    check_one_message(said, ["approved here before", "Nothing to do"])
    assert site.size() == 3


def test_a_ledger_that_a_gate_holds_is_not_touched(site, command):
    held = Ledger.open(site.state.ledger, "hungary", site.state.ledger_key())
    ended, said = command(*site.approve())
    held.close()
    assert ended == 7
    check_one_message(said, ["in use", "another process", "Stop the gate"])
    assert site.size() == 2


def test_a_missing_ledger_is_never_made_anew(site, command):
    site.state.ledger.unlink()
    ended, said = command(*site.approve())
    assert ended == 7
    check_one_message(said, ["ledger of site 'hungary' is missing", "must not replace it"])
    assert not site.state.ledger.exists()


def test_a_gate_without_data_does_not_start(site):
    site.csv.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "fedhealth.cli.main", "site", "gate", site.folder, "--state", site.state.root],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    check_one_message(done.stderr.split("\n", done.stderr.count("WARNING"))[-1], ["patients.csv cannot be read"])
    assert not site.state.socket.exists()


@pytest.mark.parametrize("verb", ["approve", "resume"])
def test_a_site_that_was_never_made_is_said_to_be_missing(site, command, tmp_path, verb):
    what = site.study if verb == "approve" else "a" * 64
    ended, said = command("site", verb, site.folder, what, "--state", tmp_path / "nowhere")
    assert ended == 3
    check_one_message(said, ["no site's state", "nowhere", "fedhealth site init"])
    assert not (tmp_path / "nowhere").exists()


def test_resuming_an_unknown_study_changes_nothing(site, command):
    ended, said = command("site", "resume", site.folder, "b" * 64, "--state", site.state.root)
    assert ended == 6
    check_one_message(said, ["is not approved here", "Check the digest"])


# `site init`: name: (arguments after the folder and the state, words).
AT_INIT = {
    "a witness key that is none": (["--witness", "abc"], ["witness key", "--witness abc", "64 hexadecimal digits"]),
    "a witness key in upper case": (["--witness", "A" * 64], ["witness key", "lower case"]),
    "a pin without a key": (["--witness", KEY, "--trust", "alice"], ["--trust alice", "NAME=KEY"]),
    "a pin with a short key": (["--witness", KEY, "--trust", "alice=abc"], ["--trust alice=abc", "64 hexadecimal"]),
    "a pin that leaves the folder": (["--witness", KEY, "--trust", f"../../x={KEY}"], ["../../x", "NAME=KEY"]),
    "a negative seed": (["--witness", KEY, "--unsafe-test-site", "-5"], ["-5", "positive"]),
}


@pytest.mark.parametrize("case", AT_INIT)
def test_init_refuses_and_makes_nothing(site, command, tmp_path, case):
    arguments, words = AT_INIT[case]
    ended, said = command("site", "init", site.folder, "--state", tmp_path / "new" / "state", *arguments)
    assert ended == 3
    check_one_message(said, words)
    assert not (tmp_path / "new").exists()


def test_init_twice_keeps_what_is_there(site, command):
    before = site.state.ledger.read_bytes()
    ended, said = command("site", "init", site.folder, "--state", site.state.root, "--witness", KEY)
    assert ended == 3
    check_one_message(said, ["has state at", "never overwritten", "choose another folder"])
    assert site.state.ledger.read_bytes() == before


def test_init_wants_a_budget_for_the_data_set(site, command, tmp_path):
    site.edit("policy.toml", "[budget.heart-disease]", "[budget.other]")
    ended, said = command("site", "init", site.folder, "--state", tmp_path / "new", "--witness", KEY)
    assert ended == 3
    check_one_message(said, ["no budget for data set 'heart-disease'", "['other']", "[budget.heart-disease]"])


def test_init_refuses_a_second_budget_that_the_same_patients_could_be_renamed_into(site, command, tmp_path):
    more = "[budget.renamed]\nepsilon = 3.0\ndelta = 1e-4\n[budget.heart-disease]"
    site.edit("policy.toml", "[budget.heart-disease]", more)
    ended, said = command("site", "init", site.folder, "--state", tmp_path / "new", "--witness", KEY)
    assert ended == 3
    check_one_message(said, ["does not have", "renamed", "second budget"])
    assert not (tmp_path / "new").exists()


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
    "a class path": ('kind = "logistic-regression"', 'kind = "os.system"', ["model.kind", "logistic-regression"]),
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
def coordinator(tmp_path, made):
    """The coordinator's home with one site that joined."""
    now, home = datetime.now(UTC), CoordinatorHome(tmp_path / "home")
    root = create_root(tmp_path / "root", "demo", None, now)
    _, request = init_coordinator(home, "demo", "127.0.0.1:7443", "127.0.0.1:7444")
    install_chain(home, root.certify_issuer(request.read_bytes(), now), root.pem, now)
    ledger_key = public_key_hex(create_signing_key(tmp_path / "ledger.key"))
    keys = [make_key("P-256").public_key() for _ in range(2)]
    admit_site(home, "hungary", *keys, ledger_key, now)
    return ("coordinator", "run", made / "study.signed", "--home", home.root, "--out", tmp_path / "results")


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
