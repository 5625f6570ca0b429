"""Linear regressions with an intercept for each site, from sums over patients that carry noise. No patient is seen.

A site gives, by arm, a count and the sum of each column, and over all arms the sums of products of columns. They hold
the normal equations G t = h of the model

    outcome = intercept of the site + effect of the arm + slopes x columns + rest,

whose unknowns t are the sites' intercepts, the effects and the slopes. Without noise their solution is that of ordinary
least squares over all patients together. The noise on every sum is independent, normal and of known scale, so that
h = G t + E, and t is estimated from *that*, by generalised least squares:

    t = K h,   K = (G' M^-1 G + v P)^-1 G' M^-1,   v M = covariance of the noise on h.

P is what is assumed of intercepts and slopes beforehand, in units of the columns' public half-ranges: sites differ by
`SITE_SPREAD`, slopes by `SLOPE_SPREAD` around 0. Nothing is assumed of the arms' effects nor of the sites' mean. With
many patients, or no noise (v = 0), P has no weight and K is G^-1.

*Noise part.* The noise on h is independent of that on G, so that given G the error of K h is normal, and its covariance
is known without an approximation: v (G' M^-1 G + v P)^-1, what P may be wrong by included. What G's own noise does is
added to first order: K N K', with N what the covariance of the noise on h - G t is more than that of the noise on h.
In it each unknown is taken as large as its estimate's square less what the noise adds to such a square on average.

*Sampling part.* s^2 K G K', where s^2 is the residual sum of squares, less what the noise takes from it on average,
over N - 2 tr(K G) + tr(K G K G) degrees of freedom: N minus the number of unknowns where there is no noise. Of an
effect it is never taken to be less than s^2 gives arms of these sizes without sites and columns, which no model beats;
nor s^2 to be less than the noise of the residual sum of squares gives it.

Several regressions, each on patients of its own choice, are fitted as one, because they share noise.

Sources: Fuller, Measurement Error Models, 1987 (normal equations with known error); Rao, Linear Statistical Inference,
1973, 4a (degrees of freedom of a linear smoother's residuals).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Places = NDArray[np.intp]

SITE_SPREAD = 0.05
"""Standard deviation of sites' intercepts around their mean, in half-ranges of the outcome, where noise hides them."""

SLOPE_SPREAD = 0.5
"""Standard deviation of slopes around 0, in half-ranges of the outcome by one of the column."""


_NEXT_TO_NOTHING = 1e-13
"""Weight of what is assumed, relative to what is known, where there is no noise: a column that is the same for
everybody at each site then has a slope of 0, and any other the slope that it has."""


@dataclass(frozen=True)
class Moments:
    """Sums over patients; or the variance of the noise on each of them.

    Attributes:
        counts: patients by arm, shape (arms,).
        sums: of each column by arm, shape (arms, columns).
        products: of each pair of columns over all arms, shape (columns, columns), symmetric.
    """

    counts: Array
    sums: Array
    products: Array

    @property
    def columns(self) -> int:
        """Number of columns."""
        return int(self.sums.shape[1])


@dataclass(frozen=True)
class Regression:
    """What is regressed on what, over the patients whose moments have the outcome's column.

    Attributes:
        coding: what each arm counts in each effect, shape (arms, effects).
        columns: places of the columns beside the arms.
        outcome: place of the outcome's column; none of `columns` is higher.
    """

    coding: Array
    columns: tuple[int, ...]
    outcome: int

    def equations(self, moments: Moments) -> tuple[Array, Array, float]:
        """Return G, h and the outcome's sum of squares of one site: its intercept, the effects, the slopes."""
        length = 1 + self.coding.shape[1] + len(self.columns)
        if moments.columns <= self.outcome:
            return np.zeros((length, length)), np.zeros(length), 0.0
        design = np.column_stack([np.ones(len(self.coding)), self.coding])
        columns = list(self.columns)
        across = design.T @ moments.sums[:, columns]
        among = moments.products[np.ix_(columns, columns)]
        matrix = np.block([[(design.T * moments.counts) @ design, across], [across.T, among]])
        right = np.concatenate([design.T @ moments.sums[:, self.outcome], moments.products[columns, self.outcome]])
        return matrix, right, float(moments.products[self.outcome, self.outcome])


@dataclass(frozen=True)
class Fit:
    """What was estimated, one regression after the other: its effects, then its slopes.

    Attributes:
        values: shape (unknowns,), in half-ranges.
        sampling: covariance that the choice of patients gives them, shape (unknowns, unknowns).
        noise: covariance that the noise gives them.
        degrees_of_freedom: of the sampling part, of each regression.
        residual_variance: of each regression.
    """

    values: Array
    sampling: Array
    noise: Array
    degrees_of_freedom: tuple[float, ...]
    residual_variance: tuple[float, ...]


def fit_regressions(
    regressions: Sequence[Regression], sites: Sequence[Sequence[Moments]], variance: Sequence[Moments]
) -> Fit:
    """Return regressions over the patients of some sites.

    Args:
        regressions: at least one, of different outcomes.
        sites: of each site, the moments of each group of its patients; every patient is in one group.
        variance: of the noise on the moments of each group, alike at all sites; 0 everywhere is none.

    Raises:
        ValueError: the sums do not determine the model: fewer patients than unknowns, or an arm without patients.
    """
    system = _System(regressions, sites, variance)
    matrix, right = system.equations()
    scale = max(float(each.sums.max(initial=0.0)) for each in variance)
    on_right = system.noise(np.zeros(system.length))
    weight = np.linalg.inv(on_right / scale) if scale else np.eye(system.length)
    known = matrix.T @ weight @ matrix
    precision = known + (scale + _NEXT_TO_NOTHING * np.diag(known).max()) * system.assumed()
    if not np.isfinite(precision).all() or np.linalg.matrix_rank(precision, hermitian=True) < system.length:
        raise ValueError("the sums do not determine the model")
    spread = scale * np.linalg.inv(precision)
    solve = np.asarray(np.linalg.solve(precision, matrix.T @ weight), dtype=np.float64)
    values = solve @ right
    likely = np.sign(values) * np.sqrt(np.maximum(values**2 - np.diag(spread), 0.0))
    noise = spread + solve @ (system.noise(likely) - on_right) @ solve.T
    sampling, freedom, variances = np.zeros_like(noise), list[float](), list[float]()
    for number, regression in enumerate(regressions):
        at = system.all_places(number)
        block = np.ix_(at, at)
        squares, counts = system.totals(number)
        left = _Residual(solve[block], matrix[block], right[at], values[at], on_right[block], squares)
        freedom.append(left.degrees_of_freedom(float(counts.sum())))
        variances.append(max(left.squares, math.sqrt(system.noise_on_residual(number, values))) / freedom[-1])
        sampling[block] = variances[-1] * left.spread
        effects = at[len(sites) : len(sites) + regression.coding.shape[1]]
        _raise_to(sampling, effects, variances[-1] * _without_columns(regression.coding, counts))
    kept = np.concatenate([system.all_places(number)[len(sites) :] for number in range(len(regressions))])
    among = np.ix_(kept, kept)
    return Fit(values[kept], sampling[among], noise[among], tuple(freedom), tuple(variances))


@dataclass(frozen=True)
class _Residual:
    """What one regression leaves of its outcome; the arguments are its parts of K, G, h, t and v M."""

    solve: Array
    matrix: Array
    right: Array
    values: Array
    noise: Array
    outcome_squares: float

    @property
    def squares(self) -> float:
        """The residual sum of squares, less what the noise takes from it on average."""
        found = self.outcome_squares - 2 * self.values @ self.right + self.values @ self.matrix @ self.values
        taken = 2 * np.trace(self.solve @ self.noise)
        taken -= np.trace(self.solve.T @ self.matrix @ self.solve @ self.noise)
        return float(found + taken)

    @property
    def spread(self) -> Array:
        """The sampling covariance for a residual variance of 1."""
        return np.asarray(self.solve @ self.matrix @ self.solve.T)

    def degrees_of_freedom(self, patients: float) -> float:
        """Return those of the residual sum of squares, at least 1.

        Raises:
            ValueError: nothing is left for the residuals.
        """
        fitted = self.solve @ self.matrix
        left = float(patients - 2 * np.trace(fitted) + np.trace(fitted @ fitted))
        if left < 1 - 1e-6:
            raise ValueError("the sums do not determine the model")
        return max(left, 1.0)


def _without_columns(coding: Array, counts: Array) -> Array:
    """Return the variance of the effects for a residual variance of 1, if arms of these sizes were all there is."""
    least = np.maximum(counts, 1.0)
    centred = coding - least @ coding / least.sum()
    return np.diag(np.linalg.pinv((centred.T * least) @ centred, hermitian=True))


def _raise_to(covariance: Array, places: Places, least: Array) -> None:
    """Scale rows and columns of a covariance, in place, so that these variances are at least so large."""
    for place, variance in zip(places, least, strict=True):
        if covariance[place, place] <= 0:
            covariance[place, :] = covariance[:, place] = 0.0
            covariance[place, place] = variance
        factor = np.sqrt(max(1.0, variance / covariance[place, place]))
        covariance[place, :] *= factor
        covariance[:, place] *= factor


@dataclass(frozen=True)
class _System:
    """The unknowns of all regressions, one after the other: the sites' intercepts, the effects, the slopes."""

    regressions: Sequence[Regression]
    groups: Sequence[Sequence[Moments]]
    variance: Sequence[Moments]

    @property
    def sites(self) -> int:
        """Number of sites."""
        return len(self.groups)

    @property
    def length(self) -> int:
        """Number of unknowns."""
        return self._start(len(self.regressions))

    def all_places(self, number: int) -> Places:
        """Return the places of all unknowns of a regression."""
        return np.arange(self._start(number), self._start(number + 1), dtype=np.intp)

    def places(self, number: int, site: int) -> Places:
        """Return the places of those that a site's patients bear on: its intercept, effects, slopes."""
        every = self.all_places(number)
        return np.concatenate([every[site : site + 1], every[self.sites :]])

    def equations(self) -> tuple[Array, Array]:
        """Return G and h."""
        matrix, right = np.zeros((self.length, self.length)), np.zeros(self.length)
        for site, groups in enumerate(self.groups):
            for number, regression in enumerate(self.regressions):
                at = self.places(number, site)
                for moments in groups:
                    own_matrix, own_right, _ = regression.equations(moments)
                    matrix[np.ix_(at, at)] += own_matrix
                    right[at] += own_right
        return matrix, right

    def totals(self, number: int) -> tuple[float, Array]:
        """Return the sum of squares of a regression's outcome, and its patients by arm, over all sites."""
        regression = self.regressions[number]
        observed = [each for groups in self.groups for each in groups if each.columns > regression.outcome]
        squares = sum(float(each.products[regression.outcome, regression.outcome]) for each in observed)
        return squares, np.sum([each.counts for each in observed], axis=0)

    def assumed(self) -> Array:
        """Return the precision of what is assumed: 0 for effects and for the mean of the intercepts."""
        precision = np.zeros((self.length, self.length))
        for number, regression in enumerate(self.regressions):
            every = self.all_places(number)
            intercepts, slopes = every[: self.sites], every[len(every) - len(regression.columns) :]
            precision[np.ix_(intercepts, intercepts)] = (np.eye(self.sites) - 1 / self.sites) / SITE_SPREAD**2
            precision[slopes, slopes] = 1 / SLOPE_SPREAD**2
        return precision

    def noise(self, values: Array) -> Array:
        """Return the covariance of the noise on h - G t, for these values of t."""
        covariance = np.zeros((self.length, self.length))
        for moments, size in self._single_sums():
            parts = [each.equations(moments)[:2] for each in self.regressions]
            for site in range(self.sites):
                places = [self.places(number, site) for number in range(len(parts))]
                rest = [right - matrix @ values[at] for at, (matrix, right) in zip(places, parts, strict=True)]
                at, together = np.concatenate(places), np.concatenate(rest)
                covariance[np.ix_(at, at)] += size * np.outer(together, together)
        return covariance

    def noise_on_residual(self, number: int, values: Array) -> float:
        """Return the variance of the noise on a regression's residual sum of squares."""
        total, regression = 0.0, self.regressions[number]
        for moments, size in self._single_sums():
            matrix, right, squares = regression.equations(moments)
            for site in range(self.sites):
                own = values[self.places(number, site)]
                total += size * float(squares - 2 * own @ right + own @ matrix @ own) ** 2
        return total

    def _start(self, number: int) -> int:
        return sum(self.sites + each.coding.shape[1] + len(each.columns) for each in self.regressions[:number])

    def _single_sums(self) -> Iterator[tuple[Moments, float]]:
        """Yield moments of which one sum is 1 and all others are 0, and the variance of the noise on that sum."""
        for group in self.variance:
            parts = (group.counts, group.sums, group.products)
            for number, part in enumerate(parts):
                for place in np.ndindex(part.shape):
                    if number == 2 and place[0] > place[1]:
                        continue  # a product of two columns is one sum
                    single = [np.zeros_like(each) for each in parts]
                    single[number][place] = 1.0
                    if number == 2:
                        single[2][place[::-1]] = 1.0
                    yield Moments(*single), float(part[place])
