"""`fedhealth audit verify` and the certificate of the ledger key: verified where it lies beside, missed aloud."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.link.enrolment import certify_ledger_key
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import public_key_hex
from fedhealth.site.acts import rotate_key
from fedhealth.site.state import SiteState, init_site

HUNGARY = Path(__file__).resolve().parents[2] / "sites" / "hungary"
WITNESS, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
WITNESS_KEY, STRANGERS_KEY = public_key_hex(WITNESS.public_key()), public_key_hex(STRANGER.public_key())
JOINED = 1_767_225_600  # 2026-01-01 00:00 UTC
NAME = "ledger.certificate.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    state = SiteState(tmp_path_factory.mktemp("site") / "state")
    key = init_site(HUNGARY, state, WITNESS_KEY, {})
    write(state.gate, key)
    return state, key


@pytest.fixture
def site(made, tmp_path):
    """A site that joined: its state, and the key that was certified then."""
    shutil.copytree(made[0].root, tmp_path / "state")
    return SiteState(tmp_path / "state"), made[1]


def write(gate, key, site="hungary", signer=WITNESS, **changes):
    certificate = certify_ledger_key("heart", site, key, JOINED, signer).model_copy(update=changes)
    (gate / NAME).write_text(certificate.model_dump_json())


@pytest.fixture
def verify(fedhealth):
    return partial(fedhealth, "audit", "verify")


def test_the_certified_key_is_said_with_federation_and_date(site, verify):
    state, key = site
    for path in (state.gate, state.ledger):
        code, said, _ = verify(path)
        assert code == 0
        assert "certified   the key of\n              site 'hungary' of federation 'heart'," in said
        assert "joined 2026-01-01 00:00 UTC, by its coordinator" in said
        assert f"witness key {WITNESS_KEY}\n              not compared with the true one (--witness)" in said
        assert all(len(line) <= 80 for line in said.splitlines())
    code, said, _ = verify(state.gate, "--json", "--witness", WITNESS_KEY.upper())
    assert code == 0
    found = json.loads(said)["certificate"]
    assert (found["federation"], found["site"], found["ledger_key"], found["at"]) == ("heart", "hungary", key, JOINED)


def test_a_missing_certificate_is_said(site, verify):
    state, _ = site
    (state.gate / NAME).unlink()
    code, said, _ = verify(state.gate)
    assert code == 0 and "certified   no: ledger.certificate.json" in said
    assert json.loads(verify(state.gate, "--json")[1])["certificate"] is None


def test_a_key_that_was_rotated_since_stays_certified_and_so_is_the_newer_one_of_who_joined_again(site, verify):
    state, key = site
    newer = rotate_key(HUNGARY, state)
    code, said, _ = verify(state.gate)
    assert code == 0 and f"certified   the key {key[:16]}... of" in said
    write(state.gate, newer)
    code, said, _ = verify(state.gate)
    assert code == 0 and f"certified   the key {newer[:16]}... of" in said


WRONG = {
    "another ledger's key": (lambda gate, key: write(gate, STRANGERS_KEY), "one for ledger key"),
    "another site's": (lambda gate, key: write(gate, key, site="cleveland"), "one for site 'cleveland'"),
    "another coordinator's": (lambda gate, key: write(gate, key, signer=STRANGER), "another signature"),
    "another federation in it": (lambda gate, key: write(gate, key, federation="lung"), "another signature"),
    "another date in it": (lambda gate, key: write(gate, key, at=JOINED + 1), "another signature"),
    "another key in it": (lambda gate, key: write(gate, key, ledger_key=STRANGERS_KEY), "another signature"),
    "cut off": (lambda gate, key: os.truncate(gate / NAME, 100), "no certificate of a ledger key"),
    "empty": (lambda gate, key: os.truncate(gate / NAME, 0), "no certificate of a ledger key"),
    "a link to another": (
        lambda gate, key: ((gate / NAME).rename(gate / "moved"), (gate / NAME).symlink_to(gate / "moved")),
        "a link",
    ),
    "a link to nothing": (
        lambda gate, key: ((gate / NAME).unlink(), (gate / NAME).symlink_to("nothing")),
        "a link",
    ),
    "a pipe": (lambda gate, key: ((gate / NAME).unlink(), os.mkfifo(gate / NAME)), "no plain file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_certificate_that_is_not_of_this_ledger_fails_the_audit(site, verify, case):
    spoil, why = WRONG[case]
    spoil(site[0].gate, site[1])
    code, said, errors = verify(site[0].gate)
    assert (code, said) == (8, "")
    assert NAME in errors and why in errors


def test_every_changed_byte_of_a_certificate_fails_the_audit(site):
    from fedhealth.compliance.ledger_certificate import certificate_beside
    from fedhealth.errors import IdentityInvalid

    state, _ = site
    found, whole = verify_ledger(state.gate), (state.gate / NAME).read_bytes()
    assert certificate_beside(state.gate, found) is not None
    for place in range(len(whole)):
        (state.gate / NAME).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(IdentityInvalid):
            certificate_beside(state.gate, found)


def test_a_whole_forged_site_is_found_by_the_witness_key_that_the_officer_brings(tmp_path, verify):
    forged = SiteState(tmp_path / "forged")
    write(forged.gate, init_site(HUNGARY, forged, STRANGERS_KEY, {}), signer=STRANGER)
    assert verify(forged.gate)[0] == 0
    code, _, errors = verify(forged.gate, "--witness", WITNESS_KEY)
    assert code == 8 and "countersigned by another coordinator" in errors
    assert verify(forged.gate, "--witness", STRANGERS_KEY)[0] == 0
