"""A run against its sites' ledgers: what both say must agree, to each charge."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from audited_site import SECOND, WITNESS, approval
from published_run import (
    OTHER_WEIGHTS,
    ROUNDS,
    WEIGHTS,
    failed,
    make_ledger,
    make_run,
    other_key,
    publish,
    release,
    released,
    taken,
    unchecked,
)

from fedhealth.compliance.federation import read_federation
from fedhealth.compliance.run_checks import check_run
from fedhealth.coordinator.evidence import Evidence, result_of
from fedhealth.coordinator.run_folder import EVIDENCE
from fedhealth.learning.plan import encode_release, encode_weights
from fedhealth.privacy.ledger import Ledger
from fedhealth.signing import load_signing_key


def test_a_ledger_of_the_same_site_with_another_history_is_found(run, tmp_path):
    """Every one of these has a key of its own, so the head in the evidence is not signed by it."""
    for number, arguments in enumerate(({"coordinator": other_key()}, {"approved": False}, {"rounds": (1, 2)})):
        gate = make_ledger(tmp_path / str(number), "north", **arguments)
        found = check_run(run, read_federation([gate]))
        assert failed(found) == {"ledger of north"}
        assert found.exit_code == 8


@pytest.fixture
def own_run(tmp_path):
    """A run of one site whose ledger is given to the test, made anew with what is asked."""

    def made(**arguments):
        gate = make_ledger(tmp_path / "north", "north", **arguments)
        return make_run(tmp_path / "own", {"north": gate}), read_federation([gate])

    return made


# What a ledger may say that its run's evidence does not: name: (how it is made, words of the check, exit code).
DISAGREEMENTS = {
    "fewer rounds charged than claimed": ({"rounds": (1, 2, 3)}, "has 1 rounds that the ledger has not charged", 7),
    "another model evaluated": ({"weights": OTHER_WEIGHTS}, "evaluated another model", 7),
    "another coordinator pinned": ({"coordinator": other_key()}, "another key than the coordinator's", 8),
    "no approval": ({"approved": False}, "no approval of this study", 7),
}


@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_a_ledger_that_the_evidence_truly_names_and_that_says_something_else_is_found(own_run, case):
    arguments, words, exit_code = DISAGREEMENTS[case]
    run, ledgers = own_run(**arguments)
    found = check_run(run, ledgers)
    assert failed(found) == {"ledger of north"}
    assert words in next(check.detail for check in found.checks if check.name == "ledger of north")
    assert found.exit_code == exit_code


def test_a_ledger_that_went_on_since_is_good_and_an_older_copy_is_not(own_run, tmp_path):
    run, _ = own_run()
    shutil.copytree(tmp_path / "north", tmp_path / "older")
    ledger = Ledger.open(tmp_path / "north" / "ledger.sqlite", "north", load_signing_key(tmp_path / "north/ledger.key"))
    ledger.append(approval(SECOND, "ada"))
    ledger.close()
    assert check_run(run, read_federation([tmp_path / "north"])).passed
    shutil.rmtree(run)
    newer = make_run(tmp_path / "own", {"north": tmp_path / "north"})
    found = check_run(newer, read_federation([tmp_path / "older"]))
    assert failed(found) == {"ledger of north"}
    assert found.exit_code == 7


def test_a_partial_run_is_good_and_called_partial(tmp_path):
    """The south was away from round 3 on, and said nothing of the model."""
    gates = {"north": make_ledger(tmp_path / "north", "north")}
    gates["south"] = make_ledger(tmp_path / "south", "south", rounds=(1, 2), weights=None)
    run = make_run(tmp_path / "run", gates)
    result = result_of(Evidence.model_validate_json((run / EVIDENCE).read_bytes()))
    south = replace(result.sites["south"], rounds=(1, 2), evaluations=0, noisy_counts={})
    away = taken([(1, 2, {}), (3, 4, {"south": "away"})], silent={"south": "away"})
    publish(run, result.sites | {"south": south}, participation=away)
    found = check_run(run, read_federation(gates.values()))
    assert {check.outcome for check in found.checks} == {"ok"}, found.checks
    details = {check.name: check.detail for check in found.checks}
    assert "PARTIAL" in details["rounds"]
    assert details["ledger of south"] == "2 of at most 2 charges; it released no counts"


def test_a_charge_whose_answer_was_lost_is_counted_and_may_or_may_not_be_in_the_ledger(tmp_path):
    """The north charged round 3 and its answer was lost; the south was never reached. Both are said to have perhaps."""
    gates = {"north": make_ledger(tmp_path / "north", "north")}
    gates["south"] = make_ledger(tmp_path / "south", "south", rounds=(1, 2, 4))
    run = make_run(tmp_path / "run", gates)
    result = result_of(Evidence.model_validate_json((run / EVIDENCE).read_bytes()))
    sites = {name: replace(site, rounds=(1, 2, 4), unconfirmed=1) for name, site in result.sites.items()}
    publish(run, sites, participation=taken([(1, 2, {}), (4, 4, {})]), rounds_completed=3)
    found = check_run(run, read_federation(gates.values()))
    assert {check.outcome for check in found.checks} == {"ok"}, found.checks
    details = {check.name: check.detail for check in found.checks}
    assert details["ledger of north"].startswith("5 of at most 5 charges")
    assert details["ledger of south"].startswith("4 of at most 5 charges")


def test_charges_after_an_early_head_are_counted_too(tmp_path):
    """The coordinator hides a release: it names three of four rounds, and shows a head from before the fourth."""
    gate = make_ledger(tmp_path / "north", "north", rounds=(1, 2, 3), weights=None)
    early = read_federation([gate]).sites[0].history.ledger
    ledger = Ledger.open(gate / "ledger.sqlite", "north", load_signing_key(gate / "ledger.key"))
    release(ledger, "north", "train", 4, encode_weights(np.full(2, 4.0)), b"a noisy sum", WITNESS)
    release(ledger, "north", "evaluate", 1, encode_weights(WEIGHTS), encode_release(released("north")), WITNESS)
    ledger.close()
    run = make_run(tmp_path / "run", {"north": gate})
    result = result_of(Evidence.model_validate_json((run / EVIDENCE).read_bytes()))
    head = {"size": early.verified.head.size, "root": early.verified.head.root, "note": early.head}
    shown = result.sites["north"].ledger.model_copy(update=head)
    north = replace(result.sites["north"], rounds=(1, 2, 3), ledger=shown)
    publish(run, {"north": north}, participation=taken([(1, 3, {})], ("north",)), rounds_completed=3)
    found = check_run(run, read_federation([gate]))
    assert failed(found) == {"ledger of north"}
    details = {check.name: check.detail for check in found.checks}
    assert "has charged 4 releases of training; the evidence says 3" in details["ledger of north"]


def test_a_site_that_gave_nothing_and_may_have_charged_all_is_in_a_good_run(tmp_path):
    gates = {"north": make_ledger(tmp_path / "north", "north"), "south": make_ledger(tmp_path / "south", "south")}
    run = make_run(tmp_path / "run", gates)
    result = result_of(Evidence.model_validate_json((run / EVIDENCE).read_bytes()))
    south = replace(result.sites["south"], rounds=(), unconfirmed=ROUNDS, noisy_counts={})
    away = taken([(1, ROUNDS, {"south": "slow"})], silent={"south": "slow"})
    publish(run, result.sites | {"south": south}, participation=away)
    found = check_run(run, read_federation(gates.values()))
    assert {check.outcome for check in found.checks} == {"ok"}, found.checks


def test_a_ledger_that_fails_fails_the_run_and_a_stranger_to_it_is_said(run, states, tmp_path):
    make_ledger(tmp_path / "east", "east")
    (tmp_path / "bad.bundle").write_bytes(b"fedhealth ledger bundle 1\n")
    found = check_run(run, read_federation([states / "north", tmp_path / "east", tmp_path / "bad.bundle"]))
    assert failed(found) == {f"ledger {tmp_path / 'bad.bundle'}"}
    assert unchecked(found) == {"ledger of east", "ledger of south"}
    assert found.exit_code == 7
