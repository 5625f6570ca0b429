"""What an evaluation releases: lines of counts in one vector, each with its share of the signal. Torch-free.

Each line is multiplied by the root of its share, and the shares add up to 1: a patient whose part of each line measures
at most 1 then adds a vector that measures at most 1, which is what the mechanism clips to. One release, one charge; a
line's counts are the released coordinates over that root, with as much more noise.

Both ends derive the lines from the protocol alone: the gate fills them, the coordinator reads them. What lines an
endpoint has is in `fedhealth.learning.outcomes`.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.lines import Line
from fedhealth.learning.outcomes.table import outcome_of
from fedhealth.study.protocol import Study


@lru_cache(maxsize=64)
def lines_of(study: Study) -> tuple[Line, ...]:
    """Return the lines of a study's evaluation, in the order of the released vector.

    Raises:
        ConfigInvalid: two lines, or two of their cells, would have one name; a count would then be read as another's.
    """
    lines = outcome_of(study).lines(study)
    for names in ([line.name for line in lines], [cell for line in lines for cell in line.cells]):
        if repeated := [name for name, times in Counter(names).items() if times > 1]:
            raise ConfigInvalid(
                f"columns and words of study '{study.name}' run into each other",
                got=f"several counts named '{repeated[0]}'",
                wanted="a name of its own for each",
                next_step="Rename the column or the word, in the protocol and in the data sets.",
            )
    return lines


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
