"""A figure of the evidence, stated or withheld, and a table of such figures for any kind of endpoint. Torch-free.

A figure is withheld where its interval is wider than the protocol's `too_wide`, or where the noise leaves nothing to
say; that too is decided from noisy counts alone.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from fedhealth.metrics.estimate import Estimate


class FigurePart(BaseModel):
    """A part of what an evaluation says: frozen, and without fields that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(FigurePart):
    """One metric: an estimate with its 95 % interval, or nothing because too few patients stand behind it."""

    estimate: float | None
    low: float | None
    high: float | None
    withheld: Literal["too few patients to say"] | None = None


class EffectFigure(Figure):
    """A difference between groups of patients, with its interval in two parts.

    Attributes:
        sampling_half_width: half the interval if there were no noise; the chance of other patients.
        noise_half_width: half the interval of what would have been estimated from the same patients without noise.
        p_value: two-sided, of no difference, from both parts; below 0.05 exactly where the interval leaves out 0.
    """

    sampling_half_width: float | None
    noise_half_width: float | None
    p_value: float | None


class FigureRow(FigurePart):
    """One line of a table of figures.

    Attributes:
        group: a heading that several rows may have in common.
        name: of the figure.
        unit: "share" for what is shown in percent, "" for a bare number, else the unit in words.
        meaning: what it says, in a sentence for a clinician.
        figure: stated or withheld.
    """

    group: str
    name: str
    unit: str
    meaning: str
    figure: Figure | EffectFigure


class FigureTable(FigurePart):
    """All that is said of an endpoint that has no form of its own.

    Attributes:
        rows: at least one; the first is the headline.
    """

    rows: tuple[FigureRow, ...]

    @property
    def headline(self) -> FigureRow:
        """The figure that is shown first."""
        return self.rows[0]

    def named(self) -> tuple[FigureRow, ...]:
        """Return all rows."""
        return self.rows


def percentage_points(share: float) -> str:
    """Return a difference of shares in words: "15 percentage points"."""
    return f"{100 * share:.3g} percentage points"


def figure_of(found: Estimate | None, too_wide: float) -> Figure:
    """Return an estimate as a figure, withheld if its half-interval is wider than `too_wide` or there is none."""
    if found is None or found.half_width > too_wide:
        return Figure(estimate=None, low=None, high=None, withheld="too few patients to say")
    return Figure(estimate=found.estimate, low=found.low, high=found.high)
