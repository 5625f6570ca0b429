"""Effects, intervals and p-values; at several visits against the likelihood of all patients, maximised directly."""

import numpy as np
import pytest
from scipy import optimize, stats
from trial_patients import a_trial, noisy, variances

from fedhealth.metrics.effect import Effect, effects_of
from fedhealth.metrics.moment_regression import Regression, fit_regressions

ARMS = np.eye(2)[:, 1:]
VISITS = [Regression(ARMS, (0,), 1), Regression(ARMS, (0, 1), 2)]


def with_a_second_visit(trial, seed=5):
    """Add an outcome that owes to the first; who did badly at the first visit is often not seen at the second."""
    generator = np.random.default_rng(seed)
    first = trial.columns[:, -1]
    second = 0.7 * first - 0.15 * trial.arms + generator.normal(0, 0.2, len(first))
    missing = generator.random(len(first)) < np.where(first > 0.1, 0.5, 0.15)
    columns = np.column_stack([trial.columns, np.where(missing, np.nan, second)])
    return type(trial)(trial.sites, trial.arms, columns, trial.arm_count)


def groups_of(trial):
    seen = np.isfinite(trial.columns[:, -1])
    sites = np.unique(trial.sites)
    return [[trial.moments((trial.sites == site) & group) for group in (~seen, seen)] for site in sites]


def likelihood_of(trial):
    """Return minus the log likelihood of a bivariate normal whose means are linear in site, arm and covariate.

    Nothing is factorised here: a patient who was seen once adds the density of one outcome, else of two. Parameters are
    the coefficients at the first visit, those at the second, and the Cholesky factor of the covariance.
    """
    design = np.column_stack([np.eye(trial.sites.max() + 1)[trial.sites], ARMS[trial.arms], trial.columns[:, 0]])
    first, second = trial.columns[:, 1], trial.columns[:, 2]
    both, width = np.isfinite(second), design.shape[1]

    def minus_log_likelihood(parameters):
        one, two = design @ parameters[:width], design @ parameters[width : 2 * width]
        a, b, c = np.exp(parameters[-3]), parameters[-2], np.exp(parameters[-1])
        covariance = np.array([[a * a, a * b], [a * b, b * b + c * c]])
        rest = np.column_stack([first - one, second - two])
        pairs = stats.multivariate_normal.logpdf(rest[both], cov=covariance)
        return -(pairs.sum() + stats.norm.logpdf(rest[~both, 0], scale=a).sum())

    return minus_log_likelihood, width


def test_two_visits_under_dropout_are_the_maximum_of_the_likelihood():
    trial = with_a_second_visit(a_trial(patients=400, sites=3, arms=2, effects=(0.0, -0.1)))
    groups = groups_of(trial)
    minus_log_likelihood, width = likelihood_of(trial)
    start = np.concatenate([np.zeros(2 * width), [-1.0, 0.1, -1.0]])
    found = optimize.minimize(minus_log_likelihood, start, method="BFGS", options={"gtol": 1e-7, "maxiter": 2000})
    arm = width - 2
    fit = fit_regressions(VISITS, groups, [variances(each, 0.0) for each in groups[0]])
    (first,), (second,) = effects_of(VISITS, fit)
    assert first.value == pytest.approx(found.x[arm], abs=1e-5)
    assert second.value == pytest.approx(found.x[width + arm], abs=1e-5)
    # Standard errors of maximum likelihood divide by n, ours by the degrees of freedom: 6 of 400 and 7 of about 290.
    information = np.linalg.inv(numerical_hessian(minus_log_likelihood, found.x))
    for effect, place in ((first, arm), (second, width + arm)):
        assert effect.sampling == pytest.approx(np.sqrt(information[place, place]), rel=0.02)
        assert effect.noise == 0


def numerical_hessian(function, at, step=1e-4):
    """Return second derivatives by central differences."""
    steps = step * np.eye(len(at))
    return np.array(
        [
            [
                (function(at + i + j) - function(at + i - j) - function(at - i + j) + function(at - i - j))
                / (4 * step**2)
                for j in steps
            ]
            for i in steps
        ]
    )


def test_leaving_out_who_dropped_out_would_be_another_answer():
    trial = with_a_second_visit(a_trial(patients=400, sites=3, arms=2, effects=(0.0, -0.1)))
    groups = groups_of(trial)
    none = [variances(each, 0.0) for each in groups[0]]
    ((_,), (all_of_them,)) = effects_of(VISITS, fit_regressions(VISITS, groups, none))
    alone = [Regression(ARMS, (0,), 2)]
    ((complete,),) = effects_of(alone, fit_regressions(alone, [[own[1]] for own in groups], none[1:]))
    assert abs(all_of_them.value - complete.value) > 0.005


def test_the_noise_part_covers_at_two_visits():
    trial = with_a_second_visit(a_trial(patients=240, sites=4, arms=2, effects=(0.0, -0.1)))
    groups, generator = groups_of(trial), np.random.default_rng(2)
    truth = effects_of(VISITS, fit_regressions(VISITS, groups, [variances(each, 0.0) for each in groups[0]]))[1][0]
    variance, inside = [variances(each, 1.5) for each in groups[0]], []
    for _ in range(150):
        blurred = [[noisy(each, size, generator) for each, size in zip(own, variance, strict=True)] for own in groups]
        (found,) = effects_of(VISITS, fit_regressions(VISITS, blurred, variance))[1]
        inside.append(abs(found.value - truth.value) < found.noise_half_width)
    assert 0.89 <= np.mean(inside) <= 1.0  # 0.95 less 3.3 standard errors of 150 draws


@pytest.mark.parametrize("noise", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("value", [-2.2, -1.9, 0.0, 1.95, 2.0, 40.0])
def test_p_is_below_a_twentieth_exactly_where_the_interval_leaves_out_0(noise, value):
    effect = Effect(value, 1.0, noise, 20.0)
    leaves_out = effect.interval.low > 0 or effect.interval.high < 0
    assert leaves_out == (effect.p_value < 0.05)


def test_without_noise_p_is_students():
    # t = 2.5 on 10 degrees of freedom: two-sided 0.0314 (Student's table: 2.228 is 0.05, 2.764 is 0.02).
    effect = Effect(5.0, 2.0, 0.0, 10.0)
    assert effect.p_value == pytest.approx(0.0314, abs=5e-5)
    assert effect.interval.high - effect.value == pytest.approx(2.228 * 2.0, abs=1e-3)


def test_noise_alone_is_normal():
    effect = Effect(1.96, 0.0, 1.0, 3.0)
    assert effect.p_value == pytest.approx(0.05, abs=1e-4)
    assert effect.noise_half_width == pytest.approx(1.96, abs=1e-4)


def test_mixed_degrees_of_freedom_are_satterthwaites():
    # Equal parts: (1 + 1)^2 / (1 / 6 + 0) = 24.
    assert Effect(0.0, 1.0, 1.0, 6.0).degrees_of_freedom == pytest.approx(24.0)
