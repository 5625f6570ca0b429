"""The comparisons of what a mechanism did with what it claims, each with a p-value that is never too small.

| check | finds |
|---|---|
| noise scale | a standard deviation other than the mechanism states (chi-square on releases less known sums) |
| weakest coordinate | a coordinate with too little noise among many that have enough |
| noise shape | noise of another distribution |
| sensitivity | more moved by one patient, over the noise that was seen, than the event says |
| neighbouring counts | a ratio of neighbouring counts' probabilities above e^epsilon |
| canary | more moved by one patient, seen from outside: releases with a canary against releases without |
| one run | a lower bound on epsilon above the epsilon that is charged |
| sampling rate | patients drawn more or less often than the event says |
| repeated draw | the same patients drawn again |
| autocorrelation | noise that comes again, at whatever distance |
| repeated noise | a release's noise that comes again as a whole |
| shared noise | two coordinates whose noise is of the same size in every release |

Only the canary check rests on a limit theorem, for means of over a thousand numbers each.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhealth.compliance import tail_bounds
from fedhealth.compliance.observation import Observation
from fedhealth.compliance.one_run import guess
from fedhealth.compliance.subjects import Subject
from fedhealth.privacy.events import GaussianEvent, GeometricEvent
from fedhealth.privacy.mu_squared import MU_SQUARED_UNITS, MuSquaredBudget
from fedhealth.privacy.noise_table import COARSE_NOISE_STEPS
from fedhealth.privacy.renyi import RenyiBudget

CONFIDENCE = 0.95
"""Of the lower bounds on epsilon that are reported."""

ONE_RUN = "one run"
"""The check whose figures are the epsilon that one run shows and the epsilon that is charged."""

_WEAKEST = "weakest coordinate"

DELTA = 1e-7
"""At which the epsilon of a Gaussian release is stated: so small that one run can refute the epsilon charged."""

_FULL_BATCH, _SAMPLED = MuSquaredBudget(epsilon=8.0, delta=DELTA), RenyiBudget(epsilon=8.0, delta=DELTA, order=8.0)


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: as in the table above.
        measured: the figure that was seen.
        claimed: the figure it is compared with.
        unit: what both are.
        p_value: if the claim holds, something as bad as this is at most so likely.
    """

    name: str
    measured: float
    claimed: float
    unit: str
    p_value: float


def check_subject(subject: Subject, seen: Observation) -> tuple[Check, ...]:
    """Return all comparisons that apply to a subject."""
    return (*_CHECKS[type(subject.event)](subject, seen), *_noise_is_new(subject, seen))


def _check_gaussian(subject: Subject, seen: Observation) -> list[Check]:
    event, stated = subject.event, subject.standard_deviation
    assert isinstance(event, GaussianEvent)  # noqa: S101 - chosen by type
    most = 1 / event.noise_multiplier
    if event.sampling_rate == 1:
        # What the ledger is charged, not what the event says, where the two can be compared.
        most = math.sqrt(_FULL_BATCH.cost_of(event).mu_squared / MU_SQUARED_UNITS)
    mean_square, samples = float(np.mean(seen.noise**2)), seen.noise.size
    # Around its own mean, which a wrong sum may have moved.
    freedom = samples - seen.noise.shape[1]
    variance = float(np.sum((seen.noise - seen.noise.mean(axis=0)) ** 2)) / freedom
    deviation, shift = math.sqrt(variance), _most_moved(subject, seen)
    ratio = variance * most**2 / shift**2 if shift > 0 else 1.0
    checks = [
        Check(
            "noise scale",
            math.sqrt(mean_square) / stated,
            1.0,
            "of the standard deviation stated",
            tail_bounds.variance_p_value(mean_square / stated**2, samples),
        ),
        _least_noise(seen, stated),
        _shape(seen.noise / stated, _NORMAL_POINTS, _NORMAL_CDF),
        Check(
            "sensitivity",
            shift / deviation if deviation > 0 else math.inf,
            most,
            "moved by one patient, over the noise",
            tail_bounds.variance_p_value(ratio, freedom, only_below=True),
        ),
        _canary(seen, deviation, most * event.sampling_rate, "moved by a canary on average, over the noise"),
        _one_run(subject, seen),
    ]
    return checks if event.sampling_rate == 1 else [*checks, *_sampling(subject, seen, shift)]


def _check_geometric(subject: Subject, seen: Observation) -> list[Check]:
    event = subject.event
    assert isinstance(event, GeometricEvent)  # noqa: S101 - chosen by type
    ratio, samples = math.exp(-event.epsilon), seen.noise.size
    magnitude, (rounds, columns) = float(np.mean(np.abs(seen.noise))), seen.noise.shape
    least = float(np.mean(np.abs(seen.noise), axis=0).min())
    points = np.arange(-24.0, 24.0)
    tails = ratio ** np.where(points < 0, -points, points + 1) / (1 + ratio)
    # Disjoint pairs of neighbours, {0, 1}, {2, 3}, ... and {-1, -2}, ...: the nearer is e^epsilon times as likely.
    nearer = int(np.count_nonzero(np.where(seen.noise >= 0, seen.noise % 2 == 0, seen.noise % 2 == 1)))
    moved = np.abs(seen.moved)
    most = max(float(moved.max()), float(moved.sum()) / (len(subject.directions) * event.cells))
    return [
        Check(
            "noise scale",
            magnitude * (1 - ratio**2) / (2 * ratio),
            1.0,
            "of the mean magnitude that epsilon gives",
            tail_bounds.magnitude_p_value(magnitude, samples, event.epsilon),
        ),
        Check(
            _WEAKEST,
            least * (1 - ratio**2) / (2 * ratio),
            1.0,
            "of the mean magnitude that epsilon gives, where least",
            min(1.0, columns * tail_bounds.magnitude_p_value(least, rounds, event.epsilon)),
        ),
        _shape(seen.noise, points, np.where(points < 0, tails, 1 - tails)),
        Check("sensitivity", most, 1.0, "moved by one patient in a cell", 1.0 if most <= 1 else 0.0),
        Check(
            "neighbouring counts",
            math.log(max(nearer, 0.5) / max(samples - nearer, 0.5)),
            event.epsilon,
            "epsilon of a cell",
            tail_bounds.binomial_p_value(nearer, samples, 1 / (1 + ratio), only_above=True),
        ),
        _canary(seen, math.sqrt(event.cells), 1.0, "moved by a canary in a cell, on average"),
        _one_run(subject, seen),
    ]


_CHECKS: dict[type, Callable[[Subject, Observation], list[Check]]] = {
    GaussianEvent: _check_gaussian,
    GeometricEvent: _check_geometric,
}


def _least_noise(seen: Observation, stated: float) -> Check:
    """Look at the coordinate with the least noise; what rounding to steps can have taken from it is added."""
    rounds, columns = seen.noise.shape
    least = math.sqrt(float(np.mean(seen.noise**2, axis=0).min())) / stated
    p_value = tail_bounds.variance_p_value((least + 1 / COARSE_NOISE_STEPS) ** 2, rounds, only_below=True)
    unit = "of the standard deviation stated, where least"
    return Check(_WEAKEST, least, 1.0, unit, min(1.0, columns * p_value))


def _charged(subject: Subject) -> tuple[float, float]:
    """Return the epsilon and delta of one release, from what it is charged in a budget that admits it."""
    event = subject.event
    if isinstance(event, GeometricEvent):
        return event.epsilon * event.cells, 0.0
    if event.sampling_rate == 1:
        return _FULL_BATCH.epsilon_of(_FULL_BATCH.cost_of(event)), DELTA
    return _SAMPLED.epsilon_of(_SAMPLED.cost_of(event)), DELTA


def _included(subject: Subject, seen: Observation, shift: float) -> NDArray[np.bool_]:
    """Return which canaries took part in which pair of releases, shape (pairs, canaries)."""
    return np.asarray(_along(subject, seen) > shift / 2)


def _along(subject: Subject, seen: Observation) -> NDArray[np.float64]:
    """Return how far each pair's release moved in each canary's direction, shape (pairs, canaries)."""
    return np.asarray(np.einsum("pj,ij->pi", seen.moved, subject.directions))


def _most_moved(subject: Subject, seen: Observation) -> float:
    """Return the most that one canary moved a release, in L2 norm: in its own direction, or on average in all."""
    along = _along(subject, seen)
    largest = float(np.max(np.abs(along)))
    taking_part = np.maximum(1, np.count_nonzero(np.abs(along) > largest / 2, axis=1))
    return max(largest, float(np.max(np.linalg.norm(seen.moved, axis=1) / np.sqrt(taking_part))))


def _canary(seen: Observation, unit: float, most: float, what: str) -> Check:
    if unit == 0:  # no noise at all
        return Check("canary", math.inf, most, what, 0.0)
    inside, outside = seen.scores[seen.coins] / unit, seen.scores[~seen.coins] / unit
    moved = float(inside.mean() - outside.mean())
    # The unit is itself measured, from as many numbers as there is noise.
    error = math.sqrt(inside.var() / inside.size + outside.var() / outside.size + moved**2 / (2 * seen.noise.size))
    return Check("canary", moved, most, what, tail_bounds.normal_p_value((moved - most) / error))


def _one_run(subject: Subject, seen: Observation) -> Check:
    epsilon, delta = _charged(subject)
    guesses = guess(seen.scores, seen.coins)
    return Check(
        ONE_RUN,
        guesses.epsilon_at_least(delta, CONFIDENCE),
        epsilon,
        f"epsilon of one release at delta {delta:g}, at least ({CONFIDENCE:.0%} confidence)",
        guesses.p_value(epsilon, delta),
    )


def _sampling(subject: Subject, seen: Observation, shift: float) -> list[Check]:
    rate, drawn = subject.sampling_rate, _included(subject, seen, shift)
    both = (rate**2 + (1 - rate) ** 2) ** drawn.shape[1]
    return [
        Check(
            "sampling rate",
            float(drawn.mean()),
            rate,
            "of the patients drawn",
            tail_bounds.binomial_p_value(int(drawn.sum()), drawn.size, rate),
        ),
        _repeats("repeated draw", drawn, both, "releases"),
    ]


def _noise_is_new(subject: Subject, seen: Observation) -> list[Check]:
    event = subject.event
    if isinstance(event, GaussianEvent):
        # Two normal numbers fall into the same step; less often where steps are finer.
        equal = 1 / (2 * math.sqrt(math.pi) * COARSE_NOISE_STEPS)
    else:
        ratio = math.exp(-event.epsilon)
        equal = ((1 - ratio) / (1 + ratio)) ** 2 * (1 + ratio**2) / (1 - ratio**2)
    p_value, distance, correlation = tail_bounds.autocorrelation_p_value(seen.noise)
    return [
        Check("autocorrelation", correlation, 0.0, f"between signs, {distance} numbers apart", p_value),
        _repeats("repeated noise", seen.noise, equal ** seen.noise.shape[1], "releases"),
        # Of the same size is one number or its opposite, so twice as likely.
        _repeats("shared noise", np.abs(seen.noise.T), min(1.0, 2 * equal) ** len(seen.noise), "coordinates"),
    ]


def _repeats(name: str, rows: NDArray[np.float64] | NDArray[np.bool_], probability: float, what: str) -> Check:
    repeated = len(rows) - len(np.unique(rows, axis=0))
    p_value = tail_bounds.repeat_p_value(len(rows), probability) if repeated else 1.0
    return Check(name, float(repeated), 0.0, f"of {len(rows)} {what} repeat an earlier one", p_value)


# To four standard deviations, between the steps of coarse noise; those of fine noise are too small to matter.
_NORMAL_POINTS = np.arange(-4, 4, 1 / 16) + 0.5 / COARSE_NOISE_STEPS
_NORMAL_CDF = np.array([math.erfc(-point / math.sqrt(2)) / 2 for point in _NORMAL_POINTS])


def _shape(noise: NDArray[np.float64], points: NDArray[np.float64], claimed: NDArray[np.float64]) -> Check:
    below = np.searchsorted(np.sort(noise, axis=None), points, side="right") / noise.size
    distance = float(np.max(np.abs(below - claimed)))
    p_value = tail_bounds.shape_p_value(distance, noise.size)
    return Check("noise shape", distance, 0.0, "from the distribution function claimed", p_value)
