"""Regression from sums: ordinary least squares over all patients without noise, honest intervals with it."""

import numpy as np
import pytest
from trial_patients import a_trial, noisy, variances

from fedhealth.metrics.moment_regression import Moments, Regression, fit_regressions

ARMS = np.eye(3)[:, 1:]
MODEL = Regression(ARMS, (0,), 1)


def pooled(trial, coding):
    """Return estimates, their covariance and degrees of freedom, by least squares over all patients' rows."""
    sites = np.eye(trial.sites.max() + 1)[trial.sites]
    design = np.column_stack([sites, coding[trial.arms], trial.columns[:, :-1]])
    outcome = trial.columns[:, -1]
    found, *_ = np.linalg.lstsq(design, outcome, rcond=None)
    rest, freedom = outcome - design @ found, len(outcome) - design.shape[1]
    covariance = rest @ rest / freedom * np.linalg.inv(design.T @ design)
    return found[sites.shape[1] :], covariance[sites.shape[1] :, sites.shape[1] :], freedom


@pytest.mark.parametrize("coding", [ARMS, np.array([[0.0], [0.5], [1.0]])], ids=["arms", "dose"])
@pytest.mark.parametrize("covariates", [0, 1, 3])
def test_without_noise_it_is_least_squares_over_all_patients(coding, covariates):
    trial = a_trial(covariates=covariates)
    groups = trial.by_site()
    model = Regression(coding, tuple(range(covariates)), covariates)
    found = fit_regressions([model], groups, [variances(groups[0][0], 0.0)])
    values, covariance, freedom = pooled(trial, coding)
    np.testing.assert_allclose(found.values, values, atol=1e-9)
    np.testing.assert_allclose(found.sampling, covariance, atol=1e-9)
    np.testing.assert_array_equal(found.noise, 0.0)
    assert found.degrees_of_freedom == pytest.approx((freedom,))


def test_with_little_noise_it_is_nearly_that():
    trial = a_trial()
    groups = trial.by_site()
    found = fit_regressions([MODEL], groups, [variances(groups[0][0], 1e-8)])
    values, covariance, _ = pooled(trial, ARMS)
    np.testing.assert_allclose(found.values, values, atol=1e-4)
    np.testing.assert_allclose(found.sampling, covariance, rtol=1e-3, atol=1e-7)
    assert (np.diag(found.noise) > 0).all()


def draws(trial, size, number, coding=ARMS):
    """Yield fits of the same patients under new noise."""
    generator, model = np.random.default_rng(11), Regression(coding, (0,), 1)
    groups = trial.by_site()
    variance = variances(groups[0][0], size)
    for _ in range(number):
        yield fit_regressions(
            [model], [[noisy(each, variance, generator) for each in own] for own in groups], [variance]
        )


@pytest.mark.parametrize("effects", [(0.0, 0.0, 0.0), (0.0, 0.1, -0.4)], ids=["none", "strong"])
def test_the_noise_part_covers_what_the_same_patients_say_without_noise(effects):
    # 200 draws of two effects: a true 95 % gives 0.95 +- 0.011, so that 0.915 to 0.99 is 3 standard errors and more.
    trial = a_trial(patients=160, sites=6, effects=effects)
    truth, *_ = pooled(trial, ARMS)
    inside = [
        abs(found.values[:2] - truth[:2]) < 1.96 * np.sqrt(np.diag(found.noise)[:2]) for found in draws(trial, 3.0, 200)
    ]
    assert 0.915 <= np.mean(inside) <= 0.99


def test_the_residual_variance_is_right_on_average_under_noise():
    trial = a_trial(patients=160, sites=6)
    groups = trial.by_site()
    exact = fit_regressions([MODEL], groups, [variances(groups[0][0], 0.0)])
    found = [each.residual_variance[0] for each in draws(trial, 1.0, 200)]
    # The noise of one draw is about sqrt(6 sites) over 150 degrees of freedom, 0.016; of a mean of 200, 0.0012. Four of
    # those, and the rule that a variance is at least its noise lifts the mean a little.
    assert np.mean(found) == pytest.approx(exact.residual_variance[0], abs=0.005 + 0.004)


def test_a_site_with_one_arm_takes_part_and_moves_no_difference():
    trial = a_trial()
    groups = trial.by_site()
    own = groups[0][0]
    lone = Moments(
        counts=np.array([9.0, 0.0, 0.0]),
        sums=np.array([[0.0, 3.0], [0.0, 0.0], [0.0, 0.0]]),
        products=np.array([[0.0, 0.0], [0.0, 2.0]]),
    )
    none = variances(own, 0.0)
    with_it, without = (fit_regressions([MODEL], each, [none]).values for each in ([*groups, [lone]], groups))
    np.testing.assert_allclose(with_it, without, atol=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: Moments(np.array([*m.counts[:2], 0.0]), np.vstack([m.sums[:2], [[0.0, 0.0]]]), m.products),
        lambda m: Moments(m.counts / 1000, m.sums / 1000, m.products / 1000),
    ],
    ids=["an arm has nobody", "fewer patients than unknowns"],
)
def test_sums_that_do_not_say_are_refused(change):
    groups = [[change(own)] for (own,) in a_trial().by_site()]
    with pytest.raises(ValueError, match="do not determine"):
        fit_regressions([MODEL], groups, [variances(groups[0][0], 0.0)])


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_column_that_is_the_same_for_everybody_changes_nothing(value):
    trial = a_trial()
    none = [variances(trial.by_site()[0][0], 0.0)]
    without = fit_regressions([MODEL], trial.by_site(), none)
    constant = np.full((len(trial.arms), 1), value)
    wider = type(trial)(trial.sites, trial.arms, np.hstack([trial.columns[:, :1], constant, trial.columns[:, 1:]]), 3)
    groups = wider.by_site()
    found = fit_regressions([Regression(ARMS, (0, 1), 2)], groups, [variances(groups[0][0], 0.0)])
    np.testing.assert_allclose(found.values[:3], without.values, atol=1e-6)
    np.testing.assert_allclose(found.sampling[:3, :3], without.sampling, rtol=1e-6, atol=1e-9)
    assert found.values[3] == pytest.approx(0, abs=1e-3)
    assert found.degrees_of_freedom == pytest.approx(without.degrees_of_freedom, abs=1e-4)
