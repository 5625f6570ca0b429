"""The time to an event: the columns it is read from, and the public grid on which time is looked at."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedhealth.study.part import Column, Part, Real, Text


class SurvivalEndpoint(Part):
    """The time to an event, of patients of whom some were not followed until it.

    A record is not in the study where the event column has another word, or the time is blank or below 0; an approval
    is refused while there is a time below 0, and no message of a later run depends on one. Follow-up is looked at up to
    the end of the last interval: who is free of the event then counts as free.

    Attributes:
        column: says how follow-up ended.
        event_words: the words that mean: with the event; spelled as in the data set.
        censored_words: the words that mean: without it.
        event: what it is, in words.
        time_column: how long the patient was followed.
        time_unit: for people.
        interval_ends: end of each interval of the time grid, ascending; the last is the horizon. Hazards are constant
            within an interval, and an evaluation tells intervals, not times.
        expected_share: which share of patients may have the event by the horizon, from public knowledge; training
            starts there.
        restated_by: columns that say the same in other words; none of them may be a feature.
    """

    kind: Literal["survival"]
    column: Column
    event_words: Annotated[tuple[Column, ...], Field(min_length=1, max_length=1000)]
    censored_words: Annotated[tuple[Column, ...], Field(min_length=1, max_length=1000)]
    event: Text
    time_column: Column
    time_unit: Text
    interval_ends: Annotated[tuple[Annotated[Real, Field(gt=0)], ...], Field(min_length=1, max_length=100)]
    expected_share: Annotated[float, Field(gt=0, lt=1)]
    restated_by: tuple[Column, ...] = ()

    @model_validator(mode="after")
    def _words_and_columns_differ_and_time_goes_on(self) -> Self:
        words = self.event_words + self.censored_words
        if len(set(words)) != len(words):
            raise ValueError(f"words of '{self.column}' repeat one")
        if self.column == self.time_column:
            raise ValueError(f"column and time_column are both '{self.column}'")
        if list(self.interval_ends) != sorted(set(self.interval_ends)):
            raise ValueError("interval_ends do not ascend")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a record's label is read from: how follow-up ended, and after what time."""
        return (self.column, self.time_column)

    @property
    def number_columns(self) -> tuple[str, ...]:
        """Those in which a cell must be a number or blank."""
        return (self.time_column,)

    @property
    def words(self) -> dict[str, frozenset[str]]:
        """The words that the study knows in the others."""
        return {self.column: frozenset(self.event_words + self.censored_words)}

    @property
    def label_width(self) -> int:
        """Number of numbers that a label has: 1.0 for the event by the horizon, else 0.0, and the time up to it."""
        return 2

    @property
    def outcome(self) -> str:
        """What is predicted, in words."""
        return self.event

    @property
    def horizon(self) -> float:
        """End of the last interval: nothing after it is looked at."""
        return self.interval_ends[-1]
