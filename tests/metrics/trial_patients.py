"""A made-up trial for tests: patients of some sites, their moments, and noise on them."""

from dataclasses import dataclass

import numpy as np

from fedhealth.metrics.moment_regression import Moments


@dataclass(frozen=True)
class Trial:
    """Patients, one after the other: site, arm and columns; NaN is an outcome that was not observed."""

    sites: np.ndarray
    arms: np.ndarray
    columns: np.ndarray
    arm_count: int

    def moments(self, rows):
        chosen = self.columns[rows]
        last = int(np.isfinite(chosen).all(axis=0).sum()) if len(chosen) else chosen.shape[1]
        used = chosen[:, :last]
        arms = np.eye(self.arm_count)[self.arms[rows]]
        return Moments(arms.sum(axis=0), arms.T @ used, used.T @ used)

    def by_site(self):
        """Return the moments of each site's patients, all in one group."""
        return [[self.moments(self.sites == site)] for site in np.unique(self.sites)]


def a_trial(patients=120, sites=4, arms=3, effects=(0.0, 0.1, -0.2), covariates=1, seed=3):
    generator = np.random.default_rng(seed)
    site, arm = generator.integers(0, sites, patients), generator.integers(0, arms, patients)
    x = generator.uniform(-0.6, 0.6, (patients, covariates))
    y = 0.05 * site - 0.1 + np.array(effects)[arm] + x @ np.full(covariates, 0.2) + generator.normal(0, 0.25, patients)
    return Trial(site, arm, np.column_stack([x, np.clip(y, -1, 1)]), arms)


def variances(moments, size):
    """Return the same variance of noise for every sum."""
    return Moments(*(np.full(part.shape, size) for part in (moments.counts, moments.sums, moments.products)))


def noisy(moments, variance, generator):
    counts, sums, products = (
        part + generator.normal(size=part.shape) * np.sqrt(size)
        for part, size in (
            (moments.counts, variance.counts),
            (moments.sums, variance.sums),
            (moments.products, variance.products),
        )
    )
    return Moments(counts, sums, np.triu(products) + np.triu(products, 1).T)
