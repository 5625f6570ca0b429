"""One of several classes: a confusion table of all of them. Torch-free.

A held-out patient adds one to exactly one of its cells: by the class the patient is in, the last in the protocol's
order that any record names, and the class of the largest mean output over the patient's records; of equal ones, the
first. Of k classes the table has k^2 cells, each with the same noise, so that a figure over many cells has more of it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.figures import Figure, FigureRow, FigureTable, figure_of, percentage_points
from fedhealth.learning.lines import Line, blocks_of
from fedhealth.metrics.confusion import ConfusionTable
from fedhealth.records.table import Records
from fedhealth.study.diagnosis_endpoints import ClassesEndpoint
from fedhealth.study.protocol import Study

HEADLINE = "accuracy"
"""The figure that a plan is judged by."""

TABLE = "table"

_RIGHT = 0.8


def classes_of(study: Study) -> tuple[str, ...]:
    """Return the words of a study's classes."""
    if not isinstance(study.endpoint, ClassesEndpoint):
        raise TypeError(f"an endpoint of kind '{study.endpoint.kind}' has no classes")
    return study.endpoint.classes


def class_cell(classes: Sequence[str], true: int, called: int) -> str:
    """Return the name of the cell of patients of one class who are called another, or the same; places from 0."""
    return f"{true + 1} {classes[true]} called {called + 1} {classes[called]}"


def lines(study: Study) -> tuple[Line, ...]:
    """As of `binary`: one line, the table row by row, a row for each true class."""
    classes = classes_of(study)
    places = range(len(classes))
    return (Line(TABLE, 1.0, tuple(class_cell(classes, true, called) for true in places for called in places)),)


def vectors(study: Study, outputs: NDArray[np.float64], records: Records) -> Iterator[NDArray[np.float64]]:
    """As of `binary`; outputs have shape (records, classes)."""
    classes, patients = len(classes_of(study)), records.patient_count
    with np.errstate(all="ignore"):
        sums = [np.bincount(records.patients, weights=column, minlength=patients) for column in outputs.T]
        mean = np.stack(sums, axis=1) / np.bincount(records.patients, minlength=patients)[:, None]
    readable = np.isfinite(records.labels)
    broken = np.any(~np.isfinite(mean), axis=1)
    broken[records.patients[~readable]] = True
    true = np.zeros(patients, dtype=np.int64)
    np.maximum.at(true, records.patients, np.where(readable, records.labels, 0).astype(np.int64))
    places = true * classes + np.argmax(np.where(broken[:, None], 0.0, mean), axis=1)
    for block in blocks_of(patients, lines(study)):
        cells = np.zeros((block.stop - block.start, classes * classes))
        cells[np.arange(len(cells)), places[block]] = 1.0
        cells[broken[block]] = np.nan
        yield cells


def figures(study: Study, counts: Sequence[Mapping[str, float]], noise: Mapping[str, float]) -> FigureTable:
    """As of `binary`: accuracy and means over the classes first, then each class's sensitivity and precision."""
    classes, too_wide = classes_of(study), study.evaluation.too_wide
    places = range(len(classes))
    table = ConfusionTable(
        tuple(
            tuple(math.fsum(each[class_cell(classes, true, called)] for each in counts) for called in places)
            for true in places
        ),
        noise[TABLE] * math.sqrt(len(counts)),
    )

    def row(group: str, name: str, meaning: str, figure: Figure) -> FigureRow:
        return FigureRow(group=group, name=name, unit="share", meaning=meaning, figure=figure)

    rows = [
        row("", HEADLINE, "of all patients, how many the model is right about", figure_of(table.accuracy(), too_wide)),
        row(
            "",
            "mean sensitivity",
            "sensitivity, as a mean over the classes: each counts alike, however rare",
            figure_of(table.mean_sensitivity(), too_wide),
        ),
        row("", "mean precision", "precision, as a mean over the classes", figure_of(table.mean_precision(), too_wide)),
    ]
    for place, word in enumerate(classes):
        rows += [
            row(
                word,
                "sensitivity",
                f"of those who are '{word}', how many are called so",
                figure_of(table.sensitivity(place), too_wide),
            ),
            row(
                word,
                "precision",
                f"of those who are called '{word}', how many are",
                figure_of(table.precision(place), too_wide),
            ),
        ]
    return FigureTable(rows=tuple(rows))


def widest(study: Study) -> str:
    """As of `binary`."""
    return percentage_points(study.evaluation.too_wide)


def composition(study: Study, records: Records) -> dict[str, int]:
    """As of `binary`: how many patients are in each class."""
    label = np.full(records.patient_count, -1.0)
    np.maximum.at(label, records.patients, records.labels)
    return {f"of class '{word}'": int((label == place).sum()) for place, word in enumerate(classes_of(study))}


def half_width(study: Study, noise: Mapping[str, float], patients: float, sites: int) -> float | None:
    """As of `binary`: of the accuracy, were the model right for 8 in 10 of each class, and all classes as frequent."""
    found = _expected(study, noise, patients, sites).accuracy()
    return None if found is None else found.half_width


def sensitivity_half_width(study: Study, noise: Mapping[str, float], patients: float, sites: int) -> float | None:
    """Return the same of the sensitivity of one class."""
    found = _expected(study, noise, patients, sites).sensitivity(0)
    return None if found is None else found.half_width


def _expected(study: Study, noise: Mapping[str, float], patients: float, sites: int) -> ConfusionTable:
    classes = len(classes_of(study))
    right, wrong = _RIGHT * patients / classes, (1 - _RIGHT) * patients / classes / (classes - 1)
    rows = tuple(tuple(right if true == called else wrong for called in range(classes)) for true in range(classes))
    return ConfusionTable(rows, noise[TABLE] * math.sqrt(sites))
