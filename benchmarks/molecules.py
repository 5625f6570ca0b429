"""AUC on sources of compounds that no model has seen: blood-brain barrier, B3DB, with privacy and without.

Each source of B3DB is a hospital, and those of fewer than 100 compounds together are one (b3db_table.py). Nine sources
are judged, in three groups: a group in turn is unseen, and all others train. The hyperparameters are the protocol's;
they are among the candidates of tune_molecules.py and were chosen on sources that are never judged here; how, and
what was seen before, is in docs/benchmarks.md.

With privacy: the real gates, ledgers, mechanism and Flower strategy, in this process; epsilon is of a compound's
training, all rounds together. Without: the protocol's rounds, step length and momentum, no clip and no noise. Against
both, in the same run: a random forest (scikit-learn, 500 trees) on Morgan fingerprints (radius 2, 2,048 bits), of the
same training compounds in one table, without privacy. A seed decides the tenth of compounds that is held out, the
noise, and the forest.

Run: .venv/bin/python benchmarks/molecules.py [--seeds 5]     (extra `studies`; two minutes a seed)
"""

import argparse
import logging
import statistics
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from b3db_table import OTHERS, b3db_table
from heart import train_private
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from fedhealth.learning.raw_figures import area_under_curve, outcomes_of
from fedhealth.records.molecules import molecule_inputs
from fedhealth.records.table import Records, Table, prepare_records
from fedhealth.simulation.hospitals import Hospitals, Split, split_table
from fedhealth.simulation.without_privacy import train_without_privacy
from fedhealth.study.molecules import MAX_SMILES, Fingerprint, MoleculeFeature
from fedhealth.study.protocol import Study, load_study
from fedhealth.training.per_patient import make_deterministic

PROTOCOL = Path(__file__).resolve().parents[1] / "protocols" / "blood-brain-barrier.toml"
TUNING_SOURCES = ("R1", "R6", "R16", "R23", OTHERS)
"""Never unseen here."""

UNSEEN = (("R13", "R18", "R24"), ("R14", "R19", "R27"), ("R15", "R2", "R47"))
TARGETS = {"federated": 0.02, "epsilon 8": 0.05}
"""How far below the forest each may lie."""

BITS = MoleculeFeature(kind="molecule", column="smiles", fingerprints=(Fingerprint(size=2048),))
SLOW = ("C" * MAX_SMILES, "C(" * 124 + "C" + ")" * 124, "c1ccccc1" * 62, "NC(=O)C(C)" * 50, "C." * 249 + "C")
"""Cells that look hard: a chain, branches, rings, a peptide, many molecules."""


@dataclass(frozen=True)
class Fold:
    """Sources that train, as hospitals, and the compounds of those that are unseen."""

    hospitals: Hospitals
    unseen: tuple[Records, ...]


def main() -> None:
    """Print one line a seed and group, then means, and whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    logging.disable(logging.WARNING)
    make_deterministic()
    study, table = load_study(PROTOCOL), b3db_table()
    print_cell_times(study, table)
    found: dict[str, list[float]] = {"forest": [], "federated": [], "epsilon 8": []}
    print(f"seed  unseen            {'  '.join(found)}")
    for seed in range(seeds):
        for group in UNSEEN:
            fold = fold_of(study, table, group, seed)
            found["forest"].append(forest_auc(study, table, group, seed))
            found["federated"].append(unseen_auc(train_plain(study, fold.hospitals), fold.unseen))
            found["epsilon 8"].append(unseen_auc(train_private(study, fold.hospitals.sites), fold.unseen))
            figures = "  ".join(f"{each[-1]:{len(name)}.4f}" for name, each in found.items())
            print(f"{seed:4d}  {', '.join(group):16s}  {figures}", flush=True)
    forest = statistics.mean(found["forest"])
    for name, each in found.items():
        groups = [statistics.mean(each[at :: len(UNSEEN)]) for at in range(len(UNSEEN))]
        print(f"{name:10s} {statistics.mean(each):.4f} (groups {', '.join(f'{mean:.4f}' for mean in groups)})", end="")
        if name in TARGETS:
            below = forest - statistics.mean(each)
            print(f"  below the forest {below:+.4f}, target {TARGETS[name]}: {below <= TARGETS[name]}", end="")
        print()


def fold_of(study: Study, table: Table, unseen: Collection[str], seed: int) -> Fold:
    """Return the hospitals of all sources but some, and all compounds of those."""
    rest = with_sources(table, unseen, within=False)
    hospitals = split_table(rest, study, Split(site_column="source", patient_column="compound", seed=seed))
    sides = prepare_records(with_sources(table, unseen), study, "compound", bytes(32), strict=True)
    return Fold(hospitals, sides)


def with_sources(table: Table, sources: Collection[str], *, within: bool = True) -> Table:
    """Return the rows of some sources, or of all others."""
    place = table.columns.index("source")
    return replace(table, rows=tuple(row for row in table.rows if (row[1][place] in sources) == within))


def train_plain(study: Study, hospitals: Hospitals) -> NDArray[np.float64]:
    """Return the federated model without clip and noise."""
    training = {site: sides[0] for site, sides in hospitals.sides.items()}
    return train_without_privacy(study, training, hospitals.declared_patients)


def unseen_auc(weights: NDArray[np.float64], unseen: Sequence[Records]) -> float:
    """Return the area under the ROC curve over all compounds of the unseen sources."""
    outcomes = outcomes_of(weights, unseen)
    return area_under_curve(outcomes.scores, outcomes.ill) or 0.0


def forest_auc(study: Study, table: Table, unseen: Collection[str], seed: int) -> float:
    """Return the same of a random forest on Morgan fingerprints, trained on the same compounds in one table."""
    fold = fold_of(study.model_copy(update={"features": (BITS,)}), table, unseen, seed)
    sides = [training for training, _ in fold.hospitals.sides.values()]
    forest = RandomForestClassifier(n_estimators=500, n_jobs=-1, random_state=seed)
    forest.fit(np.concatenate([side.features for side in sides]), np.concatenate([side.labels for side in sides]))
    chance = np.concatenate([forest.predict_proba(side.features)[:, 1] for side in fold.unseen])
    passes = np.concatenate([side.labels > 0 for side in fold.unseen])
    return area_under_curve(chance, passes) or 0.0


def print_cell_times(study: Study, table: Table) -> None:
    """Print how long a cell takes: a compound's, and those that are made to be slow."""
    (feature,) = (each for each in study.features if isinstance(each, MoleculeFeature))
    place = table.columns.index("smiles")
    molecule_inputs(feature, "CCO")  # loads RDKit
    times = []
    for cells in ([row[place] for _, row in table.rows[::10]], [*SLOW, "C" * 100_000]):
        for cell in cells:
            start = time.perf_counter()
            molecule_inputs(feature, cell)
            times.append(1000 * (time.perf_counter() - start))
    drugs, hard = times[: -len(SLOW) - 1], times[-len(SLOW) - 1 :]
    print(f"a cell, ms: compounds {statistics.median(drugs):.2f}, slowest {max(drugs):.1f}; made to be slow", end=" ")
    print(", ".join(f"{each:.1f}" for each in hard[:-1]), f"; 100,000 characters {hard[-1]:.3f}")


if __name__ == "__main__":
    main()
