"""What a trial's release holds: sums over randomised patients, each with its share of the signal. Torch-free.

A patient is in one group, by the last visit before one that was missed, and in one arm. To the sums of that group the
patient adds 1 to the count of the arm, each column's value to the arm's sum of that column, and the product of each
pair of columns. A column is a covariate or an outcome, scaled from its public range to [-1, 1], so that no term
measures more than 1; each is multiplied by the root of its share, and the shares of a group add up to 1. So a patient's
vector measures at most 1, which is what the mechanism clips to: nothing is ever clipped.

A product of two arms is 0 or a count, and is not sent; products of columns are not told apart by arm, because the
models' slopes are the same in all arms. Most of the signal is the outcomes' sums: their noise is what an effect
carries. Of a category feature the first word is what the others are compared with, and has no column.

Both ends derive the lines from the protocol alone: the gate fills them, the coordinator reads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.lines import Line
from fedhealth.metrics.moment_regression import Moments
from fedhealth.study.features import CategoryFeature
from fedhealth.study.images import ImageFeature
from fedhealth.study.molecules import MoleculeFeature
from fedhealth.study.protocol import Study
from fedhealth.study.trial_endpoint import TrialEndpoint

COUNTS, COVARIATE_SUMS, OUTCOME_SUMS = 0.16, 0.05, 0.58
COVARIATE_PRODUCTS, MIXED_PRODUCTS, OUTCOME_PRODUCTS = 0.05, 0.06, 0.10
"""Parts of the squared signal, each divided evenly among its lines; where a part has none, the others share it."""


@dataclass(frozen=True)
class Group:
    """Patients who were observed up to one visit, and what is summed over them.

    Attributes:
        name: of the visit; "" where there is one only.
        arms: the words of the arms.
        covariates: names of the columns that are no outcomes.
        outcomes: names of those that are, up to the visit.
    """

    name: str
    arms: tuple[str, ...]
    covariates: tuple[str, ...]
    outcomes: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, covariates first."""
        return self.covariates + self.outcomes

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Places of the columns whose products are summed."""
        places = range(len(self.columns))
        return tuple((one, other) for one in places for other in places[one:])

    def lines(self) -> tuple[Line, ...]:
        """Return what is released of the group: counts, sums of each column, sums of products."""
        lines = [Line(self._named("patients"), self._share_of(()), self._cells(""))]
        for place, column in enumerate(self.columns):
            lines.append(Line(self._named(f"sum of {column}"), self._share_of((place,)), self._cells(column)))
        for pair in self.pairs:
            name = self._named(f"sum of {self.columns[pair[0]]} x {self.columns[pair[1]]}")
            lines.append(Line(name, self._share_of(pair), (name,)))
        return tuple(lines)

    def vectors(self, arms: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what each patient adds, shape (patients, cells of all lines); a row is its own patient's alone.

        Args:
            arms: place of each patient's arm.
            values: of the columns, shape (patients, columns), within [-1, 1].
        """
        rows, weights = np.arange(len(arms)), [line.weight for line in self.lines()]
        width, cells = len(self.arms), sum(len(line.cells) for line in self.lines())
        vectors = np.zeros((len(arms), cells))
        vectors[rows, arms] = weights[0]
        for place in range(len(self.columns)):
            vectors[rows, width * (1 + place) + arms] = weights[1 + place] * values[:, place]
        start = width * (1 + len(self.columns))
        for number, (one, other) in enumerate(self.pairs):
            vectors[:, start + number] = weights[1 + len(self.columns) + number] * (values[:, one] * values[:, other])
        return vectors

    def moments(self, counts: Mapping[str, float]) -> Moments:
        """Return the sums of a site, from the noisy counts by their cells."""
        return self._moments([[counts[cell] for cell in line.cells] for line in self.lines()])

    def variance(self, noise: Mapping[str, float]) -> Moments:
        """Return the variance of the noise on each sum, from its standard deviation by the names of the lines."""
        return self._moments([[noise[line.name] ** 2] * len(line.cells) for line in self.lines()])

    def _moments(self, by_line: Sequence[Sequence[float]]) -> Moments:
        columns = len(self.columns)
        products = np.zeros((columns, columns))
        for (one, other), (value,) in zip(self.pairs, by_line[1 + columns :], strict=True):
            products[one, other] = products[other, one] = value
        return Moments(
            counts=np.array(by_line[0]),
            sums=np.array(by_line[1 : 1 + columns]).reshape(columns, len(self.arms)).T,
            products=products,
        )

    def _named(self, what: str) -> str:
        return f"up to {self.name}: {what}" if self.name else what

    def _cells(self, column: str) -> tuple[str, ...]:
        return tuple(self._named(f"{arm}, sum of {column}" if column else arm) for arm in self.arms)

    def _share_of(self, columns: tuple[int, ...]) -> float:
        """Return the share of a count, of a sum of a column or of one of products, by the columns it is of."""
        covariates, outcomes = len(self.covariates), len(self.outcomes)
        parts = {
            (0, 0): (COUNTS, 1),
            (1, 0): (COVARIATE_SUMS, covariates),
            (0, 1): (OUTCOME_SUMS, outcomes),
            (2, 0): (COVARIATE_PRODUCTS, covariates * (covariates + 1) // 2),
            (1, 1): (MIXED_PRODUCTS, covariates * outcomes),
            (0, 2): (OUTCOME_PRODUCTS, outcomes * (outcomes + 1) // 2),
        }
        of_outcomes = sum(column >= covariates for column in columns)
        share, among = parts[len(columns) - of_outcomes, of_outcomes]
        return share / among / sum(part for part, number in parts.values() if number)


def groups_of(study: Study, endpoint: TrialEndpoint) -> tuple[Group, ...]:
    """Return the groups of a trial's patients: observed at the first visit alone, up to the second, and so on."""
    visits, arms = endpoint.outcomes, tuple(arm.word for arm in endpoint.arms)
    covariates = tuple(name for name, _ in covariates_of(study))
    return tuple(
        Group(visits[last] if len(visits) > 1 else "", arms, covariates, visits[: last + 1])
        for last in range(len(visits))
    )


def covariates_of(study: Study) -> tuple[tuple[str, int], ...]:
    """Return the name of each covariate, and its place among the model's inputs."""
    found, start = list[tuple[str, int]](), 0
    for feature in study.features:
        if isinstance(feature, CategoryFeature):
            names = ["", *(f"{feature.column}={word}" for word in feature.categories[1:])]
        elif isinstance(feature, MoleculeFeature):
            hashed = sum(each.size for each in feature.fingerprints)
            names = [f"{feature.column}: fingerprint {number}" for number in range(1, hashed + 1)]
            names += [f"{feature.column}: {each.name}" for each in feature.descriptors]
        elif isinstance(feature, ImageFeature):
            names = [f"{feature.column}: {name}" for name in feature.inputs.names(feature.shape)]
        else:
            names = [feature.column]
        names += [f"{feature.column} missing"] * feature.missing_indicator
        found += [(name, place) for place, name in enumerate(names, start) if name]
        start += feature.width
    return tuple(found)
