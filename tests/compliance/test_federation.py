"""Several ledgers at once: each verified, what is missing or damaged named and not counted, totals over the rest."""

import math
import shutil

import pytest
from audited_site import BUDGET, FIRST, RESEARCHER, SECOND, WITNESS, approval, make_gate, study

from fedhealth.compliance.bundle import make_bundle
from fedhealth.compliance.export import bundle_of, write_bundles
from fedhealth.compliance.federation import find_ledgers, is_folder_of_ledgers, read_federation
from fedhealth.compliance.history import read_gate, read_studies
from fedhealth.compliance.totals import study_totals
from fedhealth.errors import ConfigInvalid, IdentityInvalid, LedgerDamaged, LedgerForked
from fedhealth.privacy.acts import Paused, Unpaused
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.mu_squared import MU_SQUARED_UNITS, delta_of
from fedhealth.signing import load_signing_key
from fedhealth.study.signature import sign_study


def bundle(gate):
    return make_bundle(read_gate(gate), load_signing_key(gate / "ledger.key"), "ada", 1_700_000_002_000)


def goes_on(gate, entry):
    ledger = Ledger.open(gate / "ledger.sqlite", read_gate(gate).created.site, load_signing_key(gate / "ledger.key"))
    ledger.append(entry)
    ledger.close()


@pytest.fixture(scope="module")
def gates(tmp_path_factory):
    """Two sites' state folders, as on the machines of two hospitals; not to be changed."""
    folder = tmp_path_factory.mktemp("states")
    return {site: make_gate(folder / site / "gate", site=site) for site in ("north", "south")}


@pytest.fixture
def bundles(gates, tmp_path):
    """A folder of two sites' bundles."""
    folder = tmp_path / "bundles"
    folder.mkdir()
    for site, gate in gates.items():
        (folder / f"{site}.bundle").write_bytes(bundle(gate))
    return folder


def named(federation):
    return [(each.name, type(each.error)) for each in federation.failed]


def test_a_path_stands_for_one_ledger_or_for_all_in_a_folder(gates, bundles, tmp_path):
    north = gates["north"]
    assert find_ledgers(north) == find_ledgers(north.parent) == [north]
    assert find_ledgers(north / "ledger.sqlite") == [north / "ledger.sqlite"]
    assert find_ledgers(north.parent.parent) == [gates["north"], gates["south"]]
    assert find_ledgers(bundles) == [bundles / "north.bundle", bundles / "south.bundle"]
    (bundles / "north.bundle").rename(bundles / "renamed.txt")
    (bundles / "readme.md").write_text("no bundle")
    assert find_ledgers(bundles) == [bundles / "renamed.txt", bundles / "south.bundle"]
    assert find_ledgers(tmp_path / "none") == [tmp_path / "none"]
    assert is_folder_of_ledgers(bundles)
    for one in (north, north.parent, bundles / "south.bundle", tmp_path / "none"):
        assert not is_folder_of_ledgers(one)


def test_gates_and_bundles_say_the_same(gates, bundles):
    of_gates, of_bundles = read_federation(gates.values()), read_federation([bundles])
    assert [each.site for each in of_gates.sites] == [each.site for each in of_bundles.sites] == ["north", "south"]
    assert of_gates.failed == of_bundles.failed == ()
    assert study_totals(of_gates.sites) == study_totals(of_bundles.sites)
    assert [each.exported.by for each in of_bundles.sites] == ["ada", "ada"]
    assert [each.exported for each in of_gates.sites] == [None, None]


def total_of(asked, sites):
    """Return a study's totals; studies that were approved at the same time stand in the order of their digests."""
    (found,) = (total for total in study_totals(sites) if total.study == asked.digest)
    return found


def test_totals_add_releases_up_and_say_whose_epsilons_add_up(bundles):
    sites = read_federation([bundles]).sites
    first, second = total_of(FIRST, sites), total_of(SECOND, sites)
    assert (first.name, len(study_totals(sites))) == ("first", 2)
    assert [(line.site, line.by, line.charged, line.planned) for line in first.sites] == [
        ("north", "ada", 3, 5),
        ("south", "ada", 3, 5),
    ], "three of four rounds; one evaluation is planned beside them"
    assert (first.charged, first.planned) == (6, 10)
    # Three of four equal rounds of a study of epsilon 1: its mu squared is 3/4 of that of the approved envelope.
    mu_squared = 3 / 4 * approval(FIRST, "ada").envelope["training"].mu_squared / MU_SQUARED_UNITS
    assert delta_of(math.sqrt(mu_squared), first.epsilon_one_site) == pytest.approx(1e-5, rel=2e-3)
    assert first.epsilon_all_sites == pytest.approx(2 * first.epsilon_one_site)
    assert first.delta_all_sites == pytest.approx(2 * BUDGET.delta)
    assert (second.charged, second.epsilon_all_sites) == (0, 0.0)
    assert all(line.withdrawn and line.by == "grace" for line in second.sites)


def test_a_study_that_nobody_has_the_text_of_is_added_up_without_its_plan(gates, tmp_path):
    ledgers = []
    for site, gate in gates.items():
        (tmp_path / site).mkdir()
        ledgers.append(shutil.copyfile(gate / "ledger.sqlite", tmp_path / site / "ledger.sqlite"))
    first = total_of(FIRST, read_federation(ledgers).sites)
    assert (first.name, first.charged, first.planned) == (None, 6, None)
    assert first.epsilon_one_site > 0


def damaged(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


# What may be wrong with one site's bundle: name: (how it is made so, the error).
BAD = {
    "a byte changed": (damaged, IdentityInvalid),
    "cut short": (cut, LedgerDamaged),
    "empty": (lambda path: path.write_bytes(b""), LedgerDamaged),
    "of a later version": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"bundle 1\n", b"bundle 9\n", 1)),
        LedgerDamaged,
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_bad_bundle_is_named_and_the_others_are_counted(bundles, case):
    change, error = BAD[case]
    change(bundles / "south.bundle")
    found = read_federation([bundles])
    assert [each.site for each in found.sites] == ["north"]
    assert named(found) == [(str(bundles / "south.bundle"), error)]
    assert total_of(FIRST, found.sites).charged == 3


def test_a_site_that_must_be_there_and_is_not_is_named(bundles):
    found = read_federation([bundles], expected=["east", "north"])
    assert named(found) == [("east", ConfigInvalid)]
    assert "no ledger of site 'east'" in str(found.failed[0].error)


def test_a_path_that_is_not_there_is_named(bundles, tmp_path):
    found = read_federation([bundles, tmp_path / "west.bundle"])
    assert named(found) == [(str(tmp_path / "west.bundle"), LedgerDamaged)]


def test_an_older_and_a_newer_bundle_of_a_site_are_one_history_and_the_newer_counts(tmp_path):
    gate = make_gate(tmp_path / "gate")
    (tmp_path / "old.bundle").write_bytes(bundle(gate))
    goes_on(gate, Paused(by="ada", at=1_700_000_003_000))
    (tmp_path / "new.bundle").write_bytes(bundle(gate))
    for order in (["old.bundle", "new.bundle"], ["new.bundle", "old.bundle"]):
        found = read_federation(tmp_path / name for name in order)
        assert [len(each.history.ledger.entries) for each in found.sites] == [9]
        assert found.failed == ()


def test_two_histories_of_a_site_are_named_and_neither_counts(bundles, tmp_path):
    gate = make_gate(tmp_path / "gate")
    shutil.copytree(gate, tmp_path / "other")
    goes_on(gate, Paused(by="ada", at=1_700_000_003_000))
    goes_on(tmp_path / "other", Paused(by="mallory", at=1_700_000_003_000))
    goes_on(tmp_path / "other", Unpaused(by="mallory", at=1_700_000_004_000))
    found = read_federation([bundles / "south.bundle", gate, tmp_path / "other"])
    assert [each.site for each in found.sites] == ["south"]
    assert named(found) == [("north", LedgerForked)]


def test_a_ledger_must_extend_the_head_that_was_published(bundles, gates, tmp_path):
    later = shutil.copytree(gates["north"], tmp_path / "later")
    goes_on(later, Paused(by="ada", at=1_700_000_003_000))
    heads = {"north": read_gate(later).ledger.head, "south": read_gate(gates["south"]).ledger.head}
    found = read_federation([bundles], heads=heads)
    assert [each.site for each in found.sites] == ["south"]
    assert named(found) == [("north", LedgerDamaged)]


def test_texts_come_from_a_folder_of_signed_studies_only_if_they_are_the_approved_ones(gates, tmp_path):
    ledger = shutil.copyfile(gates["north"] / "ledger.sqlite", tmp_path / "ledger.sqlite")
    studies = tmp_path / "studies"
    studies.mkdir()
    (studies / "first.signed").write_bytes(sign_study(FIRST, RESEARCHER))
    (studies / "third.json").write_bytes(sign_study(study("third"), RESEARCHER))
    (studies / "notes.txt").write_text("not looked at")
    texts = read_studies(studies)
    found = read_federation([ledger], studies=texts)
    assert {each.study.name for each in found.sites[0].history.studies.values()} == {"first"}
    (studies / "first.signed").write_bytes(sign_study(FIRST, WITNESS))
    found = read_federation([ledger], studies=read_studies(studies))
    assert named(found) == [(str(ledger), IdentityInvalid)]
    (studies / "bad.signed").write_bytes(b"{}")
    with pytest.raises(IdentityInvalid, match=r"bad\.signed is no signed study"):
        read_studies(studies)
    with pytest.raises(ConfigInvalid, match="there is no folder"):
        read_studies(tmp_path / "none")


def test_bundles_go_into_a_new_folder_as_they_were_or_signed_now(gates, bundles, tmp_path):
    found = read_federation([bundles / "south.bundle", gates["north"]])
    made = {each.site: bundle_of(each, None, "grace", 5) for each in found.sites}
    assert made["south"] == (bundles / "south.bundle").read_bytes()
    write_bundles(made, tmp_path / "all", folder=True)
    again = read_federation([tmp_path / "all"])
    assert [(each.site, each.exported.by) for each in again.sites] == [("north", "grace"), ("south", "ada")]
    with pytest.raises(ConfigInvalid, match="will not write into"):
        write_bundles(made, tmp_path / "all", folder=True)
