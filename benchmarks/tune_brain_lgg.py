"""Choose what the brain tumour protocols fix, for each unseen hospital on the two that train for it, by simulation.

A candidate's figure is the mean AUC on the patients whom these two hold out, three in ten, over several seeds: of
slices the mean of without privacy and at the protocol's epsilon through the real gates, of clusters and of the network
over slices without privacy. Of clusters, the descriptors of the image are chosen first, out of those of slices. The
best in the mean over the three pairs of hospitals is printed, and each pair's own. A seed's noise moves the figure of
slices at epsilon 8 by 0.05 and candidates lie closer together, so that few seeds choose by chance; docs/benchmarks.md
says how many did.

Run: .venv/bin/python benchmarks/tune_brain_lgg.py slices|clusters|network [--seeds 4]
(four minutes, one, and half an hour a seed)
"""

import argparse
import itertools
import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path

from brain_lgg import (
    CLUSTER,
    SLICE,
    UNSEEN,
    Described,
    Vector,
    cluster_auc,
    described,
    slice_auc,
    together,
    train_plain,
    with_hospitals,
)
from brain_lgg_network import NETWORK
from heart import train_private
from lgg_hospitals import write_hospitals

from fedhealth.records.table import Records, Table
from fedhealth.simulation.hospitals import Hospitals, Split, split_table
from fedhealth.study.protocol import Study, load_study
from fedhealth.training.per_patient import make_deterministic

FIRST_SEED = 1000
"""Of held-out patients and noise; brain_lgg.py reports seeds from 0 on."""

HELD_OUT = 0.3
SLICE_GRID = {"rounds": (40, 160), "learning_rate": (2.0, 4.0), "l2_clip_norm": (0.1, 0.2)}
DESCRIPTORS = (
    ("deviation", "asymmetry"),
    ("asymmetry", "blob"),
    ("deviation", "quantile", "asymmetry", "blob"),
    ("mean", "deviation", "quantile", "asymmetry", "blob", "blob-over-median"),
)
NETWORK_ROUNDS = (60, 120, 180)
NETWORK_STEPS = {
    "momentum": {"learning_rate": 0.1, "strategy": {"kind": "fedavgm", "server_momentum": 0.9}},
    "Adam": {"learning_rate": 1.0, "strategy": {"kind": "fedadam", "server_learning_rate": 0.01}},
    "Adam, longer": {"learning_rate": 1.0, "strategy": {"kind": "fedadam", "server_learning_rate": 0.03}},
}
CLUSTER_GRID = {"rounds": (20, 40, 100), "learning_rate": (0.3, 1.0)}

Judge = Callable[[Study, Hospitals], float]


def main() -> None:
    """Print each candidate's figure for each pair of hospitals, and what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("slices", "clusters", "network"))
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    make_deterministic()
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    with tempfile.TemporaryDirectory() as folder:
        table = write_hospitals(Path(folder))
        if arguments.what == "slices":
            choose(with_grid(*described(load_study(SLICE), table), SLICE_GRID), slices_judged, seeds)
        elif arguments.what == "network":
            choose({name: (study, table) for name, study in networks(load_study(NETWORK)).items()}, plain_judged, seeds)
        else:
            study = load_study(CLUSTER)
            sets = {", ".join(names): described(with_descriptors(study, names), table) for names in DESCRIPTORS}
            choose(sets, clusters_judged, seeds)
            choose(with_grid(*described(study, table), CLUSTER_GRID), clusters_judged, seeds)


def choose(candidates: Mapping[str, Described], judge: Judge, seeds: Sequence[int]) -> None:
    """Print each candidate's figures, and which is best."""
    print(f"on the two hospitals that train for {', '.join(UNSEEN)}; mean")
    found = {}
    for name, (study, table) in candidates.items():
        evaluation = study.evaluation.model_copy(update={"held_out_fraction": HELD_OUT})
        candidate = study.model_copy(update={"evaluation": evaluation})
        found[name] = [
            statistics.mean(judge(candidate, pair_of(candidate, table, unseen, seed)) for seed in seeds)
            for unseen in UNSEEN
        ]
        figures = "  ".join(f"{each:.4f}" for each in found[name])
        print(f"{figures}  {statistics.mean(found[name]):.4f}  {name}", flush=True)
    for at, unseen in enumerate(UNSEEN):
        print(f"the best for {unseen} alone: {max(found, key=lambda name: found[name][at])}")
    print(f"chosen: {max(found, key=lambda name: statistics.mean(found[name]))}")


def with_grid(study: Study, table: Table, grid: Mapping[str, Sequence[float]]) -> dict[str, Described]:
    """Return the study with each of a grid's hyperparameters; the mean is of the second half of the rounds."""
    found = {}
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        training = study.training.model_dump() | chosen | {"weight_averaging": int(chosen["rounds"]) // 2}
        name = ", ".join(f"{key} {value:g}" for key, value in chosen.items())
        found[name] = Study.model_validate(study.model_dump() | {"training": training}), table
    return found


def networks(study: Study) -> dict[str, Study]:
    """Return the network with and without sides compared, for each kind of step and number of rounds."""
    found = {}
    for sides, (step, settings), rounds in itertools.product((False, True), NETWORK_STEPS.items(), NETWORK_ROUNDS):
        parts = study.model_dump()
        parts["model"] |= {"compare_sides": sides}
        parts["training"] |= settings | {"rounds": rounds, "weight_averaging": rounds // 4}
        found[f"sides {sides}, {step}, rounds {rounds}"] = Study.model_validate(parts)
    return found


def pair_of(study: Study, table: Table, unseen: str, seed: int) -> Hospitals:
    """Return the hospitals that train where one is unseen."""
    rest = with_hospitals(table, (unseen,), within=False)
    return split_table(rest, study, Split(site_column="hospital", patient_column="patient", seed=seed))


def with_descriptors(study: Study, names: Sequence[str]) -> Study:
    """Return the study of clusters with these of the descriptors that the study of slices has."""
    known = load_study(SLICE).model_dump()["features"][0]["inputs"]["descriptors"]
    parts = study.model_dump()
    parts["features"][0]["inputs"]["descriptors"] = [each for each in known if each["name"] in names]
    return Study.model_validate(parts)


def slices_judged(study: Study, hospitals: Hospitals) -> float:
    """Return the mean of the AUC of held-out slices without privacy and with it."""
    models: tuple[Vector, ...] = (train_plain(study, hospitals), train_private(study, hospitals.sites))
    return statistics.mean(slice_auc(study, weights, held_out_of(hospitals)) for weights in models)


def plain_judged(study: Study, hospitals: Hospitals) -> float:
    """Return the AUC of held-out slices without privacy."""
    return slice_auc(study, train_plain(study, hospitals), held_out_of(hospitals))


def clusters_judged(study: Study, hospitals: Hospitals) -> float:
    """Return the mean AUC of the clusters of held-out patients without privacy."""
    return cluster_auc(study, train_plain(study, hospitals), held_out_of(hospitals))


def held_out_of(hospitals: Hospitals) -> Records:
    """Return the held-out records of all."""
    return reduce(together, (held_out for _, held_out in hospitals.sides.values()))


if __name__ == "__main__":
    main()
