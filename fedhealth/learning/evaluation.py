"""What an evaluation releases: lines of counts in one vector, each with its share of the signal. Torch-free.

A held-out patient adds one to exactly one cell of the confusion table, to one cell of the histogram of scores, and to
at most one cell of each subgroup's table. Each line is multiplied by the root of its share, and the shares add up to 1,
so that a patient's vector measures at most 1, which is what the mechanism clips to. One release, one charge; a line's
counts are the released coordinates over that root, with as much more noise.

Both ends derive the lines from the protocol alone: the gate fills them, the coordinator reads them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedhealth.study.protocol import CategoryFeature, Study

CONFUSION_CELLS = ("true-positive", "false-positive", "true-negative", "false-negative")
"""Cells of a confusion table, in this order; a patient counts once, in one cell."""

TABLE, SCORES = "table", "scores"
"""Names of the lines that are no subgroup's."""

OUTCOMES = ("ill", "well")
"""The two histograms of scores, in this order."""


@dataclass(frozen=True)
class Line:
    """One line of an evaluation.

    Attributes:
        name: "table", "scores", or "subgroup COLUMN".
        share: of the squared signal, in (0, 1].
        cells: names of its counts, unique over all lines, in the order of the vector.
        inputs: of a subgroup's line, the first model input that holds a word of the column, and the first after them.
        column: of a subgroup's line, its column.
        categories: of a subgroup's line, the column's words; each has a confusion table, one after the other.
    """

    name: str
    share: float
    cells: tuple[str, ...]
    inputs: tuple[int, int] | None = None
    column: str = ""
    categories: tuple[str, ...] = ()

    @property
    def weight(self) -> float:
        """What one patient adds to a cell."""
        return math.sqrt(self.share)


@lru_cache(maxsize=64)
def lines_of(study: Study) -> tuple[Line, ...]:
    """Return the lines of a study's evaluation, in the order of the released vector."""
    evaluation = study.evaluation
    lines = [Line(TABLE, evaluation.table, CONFUSION_CELLS)]
    if evaluation.scores is not None:
        lines.append(Line(SCORES, evaluation.scores.share, tuple(score_cells(evaluation.scores.bins))))
    if evaluation.subgroups is not None:
        share = evaluation.subgroups.share / len(evaluation.subgroups.columns)
        lines += [_subgroup_line(study, column, share) for column in evaluation.subgroups.columns]
    return tuple(lines)


def score_cells(bins: int) -> list[str]:
    """Return the names of the histogram's cells: all bins of ill patients, lowest first, then of well ones."""
    return [f"{outcome} {number}/{bins}" for outcome in OUTCOMES for number in range(1, bins + 1)]


def score_edges(bins: int) -> NDArray[np.float64]:
    """Return the scores, in log odds, between bins of equal width in the predicted chance, shape (bins - 1,).

    A score is compared with them, and no chance is computed from it: a patient's bin then has no rounding that could
    depend on the place among others. A score at an edge is in the lower bin, so that those above the middle are those
    whom the confusion table has as called ill.
    """
    return np.array([math.log(number / (bins - number)) for number in range(1, bins)])


def subgroup_cell(column: str, category: str, cell: str) -> str:
    """Return the name of a cell of a subgroup's confusion table."""
    return f"{column}={category} {cell}"


def counts_of(study: Study, released: NDArray[np.float64]) -> dict[str, float]:
    """Return an evaluation's noisy counts, in patients, by the names of their cells.

    Args:
        study: the protocol.
        released: the decoded release, one number for each cell of each line.
    """
    weights = np.concatenate([np.full(len(line.cells), line.weight) for line in lines_of(study)])
    names = [cell for line in lines_of(study) for cell in line.cells]
    return dict(zip(names, (released / weights).tolist(), strict=True))


def released_of(study: Study, counts: Mapping[str, float]) -> NDArray[np.float64]:
    """Return the decoded release whose counts these are: `counts_of` backwards, up to rounding.

    Raises:
        ValueError: the counts are not those of this study's cells.
    """
    lines = lines_of(study)
    if counts.keys() != {cell for line in lines for cell in line.cells}:
        raise ValueError("counts of other cells than this study's")
    return np.array([counts[cell] * line.weight for line in lines for cell in line.cells])


def noise_of(study: Study, standard_deviation: float) -> dict[str, float]:
    """Return the standard deviation of the noise of each count, in patients, by the names of the lines.

    Args:
        study: the protocol.
        standard_deviation: of the noise on a coordinate of the release.
    """
    return {line.name: standard_deviation / line.weight for line in lines_of(study)}


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
