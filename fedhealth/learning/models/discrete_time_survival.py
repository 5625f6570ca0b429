"""A network with a chance of the event for each interval, for those who reach it; hazards need not be proportional.

All weights are shared between the sites. They start as of any network of dense layers, and the last biases from the
constant hazard of the protocol's `expected_share`. Torch-free until a module is asked for.

Source: Gensheimer and Narasimhan, PeerJ 2019.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.dense_layers import size_of, start_of, tensors_of
from fedhealth.learning.time_grid import expected_hazard, grid_of
from fedhealth.study.protocol import Study

if TYPE_CHECKING:
    import torch

    from fedhealth.training.per_patient import RecordLoss

ENDPOINTS = frozenset({"survival"})
HAS_HIDDEN_LAYERS = True


def size(study: Study) -> int:
    """Return the number of weights of all layers, each with its biases after it."""
    return size_of(_widths(study))


def start(study: Study) -> NDArray[np.float64]:
    """Return small weights that follow from the study's digest, and the hazard of the protocol's `expected_share`."""
    grid, weights = grid_of(study), start_of(_widths(study), study.digest)
    # The chance in an interval is 1 - exp(-hazard * width), so its log odds are log(exp(hazard * width) - 1).
    weights[-grid.intervals :] = np.log(np.expm1(expected_hazard(study) * grid.widths))
    return weights


def tensors(study: Study) -> dict[str, tuple[int, ...]]:
    """Return two tensors for each layer: weights, shape (outputs, inputs), and biases."""
    return tensors_of(_widths(study))


def reading(study: Study) -> str:
    """Return how the risk follows."""
    layers = len(study.model.hidden) + 1
    return (
        f"For each layer n from 1 to {layers}, multiply the tensor `layer n weights` (a row for each output) with what "
        "goes in, and add `layer n biases`. What comes out of a layer goes into the next as x / (1 + |x|); what comes "
        "out of the last are outputs z, one for each interval of follow-up. The risk by the horizon is 1 - the product "
        "of 1 / (1 + exp(z))."
    )


def module(study: Study) -> "torch.nn.Module":
    """Return the network."""
    from fedhealth.training.per_patient import RowwiseNetwork

    return RowwiseNetwork(_widths(study))


def loss(study: Study) -> "RecordLoss":
    """Return the cross-entropy of the intervals that a patient reached."""
    from fedhealth.learning.hazards import DiscreteTimeLoss

    return DiscreteTimeLoss(grid_of(study))


def cumulative_hazards(study: Study, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the hazard that each interval adds, -log(1 - chance), shape (records, intervals)."""
    return np.asarray(np.logaddexp(0.0, outputs))


def _widths(study: Study) -> tuple[int, ...]:
    return (study.dimension, *study.model.hidden, grid_of(study).intervals)
