"""Cox's regression, stratified by site, in its Poisson form. Torch-free until a module is asked for.

The weights are one coefficient for each input, then the logs of the baseline hazard, one for each interval. The
coefficients are shared; the baseline is each site's own (`own_weights`): a site is asked with its own, and takes its
own step with it, so that nobody's hazard is compared with another hospital's. What is published as the model has the
mean of all sites' in its place.

What a patient adds, and its clip: `fedhealth.learning.time_grid` says why the loss is a sum of one term a patient. Its
gradient, ((L - d) x, L_1 - d_1, ..., L_K - d_K) with L_k the expected and d_k the observed events in interval k, rests
on that patient and the weights alone, so the clip bounds what one patient changes, whoever else is at risk. Neither
risk sets nor times leave; the release is the noisy sum of p + K numbers.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.time_grid import expected_hazard, grid_of
from fedhealth.study.protocol import Study

if TYPE_CHECKING:
    import torch

    from fedhealth.training.per_patient import RecordLoss

ENDPOINTS = frozenset({"survival"})
HAS_HIDDEN_LAYERS = False


def size(study: Study) -> int:
    """Return the number of weights: one for each input, and one for each interval."""
    return study.dimension + grid_of(study).intervals


def own_weights(study: Study) -> int:
    """Return how many of the last weights are each site's own: its baseline."""
    return grid_of(study).intervals


def start(study: Study) -> NDArray[np.float64]:
    """Return no effect of any input, and the constant hazard of the protocol's `expected_share`."""
    baseline = np.full(grid_of(study).intervals, math.log(expected_hazard(study)))
    return np.concatenate([np.zeros(study.dimension), baseline])


def tensors(study: Study) -> dict[str, tuple[int, ...]]:
    """Return one coefficient for each input, and the log of the baseline hazard in each interval."""
    return {"coefficients": (study.dimension,), "log baseline hazard": (grid_of(study).intervals,)}


def reading(study: Study) -> str:
    """Return how the risk follows."""
    return (
        "The tensor `coefficients` has one coefficient for each input, `log baseline hazard` the natural logarithm of "
        "the baseline hazard in each interval of follow-up: the mean over all hospitals, of which each had its own. "
        "The risk by the horizon is 1 - exp(-(sum over intervals of length times exp(log baseline hazard + sum of "
        "coefficient times input)))."
    )


def module(study: Study) -> "torch.nn.Module":
    """Return the model of log hazards."""
    from fedhealth.learning.hazards import ProportionalHazards

    return ProportionalHazards(study.dimension, grid_of(study).intervals)


def loss(study: Study) -> "RecordLoss":
    """Return the Poisson form of the loss."""
    from fedhealth.learning.hazards import PiecewiseExponentialLoss

    return PiecewiseExponentialLoss(grid_of(study))


def cumulative_hazards(study: Study, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the hazard that each interval adds, shape (records, intervals), from the module's outputs."""
    return np.asarray(np.exp(outputs) * grid_of(study).widths)
