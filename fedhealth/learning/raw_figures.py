"""Raw figures, and models trained without privacy: for public data and simulations, never in a federation.

No gate and no coordinator calls this. A patient counts once, whatever the number of records, and is judged as in
`fedhealth.learning.outcomes.binary`: called ill when the mean score is above zero, ill when any record says so.

A model of one hospital, or of all records together, is a logistic regression fitted to convergence (Newton's method,
far beyond a protocol's rounds) with the usual ridge of 1/2 |weights|^2 beside the summed loss, so that a small hospital
alone is not made to look worse than it must.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.image_models import unclipped_image_sum
from fedhealth.learning.models.table import CONVOLVES, model_of
from fedhealth.records.table import Records
from fedhealth.study.protocol import Study
from fedhealth.training.per_patient import model_outputs, per_patient_gradients

Vector = NDArray[np.float64]

_RIDGE = 1.0
_BIAS_RIDGE = 1e-6  # keeps the optimum finite where all patients have one outcome


@dataclass(frozen=True)
class Outcomes:
    """What a model says of patients, and what is true; shape (patients,) each.

    Attributes:
        scores: above 0 calls the patient ill.
        ill: whether the patient is.
    """

    scores: Vector
    ill: NDArray[np.bool_]


def area_under_curve(scores: Vector, ill: NDArray[np.bool_]) -> float | None:
    """Return how often an ill patient scores higher than a healthy one, a tie counting half.

    Args:
        scores: shape (patients,).
        ill: shape (patients,).

    Returns:
        The area under the ROC curve, or None where nobody or everybody is ill.

    Source: Hanley and McNeil, Radiology 1982 (the Mann-Whitney statistic).

    Example:
        >>> area_under_curve(np.array([1.0, 2.0, 2.0]), np.array([False, False, True]))
        0.75
    """
    positives, negatives = int(ill.sum()), int((~ill).sum())
    if not positives or not negatives:
        return None
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((ranks[ill].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def outcomes_of(weights: Vector, sides: Sequence[Records]) -> Outcomes:
    """Return a logistic regression's scores for all patients of some tables, one table after the other.

    Args:
        weights: shape (features + 1,), the bias last.
        sides: each with patients of its own.
    """
    return _outcomes(sides, lambda features: np.asarray((features * weights[:-1]).sum(axis=1) + weights[-1]))


def outcomes_of_model(study: Study, weights: Vector, sides: Sequence[Records]) -> Outcomes:
    """Return the same of a study's own model, whose endpoint is yes or no."""
    module = model_of(study).module(study)
    return _outcomes(sides, lambda features: np.asarray(model_outputs(module, weights, features)[:, 0]))


def _outcomes(sides: Sequence[Records], score: Callable[[NDArray[np.floating[Any]]], Vector]) -> Outcomes:
    scores, ill = [], []
    for side in sides:
        each = score(side.features)
        total = np.bincount(side.patients, weights=each, minlength=side.patient_count)
        scores.append(total / np.bincount(side.patients, minlength=side.patient_count))
        ill.append(np.bincount(side.patients, weights=side.labels, minlength=side.patient_count) > 0)
    return Outcomes(np.concatenate(scores), np.concatenate(ill))


def fit_without_privacy(sides: Sequence[Records]) -> Vector:
    """Return the logistic regression of all patients of some tables, the bias last; see the module for the ridge.

    Each patient weighs 1, shared by the patient's records. Steps are Newton's, halved while they do not help, until
    the weights stay the same to ten digits.
    """
    features = np.concatenate([np.column_stack([side.features, np.ones(len(side.labels))]) for side in sides])
    labels = np.concatenate([side.labels for side in sides])
    shares = np.concatenate([1 / np.bincount(side.patients)[side.patients] for side in sides])
    ridge = np.full(features.shape[1], _RIDGE)
    ridge[-1] = _BIAS_RIDGE

    def loss(weights: Vector) -> float:
        scores = features @ weights
        return float(shares @ (np.logaddexp(0, scores) - labels * scores) + ridge @ (weights * weights) / 2)

    weights = np.zeros(features.shape[1])
    for _ in range(100):
        chance = 1 / (1 + np.exp(-(features @ weights)))
        gradient = features.T @ (shares * (chance - labels)) + ridge * weights
        curvature = (features.T * (shares * chance * (1 - chance))) @ features + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        while loss(weights - step) > loss(weights) and np.abs(step).max() > 1e-10:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() <= 1e-10:
            break
    return weights


def step_without_privacy(study: Study, weights: Vector, side: Records, declared_patients: int) -> Vector:
    """Return one site's step of a round: every patient, no clip and no noise.

    Args:
        study: the protocol.
        weights: the model that the site is asked with, shape (d,).
        side: the training side of the site.
        declared_patients: the site's public figure, by which the sum is divided as that of a release is.
    """
    if study.training is None:
        raise ValueError("nothing is trained in this study")
    weights, data = np.array(weights), (side.features, side.labels, side.patients)  # torch wants to be able to write
    if study.model.kind in CONVOLVES:
        total = unclipped_image_sum(study, weights, *data)
    else:
        model = model_of(study)
        gradients = per_patient_gradients(model.module(study), weights, model.loss(study), *data, side.patient_count)
        total = gradients.sum(axis=0)
    pace = study.training.learning_rate / ((1 - study.evaluation.held_out_fraction) * declared_patients)
    return np.asarray(-pace * total)
