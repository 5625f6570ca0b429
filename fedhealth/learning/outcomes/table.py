"""The kinds of endpoint, each with the module that judges by it; a line for each. Torch-free."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.binary_figures import Figures
from fedhealth.learning.figures import FigureTable
from fedhealth.learning.lines import Line
from fedhealth.learning.outcomes import binary, classes, number, survival, trial
from fedhealth.records.table import Records
from fedhealth.study.protocol import Study, Task


class Outcome(Protocol):
    """What a module of this package says of its kind of endpoint; `binary` describes the arguments.

    Attributes:
        HEADLINE: name of the figure by which a plan is judged.
    """

    @property
    def HEADLINE(self) -> str: ...  # noqa: N802, D102

    def lines(self, study: Study) -> tuple[Line, ...]:
        """Return the lines of the released vector, from the protocol alone."""
        ...

    def vectors(self, study: Study, outputs: NDArray[np.float64], records: Records) -> Iterator[NDArray[np.float64]]:
        """Yield what each patient adds to it, in blocks; a row may depend on its own patient alone, to the last bit."""
        ...

    def figures(
        self, study: Study, counts: Sequence[Mapping[str, float]], noise: Mapping[str, float]
    ) -> Figures | FigureTable:
        """Return what noisy counts say."""
        ...

    def widest(self, study: Study) -> str:
        """Return half the widest interval with which a figure is stated, in words."""
        ...

    def composition(self, study: Study, records: Records) -> dict[str, int]:
        """Return what an administrator should know of one side's patients before approving, in words and counts."""
        ...

    def half_width(self, study: Study, noise: Mapping[str, float], patients: float, sites: int) -> float | None:
        """Return half the interval to expect of the headline figure; None where nothing can be said."""
        ...


OUTCOMES: Mapping[str, Outcome] = MappingProxyType(
    {
        "binary": binary,
        "category": binary,
        "classes": classes,
        "number": number,
        "survival": survival,
        "trial": trial,
    }
)
"""By the kind of the endpoint."""

TASKS: Mapping[Task, frozenset[str]] = MappingProxyType(
    {
        "diagnosis": frozenset({"binary", "category", "classes", "number"}),
        "survival": frozenset({"survival"}),
        "efficacy": frozenset({"trial"}),
    }
)
"""The kinds of endpoint of each task."""


def outcome_of(study: Study) -> Outcome:
    """Return the module that judges a study.

    Raises:
        ConfigInvalid: its endpoint is not one of its task.
    """
    kind = study.endpoint.kind
    if kind not in TASKS[study.task]:
        raise ConfigInvalid(
            f"study '{study.name}' is of task '{study.task}' and has another task's endpoint",
            got=f"endpoint.kind = '{kind}'",
            wanted=", ".join(f"'{each}'" for each in sorted(TASKS[study.task])),
            next_step="Correct task or [endpoint].",
        )
    return OUTCOMES[kind]
