"""The endpoint of a randomised trial: which arm a patient is in, and an outcome at one visit or several.

The table has one row for each patient and a column for each visit. The outcome is a change from baseline or a final
value, whichever the column holds; the effect of an arm is the same, as long as the baseline is among the features. A
change has the narrower range, and so the smaller noise.

Rules, alike at every site: a patient whose arm is blank or another word is not in the trial; nor is one without the
first visit's outcome; a visit after one that was missed is not used; an outcome outside the range counts as the end of
the range that is nearer.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedhealth.study.part import NARROWEST_RANGE, Column, Part, Real, Text

_NARROWEST = 1e-9
"""Width of a range, relative to its farther end: in a narrower one, rounding alone moves a scaled outcome."""


class Arm(Part):
    """One arm.

    Attributes:
        word: as spelled in the data set.
        dose: for a dose response; of all arms or of none.
    """

    word: Column
    dose: Real | None = None


class TrialEndpoint(Part):
    """The outcome of a randomised trial, compared between its arms.

    Attributes:
        arm_column: names each patient's arm.
        arms: of the trial; the first is the control.
        outcomes: a column for each visit, earliest first; the last is what the trial is judged by.
        range: lowest and highest outcome that count.
        unit: of the outcome, for people.
        measures: what the outcome is, in words.
        better: which outcomes are better.
        dose_unit: for people; where the arms have doses.
        restated_by: columns that say the same in other words; none of them may be a feature.
    """

    kind: Literal["trial"]
    arm_column: Column
    arms: Annotated[tuple[Arm, ...], Field(min_length=2, max_length=20)]
    outcomes: Annotated[tuple[Column, ...], Field(min_length=1, max_length=20)]
    range: tuple[Real, Real]
    unit: Text
    measures: Text
    better: Literal["lower", "higher"]
    dose_unit: Text | None = None
    restated_by: tuple[Column, ...] = ()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        low, high = self.range
        if not low < high:
            raise ValueError(f"range of the outcome is [{low}, {high}], wanted the lower value first")
        if not math.isfinite(high - low) or not math.isfinite(low + high):
            raise ValueError("range of the outcome is wider, or farther from 0, than a number can say")
        if high - low < max(NARROWEST_RANGE, _NARROWEST * max(abs(low), abs(high))):
            raise ValueError(f"range of the outcome is [{low}, {high}], too narrow to tell outcomes apart")
        words, doses = [arm.word for arm in self.arms], [arm.dose for arm in self.arms]
        if len(set(words)) != len(words):
            raise ValueError("arms repeat a word")
        if len({self.arm_column, *self.outcomes}) != 1 + len(self.outcomes):
            raise ValueError("arm_column and outcomes name a column twice")
        if any(dose is None for dose in doses) != all(dose is None for dose in doses):
            raise ValueError("some arms have a dose and some have none, wanted all or none")
        if (doses[0] is None) != (self.dose_unit is None):
            raise ValueError("dose_unit and the arms' doses go together")
        if doses[0] is not None and len(set(doses)) == 1:
            raise ValueError("all arms have the same dose")
        return self

    @property
    def column(self) -> str:
        """The column that the trial is judged by."""
        return self.outcomes[-1]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a record's label is read from: the arm, then the visits."""
        return (self.arm_column, *self.outcomes)

    @property
    def number_columns(self) -> tuple[str, ...]:
        """Those in which a cell must be a number or blank."""
        return self.outcomes

    @property
    def words(self) -> dict[str, frozenset[str]]:
        """The words that the study knows in the others."""
        return {self.arm_column: frozenset(arm.word for arm in self.arms)}

    @property
    def label_width(self) -> int:
        """Number of numbers that a label has: the arm's place, the number of visits, and the outcome at each visit."""
        return 2 + len(self.outcomes)

    @property
    def outcome(self) -> str:
        """What is compared, in words."""
        return self.measures

    @property
    def half_range(self) -> float:
        """Half the width of the range: what 1 is of a scaled outcome, in the outcome's unit."""
        return (self.range[1] - self.range[0]) / 2

    @property
    def middle(self) -> float:
        """The middle of the range: what 0 is of a scaled outcome."""
        return (self.range[0] + self.range[1]) / 2

    def scaled(self, outcome: float) -> float:
        """Return an outcome scaled from the range to [-1, 1], and clamped there; NaN stays NaN."""
        if math.isnan(outcome):
            return outcome
        low, high = self.range
        return (min(max(outcome, low), high) - self.middle) / self.half_range
