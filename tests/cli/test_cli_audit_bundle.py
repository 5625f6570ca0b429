"""`fedhealth audit budget`, `export`, and `verify` of what was exported, as a compliance officer runs them."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "compliance"))
from audited_site import make_gate

from fedhealth.cli.audit_text import shown
from fedhealth.cli.main import main
from fedhealth.compliance.times import time_text
from fedhealth.privacy.verify import read_ledger


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    return make_gate(tmp_path_factory.mktemp("north") / "gate")


@pytest.fixture
def audit(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedhealth", "audit", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return ended.value.code, said.out, said.err

    return run


@pytest.fixture
def bundle(gate, audit, tmp_path):
    path = tmp_path / "north.bundle"
    assert audit("export", gate, "-o", path)[0] == 0
    return path


def test_a_bundle_is_exported_and_verifies_without_the_site(gate, bundle, audit):
    code, said, errors = audit("verify", bundle)
    assert (code, errors) == (0, "")
    assert "intact: 8 entries of site 'north', 3 releases charged" in said
    assert "2 signed studies in it, no journal, no payload" in said
    ledger = audit("verify", gate)[1]
    assert [line for line in said.splitlines() if "exported" not in line and "signed studies" not in line] == (
        ledger.splitlines()
    ), "a bundle says what the ledger says"
    assert bundle.stat().st_mode & 0o777 == 0o600


def test_verify_of_a_bundle_as_json_says_who_exported_it(gate, bundle, audit):
    found = json.loads(audit("verify", bundle, "--json")[1])
    exported = found.pop("bundle")
    assert found == json.loads(audit("verify", gate, "--json")[1])
    assert len(exported["studies"]) == 2
    assert exported["by"]


@pytest.mark.parametrize("of", ["folder", "file", "bundle"])
def test_the_budget_is_read_from_folder_file_and_bundle_within_80_columns(gate, bundle, audit, of):
    path = {"folder": gate, "file": gate / "ledger.sqlite", "bundle": bundle}[of]
    code, said, errors = audit("budget", path)
    assert (code, errors) == (0, "")
    assert max(map(len, said.splitlines())) <= 80
    for words in (
        "ward, training patients",
        "epsilon 4 at delta 1e-05",
        "approved  2023-11-14 22:13 UTC by ada",
        "train     3 releases charged of at most 4",
        "75.0% of its envelope",
        "(informative)",
        "by grace; withdrawn since",
    ):
        assert words in said
    # The plan's own epsilon, rounded against us by 0.1 % at most, beside the 1 and 0.5 that the protocols ask for.
    assert re.search(r"plan      epsilon 1\.00[01] at delta 1e-05", said)
    assert re.search(r"plan      epsilon 0\.50[01] at delta 1e-05", said)


def test_the_bar_has_the_shares_of_the_cap(gate, audit):
    bar = next(line for line in audit("budget", gate)[1].splitlines() if "used  [" in line)
    training = json.loads(audit("budget", gate, "--json")[1])["budgets"][0]
    assert bar.count("#") == round(40 * training["share_spent"])
    assert bar.count("#") + bar.count("=") == round(40 * training["share_set_aside"])
    assert len(bar.partition("[")[2]) == 41


def test_the_budget_as_json_has_every_figure(gate, audit):
    found = json.loads(audit("budget", gate, "--json")[1])
    assert (found["site"], len(found["ledger_key"])) == ("north", 64)
    training = found["budgets"][0]
    assert training["currency"] == "mu-squared"
    study = training["studies"][0]
    assert study["steps"] == [{"step": "train", "charged": 3, "planned": 4}]
    assert study["plan"]["label"].startswith("informative")


def test_a_test_site_is_called_one_by_every_verb(audit, tmp_path):
    folder = make_gate(tmp_path / "gate", unsafe=True)
    for arguments in (("budget", folder), ("export", folder, "-o", tmp_path / "b"), ("verify", tmp_path / "b")):
        code, _, errors = audit(*arguments)
        assert (code, "TEST SITE" in errors) == (10, True)


def head_of(site, gate):
    return json.dumps({"sites": [{"site": site, "ledger": {"note": read_ledger(gate).head}}]})


@pytest.mark.parametrize("verb", ["verify", "budget"])
def test_a_bundle_is_compared_with_the_evidence_of_a_run(verb, gate, bundle, audit, tmp_path):
    evidence = tmp_path / "evidence.json"
    evidence.write_text(head_of("north", gate))
    code, said, _ = audit(verb, bundle, "--evidence", evidence)
    assert (code, "of 8 entries: what follows them" in said) == (0, verb == "verify")  # it may be an old one
    evidence.write_text(head_of("south", gate))
    code, said, errors = audit(verb, bundle, "--evidence", evidence)
    assert (code, said) == (3, "")
    assert "holds no head of site 'north'" in errors


def test_nothing_is_overwritten(gate, bundle, audit):
    before = bundle.read_bytes()
    code, said, errors = audit("export", gate, "-o", bundle)
    assert (code, said) == (8, "")
    assert "will not overwrite" in errors
    assert bundle.read_bytes() == before


def test_a_changed_bundle_prints_nothing_that_a_script_could_take_for_good(bundle, audit):
    data = bytearray(bundle.read_bytes())
    data[200] ^= 1
    bundle.write_bytes(data)
    for verb in ("verify", "budget"):
        code, said, errors = audit(verb, bundle, "--json")
        assert (code, said) == (8, "")
        assert "the signature of this ledger-bundle does not hold" in errors


# What may be given by mistake: name: (what is made of a bundle's path, exit code, words of the message).
MISTAKES = {
    "a bundle of a later version": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"bundle 1\n", b"bundle 7\n", 1)),
        7,
        "Upgrade FedHealth first",
    ),
    "half a bundle": (lambda path: path.write_bytes(path.read_bytes()[:900]), 7, "cut short"),
    "an empty file": (lambda path: path.write_bytes(b""), 7, "first bad entry is number 0"),
    "no file": (lambda path: path.unlink(), 7, "there is no ledger"),
    "an empty folder": (lambda path: (path.unlink(), path.mkdir()), 7, "there is no ledger"),
}


@pytest.mark.parametrize("case", MISTAKES)
@pytest.mark.parametrize("verb", ["verify", "budget"])
def test_what_is_no_good_bundle_is_one_message(bundle, audit, case, verb):
    change, exit_code, words = MISTAKES[case]
    change(bundle)
    code, said, errors = audit(verb, bundle)
    assert (code, said) == (exit_code, "")
    assert errors.count("error:") == 1
    assert words in errors


def test_export_without_the_key_says_who_has_it(gate, audit, tmp_path):
    copy = tmp_path / "ledger.sqlite"
    copy.write_bytes((gate / "ledger.sqlite").read_bytes())
    code, said, errors = audit("export", copy, "-o", tmp_path / "b")
    assert (code, said) == (8, "")
    assert "ledger.key" in errors
    assert not (tmp_path / "b").exists()
    assert audit("export", copy, "-o", tmp_path / "b", "--key", gate / "ledger.key")[0] == 0


def test_what_a_stranger_wrote_is_shown_and_not_obeyed():
    assert shown("ada\x1b[2Jintact\n") == "ada?[2Jintact?"
    assert len(shown("x" * 1000)) == 40
    assert time_text(2**53 - 1) == "9007199254740991 ms after 1970"
