"""A run's folder is checked by a stranger: whatever was changed in it is found, by whom ever it was sealed again."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from audited_site import RESEARCHER, WITNESS, study
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from published_run import (
    OTHER_WEIGHTS,
    ROUNDS,
    RUN,
    SITES,
    failed,
    other_key,
    publish,
    taken,
    unchecked,
)

from fedhealth.compliance.agreement import differences
from fedhealth.compliance.federation import Federation
from fedhealth.compliance.run_checks import check_run, is_run
from fedhealth.coordinator.evidence import Evidence, evidence_bytes, result_of
from fedhealth.coordinator.run_folder import EVIDENCE, MODEL, PUBLISHED, REPORT, SEAL, SIGNED_STUDY, seal_run
from fedhealth.learning.evaluation import counts_of, released_of
from fedhealth.learning.model_file import notes_of
from fedhealth.learning.plan import plan_study
from fedhealth.privacy.checkpoint import Checkpoint, sign_checkpoint
from fedhealth.signing import public_key_hex
from fedhealth.study.signature import sign_study

NOBODY = Federation((), ())


def test_a_run_as_published_passes_every_check_with_the_sites_ledgers(run, ledgers):
    found = check_run(run, ledgers)
    assert {check.outcome for check in found.checks} == {"ok"}
    assert (found.exit_code, found.passed, found.unsafe_test_sites) == (0, True, ())
    assert found.keys["coordinator"] == public_key_hex(WITNESS.public_key())
    assert found.keys["researcher"] == public_key_hex(RESEARCHER.public_key())
    assert {"ledger of north", "ledger of south"} <= found.keys.keys()


def test_without_ledgers_it_says_what_could_not_be_checked(run):
    found = check_run(run, NOBODY)
    assert unchecked(found) == {"ledger of north", "ledger of south"}
    assert found.exit_code == 0


def test_a_flipped_bit_in_any_file_is_found(run, ledgers):
    generator = random.Random(5)  # noqa: S311 - which bit is tried is no secret
    for name in (*PUBLISHED, SEAL):
        whole = (run / name).read_bytes()
        places = [0, len(whole) - 1, *(generator.randrange(len(whole)) for _ in range(9))]
        for place in places:
            changed = bytearray(whole)
            changed[place] ^= 1 << generator.randrange(8)
            (run / name).write_bytes(changed)
            found = check_run(run, ledgers)
            assert not found.passed
            assert failed(found) & {f"file {name}", "seal"}, f"{name}, byte {place}"
        (run / name).write_bytes(whole)
    assert check_run(run, ledgers).passed


@pytest.mark.parametrize("name", [*PUBLISHED, SEAL])
def test_a_file_cut_short_made_longer_emptied_or_missing_is_found(run, ledgers, name):
    whole = (run / name).read_bytes()
    for data in (whole[:-1], whole + b"\n", b"", b"{}"):
        (run / name).write_bytes(data)
        assert failed(check_run(run, ledgers)) & {f"file {name}", "seal"}
    (run / name).unlink()
    found = check_run(run, ledgers)
    assert failed(found) & {f"file {name}", "seal"}
    assert found.exit_code in (7, 8)


def leaves(value, path=()):
    """Yield the path of each value in JSON."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from leaves(part, (*path, number))
        yield path  # the list itself: one more in it
    else:
        yield path


def changed_at(value, path):
    """Return JSON in which one value is another of its kind."""
    if path:
        part = changed_at(value[path[0]], path[1:])
        return value | {path[0]: part} if isinstance(value, dict) else [*value[: path[0]], part, *value[path[0] + 1 :]]
    if isinstance(value, list):
        return [*value, value[-1] if value else "north"]
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return 0.25 if value is None else value + 1 if isinstance(value, int) else value * 1.01 + 0.01


# What the coordinator says of itself; nobody else knows it, so nobody else can say that it is otherwise.
ITS_WORD_ALONE = {("software",), ("federation",), ("started",), ("finished",)}


def test_each_field_of_the_evidence_is_bound_though_the_coordinator_itself_seals_another_value(run, ledgers):
    """The seal is good again; report and model card stay: all else must find the change by what follows from what."""
    plain = json.loads((run / EVIDENCE).read_bytes())
    paths = list(leaves(plain))
    assert len(paths) > 100
    unfound = set()
    for path in paths:
        text = json.dumps(changed_at(plain, path))
        try:
            data = evidence_bytes(Evidence.model_validate_json(text))
        except ValueError:
            data = text.encode()
        (run / EVIDENCE).write_bytes(data)
        seal_run(run, WITNESS)
        found = check_run(run, ledgers)
        assert "report" in failed(found) | unchecked(found), path
        if not failed(found) - {"report", "model card"}:
            unfound.add(path)
    assert unfound == ITS_WORD_ALONE


def sealed(change, key=WITNESS):
    """Return a change of a run's folder after which its coordinator, or another, seals it again."""

    def changed(run):
        change(run)
        seal_run(run, key)

    return changed


def again(change=lambda sites: sites, **arguments):
    """Return a change by which the whole run is published again, all files in agreement, with other results."""

    def changed(run):
        result = result_of(Evidence.model_validate_json((run / EVIDENCE).read_bytes()))
        publish(run, change(dict(result.sites)), **arguments)

    return changed


def with_site(**changes):
    return lambda sites: sites | {"north": replace(sites["north"], **changes)}


def other_counts(sites):
    """One step of the grid more in one cell: the smallest change that a release can have."""
    grid = plan_study(RUN)["evaluate"].mechanism.grid
    steps = np.rint(released_of(RUN, sites["north"].noisy_counts) / grid)
    steps[0] += 1
    return with_site(noisy_counts=counts_of(RUN, steps * grid))(sites)


def off_the_grid(sites):
    counts = sites["north"].noisy_counts
    return with_site(noisy_counts=counts | {"true-positive": counts["true-positive"] + 0.0001})(sites)


def count_of_no_cell(sites):
    return with_site(noisy_counts=sites["north"].noisy_counts | {"other": 1.0})(sites)


def rewrite(name, change):
    return lambda run: (run / name).write_bytes(change((run / name).read_bytes()))


def model_of(weights, notes):
    return lambda run: (run / MODEL).write_bytes(
        safetensors.numpy.save({"weights": weights}, metadata={"fedhealth": json.dumps(notes)})
    )


def head_of_another(run):
    def change(data):
        plain = json.loads(data)
        plain["sites"][0]["ledger"] = plain["sites"][1]["ledger"]
        return evidence_bytes(Evidence.model_validate_json(json.dumps(plain)))

    rewrite(EVIDENCE, change)(run)


def forged_head(run):
    """The evidence has a ledger of its own making, in good form, under a key that it names itself."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)
    head = Checkpoint(site="north", size=3, root="ab" * 32)

    def change(data):
        plain = json.loads(data)
        plain["sites"][0]["ledger"] = {
            "size": 3,
            "root": head.root,
            "note": sign_checkpoint(head, key),
            "ledger_key": public_key_hex(key.public_key()),
        }
        return evidence_bytes(Evidence.model_validate_json(json.dumps(plain)))

    rewrite(EVIDENCE, change)(run)


# What could be done to a run: name: (change of the folder, checks that must fail, exit code).
CHANGES = {
    "another study, well signed": (
        sealed(rewrite(SIGNED_STUDY, lambda _: sign_study(study("other"), RESEARCHER))),
        {"study"},
        7,
    ),
    "the study, signed by another researcher": (
        sealed(rewrite(SIGNED_STUDY, lambda _: sign_study(RUN, other_key()))),
        {"study"},
        8,
    ),
    "the study, with a byte of its signature changed": (
        sealed(rewrite(SIGNED_STUDY, lambda data: data.replace(b'"signature":"', b'"signature":"0', 1))),
        {"study"},
        8,
    ),
    "another model": (
        sealed(model_of(OTHER_WEIGHTS, notes_of(RUN, ROUNDS))),
        {"model"},
        7,
    ),
    "another model, published in agreement": (again(weights=OTHER_WEIGHTS), {"ledger of north", "ledger of south"}, 7),
    "a model that is not finite": (again(weights=np.array([0.25, np.nan])), {"model"}, 7),
    "a model of another size": (again(weights=np.zeros(3)), {"model"}, 7),
    "a report that says a little more": (
        sealed(rewrite(REPORT, lambda data: data.replace(b"</main>", b"<p>100 %</p></main>"))),
        {"report"},
        7,
    ),
    "a report with another figure": (
        sealed(rewrite(REPORT, lambda data: data.replace(b"<title>Who", b"<title>What"))),
        {"report"},
        7,
    ),
    "counts one grid step away, published in agreement": (again(other_counts), {"ledger of north"}, 7),
    "counts between two grid steps": (again(off_the_grid), {"privacy cost", "figures"}, 7),
    "a count of no cell": (again(count_of_no_cell), {"figures"}, 7),
    "fewer rounds, published in agreement": (
        again(with_site(rounds=(1, 2, 3)), rounds_completed=3),
        {"ledger of north"},
        7,
    ),
    "a round that the plan does not have": (again(with_site(rounds=(1, 2, 3, 7))), {"rounds", "ledger of north"}, 7),
    "a round twice": (again(with_site(rounds=(1, 2, 3, 3))), {"rounds"}, 7),
    "more patients declared, published in agreement": (again(with_site(declared_patients=900)), {"ledger of north"}, 7),
    "more rounds complete than there were": (again(rounds_completed=9), {"rounds"}, 7),
    "a round that counts with a site that was not there": (again(with_site(rounds=(1, 2, 3))), {"rounds"}, 7),
    "a site that was away and is in the round": (
        again(participation=taken([(1, 2, {}), (3, 4, {"south": "busy"})])),
        {"rounds"},
        7,
    ),
    "rounds out of order": (again(participation=taken([(3, 4, {}), (1, 2, {})])), {"rounds"}, 7),
    "a round twice in the list": (again(participation=taken([(1, 2, {}), (2, 3, {})])), {"rounds"}, 7),
    "a site that nobody knows": (again(participation=taken([(1, 4, {"west": "busy"})])), {"rounds"}, 7),
    "a site left out of the list": (again(participation=taken([(1, 4, {})], sites=("north",))), {"rounds"}, 7),
    "a site more in the list": (
        again(participation=taken([(1, 4, {})], sites=("north", "south", "west"))),
        {"rounds"},
        7,
    ),
    "a site said to be too small, which only a simulation can know": (
        again(participation=taken([(1, 4, {})]).model_copy(update={"too_small": ("west",)})),
        {"rounds"},
        7,
    ),
    "a site said to be too small that took part": (
        again(
            participation=taken([(1, 4, {})]).model_copy(update={"too_small": ("north",)}),
            simulation=True,
            unsafe_test_sites=SITES,
        ),
        {"rounds"},
        7,
    ),
    "a site said to be silent that has counts": (
        again(participation=taken([(1, 4, {})], silent={"south": "busy"})),
        {"rounds"},
        7,
    ),
    "the counts of a site left out, in agreement": (
        again(with_site(noisy_counts={}, evaluations=0), participation=taken([(1, 4, {})], silent={"north": "busy"})),
        {"ledger of north"},
        7,
    ),
    "more answers lost than were asked": (again(with_site(unconfirmed=1)), {"rounds"}, 7),
    "fewer charges than were given": (again(with_site(unconfirmed=-1)), {"rounds"}, 7),
    "an evaluation more": (again(with_site(evaluations=2)), {"rounds"}, 7),
    "called a simulation": (
        again(simulation=True, unsafe_test_sites=SITES),
        {"ledger of north", "ledger of south"},
        7,
    ),
    "called a simulation of real sites": (again(simulation=True), {"evidence"}, 7),
    "a site called a test site": (again(unsafe_test_sites=("north",)), {"ledger of north"}, 7),
    "a test site that is not in it": (again(unsafe_test_sites=("west",)), {"evidence"}, 7),
    "an end before the beginning": (again(finished="2020-01-01T00:00:00+00:00"), {"rounds"}, 7),
    "an end that is no time": (again(finished="soon"), {"rounds"}, 7),
    "a site's head in another's place": (sealed(head_of_another), {"head of north", "ledger of north"}, 8),
    "a forged head under a key of its own": (sealed(forged_head), {"ledger of north"}, 8),
    "a seal by a stranger": (lambda run: seal_run(run, other_key()), {"ledger of north", "ledger of south"}, 8),
    "a seal over less": (
        lambda run: (run / SEAL).write_bytes((run / SEAL).read_bytes().replace(b"report.html", b"rapport.htm")),
        {"seal"},
        8,
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_was_changed_is_found_and_named(run, ledgers, case):
    change, names, exit_code = CHANGES[case]
    change(run)
    found = check_run(run, ledgers)
    assert names <= failed(found), {check.name: check.detail for check in found.checks if check.outcome != "ok"}
    assert found.exit_code == exit_code


def test_publishing_the_same_again_is_not_what_is_found(run, ledgers):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    again()(run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert check_run(run, ledgers).passed


def test_the_witness_key_that_the_operator_told_must_have_sealed_it(run, ledgers):
    assert check_run(run, ledgers, public_key_hex(WITNESS.public_key())).passed
    found = check_run(run, NOBODY, public_key_hex(other_key().public_key()))
    assert "seal" in failed(found)
    assert found.exit_code == 8


def test_what_is_no_part_of_a_run_is_named(run, ledgers):
    (run / "notes.txt").write_text("read me")
    found = check_run(run, ledgers)
    assert (unchecked(found), found.exit_code) == ({"file notes.txt"}, 0)


def test_a_report_of_another_version_is_not_compared_and_that_is_said(run, ledgers):
    sealed(rewrite(REPORT, lambda data: data.replace(b'content="fedhealth 0', b'content="fedhealth 7', 1)))(run)
    found = check_run(run, ledgers)
    assert (unchecked(found), found.exit_code) == ({"report"}, 0)


def test_which_folders_are_runs(run, states, tmp_path):
    assert is_run(run)
    assert not is_run(states / "north")
    assert not is_run(tmp_path)
    assert not is_run(run / EVIDENCE)
    (run / EVIDENCE).unlink()
    assert is_run(run), "one that lost its evidence is one still, and fails"


def test_json_values_agree_within_rounding_and_nothing_else():
    assert list(differences({"a": [1.0, {"b": None}]}, {"a": [1.0 + 1e-12, {"b": None}]})) == []
    one = {"a": 1.0, "b": [1, 2], "c": "x", "d": 1, "e": True, "f": 1.0}
    other = {"a": 1.001, "b": [1], "c": "y", "d": 1.0, "e": 1, "g": 1.0}
    assert list(differences(one, other)) == [(each,) for each in "abcdefg"]
