"""What a person sees before a question leaves: what leaves, what each code means, and what cannot be asked at all."""

import sqlite3
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "site"))
from counted_ward import ASKER, ASKING_KEY, search_study

from fedhealth.canonical import canonical_bytes
from fedhealth.cli.commands import app
from fedhealth.link.counts import CountAnswer
from fedhealth.search.terminology import FILE_NAME
from fedhealth.signing import create_signing_key, public_key_hex
from fedhealth.site.state import SiteState
from fedhealth.study.count_query import vouch
from fedhealth.study.signature import sign_study


@pytest.fixture
def asking(tmp_path):
    """Return what asks with more words, and declines to let it leave."""
    (tmp_path / "search.signed").write_bytes(sign_study(search_study(), ASKER))
    key = create_signing_key(tmp_path / "my.key")
    certificate = vouch("far-away", public_key_hex(key), "clinician", "2027-Q4", ASKING_KEY)
    (tmp_path / "my.asker").write_bytes(canonical_bytes(certificate))
    files = ["--study", tmp_path / "search.signed", "--key", tmp_path / "my.key"]
    files += ["--certificate", tmp_path / "my.asker", "--state", tmp_path]

    def ask(*words):
        done = CliRunner().invoke(app, ["count", *map(str, files), *words], input="n\n")
        return done.output + str(done.exception or "")

    return ask


def terminology_in(folder):
    """Put a terminology of three concepts where the site's index has its own."""
    folder.mkdir(parents=True)
    with sqlite3.connect(folder / FILE_NAME) as file:
        file.execute("CREATE TABLE concept (id TEXT PRIMARY KEY, parent TEXT, fr TEXT, en TEXT) WITHOUT ROWID")
        file.execute("CREATE TABLE found (language TEXT PRIMARY KEY, keys BLOB, terms BLOB)")
        known = [("icd10:G20", "Maladie de Parkinson", "Parkinson disease"), ("atc:N04BA02", "levodopa", None)]
        file.executemany("INSERT INTO concept VALUES (?, NULL, ?, ?)", known)
    file.close()


def test_each_code_is_named_a_group_by_what_is_below_it_and_an_unknown_one_is_said(asking, tmp_path):
    terminology_in(SiteState(tmp_path).index)
    said = " ".join(asking("--having", "icd10:G20", "--having", "atc:N04", "--without", "icd10:G2Z").split())
    assert "atc:N04 is levodopa icd10:G20 is Parkinson disease icd10:G2Z is in no terminology here" in said
    assert said.index("nothing else") < said.index("atc:N04 is levodopa") < said.index("nothing left")


def test_a_busy_hospital_is_asked_again_for_as_long_as_said(asking, monkeypatch):
    said = [CountAnswer(absent={"a": "busy"}), CountAnswer(absent={"a": "busy"}), CountAnswer(counts={"a": 30})]
    left = []

    def ask_elsewhere(path, signed_query):
        left.append(signed_query)
        return said[min(len(left), 3) - 1]

    monkeypatch.setattr("fedhealth.site.asking.ask_elsewhere", ask_elsewhere)
    monkeypatch.setattr("fedhealth.cli.count._PAUSE_SECONDS", 0)
    assert "a: no answer (busy)" in asking("--having", "icd10:G20", "--yes") and len(left) == 1
    assert "a: 30 +-" in asking("--having", "icd10:G20", "--yes", "--wait", "60") and len(left) == 3
    assert left[0] == left[1] == left[2]


def test_without_a_terminology_nothing_is_said_of_codes(asking):
    assert " is " not in asking("--having", "icd10:G20").partition("nothing else")[2]


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (["--having", "G20"], "'G20', which is no code"),
        (["--having", "icd10:G20", "--without", "Madame X, born 1950"], "which is no code"),
        (["--having", "icd10:G20", "--ages", "61-80"], "wanted two multiples of 5"),
        (["--having", "icd10:G20", "--ages", "old"], "these are no ages"),
        (["--having", "icd10:G20", "--without", "icd10:G"], "which is no code"),
    ],
)
def test_what_is_no_query_is_refused_in_words(asking, words, got):
    said = asking(*words)
    assert got in said and "what leaves" not in said and "pattern" not in said
