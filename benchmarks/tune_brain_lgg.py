"""Choose what the brain tumour protocols fix, for each unseen hospital on the two that train for it, by simulation.

A candidate's figure is the mean AUC on the patients whom these two hold out, three in ten, over several seeds: of
slices the mean of without privacy and at the protocol's epsilon through the real gates, of clusters without privacy.
The protocol has the candidate that is best in the mean over the three pairs of hospitals; each pair's own best is
printed beside it. Candidates lie closer together than so few patients can tell.

Run: .venv/bin/python benchmarks/tune_brain_lgg.py slices|clusters [--seeds 3]     (ten minutes)
"""

import argparse
import itertools
import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path

from brain_lgg import CLUSTER, SLICE, UNSEEN, Vector, cluster_auc, slice_auc, together, train_plain, with_hospitals
from heart import train_private
from lgg_hospitals import write_hospitals

from fedhealth.records.table import Records, Table
from fedhealth.simulation.hospitals import Hospitals, Split, split_table
from fedhealth.study.protocol import Study, load_study
from fedhealth.training.per_patient import make_deterministic

FIRST_SEED = 1000
"""Of held-out patients and noise; brain_lgg.py reports seeds from 0 on."""

HELD_OUT = 0.3
SLICE_GRID = {"rounds": (40, 80), "learning_rate": (2.0, 4.0), "l2_clip_norm": (0.1, 0.2)}
CLUSTER_GRID = {"rounds": (20, 40, 100), "learning_rate": (0.3, 1.0)}

Judge = Callable[[Study, Hospitals], float]


def main() -> None:
    """Print each candidate's figure for each pair of hospitals, and what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("slices", "clusters"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    make_deterministic()
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    with tempfile.TemporaryDirectory() as folder:
        table = write_hospitals(Path(folder))
        if arguments.what == "slices":
            choose(load_study(SLICE), table, SLICE_GRID, slices_judged, seeds)
        else:
            choose(load_study(CLUSTER), table, CLUSTER_GRID, clusters_judged, seeds)


def choose(study: Study, table: Table, grid: Mapping[str, Sequence[float]], judge: Judge, seeds: Sequence[int]) -> None:
    """Print each candidate's figures, and which is best."""
    evaluation = study.evaluation.model_copy(update={"held_out_fraction": HELD_OUT})
    study = study.model_copy(update={"evaluation": evaluation})
    hospitals = {unseen: [pair_of(study, table, unseen, seed) for seed in seeds] for unseen in UNSEEN}
    print(f"{', '.join(grid)}: on the two hospitals that train for {', '.join(UNSEEN)}; mean")
    found = {}
    for values in itertools.product(*grid.values()):
        candidate = with_training(study, dict(zip(grid, values, strict=True)))
        found[values] = [statistics.mean(judge(candidate, each) for each in hospitals[unseen]) for unseen in UNSEEN]
        figures = "  ".join(f"{each:.4f}" for each in found[values])
        print(f"{values}  {figures}  {statistics.mean(found[values]):.4f}", flush=True)
    for at, unseen in enumerate(UNSEEN):
        print(f"the best for {unseen} alone: {max(found, key=lambda values: found[values][at])}")
    print(f"chosen: {max(found, key=lambda values: statistics.mean(found[values]))}")


def pair_of(study: Study, table: Table, unseen: str, seed: int) -> Hospitals:
    """Return the hospitals that train where one is unseen."""
    rest = with_hospitals(table, (unseen,), within=False)
    return split_table(rest, study, Split(site_column="hospital", patient_column="patient", seed=seed))


def with_training(study: Study, values: Mapping[str, float]) -> Study:
    """Return the study with these hyperparameters; the mean is of the second half of the rounds."""
    training = study.training.model_dump() | values | {"weight_averaging": int(values["rounds"]) // 2}
    return Study.model_validate(study.model_dump() | {"training": training})


def slices_judged(study: Study, hospitals: Hospitals) -> float:
    """Return the mean of the AUC of held-out slices without privacy and with it."""
    models: tuple[Vector, ...] = (train_plain(study, hospitals), train_private(study, hospitals.sites))
    return statistics.mean(slice_auc(study, weights, held_out_of(hospitals)) for weights in models)


def clusters_judged(study: Study, hospitals: Hospitals) -> float:
    """Return the mean AUC of the clusters of held-out patients without privacy."""
    return cluster_auc(study, train_plain(study, hospitals), held_out_of(hospitals))


def held_out_of(hospitals: Hospitals) -> Records:
    """Return the held-out records of all."""
    return reduce(together, (held_out for _, held_out in hospitals.sides.values()))


if __name__ == "__main__":
    main()
