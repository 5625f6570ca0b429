"""Raw figures of survival models, and Cox's regression without privacy: for public data and simulations only.

No gate and no coordinator calls this: risk sets compare patients with each other, and exact times are looked at.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_RIDGE = 1e-4
_AT_ONCE = 2**10


def harrell_concordance(risks: Vector, times: Vector, events: NDArray[np.bool_]) -> float | None:
    """Return how often, of two patients whose order is known, the one with the earlier event had the higher risk.

    Of two patients the order is known if the earlier time is an event, or both times are equal and one of them is.
    Equal risks count half.

    Args:
        risks: shape (patients,); higher means earlier.
        times: end of each patient's follow-up, shape (patients,).
        events: whether it ended with the event, shape (patients,).

    Returns:
        The index in [0, 1]; None where no pair's order is known.

    Source: Harrell et al., JAMA 1982.

    Example:
        >>> harrell_concordance(np.array([2.0, 1.0]), np.array([1.0, 3.0]), np.array([True, False]))
        1.0
    """
    won, known = 0.0, 0
    for start in range(0, len(times), _AT_ONCE):
        first = np.flatnonzero(events[start : start + _AT_ONCE]) + start
        later = (times[None, :] > times[first, None]) | ((times[None, :] == times[first, None]) & ~events[None, :])
        above, level = risks[first, None] > risks[None, :], risks[first, None] == risks[None, :]
        won += float((later & above).sum() + (later & level).sum() / 2)
        known += int(later.sum())
    return won / known if known else None


def fit_cox(strata: Sequence[tuple[Vector, Vector, NDArray[np.bool_]]]) -> Vector:
    """Return the coefficients of Cox's regression, stratified, with Breslow's ties and next to no ridge.

    Newton's method on the partial likelihood, with exact times, steps halved while they do not help.

    Args:
        strata: inputs of shape (patients, p), times and events of each; risk sets do not cross strata.

    Returns:
        Shape (p,).

    Source: Cox, JRSS B 1972; Breslow, Biometrics 1974.
    """
    ordered = [_ordered(*stratum) for stratum in strata]
    weights = np.zeros(strata[0][0].shape[1])
    best, gradient, curvature = _partial_likelihood(ordered, weights)
    for _ in range(50):
        step = np.linalg.solve(curvature, gradient)
        while True:
            value, *derivatives = _partial_likelihood(ordered, weights - step)
            if value <= best or np.abs(step).max() < 1e-10:
                break
            step = step / 2
        weights, best, (gradient, curvature) = weights - step, value, derivatives
        if np.abs(step).max() < 1e-9:
            break
    return weights


def _ordered(
    inputs: Vector, times: Vector, events: NDArray[np.bool_]
) -> tuple[Vector, NDArray[np.bool_], NDArray[np.int64]]:
    """Return inputs and events, latest first, and for each patient the last place of those who are followed so long."""
    order = np.argsort(-times, kind="stable")
    reach = np.searchsorted(-times[order], -times[order], side="right") - 1
    return inputs[order], events[order], reach.astype(np.int64)


def _partial_likelihood(
    strata: Sequence[tuple[Vector, NDArray[np.bool_], NDArray[np.int64]]], weights: Vector
) -> tuple[float, Vector, Vector]:
    """Return the negative log partial likelihood with its ridge, its gradient and its curvature."""
    value = _RIDGE / 2 * float(weights @ weights)
    gradient, curvature = _RIDGE * weights, _RIDGE * np.eye(len(weights))
    for inputs, events, reach in strata:
        scores = inputs @ weights
        level = scores.max(initial=0.0)
        hazard = np.exp(scores - level)
        at_risk = reach[events]
        total = np.cumsum(hazard)[at_risk]
        mean = np.cumsum(hazard[:, None] * inputs, axis=0)[at_risk] / total[:, None]
        squares = np.cumsum(hazard[:, None, None] * inputs[:, :, None] * inputs[:, None, :], axis=0)[at_risk]
        value += float((np.log(total) + level - scores[events]).sum())
        gradient = gradient + (mean - inputs[events]).sum(axis=0)
        curvature = curvature + (squares / total[:, None, None]).sum(axis=0) - mean.T @ mean
    return value, gradient, curvature
