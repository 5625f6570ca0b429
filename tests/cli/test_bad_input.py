"""What a site's administrator can get wrong: one message (what, got, wanted, next step), and nothing is charged."""

import os
import shutil
import subprocess
import sys

import pytest
from one_message import KEY, PROTOCOL, RESEARCHER, ROOT, check_one_message

from fedhealth.cli.main import main
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import public_key_hex
from fedhealth.site.state import SiteState, init_site
from fedhealth.study.protocol import load_study
from fedhealth.study.signature import sign_study


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
        ["patients.csv cannot be read", "a folder", "permissions"],
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
    said = " ".join(capsys.readouterr().out.split())
    assert "WARNING column 'id' has a new value in 100% of the rows: it looks like a visit number" in said
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
