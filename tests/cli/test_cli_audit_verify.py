"""`fedhealth audit verify` as a compliance officer runs it: any changed byte ends it with 7 or 8 and names an entry."""

import json
import random
import re
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.cli.main import main
from fedhealth.privacy.entries import Approved, Reserved
from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.mu_squared import MuSquaredBudget, noise_multiplier_for
from fedhealth.signing import public_key_hex
from fedhealth.site.state import SiteState, init_site

ROOT = Path(__file__).resolve().parents[2]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
CHARGES = 6


def make_ledger(folder, unsafe=False):
    """Make a site with `fedhealth site init`'s function, and a ledger with one study of ten releases, six charged."""
    state = SiteState(folder)
    init_site(ROOT / "sites" / "hungary", state, public_key_hex(KEY.public_key()), {}, 7 if unsafe else None)
    mechanism = GridGaussian(noise_multiplier=noise_multiplier_for(1.0, 1e-4, 10), l2_clip_norm=1.0, dimension=2)
    cost = MuSquaredBudget(epsilon=3.0, delta=1e-4).cost_of(mechanism.event())
    ledger = Ledger.open(state.ledger, "hungary", state.ledger_key())
    ledger.append(
        Approved(
            study="a" * 64,
            researcher="c" * 64,
            sides="d" * 64,
            data_set="heart-disease",
            declared_patients=100,
            reply_after_ms={"train": 20},
            envelope={"training": cost.times(10)},
            delta=1e-4,
            by="ada",
            at=2,
        )
    )
    for number in range(CHARGES):
        ledger.reserve(
            Reserved(
                release=f"{number:064x}",
                study="a" * 64,
                step="train",
                round=number + 1,
                cohort="training",
                cost=cost,
                at=3,
            )
        )
    ledger.close()
    return state.gate


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    return make_ledger(tmp_path_factory.mktemp("ledger"))


@pytest.fixture
def verify(capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedhealth", "audit", "verify", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def test_an_intact_ledger_is_described_for_people_by_folder_and_by_file(intact, verify):
    code, said, errors = verify(intact)
    assert (code, errors) == (0, "")
    assert f"intact: {CHARGES + 3} entries of site 'hungary', {CHARGES} releases charged" in said
    assert re.search(r"ledger key  [0-9a-f]{64}", said)
    assert re.search(r"epsilon 0\.\d+ of 3 spent at delta 0.0001", said)
    assert verify(intact / "ledger.sqlite") == (code, said, errors)


def test_json_says_the_same_to_a_script(intact, verify):
    code, said, errors = verify(intact, "--json")
    assert (code, errors) == (0, "")
    found = json.loads(said)
    assert found["head"]["site"] == "hungary"
    assert found["head"]["size"] == CHARGES + 3
    assert found["releases"] == CHARGES
    assert found["unsafe_test_site"] is False
    assert {line["cohort"] for line in found["spending"]} == {"training", "held-out"}
    # Six of ten equal releases: 60 % of what was set aside, for charges add up.
    training = next(line for line in found["spending"] if line["cohort"] == "training")
    assert training["share_spent"] == pytest.approx(0.6 * training["share_set_aside"])
    assert 0 < training["epsilon_spent"] < 1.0


@pytest.mark.parametrize("as_json", [False, True])
def test_a_test_site_ends_with_10_and_is_called_one(tmp_path, verify, as_json):
    code, said, errors = verify(make_ledger(tmp_path, unsafe=True), *(["--json"] if as_json else []))
    assert code == 10
    assert "TEST SITE" in errors
    if as_json:
        assert json.loads(said)["unsafe_test_site"] is True


def test_any_changed_byte_ends_with_7_or_8_and_names_an_entry(intact, verify, tmp_path):
    whole = (intact / "ledger.sqlite").read_bytes()
    copy = tmp_path / "ledger.sqlite"
    page = int.from_bytes(whole[16:18], "big")
    generator = random.Random(20260101)  # noqa: S311 - which bytes are tried is no secret
    places = [start + generator.randrange(page) for start in range(0, len(whole), page) for _ in range(8)]
    places += [*range(0, 100, 7), len(whole) - 1]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << generator.randrange(8)
        copy.write_bytes(changed)
        code, _, said = verify(copy)
        assert code in (7, 8), f"byte {place}"
        assert said.count("error:") == 1
        assert code == 8 or re.search(r"first bad entry is number \d+", said), f"byte {place}: {said}"
        assert "Traceback" not in said


@pytest.mark.parametrize("as_json", [False, True])
def test_a_damaged_ledger_prints_nothing_that_a_script_could_take_for_good(intact, verify, tmp_path, as_json):
    copy = tmp_path / "ledger.sqlite"
    shutil.copyfile(intact / "ledger.sqlite", copy)
    with copy.open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    code, said, errors = verify(copy, *(["--json"] if as_json else []))
    assert (code, said) == (7, "")
    assert "first bad entry" in errors


def other_database(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE patients (id TEXT)")
    database.close()


# What a person may give by mistake: name: (how it is made, words of the message).
NO_LEDGERS = {
    "nonsense": (lambda path: path.write_bytes(b"\x5a\xc3" * 4500), ["first bad entry is number 0"]),
    "an empty file": (lambda path: path.touch(), ["first bad entry is number 0"]),
    "a text file": (lambda path: path.write_text("hello"), ["first bad entry is number 0"]),
    "another SQLite file": (other_database, ["first bad entry is number 0"]),
    "a folder without a ledger": (lambda path: path.mkdir(), ["there is no ledger at", "Give a site's state folder"]),
    "nothing": (lambda path: None, ["there is no ledger at", "Give a site's state folder"]),
}


@pytest.mark.parametrize("case", NO_LEDGERS)
def test_what_is_no_ledger_ends_with_7_and_one_message(verify, tmp_path, case):
    make, words = NO_LEDGERS[case]
    make(tmp_path / "given")
    code, said, errors = verify(tmp_path / "given")
    assert (code, said) == (7, "")
    assert errors.count("error:") == 1
    assert "Traceback" not in errors
    for word in words:
        assert word in errors


def test_verifying_writes_nothing_beside_the_ledger(intact, verify):
    before = {path.name: path.read_bytes() for path in intact.rglob("*") if path.is_file()}
    verify(intact)
    assert {path.name: path.read_bytes() for path in intact.rglob("*") if path.is_file()} == before
