"""What the sums of a trial say, in the outcome's unit: effects of the arms, with intervals, and the arms' means.

A figure is withheld where its half-interval is wider than `too_wide` of the width of the outcome's range, where an arm
has no clearly positive number of patients, or where the sums do not determine the model; that is decided from noisy
sums alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.figures import EffectFigure, FigureRow, FigureTable, figure_of
from fedhealth.learning.trial_moments import Group
from fedhealth.metrics.effect import Effect, effects_of
from fedhealth.metrics.estimate import Z95, Estimate, Quadratic, estimate_of, is_clear
from fedhealth.metrics.moment_regression import Moments, Regression, fit_regressions
from fedhealth.study.protocol import Study
from fedhealth.study.trial_endpoint import TrialEndpoint

_WITHHELD = EffectFigure(
    estimate=None,
    low=None,
    high=None,
    withheld="too few patients to say",
    sampling_half_width=None,
    noise_half_width=None,
    p_value=None,
)

_USUAL_SPREAD = 1 / 3
"""Standard deviation of a column, in half-ranges, where nothing is known: three of them to either end of the range."""

_USUAL_REST = 0.8
"""What a visit's outcome owes to the one before it, likewise."""

_DRAWS = 5
"""Of the noise, where it is foreseen what it will do."""


@dataclass(frozen=True)
class TrialSums:
    """The noisy sums of some sites.

    Attributes:
        groups: of the patients.
        sites: of each site, the moments of each group.
        variance: of the noise on the moments of each group, alike at all sites.
    """

    groups: tuple[Group, ...]
    sites: tuple[tuple[Moments, ...], ...]
    variance: tuple[Moments, ...]

    @classmethod
    def of(
        cls, groups: tuple[Group, ...], counts: Sequence[Mapping[str, float]], noise: Mapping[str, float]
    ) -> "TrialSums":
        """Return them from the counts of an evaluation."""
        return cls(
            groups,
            tuple(tuple(group.moments(each) for group in groups) for each in counts),
            tuple(group.variance(noise) for group in groups),
        )

    def regressions(self, coding: NDArray[np.float64]) -> tuple[Regression, ...]:
        """Return the regression of each visit: on the covariates and the outcomes of earlier visits."""
        covariates = len(self.groups[0].covariates)
        return tuple(
            Regression(coding, tuple(range(covariates + visit)), covariates + visit)
            for visit in range(len(self.groups))
        )

    def effects(self, coding: NDArray[np.float64]) -> tuple[tuple[Effect, ...], ...] | None:
        """Return the effects at each visit, in half-ranges; None where the sums do not say."""
        if not self.sites or not all(self.has_clear_arms(visit) for visit in range(len(self.groups))):
            return None
        regressions = self.regressions(coding)
        try:
            return effects_of(regressions, fit_regressions(regressions, self.sites, self.variance))
        except ValueError:
            return None

    def has_clear_arms(self, visit: int) -> bool:
        """Say whether every arm has a number of patients observed at a visit that is clearly more than noise."""
        patients, noise = self.patients(visit)
        return all(is_clear(each, noise) for each in patients)

    def patients(self, visit: int) -> tuple[list[float], float]:
        """Return the noisy number of patients by arm who were observed at a visit, and its noise."""
        counts = sum(
            (group.counts for site in self.sites for group in site[visit:]), np.zeros(len(self.groups[0].arms))
        )
        variance = len(self.sites) * sum(float(each.counts[0]) for each in self.variance[visit:])
        return counts.tolist(), math.sqrt(variance)

    def mean(self, visit: int, arm: int) -> Estimate | None:
        """Return the mean outcome at a visit of the patients of an arm who were observed, in half-ranges."""
        patients, noise_sd = self.patients(visit)
        column = len(self.groups[0].covariates) + visit
        total = sum(float(group.sums[arm, column]) for site in self.sites for group in site[visit:])
        squares = sum(float(group.products[column, column]) for site in self.sites for group in site[visit:])
        everybody = max(math.fsum(patients), 1.0)
        spread = min(max(squares / everybody, 0.0), 1.0) * max(patients[arm], 1.0)
        on_total = len(self.sites) * sum(float(each.sums[arm, column]) for each in self.variance[visit:])
        if not is_clear(patients[arm], noise_sd):
            return None
        return estimate_of(total, patients[arm], Quadratic(on_total + spread, 0.0, noise_sd**2), -1.0, 1.0)


def table_of(study: Study, endpoint: TrialEndpoint, sums: TrialSums) -> FigureTable:
    """Return all that is said of a trial."""
    rows = list(_dose_rows(study, endpoint, sums))
    found = sums.effects(arm_coding(len(endpoint.arms)))
    visits = range(len(endpoint.outcomes))
    control = endpoint.arms[0].word
    for visit in reversed(visits):
        group = _group_of(endpoint, visit)
        for place in reversed(range(1, len(endpoint.arms))):
            effect = None if found is None else found[visit][place - 1].times(endpoint.half_range)
            figure = _effect_figure(effect, study, endpoint)
            what = f"{endpoint.measures}: '{endpoint.arms[place].word}' less '{control}'"
            rows.append(
                FigureRow(
                    group=group,
                    name=f"{endpoint.arms[place].word} less {control}",
                    unit=endpoint.unit,
                    meaning=f"{what}; {endpoint.better} is better. {verdict(figure, endpoint)}",
                    figure=figure,
                )
            )
    for visit in reversed(visits):
        rows += _arm_rows(study, endpoint, sums, visit)
    return FigureTable(rows=tuple(rows))


def arm_coding(arms: int) -> NDArray[np.float64]:
    """Return each arm's part in the effects of all arms but the control, shape (arms, arms - 1)."""
    return np.eye(arms)[:, 1:]


def dose_coding(endpoint: TrialEndpoint) -> NDArray[np.float64] | None:
    """Return each arm's dose, from 0 for the lowest to 1 for the highest, shape (arms, 1); None without doses."""
    doses = np.array([arm.dose for arm in endpoint.arms if arm.dose is not None], dtype=np.float64)
    if len(doses) < len(endpoint.arms):
        return None
    return np.asarray((doses - doses.min()) / (doses.max() - doses.min())).reshape(-1, 1)


def expected_half_width(
    groups: tuple[Group, ...], noise: Mapping[str, float], patients: float, sites: int
) -> float | None:
    """Return half the interval to expect of the last visit's effect, in parts of the range's width.

    Patients are spread evenly over sites and arms and observed at every visit; columns have mean 0 and a standard
    deviation of a third of the half-range, and each visit's outcome owes 0.8 to the one before it. It is the median
    over draws of the noise, the same ones each time: the noise on counts and covariates widens intervals, too.
    """
    whole = groups[-1]
    covariates, visits, arms = len(whole.covariates), len(whole.outcomes), len(whole.arms)
    spread = np.eye(len(whole.columns))
    steps = np.arange(visits)
    spread[covariates:, covariates:] = _USUAL_REST ** np.abs(steps[:, None] - steps)
    each = patients / sites / arms
    expected = Moments(
        np.full(arms, each), np.zeros((arms, len(whole.columns))), each * arms * _USUAL_SPREAD**2 * spread
    )
    nobody = [
        Moments(np.zeros(arms), np.zeros((arms, len(group.columns))), np.zeros((len(group.columns),) * 2))
        for group in groups[:-1]
    ]
    variance = tuple(group.variance(noise) for group in groups)
    generator, widths = np.random.default_rng(0), list[float]()
    for _ in range(_DRAWS):
        drawn = tuple(
            tuple(_noisy(each, size, generator) for each, size in zip((*nobody, expected), variance, strict=True))
            for _ in range(sites)
        )
        found = TrialSums(groups, drawn, variance).effects(arm_coding(arms))
        widths.append(math.inf if found is None else found[-1][-1].interval.half_width / 2)
    middle = sorted(widths)[_DRAWS // 2]
    return middle if math.isfinite(middle) else None


def _noisy(moments: Moments, variance: Moments, generator: np.random.Generator) -> Moments:
    def blurred(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums + generator.normal(size=sums.shape) * np.sqrt(sizes)

    products = np.triu(blurred(moments.products, variance.products))
    return Moments(
        blurred(moments.counts, variance.counts),
        blurred(moments.sums, variance.sums),
        products + np.triu(products, 1).T,
    )


def verdict(figure: EffectFigure, endpoint: TrialEndpoint) -> str:
    """Return what an effect's interval says, in a sentence."""
    if figure.estimate is None or figure.low is None or figure.high is None or figure.p_value is None:
        return "Too few patients to say."
    shown = f"(p = {figure.p_value:.2g})"
    if figure.low <= 0 <= figure.high:
        return f"No difference was shown {shown}: the interval holds 0."
    better = (figure.estimate < 0) == (endpoint.better == "lower")
    return f"A difference for the {'better' if better else 'worse'} was shown {shown}."


def _dose_rows(study: Study, endpoint: TrialEndpoint, sums: TrialSums) -> list[FigureRow]:
    coding = dose_coding(endpoint)
    if coding is None:
        return []
    found = sums.effects(coding)
    figure = _effect_figure(None if found is None else found[-1][0].times(endpoint.half_range), study, endpoint)
    doses = sorted(arm.dose for arm in endpoint.arms if arm.dose is not None)
    what = (
        f"{endpoint.measures}: from {doses[0]:g} to {doses[-1]:g} {endpoint.dose_unit}, along the straight line that "
        f"fits all arms; {endpoint.better} is better."
    )
    meaning = f"{what} {verdict(figure, endpoint)}"
    return [FigureRow(group="", name="Dose response", unit=endpoint.unit, meaning=meaning, figure=figure)]


def _effect_figure(effect: Effect | None, study: Study, endpoint: TrialEndpoint) -> EffectFigure:
    if effect is None or effect.interval.half_width > study.evaluation.too_wide * 2 * endpoint.half_range:
        return _WITHHELD
    interval = effect.interval
    return EffectFigure(
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        sampling_half_width=effect.sampling_half_width,
        noise_half_width=effect.noise_half_width,
        p_value=effect.p_value,
    )


def _group_of(endpoint: TrialEndpoint, visit: int) -> str:
    """Return what tells the figures of a visit from those of others; "" where there is one."""
    return endpoint.outcomes[visit] if len(endpoint.outcomes) > 1 else ""


def _arm_rows(study: Study, endpoint: TrialEndpoint, sums: TrialSums, visit: int) -> list[FigureRow]:
    patients, noise_sd = sums.patients(visit)
    group, half = _group_of(endpoint, visit), endpoint.half_range
    rows = []
    for place, arm in enumerate(endpoint.arms):
        mean = sums.mean(visit, place)
        if mean is not None:
            mean = Estimate(*(endpoint.middle + half * each for each in (mean.estimate, mean.low, mean.high)))
        found = figure_of(mean, study.evaluation.too_wide * 2 * half)
        meaning = f"{endpoint.measures}: mean of about {max(patients[place], 0):.0f} (+-{Z95 * noise_sd:.0f}) patients."
        rows.append(
            FigureRow(group=group, name=f"mean of {arm.word}", unit=endpoint.unit, meaning=meaning, figure=found)
        )
    return rows
