"""Effects of arms on an outcome, at one visit or several, with intervals and p-values that include the noise.

At several visits under monotone dropout (who misses a visit is not looked at after it), the likelihood of a mixed model
for repeated measures, with an unstructured covariance and coefficients of each visit's own, is a product: of each
outcome given those before it, over the patients observed so far. Each factor is a linear regression, and an arm's
effect at a visit is its effect given the earlier outcomes, plus the earlier effects times the slopes on them. So the
maximum of the likelihood follows from sums over patients; standard errors follow by the delta method.

A p-value and an interval have the degrees of freedom of Welch and Satterthwaite: those of the residual variance, more
the more of the variance is noise, whose own is known.

Sources: Anderson, JASA 1957 (the factors); Little and Rubin, Statistical Analysis with Missing Data, 2002, ch. 7;
Mallinckrodt et al., Drug Information Journal 2008 (the model in trials); Satterthwaite, Biometrics Bulletin 1946.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedhealth.metrics.estimate import Z95, Estimate
from fedhealth.metrics.moment_regression import Array, Fit, Regression


@dataclass(frozen=True)
class Effect:
    """One effect, in the outcome's unit.

    Attributes:
        value: the estimate.
        sampling: standard error that the choice of patients gives it.
        noise: standard error that the noise gives it.
        sampling_freedom: degrees of freedom of the first.
    """

    value: float
    sampling: float
    noise: float
    sampling_freedom: float

    @property
    def standard_error(self) -> float:
        """Both together."""
        return math.hypot(self.sampling, self.noise)

    @property
    def degrees_of_freedom(self) -> float:
        """Of both together."""
        share = (self.sampling / self.standard_error) ** 2
        return self.sampling_freedom / share**2 if share**2 * 1e9 > self.sampling_freedom else 1e9

    @property
    def interval(self) -> Estimate:
        """The estimate with its 95 % interval."""
        half = _t_quantile(self.degrees_of_freedom, 0.975) * self.standard_error
        return Estimate(self.value, self.value - half, self.value + half)

    @property
    def sampling_half_width(self) -> float:
        """Half the interval that there would be without noise."""
        return _t_quantile(self.sampling_freedom, 0.975) * self.sampling

    @property
    def noise_half_width(self) -> float:
        """Half the 95 % interval of the estimate that there would be without noise."""
        return Z95 * self.noise

    @property
    def p_value(self) -> float:
        """Two-sided, of no effect; below 0.05 exactly where the interval leaves out 0."""
        from scipy.special import stdtr

        return float(2 * stdtr(self.degrees_of_freedom, -abs(self.value) / self.standard_error))

    def times(self, factor: float) -> "Effect":
        """Return the effect in another unit."""
        return Effect(self.value * factor, self.sampling * factor, self.noise * factor, self.sampling_freedom)


def _t_quantile(freedom: float, probability: float) -> float:
    """Return a quantile of Student's t; scipy is loaded here, because every gate loads this module."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def effects_of(regressions: Sequence[Regression], fit: Fit) -> tuple[tuple[Effect, ...], ...]:
    """Return the effects of each regression's outcome, over all patients who were randomised.

    Args:
        regressions: by visit, earliest first; each has the earlier outcomes among its columns.
        fit: of them.
    """
    values: dict[int, Array] = {}
    gradients: dict[int, Array] = {}
    found, start = [], 0
    for regression, freedom in zip(regressions, fit.degrees_of_freedom, strict=True):
        effects = regression.coding.shape[1]
        value = fit.values[start : start + effects].copy()
        gradient = np.zeros((effects, len(fit.values)))
        gradient[np.arange(effects), start + np.arange(effects)] = 1.0
        for place, column in enumerate(regression.columns, start + effects):
            if column in values:
                value += fit.values[place] * values[column]
                gradient += fit.values[place] * gradients[column]
                gradient[:, place] += values[column]
        values[regression.outcome], gradients[regression.outcome] = value, gradient
        sampling, noise = (np.sqrt(np.diag(gradient @ each @ gradient.T)) for each in (fit.sampling, fit.noise))
        parts = zip(value.tolist(), sampling.tolist(), noise.tolist(), strict=True)
        found.append(tuple(Effect(*each, freedom) for each in parts))
        start += effects + len(regression.columns)
    return tuple(found)
