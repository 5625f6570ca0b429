"""`fedhealth audit` over a federation and over a run's folder, as an officer or a stranger types it."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "compliance"))
from audited_site import FIRST, WITNESS, make_gate
from published_run import SITES, make_ledger, make_run, other_key

from fedhealth.cli.main import main
from fedhealth.signing import public_key_hex


@pytest.fixture
def audit(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedhealth", "audit", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        # A path is as long as it is, and so is an error, which a terminal wraps.
        own = [line for line in (said.out + said.err).splitlines() if "/" not in line and "error:" not in line]
        assert "--json" in arguments or max(map(len, own), default=0) <= 80
        return ended.value.code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """The state folders of two sites that took part in one run, and of a third with two other studies."""
    folder = tmp_path_factory.mktemp("states")
    for site in SITES:
        make_ledger(folder / site / "gate", site)
    make_gate(folder / "east" / "gate", site="east")
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory, states):
    gates = {site: states / site / "gate" for site in SITES}
    return make_run(tmp_path_factory.mktemp("published") / "run", gates)


@pytest.fixture
def bundles(states, audit, tmp_path):
    folder = tmp_path / "bundles"
    code, said, errors = audit("export", states, "-o", folder)
    assert (code, errors) == (0, "")
    assert "12 entries and 1 signed studies of site 'north'" in said.splitlines()[2]
    return folder


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_budget_of_a_federation_is_told_site_by_site_and_over_all(bundles, audit):
    code, said, errors = audit("budget", bundles)
    assert (code, errors) == (0, "")
    for words in (
        "=== site 'east': ledger intact, 8 entries",
        "=== site 'north': ledger intact, 12 entries",
        "=== over 3 sites",
        "  all: 10 releases charged of at most 10",  # four rounds and one evaluation at each of two sites
        "  all: 3 releases charged of at most 5",
        "east: withdrawn since",
    ):
        assert words in said


def test_the_budget_as_json_has_sites_studies_and_failures(bundles, audit):
    found = json.loads(audit("budget", bundles, "--json")[1])
    assert [each["site"] for each in found["sites"]] == ["east", "north", "south"]
    assert {study["name"]: study["charged"] for study in found["studies"]} == {"first": 3, "second": 0, "heart": 10}
    assert found["failed"] == []
    one = json.loads(audit("budget", bundles / "north.bundle", "--json")[1])
    assert one == found["sites"][1], "of one ledger it is the site itself"


@pytest.mark.parametrize("verb", ["budget", "report"])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_damaged_bundle_is_named_and_the_rest_is_told(bundles, audit, verb, as_json):
    damage(bundles / "south.bundle")
    code, said, errors = audit(verb, bundles, *(["--json"] if as_json else []))
    assert code == 8
    assert "site 'south'" not in said
    if as_json:
        found = json.loads(said)
        assert [each["site"] for each in found["sites"]] == ["east", "north"]
        (missing,) = found["failed" if verb == "budget" else "not_counted"]
        assert (missing["name"], errors) == (str(bundles / "south.bundle"), "")
    else:
        assert f"NOT COUNTED {bundles / 'south.bundle'}" in " ".join(errors.split())
        assert "site 'north'" in said


def test_a_site_that_is_missing_is_named(bundles, audit):
    code, said, errors = audit("budget", bundles, "--site", "west", "--site", "north")
    assert (code, "site 'north'" in said) == (3, True)
    assert "NOT COUNTED west" in errors
    assert errors.count("NOT COUNTED") == 1


def test_the_sites_of_a_run_must_be_there_and_extend_its_heads(bundles, published, audit, tmp_path):
    evidence = published / "evidence.json"
    assert audit("budget", bundles, "--evidence", evidence)[0] == 0
    (bundles / "south.bundle").unlink()
    code, _, errors = audit("report", bundles, "--evidence", evidence)
    assert (code, "NOT COUNTED south" in errors) == (3, True)
    other = tmp_path / "evidence.json"
    other.write_text("{}")
    assert audit("budget", bundles, "--evidence", other)[0] == 3


def test_nothing_is_exported_if_one_is_not_intact(bundles, audit, tmp_path):
    damage(bundles / "south.bundle")
    code, said, errors = audit("export", bundles, "-o", tmp_path / "again")
    assert (code, said) == (8, "")
    assert "nothing was written" in errors
    assert not (tmp_path / "again").exists()


def test_bundles_are_collected_as_they_are(bundles, audit, tmp_path):
    assert audit("export", bundles, "-o", tmp_path / "again")[0] == 0
    for path in bundles.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    code, _, errors = audit("export", bundles, "-o", tmp_path / "again")
    assert (code, "will not write into" in errors) == (3, True)


def test_the_register_is_told_and_written(bundles, audit, tmp_path):
    page = tmp_path / "register.html"
    code, said, errors = audit("report", bundles, "--out", page)
    assert (code, errors) == (0, "")
    assert said.startswith("3 sites verified\n")
    for words in ("Who <is> ill & when", "why       To be audited.", "ground    Made-up records.", "by grace"):
        assert words in said
    assert said.endswith(f"wrote {page}\n")
    assert "Who &lt;is&gt; ill &amp; when" in page.read_text(encoding="utf-8")
    code, _, errors = audit("report", bundles, "--out", page)
    assert (code, "will not overwrite" in errors) == (8, True)


def test_a_register_that_lacks_a_site_is_written_and_says_so(bundles, audit, tmp_path):
    damage(bundles / "south.bundle")
    page = tmp_path / "register.html"
    code, said, _ = audit("report", bundles, "--out", page)
    assert code == 8
    assert said.startswith("2 sites verified, 1 NOT COUNTED (named below)")
    assert "This register is not complete" in page.read_text(encoding="utf-8")


def test_texts_are_taken_from_signed_studies(states, audit, tmp_path):
    ledger = tmp_path / "ledger.sqlite"
    ledger.write_bytes((states / "east" / "gate" / "ledger.sqlite").read_bytes())
    said = audit("report", ledger)[1]
    assert "its text is not at hand (--studies)" in said
    assert FIRST.purpose not in said
    said = audit("report", ledger, "--studies", states / "east" / "gate" / "studies")[1]
    assert FIRST.purpose in said
    assert "not at hand" not in said


def test_a_register_as_json_is_whole(bundles, audit):
    found = json.loads(audit("report", bundles, "--json")[1])
    activity = found["sites"][1]["activities"][0]
    assert activity["text"]["title"] == "Who <is> ill & when"
    assert (activity["by"], activity["sides"][0]["use"]["steps"][0]["charged"]) == ("ada", 4)


def test_a_run_is_verified_in_a_screen_of_one_line_a_check(published, bundles, audit):
    code, said, errors = audit("verify", published, "--ledgers", bundles / "north.bundle", "--ledgers", bundles)
    assert (code, errors) == (0, "")
    lines = said.splitlines()
    assert lines[0] == "intact: 18 ok, 1 not checked"
    checks = [line for line in lines if line.startswith(("  ok ", "  - "))]
    assert len(checks) == 19
    assert any("ledger of east: this site is not in the evidence" in line for line in checks)
    assert public_key_hex(WITNESS.public_key()) in said


def test_a_run_as_json(published, audit):
    found = json.loads(audit("verify", published, "--json")[1])
    assert found["passed"] is True
    outcomes = {check["name"]: check["outcome"] for check in found["checks"]}
    assert outcomes["figures"] == "ok"
    assert outcomes["ledger of north"] == "not checked"


def test_a_changed_run_ends_with_7_and_names_what_is_wrong(published, audit, tmp_path):
    run = shutil.copytree(published, tmp_path / "run")
    text = (run / "report.html").read_text(encoding="utf-8")
    (run / "report.html").write_text(text.replace("</main>", "<p>99 %</p></main>"), encoding="utf-8")
    code, said, _ = audit("verify", run)
    assert code == 7
    assert said.startswith("NOT INTACT: ")
    assert "FAILED  file report.html: it is not the file that was sealed" in said
    assert "FAILED  report: it does not say what the evidence says" in said
    assert json.loads(audit("verify", run, "--json")[1])["passed"] is False


def test_bundles_in_a_runs_folder_are_used(published, bundles, audit, tmp_path):
    run = shutil.copytree(published, tmp_path / "run")
    for site in SITES:
        shutil.copyfile(bundles / f"{site}.bundle", run / f"{site}.bundle")
    assert audit("verify", run)[1].startswith("intact: 18 ok\n")
    damage(run / "north.bundle")
    assert audit("verify", run)[0] == 8


def test_the_operators_key_is_asked_for(published, audit):
    assert audit("verify", published, "--witness", public_key_hex(WITNESS.public_key()).upper())[0] == 0
    assert audit("verify", published, "--witness", public_key_hex(other_key().public_key()))[0] == 8


@pytest.mark.parametrize("verb", ["budget", "report"])
def test_ledgers_that_name_another_coordinator_are_not_counted(bundles, audit, tmp_path, verb):
    known = public_key_hex(WITNESS.public_key())
    assert audit(verb, bundles, "--witness", known)[0] == 0
    make_ledger(bundles / "west" / "gate", "west", coordinator=other_key())
    code, said, errors = audit(verb, bundles, "--witness", known)
    assert (code, errors.count("NOT COUNTED"), "NOT COUNTED west" in errors) == (8, 1, True)
    assert ("site 'north'" in said, "site 'west'" in said) == (True, False)
    code, said, errors = audit(verb, bundles / "west", "--witness", known)
    assert (code, said) == (8, "")
    assert "countersigned by another coordinator" in errors


def test_options_that_do_not_fit_are_refused(published, bundles, audit):
    code, _, errors = audit("verify", published, "--evidence", published / "evidence.json")
    assert (code, "a run's folder has its own evidence" in errors) == (3, True)
    code, _, errors = audit("verify", bundles / "north.bundle", "--ledgers", bundles)
    assert (code, "is no run's folder" in errors) == (3, True)
