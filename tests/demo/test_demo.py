"""The demonstration as a person starts it: real processes, from the first key to the report, and no process left."""

import asyncio
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from fedhealth.coordinator.asking import Asker
from fedhealth.coordinator.witness import Witness
from fedhealth.demo.federation import Federation, set_up
from fedhealth.demo.run import run_processes
from fedhealth.errors import FederationFailed, LedgerDamaged
from fedhealth.learning.binary_cells import CONFUSION_CELLS
from fedhealth.learning.plan import encode_weights, plan_study
from fedhealth.learning.steps import STEPS
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.release import ReleaseIdentity, input_digest
from fedhealth.privacy.verify import read_ledger, verify_ledger
from fedhealth.records.table import Table, prepare_records, read_table
from fedhealth.simulation.hospitals import Hospitals, Split, split_table
from fedhealth.simulation.run import simulate
from fedhealth.site.gate_process import open_gate
from fedhealth.site.recovery import examine_recovery, recover_ledger
from fedhealth.site.state import SiteState
from fedhealth.study.protocol import load_study

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = (ROOT / "protocols" / "heart-disease-diagnosis.toml").read_text(encoding="utf-8")
SITES = ("cleveland", "hungary", "long-beach", "switzerland")
ROUNDS, SEED = 10, 20260101


def processes_of(folder: Path) -> list[str]:
    """Return the command lines that name a run's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if process.status() != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in words):
            found.append(" ".join(words))
    return found


class Run:
    """A finished run of the demonstration with known noise, and what it left."""

    def __init__(self, folder: Path):
        self.folder = folder / "run"
        self.protocol = folder / "protocol.toml"
        self.protocol.write_text(PROTOCOL.replace("rounds = 20", f"rounds = {ROUNDS}"), encoding="utf-8")
        self.study = load_study(self.protocol)
        assert self.study.training.rounds == ROUNDS
        command = [sys.executable, "-m", "fedhealth.cli.main", "demo", "--out", str(self.folder)]
        command += ["--protocol", str(self.protocol), "--unsafe-test-sites", str(SEED)]
        self.done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
        self.left_running = processes_of(self.folder)

    @property
    def evidence_text(self) -> str:
        return (self.folder / "results" / "evidence.json").read_text(encoding="utf-8")

    @property
    def evidence(self) -> dict:
        return json.loads(self.evidence_text)

    def state(self, site: str) -> SiteState:
        return SiteState(self.folder / "state" / site)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("demo"))


def test_it_ends_well_and_leaves_no_process(run):
    assert run.done.returncode == 0, run.done.stderr
    assert run.left_running == []
    assert "Traceback" not in run.done.stdout + run.done.stderr


def test_it_leaves_the_published_folder_and_beside_it_what_only_public_data_allow(run):
    published = {path.name for path in (run.folder / "results").iterdir()}
    assert published == {
        *["evidence.json", "report.html", "model.safetensors", "model-card.md", "study.signed", "seal.json"]
    }
    assert (run.folder / "report.html").stat().st_size > 0
    assert json.loads((run.folder / "reference.json").read_text(encoding="utf-8"))


def test_what_it_published_is_verified_by_a_stranger_with_the_sites_ledgers(run):
    command = [sys.executable, "-m", "fedhealth.cli.main", "audit", "verify", str(run.folder / "results"), "--json"]
    done = subprocess.run([*command, "--ledgers", str(run.folder / "state")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 10, done.stderr  # nothing is wrong, but the noise of test sites is known
    checks = json.loads(done.stdout)["checks"]
    assert [check for check in checks if check["outcome"] != "ok"] == []
    assert {f"ledger of {site}" for site in SITES} <= {check["name"] for check in checks}


def test_it_shows_every_hospital_in_a_table_and_what_to_do_next(run):
    for site in SITES:
        assert re.search(rf"{site} .*{ROUNDS}/{ROUNDS}", run.done.stdout)
    assert "all together" in run.done.stdout
    assert f"fedhealth audit verify {run.state('cleveland').gate}" in run.done.stdout
    assert str(run.folder / "report.html") in run.done.stdout


@pytest.mark.parametrize("site", SITES)
def test_every_ledger_verifies_and_charged_one_release_a_round_and_one_evaluation(run, site):
    found = verify_ledger(run.state(site).ledger)
    assert found.releases == ROUNDS + 1
    assert found.witnessed == found.head.size
    for line in found.spending:
        assert 0 < line.epsilon_spent <= 3
        assert line.delta <= 1e-4
        assert line.share_spent <= line.share_set_aside <= 1


def test_all_sites_gave_a_release_in_all_of_at_least_ten_rounds(run):
    evidence = run.evidence
    assert evidence["rounds_completed"] == evidence["rounds_planned"] == ROUNDS >= 10
    assert {site["site"]: site["rounds"] for site in evidence["sites"]} == {
        name: list(range(1, ROUNDS + 1)) for name in SITES
    }


def test_the_evidence_claims_what_the_ledgers_charged_within_epsilon_3_and_delta_1e_4(run):
    for site in run.evidence["sites"]:
        ledger = verify_ledger(run.state(site["site"]).ledger)
        assert site["epsilon"] == pytest.approx(max(line.epsilon_spent for line in ledger.spending), rel=1e-9)
        assert site["epsilon"] <= 3
        assert site["delta"] <= 1e-4
        assert site["ledger"]["root"] == ledger.head.root
        assert site["ledger"]["ledger_key"] == ledger.ledger_key


def test_the_evidence_names_the_model_file(run):
    model = (run.folder / "results" / "model.safetensors").read_bytes()
    assert run.evidence["model_sha256"] == hashlib.sha256(model).hexdigest()


def numbers_in(value):
    """Yield every number of a JSON value, at any depth."""
    if isinstance(value, dict):
        for part in value.values():
            yield from numbers_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from numbers_in(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def true_counts(run, site):
    """Return the exact size of both sides of a site and its exact confusion table, worked out here from the CSV."""
    file = load_site_file(ROOT / "sites" / site)
    table = read_table(file.data_set.file, strict=True)
    training, held_out = prepare_records(
        table, run.study, file.data_set.patient_column, bytes.fromhex(file.split_key), strict=True
    )
    weights = load_file(run.folder / "results" / "model.safetensors")["weights"]
    says_ill = held_out.features @ weights[:-1] + weights[-1] > 0
    ill = held_out.labels == 1
    cells = (says_ill & ill, says_ill & ~ill, ~says_ill & ~ill, ~says_ill & ill)
    confusion = dict(zip(CONFUSION_CELLS, (int(cell.sum()) for cell in cells), strict=True))
    return training.patient_count, held_out.patient_count, confusion


@pytest.mark.parametrize("site", SITES)
def test_the_evidence_holds_no_exact_count_of_patients(run, site):
    training, held_out, confusion = true_counts(run, site)
    assert sum(confusion.values()) == held_out
    published = next(part for part in run.evidence["sites"] if part["site"] == site)
    # What is no secret: round numbers, ledger size, the number of releases, and the declared round figure.
    public = {"rounds", "ledger", "declared_patients", "spent"}
    released = list(numbers_in({key: value for key, value in published.items() if key not in public}))
    assert released
    secret = {training, held_out, training + held_out, *confusion.values(), sum(list(confusion.values())[::3])}
    # An interval of a proportion that ends at 0 or 1 says nothing; counts of 0 and 1 are looked at below, one by one.
    assert not {number for number in released if number in secret - {0, 1}}
    # The released cells are the true ones with noise on each: near them, never the same.
    for cell, exact in confusion.items():
        off = abs(published["noisy_counts"][cell] - exact)
        assert 0 < off < 6 * published["noise_standard_deviation"]["table"], cell


def test_the_pooled_figure_is_not_the_exact_one(run):
    right = total = 0
    for site in SITES:
        _, held_out, confusion = true_counts(run, site)
        right, total = right + confusion["true-positive"] + confusion["true-negative"], total + held_out
    estimate = run.evidence["pooled"]["accuracy"]["estimate"]
    assert estimate != right / total
    assert abs(estimate - right / total) < 0.15


@pytest.mark.parametrize("workers", [1, 2])
def test_a_simulation_on_one_table_has_the_numbers_of_the_real_run(run, tmp_path, workers):
    """Ledgers on disk, link, node, gate processes and Flower's process change no bit of the model or of a count.

    All four files are one table here, with a column that names the hospital. The key of a release's noise includes a
    fingerprint of the data under the site's naming secret, which is drawn at `site init`; the comparison takes each
    site's from the run's own folder, and what the site's file says. All sites have the same seed here, but not the
    same noise, because the site's id is part of the key.
    """
    rows, columns = [], ()
    for name in SITES:
        table = read_table(ROOT / "sites" / name / "patients.csv", strict=True)
        rows += [(len(rows) + place, (*row, name)) for place, (_, row) in enumerate(table.rows, 2)]
        columns = (*table.columns, "hospital")
    whole = Table(tmp_path / "all.csv", columns, tuple(rows))
    made = split_table(whole, run.study, Split("hospital", "id", seed=SEED)).sites
    assert [site.file.id for site in made] == list(SITES)
    files = [load_site_file(ROOT / "sites" / name) for name in SITES]
    sites = tuple(
        replace(
            site,
            file=file,
            split_key=bytes.fromhex(file.split_key),
            naming_secret=run.state(file.id).naming_secret(),
        )
        for site, file in zip(made, files, strict=True)
    )
    found = simulate(run.study, Hospitals(sites, {}), tmp_path / "out", with_reference=False, workers=workers)
    written = load_file(run.folder / "results" / "model.safetensors")["weights"]
    assert written.shape == (run.study.dimension + 1,)
    assert np.array_equal(written, found.weights)
    assert found.evidence.rounds_completed == ROUNDS
    simulated = json.loads(found.evidence.model_dump_json())
    same = ("site", "noisy_counts", "figures", "spent", "epsilon", "delta")
    assert [{key: site[key] for key in same} for site in run.evidence["sites"]] == [
        {key: site[key] for key in same} for site in simulated["sites"]
    ]
    assert run.evidence["pooled"] == simulated["pooled"]


def test_known_noise_is_said_in_the_evidence_and_by_the_audit(run):
    assert run.evidence["unsafe_test_sites"] == list(SITES)
    audit = subprocess.run(
        [sys.executable, "-m", "fedhealth.cli.main", "audit", "verify", str(run.state("hungary").gate)],
        capture_output=True,
        text=True,
    )
    assert audit.returncode == 10
    assert "TEST SITE" in audit.stderr


def test_one_wrong_byte_in_a_ledger_of_the_run_is_found(run, tmp_path):
    whole = run.state("hungary").ledger.read_bytes()
    damaged = tmp_path / "ledger.sqlite"
    damaged.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    audit = subprocess.run(
        [sys.executable, "-m", "fedhealth.cli.main", "audit", "verify", str(damaged)], capture_output=True, text=True
    )
    assert audit.returncode == 7
    assert re.search(r"first bad entry is number \d+", audit.stderr)


@pytest.fixture
def two_test_sites(tmp_path_factory) -> Federation:
    """A federation of two test sites, set up and not running."""
    folder = tmp_path_factory.mktemp("two")
    for name in SITES[:2]:
        (folder / "sites").mkdir(exist_ok=True)
        (folder / "sites" / name).symlink_to(ROOT / "sites" / name)
    (folder / "protocol.toml").write_text(PROTOCOL, encoding="utf-8")
    return set_up(folder / "run", folder / "protocol.toml", folder / "sites", unsafe_noise_seed=SEED)


def test_a_coordinator_refuses_test_sites_unless_it_is_told_and_charges_nothing(two_test_sites):
    before = [verify_ledger(site.state.ledger).releases for site in two_test_sites.sites]
    with pytest.raises(FederationFailed, match="test site with known noise"):
        run_processes(two_test_sites, Console(quiet=True), allow_unsafe_test_sites=False)
    assert [verify_ledger(site.state.ledger).releases for site in two_test_sites.sites] == before == [0, 0]
    assert list(two_test_sites.results.iterdir()) == []
    assert processes_of(two_test_sites.folder) == []


def countersign_one_release(federation, site):
    """Ask one site for its first release, as the coordinator does, with gate and coordinator in this process."""
    home, study = federation.home, federation.study
    gate, ledger = open_gate(site.folder, site.state, STEPS)

    async def carry(_, frame):
        return gate.handle(frame).frame

    witness = Witness(home.witnessed, home.pinned_sites(), home.witness_key())
    data = encode_weights(np.zeros(plan_study(study)["train"].input_length))
    identity = ReleaseIdentity(
        site=site.file.id, study=study.digest, step="train", round=1, input_digest=input_digest(data)
    )
    asyncio.run(Asker(carry, witness).ask(identity, data))
    ledger.close()


def test_a_coordinator_names_the_site_whose_ledger_is_an_older_copy_and_gives_its_entries_back(two_test_sites):
    site, other = two_test_sites.sites
    kept = {path: path.read_bytes() for path in site.state.gate.glob("ledger.*")}
    countersign_one_release(two_test_sites, site)
    for path, data in kept.items():  # the whole of it, its anchor too, as from a backup
        path.write_bytes(data)
    with pytest.raises(FederationFailed, match=rf"'{site.file.id}' cannot be countersigned.*ledger-behind"):
        run_processes(two_test_sites, Console(quiet=True), allow_unsafe_test_sites=True)
    assert verify_ledger(other.state.ledger).releases == 0
    with pytest.raises(LedgerDamaged, match="this ledger is older"):  # an audit heeds what the coordinator has signed
        verify_ledger(site.state.ledger)
    assert read_ledger(site.state.ledger, held=True).verified.releases == 0
    found = examine_recovery(site.folder, site.state)
    assert found is not None
    recover_ledger(site.folder, site.state, found)
    assert verify_ledger(site.state.ledger).releases == 1
    assert processes_of(two_test_sites.folder) == []
