"""Yes or no: a confusion table, a histogram of scores, and a table for each word of some columns. Torch-free.

A held-out patient adds one to exactly one cell of the confusion table, to one cell of the histogram of scores, and to
at most one cell of each subgroup's table. A patient is judged by the mean score of the patient's records: ill when any
record says so, called ill when the mean score is above zero, and in the first group of a subgroup's column that any
record names.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.binary_cells import (
    CONFUSION_CELLS,
    OUTCOMES,
    SCORES,
    TABLE,
    score_cells,
    score_edges,
    subgroup_cell,
)
from fedhealth.learning.binary_figures import Figures, figures_of
from fedhealth.learning.figures import percentage_points
from fedhealth.learning.lines import Line, blocks_of
from fedhealth.records.table import Records
from fedhealth.study.features import CategoryFeature
from fedhealth.study.protocol import Study

HEADLINE = "accuracy"
"""The figure that a plan is judged by."""

_RIGHT = 0.8


def lines(study: Study) -> tuple[Line, ...]:
    """Return the lines of a study's evaluation, in the order of the released vector."""
    evaluation = study.evaluation
    found = [Line(TABLE, evaluation.table, CONFUSION_CELLS)]
    if evaluation.scores is not None:
        found.append(Line(SCORES, evaluation.scores.share, tuple(score_cells(evaluation.scores.bins))))
    if evaluation.subgroups is not None:
        share = evaluation.subgroups.share / len(evaluation.subgroups.columns)
        found += [_subgroup_line(study, column, share) for column in evaluation.subgroups.columns]
    return tuple(found)


def vectors(study: Study, outputs: NDArray[np.float64], records: Records) -> Iterator[NDArray[np.float64]]:
    """Yield what each patient adds to the vector, in blocks of shape (patients, coordinates).

    A row is NaN where the patient's records cannot be computed.

    Args:
        study: the protocol.
        outputs: of the model, shape (records, 1): the log odds of yes.
        records: of the held-out patients.
    """
    with np.errstate(all="ignore"):
        count = np.bincount(records.patients, minlength=records.patient_count)
        mean = np.bincount(records.patients, weights=outputs[:, 0], minlength=records.patient_count) / count
    positives = np.bincount(records.patients, weights=records.labels, minlength=records.patient_count)
    patients, found = _Judged(positives > 0, mean), lines(study)
    places = [_places(line, patients, records) for line in found]
    broken = ~np.isfinite(mean) | np.isnan(positives)
    for block in blocks_of(records.patient_count, found):
        cells = _cells(found, [place[block] for place in places])
        cells[broken[block]] = np.nan
        yield cells


def figures(study: Study, counts: Sequence[Mapping[str, float]], noise: Mapping[str, float]) -> Figures:
    """Return what the noisy counts of one site say, or those of several together.

    Args:
        study: the protocol.
        counts: of each site, by the names of the lines' cells; may be empty.
        noise: standard deviation of the noise of each site's count, by the names of the lines.
    """
    return figures_of(counts, lines(study), noise, study.evaluation.too_wide)


def widest(study: Study) -> str:
    """Return half the widest interval with which a figure is stated, in words that follow "further than"."""
    points = percentage_points(study.evaluation.too_wide)
    bare = f" (of a figure that is no share, {study.evaluation.too_wide:g})" if study.evaluation.scores else ""
    return points + bare


def composition(study: Study, records: Records) -> dict[str, int]:
    """Return how many patients have the condition, in words for the hospital's own terminal."""
    return {"with the condition": np.unique(records.patients[records.labels > 0]).size}


def half_width(study: Study, noise: Mapping[str, float], patients: float, sites: int) -> float | None:
    """Return half the 95 % interval of the accuracy, were the model right for 8 in 10 and every count as expected.

    It is worked out as the figure itself, so that the histogram of scores makes the table less noisy here too.

    Args:
        study: the protocol.
        noise: as in `figures`.
        patients: held out, over all sites.
        sites: whose counts are added.

    Returns:
        None where nothing can be said at all.
    """
    right, wrong = _RIGHT * patients / 2, (1 - _RIGHT) * patients / 2
    asked = lines(study)
    expected = dict.fromkeys((cell for line in asked for cell in line.cells), 0.0)
    expected |= dict(zip(CONFUSION_CELLS, (right, wrong, right, wrong), strict=True))
    if study.evaluation.scores is not None:
        half = study.evaluation.scores.bins // 2
        upper, lower = [right / half] * half, [wrong / half] * half  # of the ill; of the well it is the other way
        expected |= dict(zip(score_cells(2 * half), lower + upper + upper + lower, strict=True))
    more_noise = {name: deviation * math.sqrt(sites) for name, deviation in noise.items()}
    accuracy = figures_of([expected], asked, more_noise, math.inf).accuracy
    return None if accuracy.low is None or accuracy.high is None else (accuracy.high - accuracy.low) / 2


@dataclass(frozen=True)
class _Judged:
    """Held-out patients: whether each is ill, and the mean score, both of shape (patients,)."""

    ill: NDArray[np.bool_]
    score: NDArray[np.float64]

    def table(self) -> NDArray[np.int64]:
        """Return which cell of the confusion table each patient is in, shape (patients,), in the order of its cells."""
        return np.where(self.score > 0, np.where(self.ill, 0, 1), np.where(self.ill, 3, 2))


def _places(line: Line, patients: _Judged, records: Records) -> NDArray[np.int64]:
    """Return which of a line's cells each patient is in, shape (patients,), or -1 for none."""
    if line.name == TABLE:
        return patients.table()
    if line.name == SCORES:
        edges = score_edges(len(line.cells) // len(OUTCOMES))
        return np.searchsorted(edges, patients.score, side="left") + np.where(patients.ill, 0, len(edges) + 1)
    assert line.inputs is not None  # noqa: S101 - every other line is a subgroup's
    words = records.features[:, slice(*line.inputs)]
    named = np.where(words.max(axis=1, initial=0.0) > 0, np.argmax(words, axis=1), words.shape[1])
    group = np.full(records.patient_count, words.shape[1])
    np.minimum.at(group, records.patients, named)
    return np.where(group < words.shape[1], group * len(CONFUSION_CELLS) + patients.table(), -1)


def _cells(lines: Sequence[Line], places: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return what each patient adds to the vector, shape (patients, coordinates): in each line one cell or none."""
    cells = np.zeros((len(places[0]), sum(len(line.cells) for line in lines)))
    start = 0
    for line, place in zip(lines, places, strict=True):
        counted = np.flatnonzero(place >= 0)
        cells[counted, start + place[counted]] = line.weight
        start += len(line.cells)
    return cells


def _subgroup_line(study: Study, column: str, share: float) -> Line:
    start = 0
    for feature in study.features:
        if feature.column == column and isinstance(feature, CategoryFeature):
            break
        start += feature.width
    else:
        raise ValueError(f"'{column}' is no category feature")  # the protocol's own check comes first
    cells = [subgroup_cell(column, word, cell) for word in feature.categories for cell in CONFUSION_CELLS]
    inputs = start, start + len(feature.categories)
    return Line(f"subgroup {column}", share, tuple(cells), inputs, column, feature.categories)
