"""AUC of a network over pixels at a hospital that no model has seen: tumour slices of brain MRI.

Hospitals, folds and the regression of five intensities are those of brain_lgg.py; the protocol is
brain-tumour-network.toml, which says how its hyperparameters were chosen. With privacy, training goes
through the real gates; without, it has the protocol's rounds, steps, strategy and further images, no clip and no
noise. A seed decides the tenth of patients that is held out, the noise, and the weights that training starts from.

Run: .venv/bin/python benchmarks/brain_lgg_network.py [--seeds 3] [--first 0]
(five minutes a seed; reads ../shared/data/brain_lgg)
"""

import argparse
import logging
import tempfile
from pathlib import Path

from brain_lgg import (
    PROTOCOLS,
    SLICE,
    Described,
    described,
    figures_of,
    fold_of,
    pooled_auc,
    slice_auc,
    train_plain,
    with_intensities,
)
from heart import train_private
from lgg_hospitals import write_hospitals

from fedhealth.records.table import Table
from fedhealth.study.protocol import Study, load_study
from fedhealth.training.per_patient import make_deterministic

NETWORK = PROTOCOLS / "brain-tumour-network.toml"


def main() -> None:
    """Print the figures of each hospital, their means, and whether the network is better than the regression."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    logging.disable(logging.WARNING)
    make_deterministic()
    with tempfile.TemporaryDirectory() as folder:
        table = write_hospitals(Path(folder))
        anchor = described(with_intensities(load_study(SLICE)), table)
        found = figures_of("slices", seeds, lambda unseen, seed: network_figures(anchor, table, unseen, seed))
    network, regression = found["network, without privacy"], found["five intensities, pooled"]
    print(f"network {network:.4f}, five intensities {regression:.4f}: {network > regression}")


def network_figures(anchor: Described, table: Table, unseen: str, seed: int) -> dict[str, float]:
    """Return the AUC over all slices of an unseen hospital: of five intensities, and of the network in both ways."""
    study = started_from(load_study(NETWORK), seed)
    fold = fold_of(study, table, unseen, seed)
    return {
        "five intensities, pooled": pooled_auc(fold_of(*anchor, unseen, seed)),
        "network, without privacy": slice_auc(study, train_plain(study, fold.hospitals), fold.unseen),
        "network, epsilon 8": slice_auc(study, train_private(study, fold.hospitals.sites), fold.unseen),
    }


def started_from(study: Study, seed: int) -> Study:
    """Return the study with other weights to start from, which follow from its digest, and nothing else changed."""
    return study.model_copy(update={"title": f"{study.title}, start {seed}"})


if __name__ == "__main__":
    main()
