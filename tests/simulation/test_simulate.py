"""A simulation: what it leaves, what it costs, that it is never taken for a real run, and that nothing stays behind."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from wards import PROTOCOL, patients, write_table

from fedhealth.errors import ConfigInvalid, FederationFailed, LedgerDamaged
from fedhealth.privacy.entries import Created
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.ledger_database import TABLES, new_database
from fedhealth.privacy.mu_squared import MuSquaredBudget
from fedhealth.privacy.simulated_ledger import verify_simulated_ledger
from fedhealth.simulation.hospitals import Split
from fedhealth.simulation.run import simulate_table
from fedhealth.study.protocol import load_study

SPLIT = Split("ward", "person", seed=7)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wards")
    (folder / "falls.toml").write_text(PROTOCOL, encoding="utf-8")
    write_table(folder / "wards.csv", patients())
    return folder


@pytest.fixture(scope="module")
def study(files):
    return load_study(files / "falls.toml")


@pytest.fixture(scope="module")
def found(files, study):
    return simulate_table(study, files / "wards.csv", SPLIT, files / "out")


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "fedhealth.cli.main", *map(str, arguments)], capture_output=True, text=True, **options
    )


def test_it_leaves_what_a_run_would_and_beside_it_what_only_a_simulation_may(found):
    assert {path.name for path in found.folder.iterdir()} == {
        "results", "report.html", "reference.json", "simulation.ledger"
    }  # fmt: skip
    assert {path.name for path in (found.folder / "results").iterdir()} == {
        "evidence.json", "model.safetensors", "model-card.md", "report.html", "study.signed", "seal.json"
    }  # fmt: skip


def test_the_evidence_says_that_it_is_a_simulation(found):
    evidence = json.loads((found.folder / "results" / "evidence.json").read_text(encoding="utf-8"))
    assert evidence["simulation"] is True
    assert evidence["unsafe_test_sites"] == ["north", "south-east", "west"]
    for page in (found.folder / "report.html", found.folder / "results" / "report.html"):
        assert "No hospital took part" in page.read_text(encoding="utf-8")


def test_the_accounting_is_exact(found, study):
    ledgers = list(verify_simulated_ledger(found.folder / "simulation.ledger"))
    for site, ledger in zip(found.evidence.sites, ledgers, strict=True):
        assert ledger.releases == study.training.rounds + 1
        assert ledger.witnessed == ledger.head.size
        assert (site.ledger.size, site.ledger.root) == (ledger.head.size, ledger.head.root)
        # What the evidence works out from the protocol is what was charged, entry by entry, and within what was asked.
        assert [line.epsilon for line in site.spent] == pytest.approx(
            [line.epsilon_spent for line in ledger.spending], rel=1e-9
        )
        assert 4.9 < site.epsilon <= 5


def test_the_numbers_follow_from_the_seed_and_from_nothing_else(files, study, found, tmp_path):
    again = simulate_table(study, files / "wards.csv", SPLIT, tmp_path / "again", with_reference=False)
    other = simulate_table(study, files / "wards.csv", Split("ward", "person", seed=8), tmp_path / "other")
    assert np.array_equal(again.weights, found.weights)
    assert not np.array_equal(other.weights, found.weights)


def test_it_runs_where_an_event_loop_runs_as_in_a_notebook(files, study, found, tmp_path):
    async def cell():
        return simulate_table(study, files / "wards.csv", SPLIT, tmp_path / "out", with_reference=False)

    assert np.array_equal(asyncio.run(cell()).weights, found.weights)


@pytest.mark.processes
def test_the_numbers_do_not_depend_on_how_many_processes_compute_them(files, study, found, tmp_path):
    three = simulate_table(study, files / "wards.csv", SPLIT, tmp_path / "out", workers=3)
    assert np.array_equal(three.weights, found.weights)
    assert [site.noisy_counts for site in three.evidence.sites] == [site.noisy_counts for site in found.evidence.sites]
    assert three.reference == found.reference
    assert [each.head.site for each in verify_simulated_ledger(three.folder / "simulation.ledger")] == [
        "north", "south-east", "west"
    ]  # fmt: skip


def test_a_process_that_is_somebody_elses_is_left_as_it_was(found):
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.tensor([1e-310], dtype=torch.float64).mul(1.0).item() > 0  # subnormals are not flushed


@pytest.mark.parametrize("target", ["results", "simulation.ledger"])
def test_audit_verify_finds_it_intact_and_ends_with_a_code_of_its_own(found, target):
    audit = command("audit", "verify", found.folder / target)
    assert audit.returncode == 13, audit.stderr
    assert "SIMULATION" in audit.stderr
    assert "intact" in audit.stdout


def test_one_changed_charge_in_a_simulated_ledger_is_found(found, tmp_path):
    data = (found.folder / "simulation.ledger").read_bytes()
    at = data.rindex(b'"round":2')
    (tmp_path / "changed").write_bytes(data[:at] + b'"round":3' + data[at + 9 :])
    audit = command("audit", "verify", tmp_path / "changed")
    assert audit.returncode == 7
    assert "content does not match its hash" in audit.stderr


@pytest.mark.parametrize("verb", ["acts", "budget"])
def test_no_other_audit_takes_a_simulated_ledger(found, verb):
    audit = command("audit", verb, found.folder / "simulation.ledger")
    assert audit.returncode == 7
    assert "of a simulation" in audit.stderr


def test_no_site_opens_a_simulated_ledger(found):
    with pytest.raises(LedgerDamaged, match="of a simulation"):
        Ledger.open(found.folder / "simulation.ledger", "north", Ed25519PrivateKey.generate())


KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def created(**parts):
    public = KEY.public_key().public_bytes_raw().hex()
    budget = {"wards": MuSquaredBudget(epsilon=3.0, delta=1e-5)}
    values = {"site": "north", "ledger_key": public, "witness_key": public, "budgets": budget, "at": 1}
    return Created(**values, **{"unsafe_test_site": True, "simulation": True, **parts})


def test_no_site_opens_a_ledger_whose_first_entry_says_simulation_not_even_with_its_key(tmp_path):
    simulated = Ledger.in_memory(created(), KEY)
    with new_database(tmp_path / "ledger.sqlite") as (database, _):
        for table, row in simulated.rows():
            assert table in TABLES
            places = ", ".join("?" * len(row))
            database.execute(f"INSERT INTO {table} VALUES ({places})", row)  # noqa: S608 - a table's name
    with pytest.raises(LedgerDamaged, match="of a simulation"):
        Ledger.open(tmp_path / "ledger.sqlite", "north", KEY)
    assert command("audit", "verify", tmp_path / "ledger.sqlite").returncode == 13


def test_a_simulated_ledger_is_never_a_sites_file_and_a_sites_ledger_never_in_memory(tmp_path):
    with pytest.raises(LedgerDamaged, match="of a simulation"):
        Ledger.create(tmp_path / "ledger.sqlite", created(), KEY)
    with pytest.raises(LedgerDamaged, match="must outlive its process"):
        Ledger.in_memory(created(simulation=False), KEY)
    with pytest.raises(ValueError, match="unsafe_test_site must be true"):
        created(unsafe_test_site=False)


def test_the_command_prints_private_figures_and_apart_from_them_what_is_not(files, tmp_path):
    done = command(
        *("study", "simulate", files / "falls.toml", "--data", files / "wards.csv", "--site-column", "ward"),
        *("--patient-column", "person", "--rounds", "2", "--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.split("NOT PRIVATE: simulation only")
    assert "all together" in before
    assert "alone" not in before
    for what in ("north alone", "the federation's, private", "its rounds without noise", "one table, no privacy"):
        assert what in after
    assert max(map(len, done.stdout.splitlines()[:-3])) <= 80


def test_the_command_leaves_out_what_is_not_private_and_speaks_json(files, tmp_path):
    done = command(
        *("study", "simulate", files / "falls.toml", "--data", files / "wards.csv", "--site-column", "ward"),
        *("--patient-column", "person", "--no-reference", "--json", "--out", tmp_path / "out"),
    )
    said = json.loads(done.stdout)
    assert said["not_private"] is None
    assert said["evidence"]["rounds_completed"] == 3
    assert not (tmp_path / "out" / "reference.json").exists()


def test_a_folder_that_is_in_use_is_left_alone(files, study, found):
    with pytest.raises(ConfigInvalid, match="is in use"):
        simulate_table(study, files / "wards.csv", SPLIT, found.folder)


def runs(process):
    """Say whether a process runs; one that ended and waits for its parent to look does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def children_of(process):
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.processes
def test_ctrl_c_leaves_nothing_running(files, tmp_path):
    arguments = ["study", "simulate", files / "falls.toml", "--data", files / "wards.csv", "--site-column", "ward"]
    arguments += ["--workers", "2", "--rounds", "10000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedhealth.cli.main", *map(str, arguments), "--out", str(tmp_path / "out")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(workers := children_of(process)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert "Traceback" not in process.stderr.read()
    deadline = time.monotonic() + 30  # one that was just being started sees by itself that nobody is there any more
    while (left := [worker for worker in workers if runs(worker)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert not (tmp_path / "out").exists()


@pytest.mark.processes
def test_a_worker_that_is_killed_ends_the_simulation_with_a_message(files, study, tmp_path):
    def kill(what, number):
        if number == 1:
            children = psutil.Process().children(recursive=True)
            next(each for each in children if "fedhealth.simulation.worker" in each.cmdline()).kill()

    with pytest.raises(FederationFailed, match="a process of the simulation ended"):
        simulate_table(study, files / "wards.csv", SPLIT, tmp_path / "out", workers=2, on_progress=kill)
    assert not [
        each for each in psutil.Process().children(recursive=True) if "fedhealth.simulation.worker" in each.cmdline()
    ]
