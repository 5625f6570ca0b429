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
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.losses import logistic_loss
from fedhealth.policy.site_file import SiteFile, load_site_file
from fedhealth.records.table import Records, Table, prepare_records, read_table
from fedhealth.simulation.gates import SimulatedSite
from fedhealth.simulation.in_process import InProcessFederation
from fedhealth.study.protocol import Study, load_study
from fedhealth.training.per_patient import RowwiseLinear, make_deterministic, model_outputs, per_patient_gradients

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = "FLamby, logistic regression, pooled test: pooled training 0.795, FedAvg 0.748, FedAdam 0.779"


def main() -> None:
    """Print one line a seed, then means, and whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    logging.disable(logging.WARNING)
    make_deterministic()
    study = load_study(ROOT / "protocols" / "heart-disease-diagnosis.toml")
    files = [load_site_file(path.parent) for path in sorted((ROOT / "sites").glob("*/site.toml"))]
    tables = {file.id: read_table(file.data_set.file, strict=True) for file in files}
    print("seed  with DP  without  epsilon  delta")
    private, plain = [], []
    for seed in range(seeds):
        keys = {file.id: hashlib.sha256(f"benchmark/{seed}/{file.id}".encode()).digest() for file in files}
        sides = {
            file.id: prepare_records(tables[file.id], study, file.data_set.patient_column, keys[file.id], strict=True)
            for file in files
        }
        held_out = [side[1] for side in sides.values()]
        private.append(accuracy(train_private(study, files, tables, keys, seed), held_out))
        plain.append(accuracy(train_plain(study, files, sides), held_out))
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


def train_private(
    study: Study, files: list[SiteFile], tables: dict[str, Table], keys: dict[str, bytes], seed: int
) -> NDArray[np.float64]:
    """Return the model trained through gates and ledgers."""
    sites = [SimulatedSite(file, tables[file.id], keys[file.id], 1000 * seed + i) for i, file in enumerate(files)]
    federation = InProcessFederation(study, sites)
    try:
        return [weights for _, weights in federation.train()][-1]
    finally:
        federation.close()


def train_plain(study: Study, files: list[SiteFile], sides: dict[str, tuple[Records, Records]]) -> NDArray[np.float64]:
    """Return the same federated model without clip and noise."""
    weights = np.zeros(study.dimension + 1)
    declared = {file.id: file.data_set.declared_patients for file in files}
    for _ in range(study.training.rounds):
        step = np.zeros_like(weights)
        for site, (training, _) in sides.items():
            gradients = per_patient_gradients(
                RowwiseLinear(study.dimension), weights, logistic_loss, training.features, training.labels,
                training.patients, training.patient_count,
            )  # fmt: skip
            public = (1 - study.evaluation.held_out_fraction) * declared[site]
            step += declared[site] / sum(declared.values()) * gradients.sum(axis=0) / public
        weights = weights - study.training.learning_rate * step
    return weights


def accuracy(weights: NDArray[np.float64], held_out: list[Records]) -> float:
    """Return the raw accuracy over all sites' held-out patients."""
    right = total = 0
    for records in held_out:
        called = model_outputs(RowwiseLinear(len(weights) - 1), weights, records.features)[:, 0] > 0
        right += int(np.sum(called == (records.labels > 0)))
        total += len(records.labels)
    return right / total


if __name__ == "__main__":
    main()
