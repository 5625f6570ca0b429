"""`fedhealth study submit|list|watch|stop|results` as typed: what they print, their JSON, their exit codes."""

import json
import sys
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from served_coordinator import ServedCoordinator
from study_scene import RESEARCHER, study_of

from fedhealth.cli.main import main
from fedhealth.coordinator.run_folder import PUBLISHED, SEAL
from fedhealth.secret_file import create_file
from fedhealth.study.signature import sign_study

STUDY = study_of()
SIGNED = sign_study(STUDY, RESEARCHER)


@pytest.fixture
def served(tmp_path):
    with tempfile.TemporaryDirectory(prefix="fh-") as folder:  # short: a socket's path has 107 bytes
        made = ServedCoordinator(Path(folder), STUDY)
        made.start()
        yield made
        made.close()


@pytest.fixture
def typed(served, monkeypatch, capsys):
    """Type a command of `fedhealth study`; return its code, output and what it said besides."""

    def run(verb, *words):
        command = ["fedhealth", "study", verb, *map(str, words), "--coordinator", str(served.socket)]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def key_file(folder, key):
    path = folder / "researcher.key"
    create_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def test_a_study_is_submitted_followed_and_fetched(served, typed, tmp_path):
    signed = tmp_path / "study.signed"
    signed.write_bytes(SIGNED)
    code, out, _ = typed("submit", signed)
    assert (code, out) == (0, f"{STUDY.digest[:12]}  small: offered\n")
    served.approve(SIGNED)
    code, out, _ = typed("watch", STUDY.digest[:8])
    lines = [line.split("  ", 1)[-1] for line in out.splitlines()]
    assert (code, lines[0], lines[-2:]) == (0, "submitted", ["done", "it is done"])
    assert any(line.startswith("round 2 of 2: 2 sites, epsilon ") for line in lines)
    assert all(len(line) <= 80 for line in out.splitlines())
    code, out, _ = typed("list")
    assert (code, out.splitlines()) == (
        0,
        [f"{STUDY.digest[:12]}  small: done", "  approved by ward-a, ward-b", "  2 rounds done"],
    )
    code, out, _ = typed("list", "--json")
    (told,) = json.loads(out)
    assert (told["study"], told["state"], told["approved"]) == (STUDY.digest, "done", ["ward-a", "ward-b"])
    code, out, _ = typed("results", STUDY.digest[:8], "--json")
    assert set(json.loads(out)) == {*PUBLISHED, SEAL}
    code, out, said = typed("results", STUDY.digest[:8], "--out", tmp_path / "results")
    assert (code, {Path(line).name for line in out.splitlines()}) == (0, {*PUBLISHED, SEAL})
    assert "fedhealth audit verify" in said
    assert "PARTIAL" not in said
    code, out, _ = typed("watch", STUDY.digest[:8], "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0]["body"]["event"] == "submitted"
    assert events[-1] == {"kind": "over", "state": "done"}


def test_a_partial_result_is_labelled_when_it_is_fetched(served, typed, tmp_path):
    signed = tmp_path / "study.signed"
    study = study_of(sites={"quorum": 1, "wait_seconds": 1})
    signed.write_bytes(sign_study(study, RESEARCHER))
    served.approve(signed.read_bytes(), "ward-a")
    typed("submit", signed)
    served.wait_for(study, "done")
    code, _, said = typed("results", study.digest[:8], "--out", tmp_path / "results")
    assert code == 0
    assert said.startswith("PARTIAL RESULT, without ward-b (rounds 1 to 2: ")


def test_a_study_is_stopped_with_its_key_and_with_no_other(served, typed, tmp_path):
    signed = tmp_path / "study.signed"
    signed.write_bytes(SIGNED)
    typed("submit", signed)
    (tmp_path / "other").mkdir()
    other = key_file(tmp_path / "other", Ed25519PrivateKey.generate())
    code, _, said = typed("stop", STUDY.digest[:8], "--key", other)
    assert (code, said.count("error:")) == (8, 1)
    code, out, _ = typed("stop", STUDY.digest[:8], "--key", key_file(tmp_path, RESEARCHER))
    assert (code, out.splitlines()[0]) == (0, f"{STUDY.digest[:12]}  small: stopped (its researcher stopped it)")


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("watch", "abcdef12"), 3, "no studies here have a digest that begins with abcdef12"),
        (("results", "abcdef12"), 3, "no studies here"),
        (("watch", "1"), 3, "a study is named by the first digits of its digest"),
        (("results", "sepsis"), 3, "a study is named by the first digits of its digest"),
        (("submit", "/nowhere.signed"), 8, "cannot read '/nowhere.signed'"),
    ],
)
def test_what_cannot_be_done_is_one_message(typed, words, code, named):
    ended, _, said = typed(*words)
    assert ended == code
    assert said.startswith(f"error: {named}")
    assert "Traceback" not in said


def test_a_coordinator_that_does_not_serve_is_one_message(served, typed):
    served.stop()
    ended, _, said = typed("list")
    assert ended == 9
    assert said.startswith("error: the coordinator does not answer at ")
