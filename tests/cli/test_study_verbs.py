"""A researcher at the terminal: write a protocol, check it, make a key, sign it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedhealth.learning.models.table import MODELS
from fedhealth.signing import public_key_hex
from fedhealth.study.protocol import Study, load_study
from fedhealth.study.signature import open_signed_study

ROOT = Path(__file__).parents[2]
HEART = ROOT / "protocols" / "heart-disease-diagnosis.toml"


def study(*arguments, folder=ROOT, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "fedhealth.cli.main", "study", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
    )
    assert done.returncode == code, done.stderr
    return done


def test_a_study_goes_from_a_table_to_a_signature(tmp_path):
    rows = "".join(f"{'ns'[n % 2]},{20 + n},{'fm'[n % 3 % 2]},{'yes' if n % 3 else 'no'}\n" for n in range(60))
    (tmp_path / "ward.csv").write_text("hospital,age,sex,died\n" + rows)
    study("new", "sepsis", "--data", "ward.csv", "--endpoint", "died", "--ignore", "hospital", folder=tmp_path)
    assert "left open: purpose, legal_basis" in " ".join(study("check", "sepsis.toml", folder=tmp_path).stdout.split())
    key = study("keygen", "my.key", folder=tmp_path).stdout.strip()
    refused = study("sign", "sepsis.toml", "--key", "my.key", folder=tmp_path, code=3)
    assert "the unit of age" in refused.stderr and not (tmp_path / "sepsis.signed").exists()

    text = (tmp_path / "sepsis.toml").read_text()
    for words in ("care", "consent", "died", "years"):
        text = text.replace('"?"', f'"{words}"', 1)
    (tmp_path / "sepsis.toml").write_text(text)
    digest = study("sign", "sepsis.toml", "--key", "my.key", folder=tmp_path).stdout.strip()
    signed = open_signed_study((tmp_path / "sepsis.signed").read_bytes())
    assert signed.researcher == key and signed.study.digest == digest
    assert signed.study == load_study(tmp_path / "sepsis.toml")


def test_a_check_says_what_sites_allow_and_ends_with_a_code_where_they_do_not(tmp_path):
    said = study("check", HEART, "--limits", ROOT / "sites").stdout
    assert all(len(line) <= 80 for line in said.splitlines()[1:])  # the title is the researcher's own
    for site in ("cleveland", "hungary", "long-beach", "switzerland"):
        assert site in said
    (tmp_path / "dear.toml").write_text(HEART.read_text().replace("training_epsilon = 2.0", "training_epsilon = 2.9"))
    refused = json.loads(study("check", tmp_path / "dear.toml", "--limits", ROOT / "sites", "--json", code=6).stdout)
    assert all("asks epsilon 2.9" in site["refusals"][0] for site in refused["sites"])


def test_limits_are_published_in_a_file_and_read_from_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fedhealth.cli.main", "site", "limits", str(ROOT / "sites" / "hungary")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["declared_patients"] == 300
    (tmp_path / "hungary.limits.json").write_text(done.stdout)
    shown = json.loads(study("check", HEART, "--limits", tmp_path, "--json").stdout)
    assert [site["site"] for site in shown["sites"]] == ["hungary"]
    (tmp_path / "hungary.limits.json").write_text(done.stdout.replace('"site"', '"cite"'))
    assert "does not hold a site's limits" in study("check", HEART, "--limits", tmp_path, code=3).stderr


def test_nothing_is_written_over(tmp_path):
    study("new", "sepsis", folder=tmp_path)
    before = (tmp_path / "sepsis.toml").read_bytes()
    assert "exists already" in study("new", "sepsis", folder=tmp_path, code=3).stderr
    assert (tmp_path / "sepsis.toml").read_bytes() == before
    study("keygen", "my.key", folder=tmp_path)
    key = (tmp_path / "my.key").read_bytes()
    assert "exists" in study("keygen", "my.key", folder=tmp_path, code=8).stderr
    assert (tmp_path / "my.key").read_bytes() == key and (tmp_path / "my.key").stat().st_mode & 0o77 == 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["new", "Sepsis!"], "name"),
        (["new", "sepsis", "--data", "none.csv", "--endpoint", "died"], "cannot be read"),
        (["new", "sepsis", "--data", "x.csv"], "--endpoint"),
        (["new", "sepsis", "--data", "x.db", "--endpoint", "died"], "many tables"),
        (["check", "none.toml"], "cannot be read"),
        (["check", str(HEART), "--limits", "none"], "cannot be read"),
    ],
)
def test_a_slip_is_one_clear_message(tmp_path, arguments, words):
    done = study(*arguments, folder=tmp_path, code=4 if "none.csv" in arguments else 3)
    assert words in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_published_schema_is_the_programs():
    published = (ROOT / "docs" / "schemas" / "study.schema.json").read_text()
    assert study("schema").stdout == published
    shown, own = json.loads(published), json.loads(json.dumps(Study.model_json_schema()))
    assert shown["$defs"]["Model"]["properties"]["kind"].pop("enum") == sorted(MODELS)
    assert shown == own


def test_every_key_of_a_protocol_is_explained():
    schema = Study.model_json_schema()
    keys = {key for part in (schema, *schema["$defs"].values()) for key in part["properties"]}
    explained = (ROOT / "docs" / "protocol.md").read_text()
    assert {key for key in keys if f"`{key}`" not in explained} == set()


def test_a_public_key_is_what_the_file_holds(tmp_path):
    from fedhealth.signing import load_signing_key

    shown = study("keygen", "my.key", folder=tmp_path).stdout.strip()
    assert shown == public_key_hex(load_signing_key(tmp_path / "my.key").public_key())
    assert study("keygen", "my.key", "--public", folder=tmp_path).stdout.strip() == shown
    assert "cannot read" in study("keygen", "none.key", "--public", folder=tmp_path, code=8).stderr
