"""What a cell of a table says: a number, an outcome, whether a record is in the cohort; by one cell alone.

A cell is text, whatever the data set is kept in (`fedhealth.records.source`). What is neither blank nor a number that
every program reads alike is unreadable (NaN), never guessed at.
"""

import math
import re
from collections.abc import Sequence

from fedhealth.study.diagnosis_endpoints import ClassesEndpoint, NumberEndpoint
from fedhealth.study.endpoints import CategoryEndpoint, Endpoint
from fedhealth.study.features import CategoryCondition, Condition
from fedhealth.study.survival_endpoint import SurvivalEndpoint
from fedhealth.study.trial_endpoint import TrialEndpoint

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_BLANKS = frozenset({"", "na", "nan", "null", "none", "?"})


def label_of(endpoint: Endpoint, cells: Sequence[str]) -> tuple[float, ...] | None:
    """Return a record's label, `endpoint.label_width` numbers; None where it has no outcome and is not in the study.

    Yes is 1.0 and no is 0.0, a class its place in the protocol's list, a quantity scaled to [-1, 1]; NaN where a cell
    is unreadable. Of a trial, the place of the arm, the number of visits before one that was missed, and the outcome at
    each visit, scaled to [-1, 1], 0 after the last. Of survival, whether the event came by the horizon, and the time
    until it or until the end of follow-up, at most the horizon.

    Args:
        endpoint: what the label is.
        cells: those of `endpoint.columns`, in that order.
    """
    if isinstance(endpoint, TrialEndpoint):
        return _trial_label(endpoint, *cells)
    if isinstance(endpoint, SurvivalEndpoint):
        return _survival_label(endpoint, *cells)
    if isinstance(endpoint, CategoryEndpoint):
        if cells[0] in endpoint.positive_categories:
            return (1.0,)
        return (0.0,) if cells[0] in endpoint.negative_categories else None
    if isinstance(endpoint, ClassesEndpoint):
        return (float(endpoint.classes.index(cells[0])),) if cells[0] in endpoint.classes else None
    outcome = number_of(cells[0])
    if outcome is None or math.isnan(outcome):
        return None if outcome is None else (outcome,)
    if isinstance(endpoint, NumberEndpoint):
        return None if outcome in endpoint.missing_values else (scaled(outcome, endpoint.range),)
    return (float(outcome > endpoint.positive_above),)


def scaled(value: float, public_range: tuple[float, float]) -> float:
    """Return a value scaled linearly from a public range to [-1, 1] and clamped there; NaN stays NaN."""
    if math.isnan(value):
        return value
    low, high = public_range
    return 2 * (min(max(value, low), high) - low) / (high - low) - 1


def _trial_label(endpoint: TrialEndpoint, arm: str, *visits: str) -> tuple[float, ...] | None:
    """Return the place of the arm, the number of visits before one that was missed, and each visit's scaled outcome."""
    places = {each.word: place for place, each in enumerate(endpoint.arms)}
    outcomes = []
    for value in map(number_of, visits):
        if value is None:
            break
        outcomes.append(endpoint.scaled(value))
    if arm not in places or not outcomes:
        return None
    return (float(places[arm]), float(len(outcomes)), *outcomes, *[0.0] * (len(visits) - len(outcomes)))


def is_before_follow_up(endpoint: Endpoint, column: str, cell: str) -> bool:
    """Say whether a cell of a column says that follow-up ended before it began."""
    value = number_of(cell)
    at_risk = isinstance(endpoint, SurvivalEndpoint) and column == endpoint.time_column
    return at_risk and value is not None and value < 0


def _survival_label(endpoint: SurvivalEndpoint, ended: str, time: str) -> tuple[float, ...] | None:
    happened, value = ended in endpoint.event_words, number_of(time)
    known = happened or ended in endpoint.censored_words
    if not known or value is None or value < 0:
        return None
    if math.isnan(value):
        return (value, value)
    return (float(happened and value <= endpoint.horizon), min(value, endpoint.horizon))


def meets(condition: Condition, cell: str) -> bool:
    """Say whether a record meets a condition of the cohort; an unreadable cell does not."""
    if isinstance(condition, CategoryCondition):
        return cell in condition.any_of
    value = number_of(cell)
    return value is not None and condition.range[0] <= value <= condition.range[1]


def is_blank(cell: str) -> bool:
    """Say whether a cell holds nothing, or one of the words for nothing."""
    return cell.lower() in _BLANKS


def is_text(cell: str) -> bool:
    """Say whether a cell has no byte that was not UTF-8; such a byte is kept as half of a surrogate pair."""
    return cell.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in cell)


def is_unreadable(cell: str) -> bool:
    """Say whether a cell of a column of numbers holds something else."""
    value = number_of(cell)
    return value is not None and math.isnan(value)


def number_of(cell: str) -> float | None:
    """Return the number in a cell, None where it is blank, NaN where it is unreadable or not finite."""
    if is_blank(cell):
        return None
    value = float(cell) if _NUMBER.fullmatch(cell) else math.nan
    return value if math.isfinite(value) else math.nan
