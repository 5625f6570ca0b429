"""Whether a hospital's table suits a trial; for the administrator, at approval, and for nobody else.

Each finding has its rule in the protocol, so that none of them stops a release or changes what the coordinator sees: a
hospital with one arm, or whose patients all have one outcome, takes part and says little; a visit after one that was
missed is not used; an outcome outside the range counts as its end.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from fedhealth.records.cells import is_blank, label_of, number_of
from fedhealth.records.columns import Problem, cells_of
from fedhealth.records.table import Table
from fedhealth.study.protocol import Study
from fedhealth.study.trial_endpoint import TrialEndpoint

_ASK = "It can take part, and its release says little of the difference. Ask whether to."


def find_trial_problems(table: Table, study: Study) -> Iterator[Problem]:
    """Yield what a person should know of a table before a trial's study is approved; nothing of any other study.

    Args:
        table: the whole table; where a column of the endpoint is missing, nothing is said.
        study: the protocol.
    """
    endpoint = study.endpoint
    if not isinstance(endpoint, TrialEndpoint) or not set(endpoint.columns) <= set(table.columns):
        return
    place = [table.columns.index(column) for column in endpoint.columns]
    rows = [(number, [row[at] for at in place]) for number, row in table.rows]
    labels = [label for label in (label_of(endpoint, cells) for _, cells in rows) if label is not None]
    arms = {label[0] for label in labels}
    if empty := [arm.word for at, arm in enumerate(endpoint.arms) if at not in arms]:
        words = ", ".join(f"'{word}'" for word in empty)
        yield Problem("warning", endpoint.arm_column, f"no patient with an outcome is in arm {words}", _ASK)
    for visit, column in enumerate(endpoint.outcomes):
        values = {label[2 + visit] for label in labels if label[1] > visit}
        if len(values) < 2:
            what = "all patients have the same outcome" if values else "no patient has an outcome that is used"
            yield Problem("warning", column, what, _ASK)
        yield from _beyond(table, endpoint, column)
    if skipped := tuple(number for number, cells in rows if _resumes(cells[1:])):
        yield Problem(
            "warning",
            endpoint.column,
            "an outcome comes after a visit that was missed, and is not used",
            "Check that the visit was missed, and not left out of the table.",
            skipped,
        )


def _beyond(table: Table, endpoint: TrialEndpoint, column: str) -> Iterator[Problem]:
    low, high = endpoint.range
    numbers = [(number, number_of(cell)) for number, cell in cells_of(table, column)]
    rows = tuple(number for number, value in numbers if value is not None and (value < low or value > high))
    if rows:
        yield Problem(
            "warning",
            column,
            f"an outcome lies outside the public range {low:g} to {high:g}, and counts as its end",
            f"Check the unit ({endpoint.unit}); if it is right, tell the researcher that the range is narrow.",
            rows,
        )


def _resumes(visits: Sequence[str]) -> bool:
    """Say whether an outcome follows one that is missing."""
    blank = [is_blank(cell) for cell in visits]
    return any(missing and not later for missing, later in pairwise(blank))
