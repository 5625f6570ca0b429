"""How raw figures are worked out, by the kind of endpoint: what is compared with what, where nobody is protected.

A model is compared with one that was fitted without privacy to the same features: logistic regression for yes and no,
Cox's regression (with a baseline for each hospital) for survival, whatever the private model is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fedhealth.coordinator.report import Score
from fedhealth.errors import ConfigInvalid
from fedhealth.learning.models.table import model_of
from fedhealth.learning.outcomes.survival import total_hazards
from fedhealth.learning.raw_figures import (
    Outcomes,
    area_under_curve,
    fit_without_privacy,
    outcomes_of,
    outcomes_of_model,
)
from fedhealth.learning.raw_survival import fit_cox, harrell_concordance
from fedhealth.records.table import Records
from fedhealth.study.protocol import Study
from fedhealth.training.per_patient import model_outputs

Scorer = Callable[[Sequence[Records]], Score]
"""Judges one model on the patients of some sides, all together."""


@dataclass(frozen=True)
class Yardstick:
    """What raw figures need of a kind of endpoint.

    Attributes:
        of_model: from a study and its weights to their scorer.
        fitted: from a study and the training sides of some hospitals to the scorer of a model without privacy.
        ill: of a side, how many patients have the outcome.
    """

    of_model: Callable[[Study, NDArray[np.float64]], Scorer]
    fitted: Callable[[Study, Sequence[Records]], Scorer]
    ill: Callable[[Records], int]


def has_yardstick(study: Study) -> bool:
    """Say whether there are raw figures for a study's kind of endpoint."""
    return study.endpoint.kind in _YARDSTICKS


def yardstick_for(study: Study) -> Yardstick:
    """Return how a study's raw figures are worked out.

    Raises:
        ConfigInvalid: there are none for its kind of endpoint.
    """
    if not has_yardstick(study):
        raise ConfigInvalid(
            f"there are no raw figures for an endpoint of kind '{study.endpoint.kind}'",
            next_step="Simulate it without them: --no-reference.",
        )
    return _YARDSTICKS[study.endpoint.kind]


def _binary_model(study: Study, weights: NDArray[np.float64]) -> Scorer:
    return lambda sides: _binary_score(outcomes_of_model(study, weights, sides))


def _binary_fitted(study: Study, sides: Sequence[Records]) -> Scorer:
    weights = fit_without_privacy(sides)
    return lambda kept: _binary_score(outcomes_of(weights, kept))


def _binary_score(outcomes: Outcomes) -> Score:
    right = (outcomes.scores > 0) == outcomes.ill
    return Score(accuracy=float(right.mean()), auc=area_under_curve(outcomes.scores, outcomes.ill))


def _binary_ill(side: Records) -> int:
    return int(np.unique(side.patients[side.labels > 0]).size)


def _survival_model(study: Study, weights: NDArray[np.float64]) -> Scorer:
    module = model_of(study).module(study)
    return _ranked(lambda side: total_hazards(study, model_outputs(module, weights, side.features)))


def _survival_fitted(study: Study, sides: Sequence[Records]) -> Scorer:
    inputs = [side.features.astype(np.float64, copy=False) for side in sides]
    ends = [(side.labels[:, 1], side.labels[:, 0] > 0) for side in sides]
    coefficients = fit_cox([(each, *end) for each, end in zip(inputs, ends, strict=True)])
    return _ranked(lambda side: side.features @ coefficients)


def _ranked(risk: Callable[[Records], NDArray[np.float64]]) -> Scorer:
    def score(sides: Sequence[Records]) -> Score:
        labels = np.concatenate([side.labels for side in sides])
        risks = np.concatenate([risk(side) for side in sides])
        return Score(accuracy=None, auc=None, concordance=harrell_concordance(risks, labels[:, 1], labels[:, 0] > 0))

    return score


def _survival_ill(side: Records) -> int:
    return int(np.count_nonzero(side.labels[:, 0] > 0))


_BINARY = Yardstick(_binary_model, _binary_fitted, _binary_ill)

_YARDSTICKS: Mapping[str, Yardstick] = MappingProxyType(
    {
        "binary": _BINARY,
        "category": _BINARY,
        "survival": Yardstick(_survival_model, _survival_fitted, _survival_ill),
    }
)
