"""A network with a chance of the event for each interval, for those who reach it; hazards need not be proportional.

All weights are shared between the sites. They start from small numbers that the same public seed gives everywhere, and
the last layer from the constant hazard of the protocol's `expected_share`. Torch-free until a module is asked for.

Source: Gensheimer and Narasimhan, PeerJ 2019; the start, Glorot and Bengio, AISTATS 2010.
"""

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.dense_layers import tensors_of
from fedhealth.learning.time_grid import expected_hazard, grid_of
from fedhealth.study.protocol import Study

if TYPE_CHECKING:
    import torch

    from fedhealth.training.per_patient import RecordLoss

ENDPOINTS = frozenset({"survival"})
HAS_HIDDEN_LAYERS = True


def size(study: Study) -> int:
    """Return the number of weights of all layers, each with its biases after it."""
    return sum(outputs * (inputs + 1) for inputs, outputs in _layers(study))


def start(study: Study) -> NDArray[np.float64]:
    """Return small weights from a public seed, and the constant hazard of the protocol's `expected_share`."""
    generator, grid, parts = np.random.default_rng(0), grid_of(study), list[NDArray[np.float64]]()
    for inputs, outputs in _layers(study):
        reach = math.sqrt(6 / (inputs + outputs))
        parts += [generator.uniform(-reach, reach, outputs * inputs), np.zeros(outputs)]
    # The chance in an interval is 1 - exp(-hazard * width), so its log odds are log(exp(hazard * width) - 1).
    parts[-1] = np.log(np.expm1(expected_hazard(study) * grid.widths))
    return np.concatenate(parts)


def tensors(study: Study) -> dict[str, tuple[int, ...]]:
    """Return two tensors for each layer: weights, shape (outputs, inputs), and biases."""
    return tensors_of([study.dimension, *study.model.hidden, grid_of(study).intervals])


def reading(study: Study) -> str:
    """Return how the risk follows."""
    layers = len(study.model.hidden) + 1
    return (
        f"For each layer n from 1 to {layers}, multiply the tensor `layer n weights` (a row for each output) with what "
        "goes in, and add `layer n biases`. What comes out of a layer goes into the next as tanh(x). What comes out of "
        "the last are outputs z, one for each interval of follow-up; the risk by the horizon is 1 - the product of "
        "1 / (1 + exp(z))."
    )


def module(study: Study) -> "torch.nn.Module":
    """Return the network."""
    from fedhealth.learning.hazards import HazardNetwork

    return HazardNetwork(study.dimension, study.model.hidden, grid_of(study).intervals)


def loss(study: Study) -> "RecordLoss":
    """Return the cross-entropy of the intervals that a patient reached."""
    from fedhealth.learning.hazards import DiscreteTimeLoss

    return DiscreteTimeLoss(grid_of(study))


def cumulative_hazards(study: Study, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the hazard that each interval adds, -log(1 - chance), shape (records, intervals)."""
    return np.asarray(np.logaddexp(0.0, outputs))


def _layers(study: Study) -> Iterator[tuple[int, int]]:
    widths = [study.dimension, *study.model.hidden, grid_of(study).intervals]
    return itertools.pairwise(widths)
