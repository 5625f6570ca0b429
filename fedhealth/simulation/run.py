"""Simulate a study: from a protocol and a table to the folder that a run would leave, and what only a simulation may.

| in the folder | what |
|---|---|
| `results/` | what a real federation could publish, marked as a simulation |
| `report.html` | the same with the reference figures |
| `reference.json` | raw figures: not private, possible in a simulation only |
| `simulation.ledger` | the ledgers of all simulated sites |
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

import fedhealth
from fedhealth.coordinator.evidence import (
    Evidence,
    Participation,
    RunResult,
    SiteResult,
    evidence_of,
)
from fedhealth.coordinator.participation import Span
from fedhealth.coordinator.publishing import write_results
from fedhealth.coordinator.report import EstimateReference, Reference, render_report
from fedhealth.coordinator.run_folder import MODEL, REPORT
from fedhealth.errors import ConfigInvalid, FederationFailed
from fedhealth.flower.rounds import SiteMissing
from fedhealth.learning.model_file import model_bytes
from fedhealth.learning.models.table import model_of
from fedhealth.privacy.simulated_ledger import SIMULATED_LEDGER
from fedhealth.records.source import read_table_file
from fedhealth.simulation.estimate_reference import estimate_without_privacy
from fedhealth.simulation.gates import SimulatedSite, SiteGroup
from fedhealth.simulation.hospitals import Hospitals, Split, split_table
from fedhealth.simulation.in_process import Gates, SimulatedFederation
from fedhealth.simulation.reference import reference_of
from fedhealth.simulation.workers import SiteWorkers
from fedhealth.simulation.yardsticks import has_yardstick
from fedhealth.study.protocol import Study
from fedhealth.study.signature import open_signed_study, sign_study
from fedhealth.training.per_patient import deterministic_here

RESULTS, REFERENCE = "results", "reference.json"
FEDERATION = "simulation"

OnProgress = Callable[[str, int], None]
"""Told what is done, in words, and how many rounds are completed."""

_WORTH_A_PROCESS = 3_000_000
"""Rows and thousand times sites, times rounds: below it one process is done before others have started."""


@dataclass(frozen=True)
class Simulation:
    """What a simulation found.

    Attributes:
        study: the protocol that was simulated.
        evidence: what a real federation could publish.
        weights: the private model, as a flat vector in the order of its module.
        reference: what only a simulation may know; None if it was not asked for or the endpoint has none.
        warnings: what a person should know of the table.
        folder: where everything was written.
    """

    study: Study
    evidence: Evidence
    weights: NDArray[np.float64]
    reference: Reference | EstimateReference | None
    warnings: tuple[str, ...]
    folder: Path


def with_rounds(study: Study, rounds: int | None) -> Study:
    """Return the protocol with another number of rounds, which is another study; None leaves it as it is.

    Raises:
        ConfigInvalid: nothing is trained in it.
    """
    if rounds is None:
        return study
    if study.training is None:
        raise ConfigInvalid(
            f"study '{study.name}' trains nothing", got=f"{rounds} rounds", next_step="Leave out --rounds."
        )
    training = study.training
    fewer = {"rounds": rounds, "weight_averaging": min(rounds, training.weight_averaging)}
    return study.model_copy(update={"training": training.model_copy(update=fewer)})


def simulate_table(
    study: Study,
    data: Path,
    split: Split,
    folder: Path,
    *,
    with_reference: bool = True,
    workers: int | None = None,
    on_progress: OnProgress = lambda what, rounds: None,
) -> Simulation:
    """Run a study over the hospitals of a table's file.

    Args:
        study: the protocol.
        data: CSV or Parquet.
        split: how it becomes hospitals.
        folder: as for `simulate`, and what follows too.
        with_reference: work out what only a simulation may know, too.
        workers: processes.
        on_progress: told what happens.

    Raises:
        ConfigInvalid: the folder is in use, or the file holds many tables.
        DataUnusable: as `split_table` and `simulate`.
        FederationFailed: as `simulate`.
    """
    _check_folder(folder)
    hospitals = split_table(read_table_file(data), study, split)
    return simulate(study, hospitals, folder, with_reference=with_reference, workers=workers, on_progress=on_progress)


def simulate(
    study: Study,
    hospitals: Hospitals,
    folder: Path,
    *,
    with_reference: bool = True,
    workers: int | None = None,
    on_progress: OnProgress = lambda what, rounds: None,
) -> Simulation:
    """Run a study over simulated hospitals.

    Args:
        study: the protocol.
        hospitals: at least two.
        folder: for everything that it leaves; must not exist, or be empty.
        with_reference: work out what only a simulation may know, too.
        workers: processes; as many as pay if None. The result does not depend on it.
        on_progress: told what happens.

    Raises:
        ConfigInvalid: the folder is in use.
        DataUnusable: the records allow no reference.
        FederationFailed: a process ended, or a gate failed.
    """
    _check_folder(folder)
    started, researcher = _now(), Ed25519PrivateKey.generate()
    signed = sign_study(study, researcher)
    on_progress("opening the gates", 0)
    with _quiet_flower(), _gates(study, hospitals.sites, researcher, workers) as gates:
        federation = SimulatedFederation(study, hospitals.declared_patients, gates)
        weights = model_of(study).start(study)
        on_progress("training", 0)
        try:
            for number, trained in federation.train():
                on_progress("training", number)
                weights = trained
            counts = federation.evaluate(weights)
        except SiteMissing as missing:
            raise FederationFailed(
                f"the simulation of '{study.name}' stopped",
                got=f"no release from {missing}",
                next_step="Read what its gate said above.",
            ) from missing
        heads = gates.heads()
        results = folder / RESULTS
        results.mkdir(parents=True)
        on_progress("writing the ledger", study.rounds)
        gates.write_ledgers(folder / SIMULATED_LEDGER)
    (results / MODEL).write_bytes(model_bytes(weights, study, study.rounds))
    model = (results / MODEL).read_bytes()
    rounds = tuple(range(1, study.rounds + 1))
    ids = tuple(site.file.id for site in hospitals.sites)
    evidence = evidence_of(
        open_signed_study(signed),
        RunResult(
            software=f"fedhealth {fedhealth.__version__}",
            federation=FEDERATION,
            started=started,
            finished=_now(),
            rounds_completed=len(rounds),
            participation=Participation(
                sites=ids,
                rounds=(Span(first=1, last=len(rounds)),) if rounds else (),
                too_small=hospitals.too_small,
            ),
            sites={
                site: SiteResult(
                    declared_patients=hospitals.declared_patients[site],
                    rounds=rounds,
                    evaluations=1,
                    noisy_counts=counts[site],
                    ledger=heads[site],
                )
                for site in ids
            },
            model_sha256=hashlib.sha256(model).hexdigest(),
            unsafe_test_sites=ids,
            simulation=True,
        ),
    )
    reference: Reference | EstimateReference | None = None
    warnings = hospitals.warnings
    if with_reference and study.training is not None and not has_yardstick(study):
        warnings += (f"There are no raw figures without privacy for an endpoint of kind '{study.endpoint.kind}'.",)
    elif with_reference:
        on_progress("working out what only a simulation may know", study.rounds)
        with _quiet_flower():
            reference = (
                estimate_without_privacy(study, hospitals, model)
                if study.training is None
                else reference_of(study, hospitals, weights, model)
            )
        (folder / REFERENCE).write_text(reference.model_dump_json(indent=2) + "\n", encoding="utf-8")
    on_progress("writing the report", study.rounds)
    # By nobody's key: the seal only tells that no byte was changed since.
    write_results(results, signed, evidence, Ed25519PrivateKey.generate())
    (folder / REPORT).write_text(render_report(evidence, study, hospitals.titles, reference), encoding="utf-8")
    return Simulation(study, evidence, weights, reference, warnings, folder)


def workers_for(study: Study, sites: tuple[SimulatedSite, ...]) -> int:
    """Return how many processes pay for a simulation; 1 is this one."""
    rows = sum(len(site.table.rows) for site in sites)
    if study.rounds * (1000 * len(sites) + rows) < _WORTH_A_PROCESS:
        return 1
    return min(len(sites), len(os.sched_getaffinity(0)))


@contextmanager
def _quiet_flower() -> Iterator[None]:
    """Let Flower, which has a log handler of its own, speak of what is wrong alone."""
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def _gates(
    study: Study, sites: tuple[SimulatedSite, ...], researcher: Ed25519PrivateKey, workers: int | None
) -> Iterator[Gates]:
    count = workers_for(study, sites) if workers is None else min(workers, len(sites))
    with deterministic_here():
        gates: Gates = (
            SiteGroup(study, sites, researcher) if count == 1 else SiteWorkers(study, sites, researcher, count)
        )
        try:
            yield gates
        finally:
            gates.close()


def _check_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigInvalid(
            f"{folder} is in use", wanted="a folder that is empty or does not exist", next_step="Choose another --out."
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
