"""What people did is told by whom and when, for every kind of entry that is an act, from the gate and from a bundle."""

from audited_site import FIRST, SECOND, make_gate
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.compliance.acts import acts_of
from fedhealth.compliance.bundle import make_bundle, read_bundle
from fedhealth.compliance.history import read_gate
from fedhealth.privacy.acts import (
    KeyRotated,
    Paused,
    PolicyChanged,
    ResearcherDistrusted,
    ResearcherTrusted,
    Unpaused,
)
from fedhealth.privacy.decisions import FirstApproval, Rejected
from fedhealth.privacy.entries import WitnessRule
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.rotation import sign_rotation
from fedhealth.signing import load_signing_key, public_key_hex

NEW = Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32)


def test_every_act_is_a_sentence_with_a_user_and_a_time(tmp_path):
    gate = make_gate(tmp_path / "gate")
    old = load_signing_key(gate / "ledger.key")
    ledger = Ledger.open(gate / "ledger.sqlite", "north", old)
    ledger.append(PolicyChanged(policy_sha256="ab" * 32, by="ada", at=10))
    ledger.append(WitnessRule(witness="best-effort", wait_seconds=5, at=11))
    ledger.append(Paused(by="grace", at=12))
    ledger.append(Unpaused(by="ada", at=13))
    ledger.append(ResearcherTrusted(name="alan", key="ed" * 32, by="ada", at=13))
    ledger.append(ResearcherDistrusted(name="alan", by="grace", at=13))
    ledger.append(FirstApproval(study="ab" * 32, researcher="cd" * 32, by="ada", at=13))
    ledger.append(Rejected(study="ab" * 32, reason="purpose", by="grace", at=13))
    ledger.rotate(KeyRotated(rotation=sign_rotation("north", old, NEW), by="ada", at=14), NEW)
    ledger.close()
    history = read_gate(gate)
    before, after = (public_key_hex(key.public_key()) for key in (old, NEW))
    asked_by = history.account.approved[FIRST.digest].researcher[:12]
    wanted = [
        (0, "", f"the ledger of site 'north' began, under key {before}, with budgets 'ward' epsilon 4 at delta 1e-05"),
        (1, "ada", f"approved study 'first' ({FIRST.digest[:12]}) of key {asked_by} on data set 'ward'"),
        (2, "grace", f"approved study 'second' ({SECOND.digest[:12]}) of key {asked_by} on data set 'ward'"),
        (3, "ada", f"withdrew study 'second' ({SECOND.digest[:12]})"),
        (8, "ada", f"the policy with SHA-256 {'ab' * 32} came into force"),
        (9, "", "the witness became 'best-effort', waited for 5 s"),
        (10, "grace", "paused the whole site"),
        (11, "ada", "let the site go on"),
        (12, "ada", f"pinned key {'ed' * 32} of researcher 'alan'"),
        (13, "grace", "let the key of researcher 'alan' go"),
        (14, "ada", f"approved study {'ab' * 32} of key {'cd' * 6} as the first of two people; opened nothing"),
        (15, "grace", f"rejected study {'ab' * 32}, because of: purpose"),
        (16, "ada", f"changed the ledger key from {before} to {after}"),
    ]
    assert [(line.entry, line.by, line.what) for line in acts_of(history)] == wanted
    assert [line.at for line in acts_of(history)][4:] == [10, 11, 12, 13, 13, 13, 13, 13, 14]
    bundle, _ = read_bundle(make_bundle(history, NEW, "ada", 15))
    assert acts_of(bundle) == acts_of(history)
    for study in gate.glob("studies/*.json"):
        study.unlink()
    assert f"withdrew study {SECOND.digest}" in [line.what for line in acts_of(read_gate(gate))]
