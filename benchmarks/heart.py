"""Accuracy on UCI Heart Disease in its four hospitals, with differential privacy and without, over 20 seeds.

A seed decides who is held out and the noise; nothing else changes, and the protocol's hyperparameters were fixed
before. With privacy: the real gates, ledgers, mechanism and Flower strategy, in this process. Without: the same model,
rounds, learning rate and weights, no clip and no noise. Both are judged by raw accuracy on the same held-out
patients, which only public data allow.

Run: .venv/bin/python benchmarks/heart.py [--seeds 20]
"""

import argparse
import hashlib
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.raw_figures import outcomes_of
from fedhealth.policy.site_file import SiteFile, load_site_file
from fedhealth.records.table import Records, Table, prepare_records, read_table
from fedhealth.simulation.gates import SimulatedSite
from fedhealth.simulation.in_process import InProcessFederation
from fedhealth.simulation.without_privacy import train_without_privacy
from fedhealth.study.protocol import Study, load_study
from fedhealth.training.per_patient import make_deterministic

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = "FLamby, logistic regression, pooled test: pooled training 0.795, FedAvg 0.748, FedAdam 0.779"


def main() -> None:
    """Print one line a seed, then means, and whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    logging.disable(logging.WARNING)
    make_deterministic()
    study, hospitals = load_study(ROOT / "protocols" / "heart-disease-diagnosis.toml"), load_hospitals()
    print("seed  with DP  without  epsilon  delta")
    private, plain = [], []
    for seed in range(seeds):
        keys = [hashlib.sha256(f"benchmark/{seed}/{file.id}".encode()).digest() for file, _ in hospitals]
        sites = [
            SimulatedSite(*hospital, key, 1000 * seed + i)
            for i, (hospital, key) in enumerate(zip(hospitals, keys, strict=True))
        ]
        held_out = [side for _, side in sides_of_sites(study, sites)]
        private.append(accuracy(train_private(study, sites), held_out))
        plain.append(accuracy(train_plain(study, sites), held_out))
        print(
            f"{seed:4d}  {private[-1]:.4f}   {plain[-1]:.4f}   {study.privacy.training_epsilon:.2f}"
            f"     {study.privacy.delta:g}",
            flush=True,
        )
    with_dp, without = statistics.mean(private), statistics.mean(plain)
    spread = statistics.stdev(private), statistics.stdev(plain)
    print(f"mean  {with_dp:.4f}   {without:.4f}   (standard deviation over seeds {spread[0]:.4f}, {spread[1]:.4f})")
    print(f"without minus with: {without - with_dp:+.4f}  (target: at most 0.02) {without - with_dp <= 0.02}")
    print(f"without privacy:    {without:.4f}  (target: at least 0.79) {without >= 0.79}")
    print(PUBLISHED)


def load_hospitals() -> list[tuple[SiteFile, Table]]:
    """Return each hospital's file and table, in the order of their ids, as they are in the repository."""
    files = [load_site_file(path.parent) for path in sorted((ROOT / "sites").glob("*/site.toml"))]
    return [(file, read_table(file.data_set.file, strict=True)) for file in files]


def sides_of_sites(study: Study, sites: Sequence[SimulatedSite]) -> list[tuple[Records, Records]]:
    """Return the training side and the held-out side of each site."""
    sides = []
    for site in sites:
        data_set = site.file.data_set
        split = data_set.patient_column, site.split_key, data_set.split_column
        sides.append(prepare_records(site.table, study, *split, strict=True))
    return sides


def train_private(study: Study, sites: Sequence[SimulatedSite]) -> NDArray[np.float64]:
    """Return the model trained through gates and ledgers."""
    federation = InProcessFederation(study, sites)
    try:
        return [weights for _, weights in federation.train()][-1]
    finally:
        federation.close()


def train_plain(study: Study, sites: Sequence[SimulatedSite]) -> NDArray[np.float64]:
    """Return the same federated model without clip and noise."""
    declared = {site.file.id: site.file.data_set.declared_patients for site in sites}
    training = [side for side, _ in sides_of_sites(study, sites)]
    return train_without_privacy(study, dict(zip(declared, training, strict=True)), declared)


def accuracy(weights: NDArray[np.float64], held_out: Sequence[Records]) -> float:
    """Return the raw accuracy over all these patients."""
    outcomes = outcomes_of(weights, held_out)
    return float(np.mean((outcomes.scores > 0) == outcomes.ill))


if __name__ == "__main__":
    main()
