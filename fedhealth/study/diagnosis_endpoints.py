"""What a diagnosis may tell beside yes and no: which of several classes a patient is in, or a quantity.

How cells become a label is in `fedhealth.records.cells`; how a model is judged by it, in
`fedhealth.learning.outcomes`.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedhealth.study.part import NARROWEST_RANGE, Column, Part, Real, Share, Text


class ClassesEndpoint(Part):
    """One of several classes, read from a word.

    A record without a value, or with a word that is not among the classes, is not in the study. A patient whose records
    name several classes is in the last of them, in the order of this list: of grades, the highest.

    Attributes:
        column: name of the column in the data set.
        classes: the words, spelled as in the data set; with two, take kind "category".
        outcome: what the classes are of, in words.
        restated_by: columns that say the same in other words; none of them may be a feature.
    """

    kind: Literal["classes"]
    column: Column
    classes: Annotated[tuple[Column, ...], Field(min_length=3, max_length=50)]
    outcome: Text
    restated_by: tuple[Column, ...] = ()

    @model_validator(mode="after")
    def _classes_differ(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes of '{self.column}' repeat a word")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """As of `BinaryEndpoint`."""
        return (self.column,)

    @property
    def number_columns(self) -> tuple[str, ...]:
        """As of `BinaryEndpoint`."""
        return ()

    @property
    def words(self) -> dict[str, frozenset[str]]:
        """As of `BinaryEndpoint`."""
        return {self.column: frozenset(self.classes)}

    @property
    def label_width(self) -> int:
        """As of `BinaryEndpoint`: the place of the class, from 0."""
        return 1


class NumberEndpoint(Part):
    """A quantity, scaled linearly from its public range to [-1, 1] and clamped there.

    A record without a value is not in the study. A patient with several records has their mean.

    Attributes:
        column: name of the column in the data set.
        unit: for people.
        range: lowest and highest value that count; values outside are clamped, at every site alike.
        missing_values: numbers that mean "not measured", beside blank cells.
        outcome: what it is, in words.
        restated_by: columns that say the same in other words; none of them may be a feature.
    """

    kind: Literal["number"]
    column: Column
    unit: Text
    range: tuple[Real, Real]
    missing_values: tuple[Real, ...] = ()
    outcome: Text
    restated_by: tuple[Column, ...] = ()

    @model_validator(mode="after")
    def _range_runs_upwards(self) -> Self:
        low, high = self.range
        if not low < high or not math.isfinite(high - low):
            raise ValueError(f"range of '{self.column}' is [{low}, {high}], wanted the lower value first")
        if high - low < NARROWEST_RANGE:
            raise ValueError(f"range of '{self.column}' is narrower than a number can scale")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """As of `BinaryEndpoint`."""
        return (self.column,)

    @property
    def number_columns(self) -> tuple[str, ...]:
        """As of `BinaryEndpoint`."""
        return (self.column,)

    @property
    def words(self) -> dict[str, frozenset[str]]:
        """As of `BinaryEndpoint`."""
        return {}

    @property
    def label_width(self) -> int:
        """As of `BinaryEndpoint`: the value, scaled."""
        return 1

    @property
    def half_range(self) -> float:
        """One of a model's output in the endpoint's unit."""
        return (self.range[1] - self.range[0]) / 2


class Errors(Part):
    """How a model of a quantity is judged: a histogram of its errors, and one of the quantity itself.

    Attributes:
        share: of the evaluation's budget, for the errors; what is left is for the quantity, from whose spread the share
            explained follows. 1 leaves that out.
        largest: an error beyond counts as so large, in the endpoint's unit; half the range if not given. What is
            stated carries noise in proportion to it.
        steps: of the histogram from no error to the largest. More hide less, and carry more noise.
    """

    share: Share = 0.7
    largest: Annotated[Real, Field(gt=0)] | None = None
    steps: Annotated[int, Field(ge=2, le=50)] = 5
