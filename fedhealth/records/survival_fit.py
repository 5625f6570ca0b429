"""Whether follow-up in a table is fit for a study of survival; for the administrator, at approval.

A hospital where nobody has the event can take part; it would add noise and nothing else, and a baseline of its own
would rest on noise alone. That is for the administrator to decide, who sees it; the coordinator is never told.
"""

from collections.abc import Iterator

from fedhealth.records.cells import is_before_follow_up, label_of, meets
from fedhealth.records.columns import Problem, cells_of
from fedhealth.records.table import Table
from fedhealth.study.protocol import Study
from fedhealth.study.survival_endpoint import SurvivalEndpoint

_FEW_EVENTS = 5


def find_follow_up_problems(table: Table, study: Study) -> tuple[Problem, ...]:
    """Return what is wrong with the times and endings of a table; nothing where the study has another endpoint.

    Args:
        table: the whole table; nothing is said where it lacks a column.
        study: its endpoint and cohort are looked at.
    """
    return tuple(_problems(table, study))


def _problems(table: Table, study: Study) -> Iterator[Problem]:
    endpoint = study.endpoint
    wanted = {*endpoint.columns, *(each.column for each in study.include)}
    if not isinstance(endpoint, SurvivalEndpoint) or not wanted <= set(table.columns):
        return
    time = endpoint.time_column
    if before := tuple(line for line, cell in cells_of(table, time) if is_before_follow_up(endpoint, time, cell)):
        yield Problem("error", time, "follow-up that ended before it began", "Correct the cells, or the dates.", before)
    place = {column: table.columns.index(column) for column in wanted}
    labels = [
        label_of(endpoint, [row[place[column]] for column in endpoint.columns])
        for _, row in table.rows
        if all(meets(each, row[place[each.column]]) for each in study.include)
    ]
    happened = [label[0] > 0 for label in labels if label is not None]
    events = sum(happened)
    if not happened:
        yield Problem("warning", endpoint.column, "nobody has a time and an ending", "Ask whether to take part.")
    elif events < _FEW_EVENTS:
        few = "nobody has" if not events else f"fewer than {_FEW_EVENTS} have"
        yield Problem(
            "warning",
            endpoint.column,
            f"{few} the event by the horizon: this hospital would add little but noise",
            "Compare the words and the unit of time with the protocol's; then decide whether to take part.",
        )
    elif events == len(happened):
        yield Problem(
            "warning",
            endpoint.column,
            "everybody has the event by the horizon, and nobody's follow-up ended without it",
            "Compare the words with the protocol's.",
        )
