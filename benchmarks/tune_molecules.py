"""Choose what blood-brain-barrier.toml fixes, on sources that molecules.py never judges by, by simulation.

The nine sources that are judged are left out of the table before anything else. Of the rest, R1 is unseen first, while
the others train, and then R6, R16 and R23 together; compounds of small sources always train. A candidate's figure is
the mean AUC of both, without privacy and at the protocol's epsilon through the real gates. First the fingerprint is
chosen, then rounds, step length and clip, out of a coarse grid.

Run: .venv/bin/python benchmarks/tune_molecules.py
"""

import itertools
import logging
import statistics
from collections.abc import Sequence

from b3db_table import b3db_table
from heart import train_private
from molecules import PROTOCOL, TUNING_SOURCES, Fold, fold_of, train_plain, unseen_auc, with_sources

from fedhealth.study.molecules import MoleculeFeature
from fedhealth.study.protocol import Study, load_study
from fedhealth.training.per_patient import make_deterministic

SEED = 1000
"""Of held-out compounds and noise; molecules.py reports seeds from 0 on."""

FOLDS = (("R1",), ("R6", "R16", "R23"))
FINGERPRINTS = tuple(itertools.product(("elements", "roles"), (1, 3)))
GRID = {"rounds": (30, 60), "learning_rate": (1.0, 2.0), "l2_clip_norm": (0.5, 1.0)}


def main() -> None:
    """Print each candidate's figures and what was chosen."""
    logging.disable(logging.WARNING)
    make_deterministic()
    study = load_study(PROTOCOL)
    print("atoms, largest count, then without privacy: R1, others; at the protocol's epsilon: R1, others; mean")
    chosen = max(FINGERPRINTS, key=lambda each: mean_auc(with_fingerprint(study, *each), each))
    study = with_fingerprint(study, *chosen)
    print(f"chosen: {chosen}\n{', '.join(GRID)}")
    folds = folds_of(study)
    best = max(itertools.product(*GRID.values()), key=lambda each: mean_auc(with_training(study, each), each, folds))
    print(f"chosen: {dict(zip(GRID, best, strict=True))}")


def folds_of(study: Study) -> list[Fold]:
    """Return both folds of the sources that tuning may look at."""
    table = with_sources(b3db_table(), TUNING_SOURCES)
    return [fold_of(study, table, unseen, SEED) for unseen in FOLDS]


def mean_auc(study: Study, name: Sequence[object], folds: Sequence[Fold] = ()) -> float:
    """Return a candidate's figure, and print it."""
    folds = folds or folds_of(study)
    figures = [unseen_auc(train_plain(study, fold.hospitals), fold.unseen) for fold in folds]
    figures += [unseen_auc(train_private(study, fold.hospitals.sites), fold.unseen) for fold in folds]
    print(f"{name}  {'  '.join(f'{each:.4f}' for each in figures)}  {statistics.mean(figures):.4f}", flush=True)
    return statistics.mean(figures)


def with_fingerprint(study: Study, atoms: str, largest_count: int) -> Study:
    """Return the study with another fingerprint of the same size."""
    (feature,) = (each for each in study.features if isinstance(each, MoleculeFeature))
    changed = feature.fingerprints[0].model_copy(update={"atoms": atoms, "largest_count": largest_count})
    return study.model_copy(update={"features": (feature.model_copy(update={"fingerprints": (changed,)}),)})


def with_training(study: Study, values: Sequence[float]) -> Study:
    """Return the study with these hyperparameters."""
    training = study.training.model_dump() | dict(zip(GRID, values, strict=True))
    return Study.model_validate(study.model_dump() | {"training": training})


if __name__ == "__main__":
    main()
