import random

import apsw
import pytest
from audited_site import BUDGET, FIRST, RESEARCHER, SECOND, SECRET_NOTE, SECRET_PAYLOAD, make_gate, study

from fedhealth.canonical import canonical_bytes
from fedhealth.compliance.bundle import MAGIC, Manifest, is_bundle, make_bundle, read_bundle
from fedhealth.compliance.history import read_gate
from fedhealth.errors import FedHealthError, IdentityInvalid, LedgerDamaged
from fedhealth.privacy.checkpoint import Checkpoint, sign_checkpoint
from fedhealth.privacy.ledger_database import connect
from fedhealth.signing import load_signing_key, sign
from fedhealth.study.signature import sign_study

LAST_LINE_BYTES = len("signature ") + 128 + 1


@pytest.fixture(scope="session")
def key(gate):
    return load_signing_key(gate / "ledger.key")


@pytest.fixture(scope="session")
def bundle(gate, key):
    return make_bundle(read_gate(gate), key, "ada", 1_700_000_002_000)


def refused(data, seen=None):
    try:
        read_bundle(data, seen)
    except (LedgerDamaged, IdentityInvalid):
        return True
    return False


def test_a_bundle_says_what_the_ledger_says_and_by_whom(gate, bundle):
    history, manifest = read_bundle(bundle)
    site = read_gate(gate)
    assert history.ledger.verified == site.ledger.verified
    assert history.ledger.entries == site.ledger.entries
    assert history.studies == site.studies
    assert {each.study.name for each in history.studies.values()} == {"first", "second"}
    assert (manifest.site, manifest.by, manifest.at, manifest.entries) == ("north", "ada", 1_700_000_002_000, 8)
    # Nothing is spent or set aside of the withdrawn study; of the first, all four rounds are set aside.
    training = manifest.budget[0]
    assert training.share_spent == pytest.approx(3 / 4 * training.share_set_aside)


def test_the_same_content_is_the_same_bytes(gate, key, bundle):
    assert make_bundle(read_gate(gate), key, "ada", 1_700_000_002_000) == bundle


def test_each_flipped_byte_each_truncation_and_each_addition_is_found(bundle):
    generator = random.Random(1)  # noqa: S311 - which bit is tried is no secret
    for place in range(len(bundle)):
        flipped = bytearray(bundle)
        flipped[place] ^= generator.randrange(1, 256)
        assert refused(bytes(flipped)), f"byte {place}"
        assert refused(bundle[:place]), f"cut to {place} bytes"
    for more in (b"\n", b"\0", b" ", b"signature", bundle[-LAST_LINE_BYTES:], bundle):
        assert refused(bundle + more)
        assert refused(more + bundle)


def test_each_bit_of_the_form_itself_is_found(bundle):
    lines = bundle.split(b"\n")
    ends = [sum(len(line) + 1 for line in lines[: number + 1]) - 1 for number in range(len(lines) - 1)]
    for place in [*range(len(lines[0])), *ends, *range(len(bundle) - LAST_LINE_BYTES, len(bundle))]:
        for bit in range(8):
            flipped = bytearray(bundle)
            flipped[place] ^= 1 << bit
            assert refused(bytes(flipped)), f"byte {place}, bit {bit}"


def test_a_signature_in_capitals_is_another_form_and_refused(bundle):
    assert refused(bundle[:-LAST_LINE_BYTES] + b"signature " + bundle[-129:-1].upper() + b"\n")


def resigned(bundle, key, change):
    """Return a bundle whose lines were changed by somebody who has the ledger's key."""
    lines = bundle[:-LAST_LINE_BYTES].split(b"\n")[:-1]
    body = b"".join(line + b"\n" for line in change(lines))
    return body + b"signature " + sign(key, "ledger-bundle", body).hex().encode() + b"\n"


def test_signing_again_is_not_what_is_found(bundle, key):
    assert resigned(bundle, key, lambda lines: lines) == bundle


def manifest_with(lines, **changes):
    manifest = Manifest.model_validate_json(lines[1])
    return [lines[0], canonical_bytes(manifest.model_copy(update=changes)), *lines[2:]]


def cheaper_budget(lines):
    line = Manifest.model_validate_json(lines[1]).budget
    return manifest_with(lines, budget=(line[0].model_copy(update={"share_spent": 0.01}), *line[1:]))


def foreign_study(lines):
    other = sign_study(study("third"), RESEARCHER)
    signed = sorted([*lines[10:11], other], key=len)
    return [*lines[:10], *signed]


# What the key's owner could write: name: (how the lines are changed, words of the message). Lines 2 to 9 are entries.
DISHONEST = {
    "an entry left out": (lambda lines: [*manifest_with(lines, entries=7)[:8], *lines[9:]], "entries"),
    "entries in another order": (lambda lines: [*lines[:6], lines[7], lines[6], *lines[8:]], "add up"),
    "an entry in another form": (lambda lines: [*lines[:5], lines[5] + b" ", *lines[6:]], "canonical form"),
    "a charge twice": (
        lambda lines: [*manifest_with(lines, entries=9)[:10], lines[6], *lines[10:]],
        "entry 8 cannot follow",
    ),
    "a study that was not approved": (foreign_study, "not the one that was approved"),
    "studies in another order": (lambda lines: [*lines[:10], lines[11], lines[10]], "not in order"),
    "a study twice": (lambda lines: [*lines[:10], lines[10], lines[10]], "not in order"),
    "a study too many": (lambda lines: [*lines, lines[11]], "manifest is of another"),
    "another site in the manifest": (lambda lines: manifest_with(lines, site="south"), "another site"),
    "a test site called a real one": (lambda lines: manifest_with(lines, unsafe_test_site=True), "another site"),
    "less spent in the summary": (cheaper_budget, "summary of the budget"),
    "a release that left without its receipt": (
        lambda lines: manifest_with(lines, receipt=None),
        "left without the witness",
    ),
    "no summary": (lambda lines: manifest_with(lines, budget=()), "summary of the budget"),
    "a manifest in another form": (lambda lines: [lines[0], lines[1] + b" ", *lines[2:]], "manifest"),
    "no manifest": (lambda lines: [lines[0], b"{}", *lines[2:]], "manifest"),
}


@pytest.mark.parametrize("case", DISHONEST)
def test_a_bundle_signed_over_something_else_than_the_ledger_is_found(bundle, key, case):
    change, words = DISHONEST[case]
    with pytest.raises(FedHealthError, match=words):
        read_bundle(resigned(bundle, key, change))


def test_an_older_head_must_be_extended_and_a_later_one_is_missed(gate, bundle, key):
    head = read_gate(gate).ledger.head
    assert read_bundle(bundle, head)[1].entries == 8
    later = sign_checkpoint(Checkpoint(site="north", size=9, root="0" * 64), key)
    with pytest.raises(LedgerDamaged, match="this ledger is older"):
        read_bundle(bundle, later)
    with pytest.raises(IdentityInvalid):
        read_bundle(bundle, head.replace("\n8\n", "\n9\n"))


def test_a_receipt_of_another_coordinator_is_found(bundle, key):
    def other_receipt(lines):
        receipt = Manifest.model_validate_json(lines[1]).receipt
        return manifest_with(lines, receipt=receipt.model_copy(update={"signature": "0" * 128}))

    with pytest.raises(LedgerDamaged, match="receipt"):
        read_bundle(resigned(bundle, key, other_receipt))


def test_another_ledgers_key_cannot_export(gate):
    with pytest.raises(IdentityInvalid, match="does not sign the ledger of 'north'"):
        make_bundle(read_gate(gate), RESEARCHER, "ada", 0)


def test_a_format_of_the_future_asks_for_an_upgrade(bundle):
    with pytest.raises(LedgerDamaged, match="Upgrade FedHealth first"):
        read_bundle(bundle.replace(MAGIC + b"1\n", MAGIC + b"2\n", 1))


def test_a_bundle_is_recognised_by_its_first_line_alone(tmp_path, bundle, gate):
    (tmp_path / "bundle").write_bytes(MAGIC + b"99")
    assert is_bundle(tmp_path / "bundle")
    assert not is_bundle(gate)
    assert not is_bundle(gate / "ledger.sqlite")
    assert not is_bundle(tmp_path / "nothing")


def test_what_patients_cause_is_not_in_a_bundle(tmp_path):
    quiet, busy = make_gate(tmp_path / "quiet"), make_gate(tmp_path / "busy", notes=[SECRET_NOTE] * 5)
    bundles = [
        make_bundle(read_gate(folder), load_signing_key(folder / "ledger.key"), "ada", 1) for folder in (quiet, busy)
    ]
    assert len(bundles[0]) == len(bundles[1]), "five lines of journal change nothing that can be seen"
    database = connect(busy / "ledger.sqlite", apsw.SQLITE_OPEN_READWRITE)
    salts = [salt for (salt,) in database.execute("SELECT salt FROM opening")]
    leaves = [leaf for (leaf,) in database.execute("SELECT leaf FROM entry WHERE log = 'journal'")]
    database.close()
    assert (len(salts), len(leaves)) == (8, 10)
    for secret in (SECRET_NOTE.encode(), SECRET_PAYLOAD, *salts, *leaves):
        assert secret not in bundles[1]
        assert secret.hex().encode() not in bundles[1]


def test_a_changed_study_file_is_found_before_anything_is_told(tmp_path):
    folder = make_gate(tmp_path / "gate")
    file = folder / "studies" / f"{FIRST.digest}.json"
    file.write_bytes(file.read_bytes().replace(b"To be audited.", b"To be audited!"))
    with pytest.raises(IdentityInvalid, match=r"signed study .* was changed"):
        read_gate(folder)


def test_a_study_under_another_ones_name_is_found(tmp_path):
    folder = make_gate(tmp_path / "gate")
    (folder / "studies" / f"{FIRST.digest}.json").write_bytes(sign_study(SECOND, RESEARCHER))
    with pytest.raises(IdentityInvalid, match=r"signed study .* was changed"):
        read_gate(folder)


def test_a_study_that_is_missing_leaves_the_rest(tmp_path):
    folder = make_gate(tmp_path / "gate")
    (folder / "studies" / f"{FIRST.digest}.json").unlink()
    data = make_bundle(read_gate(folder), load_signing_key(folder / "ledger.key"), "ada", 1)
    history, manifest = read_bundle(data)
    assert set(history.studies) == {SECOND.digest}
    assert manifest.studies == 1
    assert history.created.budgets == {"ward": BUDGET}
