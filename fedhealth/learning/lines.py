"""A line of what an evaluation releases: some cells of one vector, with a share of the signal. Torch-free."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One line of an evaluation.

    Attributes:
        name: unique among the lines of a study.
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
