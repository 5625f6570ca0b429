"""What is predicted or compared: the kinds of endpoint, each with the columns it is read from.

How cells become a label is in `fedhealth.records.cells`; how a model is judged by it, in
`fedhealth.learning.outcomes`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedhealth.study.diagnosis_endpoints import ClassesEndpoint, NumberEndpoint
from fedhealth.study.part import Column, Part, Real, Text
from fedhealth.study.survival_endpoint import SurvivalEndpoint
from fedhealth.study.trial_endpoint import TrialEndpoint


class BinaryEndpoint(Part):
    """Yes or no, read from a number: yes when it is above a threshold.

    Attributes:
        column: name of the column in the data set; a patient without a value is not in the study.
        positive_above: the patient has the condition when the value is greater than this.
        positive: what yes means, in words.
        restated_by: columns that say the same in other words; none of them may be a feature.
    """

    kind: Literal["binary"]
    column: Column
    positive_above: Real
    positive: Text
    restated_by: tuple[Column, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that hold the outcome; a record's label is read from all of them."""
        return (self.column,)

    @property
    def number_columns(self) -> tuple[str, ...]:
        """Those in which a cell must be a number or blank."""
        return (self.column,)

    @property
    def words(self) -> dict[str, frozenset[str]]:
        """The words that the study knows in the others."""
        return {}

    @property
    def label_width(self) -> int:
        """Number of numbers that a record's label has."""
        return 1

    @property
    def outcome(self) -> str:
        """What is predicted, in words."""
        return self.positive


class CategoryEndpoint(Part):
    """Yes or no, read from a word.

    Attributes:
        column: name of the column in the data set; a patient without a value is not in the study.
        positive_categories: the words that mean yes, spelled as in the data set.
        negative_categories: the words that mean no; with any other word, the record is left out.
        positive: what yes means, in words.
        restated_by: columns that say the same in other words; none of them may be a feature.
    """

    kind: Literal["category"]
    column: Column
    positive_categories: Annotated[tuple[Column, ...], Field(min_length=1, max_length=1000)]
    negative_categories: Annotated[tuple[Column, ...], Field(min_length=1, max_length=1000)]
    positive: Text
    restated_by: tuple[Column, ...] = ()

    @model_validator(mode="after")
    def _categories_differ(self) -> Self:
        words = self.positive_categories + self.negative_categories
        if len(set(words)) != len(words):
            raise ValueError(f"categories of '{self.column}' repeat a word")
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
        return {self.column: frozenset(self.positive_categories + self.negative_categories)}

    @property
    def label_width(self) -> int:
        """As of `BinaryEndpoint`."""
        return 1

    @property
    def outcome(self) -> str:
        """As of `BinaryEndpoint`."""
        return self.positive


Endpoint = Annotated[
    BinaryEndpoint | CategoryEndpoint | ClassesEndpoint | NumberEndpoint | SurvivalEndpoint | TrialEndpoint,
    Field(discriminator="kind"),
]
