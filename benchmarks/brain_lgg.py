"""AUC at a hospital that no model has seen: tumour slices of brain MRI, and the tumour's molecular cluster.

Of the hospitals CS, DU and FG (lgg_hospitals.py) each in turn is unseen and the others train; EZ has a single patient,
and is left out of every training by the protocols' `min_declared_patients`. The hyperparameters are the protocols'; how
they were chosen is in docs/benchmarks.md. A seed decides the tenth of patients that is held out, and the noise.

With privacy: the real gates, ledgers, mechanism and Flower strategy, in this process; epsilon is of a patient's
training, all rounds together. Without: the protocol's rounds, step length and momentum, no clip and no noise.

Slices, AUC over all slices of the unseen hospital. In the same run: a logistic regression (scikit-learn) of five
numbers of the intensity, standardised, of the same training patients in one table, without privacy.

Clusters, mean of the AUC of each against the others over all patients of the unseen hospital. In the same run: each
modality alone; all inputs in one sum; the fused model where one of the two training hospitals has no scanner (each in
turn), and where the unseen one has a single modality.

Run: .venv/bin/python benchmarks/brain_lgg.py [--seeds 5]     (two minutes; reads ../shared/data/brain_lgg)
"""

import argparse
import logging
import statistics
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from heart import train_private
from lgg_hospitals import write_hospitals
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedhealth.learning.models.table import model_of
from fedhealth.learning.raw_figures import area_under_curve
from fedhealth.records.image_inputs import image_inputs
from fedhealth.records.table import Records, Table, prepare_records
from fedhealth.simulation.hospitals import Hospitals, Split, split_table
from fedhealth.simulation.without_privacy import train_without_privacy
from fedhealth.study.features import NumberFeature
from fedhealth.study.images import ImageFeature
from fedhealth.study.protocol import Study, load_study
from fedhealth.training.per_patient import make_deterministic, model_outputs

PROTOCOLS = Path(__file__).resolve().parents[1] / "protocols"
SLICE, CLUSTER = PROTOCOLS / "brain-tumour-slice.toml", PROTOCOLS / "brain-tumour-cluster.toml"
UNSEEN = ("CS", "DU", "FG")
TARGET = 0.05
"""How far below itself without privacy the model of slices may lie at epsilon 8."""

INTENSITIES = (
    {"name": "mean", "range": (0, 255)},
    {"name": "deviation", "range": (0, 255)},
    {"name": "quantile", "quantile": 0.95, "range": (0, 255)},
    {"name": "quantile", "quantile": 0.99, "range": (0, 255)},
    {"name": "share-above", "level": 153, "range": (0, 1)},
)

Vector = NDArray[np.float64]
Described = tuple[Study, Table]


@dataclass(frozen=True)
class Fold:
    """Hospitals that train, and all records of the one that is unseen."""

    hospitals: Hospitals
    unseen: Records


def main() -> None:
    """Print one line a seed and hospital, then means, and whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    logging.disable(logging.WARNING)
    make_deterministic()
    with tempfile.TemporaryDirectory() as folder:
        table = write_hospitals(Path(folder))
        slice_study, cluster_study = load_study(SLICE), load_study(CLUSTER)
        anchor, own = described(with_intensities(slice_study), table), described(slice_study, table)
        fused = described(cluster_study, table)
        slices = figures_of("slices", seeds, lambda *case: slice_figures(anchor, own, *case))
        clusters = figures_of("clusters", seeds, lambda *case: cluster_figures(*fused, *case))
    below = slices["without privacy"] - slices["epsilon 8"]
    print(f"slices: epsilon 8 below itself without privacy {below:+.4f}, target {TARGET}: {below <= TARGET}")
    best = max(clusters["imaging alone"], clusters["clinical alone"])
    print(f"clusters: fused {clusters['fused']:.4f}, best modality alone {best:.4f}: {clusters['fused'] >= best}")


def figures_of(title: str, seeds: Sequence[int], figures: Callable[[str, int], dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over all unseen hospitals and seeds, and print all of them."""
    found: dict[str, list[list[float]]] = {}
    for seed in seeds:
        for unseen in UNSEEN:
            for name, value in figures(unseen, seed).items():
                found.setdefault(name, [[] for _ in UNSEEN])[UNSEEN.index(unseen)].append(value)
    print(f"{title:39s}{'  '.join(f'{unseen:6s}' for unseen in UNSEEN)}  mean    (deviation over seeds)")
    for name, hospitals in found.items():
        seeds_means = [statistics.mean(each) for each in zip(*hospitals, strict=True)]
        spread = statistics.stdev(seeds_means) if len(seeds_means) > 1 else 0.0
        means = "  ".join(f"{statistics.mean(each):.4f}" for each in hospitals)
        print(f"{name:39s}{means}  {statistics.mean(seeds_means):.4f}  {spread:.4f}", flush=True)
    return {name: statistics.mean(map(statistics.mean, hospitals)) for name, hospitals in found.items()}


def slice_figures(anchor: Described, own: Described, unseen: str, seed: int) -> dict[str, float]:
    """Return the AUC over all slices of an unseen hospital: of intensities, and of the model in both ways."""
    study, fold = own[0], fold_of(*own, unseen, seed)
    return {
        "five intensities, pooled": pooled_auc(fold_of(*anchor, unseen, seed)),
        "without privacy": slice_auc(study, train_plain(study, fold.hospitals), fold.unseen),
        "epsilon 8": slice_auc(study, train_private(study, fold.hospitals.sites), fold.unseen),
    }


def cluster_figures(study: Study, table: Table, unseen: str, seed: int) -> dict[str, float]:
    """Return the mean AUC over clusters of an unseen hospital: of each modality, of both, and with one missing."""
    fold, found = fold_of(study, table, unseen, seed), dict[str, float]()
    for modality in study.model.modalities:
        alone = with_features(study, modality.columns)
        apart = fold_of(alone, table, unseen, seed)
        found[f"{modality.name} alone"] = cluster_auc(alone, train_plain(alone, apart.hospitals), apart.unseen)
    mixed = with_features(study, [feature.column for feature in study.features])
    apart = fold_of(mixed, table, unseen, seed)
    found["one sum of all inputs"] = cluster_auc(mixed, train_plain(mixed, apart.hospitals), apart.unseen)
    fused = train_plain(study, fold.hospitals)
    found["fused"] = cluster_auc(study, fused, fold.unseen)
    lacking = []
    for site in (each for each in UNSEEN if each != unseen):
        part = fold_of(study, without_scanner(study, table, site), unseen, seed)
        lacking.append(cluster_auc(study, train_plain(study, part.hospitals), part.unseen))
    found["fused, no scanner at a training site"] = statistics.mean(lacking)
    found["fused, no scanner at the unseen"] = cluster_auc(study, fused, with_presence(study, fold.unseen, "clinical"))
    found["fused, a scanner alone at the unseen"] = cluster_auc(
        study, fused, with_presence(study, fold.unseen, "imaging")
    )
    found["fused, epsilon 8"] = cluster_auc(study, train_private(study, fold.hospitals.sites), fold.unseen)
    return found


def fold_of(study: Study, table: Table, unseen: str, seed: int) -> Fold:
    """Return the hospitals of all but one, and all records of that one."""
    rest = with_hospitals(table, (unseen,), within=False)
    hospitals = split_table(rest, study, Split(site_column="hospital", patient_column="patient", seed=seed))
    training, held_out = prepare_records(with_hospitals(table, (unseen,)), study, "patient", bytes(32), strict=True)
    return Fold(hospitals, together(training, held_out))


def together(one: Records, other: Records) -> Records:
    """Return the records of two sides, which share no patient, as one."""
    return Records(
        np.concatenate([one.features, other.features]),
        np.concatenate([one.labels, other.labels]),
        np.concatenate([one.patients, other.patients + one.patient_count]),
        one.patient_count + other.patient_count,
    )


def with_hospitals(table: Table, hospitals: Collection[str], *, within: bool = True) -> Table:
    """Return the rows of some hospitals, or of all others."""
    place = table.columns.index("hospital")
    return replace(table, rows=tuple(row for row in table.rows if (row[1][place] in hospitals) == within))


def without_scanner(study: Study, table: Table, hospital: str) -> Table:
    """Return the table as if a hospital had no scanner."""
    imaging = next(each for each in study.model.modalities if each.name == "imaging")
    blank, place = {table.columns.index(column) for column in imaging.columns}, table.columns.index("hospital")

    def cells(row: tuple[str, ...]) -> tuple[str, ...]:
        return tuple("" if at in blank and row[place] == hospital else cell for at, cell in enumerate(row))

    return replace(table, rows=tuple((line, cells(row)) for line, row in table.rows))


def with_features(study: Study, columns: Collection[str]) -> Study:
    """Return the study as a logistic regression of some features."""
    features = tuple(feature for feature in study.features if feature.column in columns)
    model = study.model.model_copy(update={"kind": "logistic-regression", "modalities": ()})
    return study.model_copy(update={"features": features, "model": model})


def with_presence(study: Study, records: Records, modality: str) -> Records:
    """Return records that have one modality alone; the other's inputs stay, and are not looked at."""
    features = records.features.copy()
    features[:, -len(study.model.modalities) :] = [each.name == modality for each in study.model.modalities]
    return replace(records, features=features)


def train_plain(study: Study, hospitals: Hospitals) -> Vector:
    """Return the federated model without clip and noise."""
    training = {site: sides[0] for site, sides in hospitals.sides.items()}
    return train_without_privacy(study, training, hospitals.declared_patients)


def slice_auc(study: Study, weights: Vector, unseen: Records) -> float:
    """Return the area under the ROC curve over all slices."""
    scores = model_outputs(model_of(study).module(study), weights, unseen.features)[:, 0]
    return area_under_curve(scores, unseen.labels > 0) or 0.0


def cluster_auc(study: Study, weights: Vector, unseen: Records) -> float:
    """Return the mean over clusters of the area under the ROC curve of each against the others, over patients.

    A patient has the mean of the slices' scores, as the model card says; a cluster that nobody or everybody is in is
    passed over.
    """
    scores = model_outputs(model_of(study).module(study), weights, unseen.features)
    slices = np.bincount(unseen.patients, minlength=unseen.patient_count)
    means = [np.bincount(unseen.patients, column, unseen.patient_count) / slices for column in scores.T]
    odds = np.exp(means - np.max(means, axis=0))
    cluster = np.bincount(unseen.patients, unseen.labels, unseen.patient_count) / slices
    areas = [area_under_curve(each, cluster == at) for at, each in enumerate(odds / odds.sum(axis=0))]
    return statistics.mean(area for area in areas if area is not None)


def pooled_auc(fold: Fold) -> float:
    """Return the AUC over slices of a logistic regression of all training patients in one table, without privacy."""
    sides = [training for training, _ in fold.hospitals.sides.values()]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(np.concatenate([side.features for side in sides]), np.concatenate([side.labels for side in sides]))
    return area_under_curve(model.decision_function(fold.unseen.features), fold.unseen.labels > 0) or 0.0


def with_intensities(study: Study) -> Study:
    """Return the study of five numbers of the intensity alone."""
    parts = study.model_dump()
    parts["features"][0]["inputs"] |= {"descriptors": INTENSITIES}
    return Study.model_validate(parts)


def described(study: Study, table: Table) -> Described:
    """Return study and table with an image's inputs in the place of its name: the same, read once and not each time."""
    (image,) = (feature for feature in study.features if isinstance(feature, ImageFeature))
    place = table.columns.index(image.column)
    names = [f"{image.column} {number}" for number in range(1, image.width + 1)]
    rows = [(line, (*row, *map(repr, image_inputs(image, row[place], table.folder)))) for line, row in table.rows]
    numbers = [NumberFeature(kind="number", column=name, unit="scaled", range=(-1, 1), impute=0) for name in names]

    def replaced(columns: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for column in columns for name in (names if column == image.column else [column]))

    modalities = tuple(each.model_copy(update={"columns": replaced(each.columns)}) for each in study.model.modalities)
    features = tuple(each for part in study.features for each in (numbers if part is image else [part]))
    update = {"features": features, "model": study.model.model_copy(update={"modalities": modalities})}
    return study.model_copy(update=update), replace(table, columns=(*table.columns, *names), rows=tuple(rows))


if __name__ == "__main__":
    main()
