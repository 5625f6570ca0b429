"""What a model looks at, and who is in the cohort: features and conditions, with public ranges and words."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedhealth.study.images import ImageFeature
from fedhealth.study.molecules import MoleculeFeature
from fedhealth.study.part import NARROWEST_RANGE, Column, Part, Real, Text


class NumberFeature(Part):
    """A measured quantity, scaled linearly from its public range to [-1, 1] and clamped there.

    Attributes:
        column: name of the column in the data set.
        unit: for people.
        range: lowest and highest value that count; values outside are clamped, at every site alike.
        missing_values: numbers that mean "not measured", beside blank cells.
        missing: what becomes of a record without the value: another is put in its place ("impute"), or the record is
            not in the study ("exclude").
        impute: the value put in place of a missing one, within the range.
        missing_indicator: add a feature that is 1 where the value was missing, else 0.
    """

    kind: Literal["number"]
    column: Column
    unit: Text
    range: tuple[Real, Real]
    missing_values: tuple[Real, ...] = ()
    missing: Literal["impute", "exclude"] = "impute"
    impute: Real | None = None
    missing_indicator: bool = False

    @model_validator(mode="after")
    def _missing_has_one_rule(self) -> Self:
        if self.missing == "impute" and self.impute is None:
            raise ValueError(f"'{self.column}' has no impute, wanted one, or missing = \"exclude\"")
        if self.missing == "exclude" and (self.impute is not None or self.missing_indicator):
            raise ValueError(f"'{self.column}' excludes records without a value, wanted no impute, no indicator")
        return self

    @model_validator(mode="after")
    def _range_runs_upwards(self) -> Self:
        low, high = self.range
        if not low < high:
            raise ValueError(f"range of '{self.column}' is [{low}, {high}], wanted the lower value first")
        if not math.isfinite(high - low):
            raise ValueError(f"range of '{self.column}' is wider than a number can say")
        if high - low < NARROWEST_RANGE:
            raise ValueError(f"range of '{self.column}' is narrower than a number can scale")
        if self.impute is not None and not low <= self.impute <= high:
            raise ValueError(f"impute of '{self.column}' is {self.impute}, wanted a value within [{low}, {high}]")
        return self

    @property
    def width(self) -> int:
        """Number of model inputs this feature becomes."""
        return 1 + self.missing_indicator


class CategoryFeature(Part):
    """A closed list of words, one model input each (1 or 0).

    Attributes:
        column: name of the column in the data set.
        categories: the words, spelled as in the data set. Another word counts as missing and is reported locally.
        missing: what becomes of a record without one of the words: all inputs are 0 ("zeros"), or the record is not in
            the study ("exclude").
        missing_indicator: add a feature that is 1 where the value was missing, else 0.
    """

    kind: Literal["category"]
    column: Column
    categories: Annotated[tuple[Column, ...], Field(min_length=1, max_length=1000)]
    missing: Literal["zeros", "exclude"] = "zeros"
    missing_indicator: bool = False

    @model_validator(mode="after")
    def _categories_differ(self) -> Self:
        if len(set(self.categories)) != len(self.categories):
            raise ValueError(f"categories of '{self.column}' repeat a word")
        if self.missing == "exclude" and self.missing_indicator:
            raise ValueError(f"'{self.column}' excludes records without a value, wanted no indicator")
        return self

    @property
    def width(self) -> int:
        """Number of model inputs this feature becomes."""
        return len(self.categories) + self.missing_indicator


Feature = Annotated[NumberFeature | CategoryFeature | MoleculeFeature | ImageFeature, Field(discriminator="kind")]


class NumberCondition(Part):
    """A record is in the cohort when a number lies in a range, ends included; a blank does not.

    Attributes:
        column: name of the column in the data set.
        range: lowest and highest value.
    """

    kind: Literal["number"]
    column: Column
    range: tuple[Real, Real]

    @model_validator(mode="after")
    def _range_runs_upwards(self) -> Self:
        low, high = self.range
        if not low <= high:
            raise ValueError(f"range of '{self.column}' is [{low}, {high}], wanted the lower value first")
        return self


class CategoryCondition(Part):
    """A record is in the cohort when a word is one of a list; a blank is not.

    Attributes:
        column: name of the column in the data set.
        any_of: the words, spelled as in the data set.
    """

    kind: Literal["category"]
    column: Column
    any_of: Annotated[tuple[Column, ...], Field(min_length=1, max_length=1000)]


Condition = Annotated[NumberCondition | CategoryCondition, Field(discriminator="kind")]
