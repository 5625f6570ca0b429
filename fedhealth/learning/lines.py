"""A line of what an evaluation releases: some cells of one vector, with a share of the signal. Torch-free."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_NUMBERS_AT_ONCE = 2**22
_MOST_PATIENTS_AT_ONCE = 2**14


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


def blocks_of(patients: int, lines: Sequence[Line]) -> Iterator[slice]:
    """Yield runs of patients whose vectors are held at once: so many that a vector of many cells fits the memory.

    Sums are exact, so that it does not matter to any of them who is in a run together.

    Args:
        patients: how many there are.
        lines: of the vector.
    """
    cells = sum(len(line.cells) for line in lines)
    at_once = max(1, min(_MOST_PATIENTS_AT_ONCE, _NUMBERS_AT_ONCE // cells))
    for start in range(0, patients, at_once):
        yield slice(start, min(start + at_once, patients))
