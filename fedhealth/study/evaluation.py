"""How a protocol has its result measured: the lines of the one noised vector, and the share of the signal each has.

Which lines an endpoint can have is checked by the study, which knows both; how they are filled and what they say is in
`fedhealth.learning.outcomes`.
"""

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from fedhealth.study.diagnosis_endpoints import Errors
from fedhealth.study.part import Column, Part, Share


class Scores(Part):
    """A histogram of the predicted chance, for ill and well patients apart.

    Attributes:
        share: of the evaluation's budget.
        bins: number of bins of equal width over [0, 1]; even, so that 0.5 is an edge. More show more detail of a
            calibration curve, and carry more noise.
    """

    share: Share = 0.5
    bins: Annotated[int, Field(ge=2, le=100, multiple_of=2)] = 10


class Subgroups(Part):
    """A confusion table for each word of some category features.

    Attributes:
        share: of the evaluation's budget, divided evenly among the columns.
        columns: category features of the study.
    """

    share: Share
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=20)]


class SurvivalLines(Part):
    """How the risk of an event is judged: the order in which events come, and their number in groups of risk.

    Attributes:
        histogram: share of the counts by bin of predicted risk and by interval: the concordance index.
        observed: share of the events in each group of risk.
        expected: share of the events that the model expected of the same patients.
        risk_edges: predicted risks by the horizon between which bins lie, ascending, from public knowledge of how high
            risks are. More hide less of the order, and carry more noise.
        group_edges: those of them that bound the groups in which observed events are compared with expected ones.
    """

    histogram: Share = 0.6
    observed: Share = 0.2
    expected: Share = 0.2
    risk_edges: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1, max_length=50)]
    group_edges: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _shares_add_up_and_edges_ascend(self) -> Self:
        total = self.histogram + self.observed + self.expected
        if not math.isclose(total, 1, rel_tol=1e-9):
            raise ValueError(f"shares of histogram, observed and expected add up to {total:g}, wanted 1")
        for name, edges in (("risk_edges", self.risk_edges), ("group_edges", self.group_edges)):
            if list(edges) != sorted(set(edges)):
                raise ValueError(f"{name} do not ascend")
        if not set(self.group_edges) <= set(self.risk_edges):
            raise ValueError("group_edges has what is not among risk_edges")
        return self


class Evaluation(Part):
    """How the result is measured, once, on patients the model has never seen.

    What is released has up to three lines, which divide `evaluation_epsilon` between them: a line's share is its part
    of the squared signal, so its noise is 1 / sqrt(share) as large as if it were alone. The shares add up to 1.

    Attributes:
        held_out_fraction: the share of patients kept from training; membership is decided for each patient alone. 1
            where nothing is trained.
        too_wide: no figure is published where its 95 % interval is wider than this to each side.
        each_site: state the figures of each hospital too, beside those over all of them.
        table: share of the confusion table: accuracy, sensitivity, specificity.
        scores: the line of AUC, calibration, Brier score and net benefit; None leaves it out.
        subgroups: the line of accuracy within groups of patients; None leaves it out.
        survival: the lines of an endpoint of kind 'survival', which has no others.
        errors: how an endpoint of kind 'number' is judged; None is `Errors` as it is without being given.
    """

    held_out_fraction: Annotated[float, Field(gt=0, le=1)]
    too_wide: Annotated[float, Field(gt=0, le=0.5)] = 0.15
    each_site: bool = False
    table: Share = 0.5
    scores: Scores | None = Scores()
    subgroups: Subgroups | None = None
    survival: SurvivalLines | None = None
    errors: Errors | None = None

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        shares = [self.table] + [line.share for line in (self.scores, self.subgroups) if line is not None]
        if not math.isclose(sum(shares), 1, rel_tol=1e-9):
            raise ValueError(f"shares of table, scores and subgroups add up to {sum(shares):g}, wanted 1")
        return self
