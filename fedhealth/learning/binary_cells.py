"""Names of the counts by which a model is judged that says yes or no, and the edges of its histogram. Torch-free."""

import math

import numpy as np
from numpy.typing import NDArray

CONFUSION_CELLS = ("true-positive", "false-positive", "true-negative", "false-negative")
"""Cells of a confusion table, in this order; a patient counts once, in one cell."""

TABLE, SCORES = "table", "scores"
"""Names of the lines that are no subgroup's."""

OUTCOMES = ("ill", "well")
"""The two histograms of scores, in this order."""


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
