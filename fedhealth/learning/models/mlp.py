"""A network of dense layers (multilayer perceptron), whose widths `model.hidden` has.

Torch-free until a module is asked for.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.dense_layers import size_of, start_of, tensors_of, widths_of
from fedhealth.study.protocol import Study

if TYPE_CHECKING:
    import torch

    from fedhealth.training.per_patient import RecordLoss

ENDPOINTS = frozenset({"binary", "category", "classes", "number"})
HAS_HIDDEN_LAYERS = True


def size(study: Study) -> int:
    """Return the number of weights of all layers, biases included."""
    return size_of(widths_of(study))


def start(study: Study) -> NDArray[np.float64]:
    """Return small weights that follow from the study's digest: from zeros, no hidden unit would ever move."""
    return start_of(widths_of(study), study.digest)


def tensors(study: Study) -> dict[str, tuple[int, ...]]:
    """Return two tensors for each layer: weights, shape (outputs, inputs), and biases."""
    return tensors_of(widths_of(study))


def reading(study: Study) -> str:
    """Return how to compute a network of dense layers."""
    layers = len(study.model.hidden) + 1
    return (
        f"For each layer n from 1 to {layers}, multiply the tensor `layer n weights` (a row for each output) with what "
        "goes in, and add `layer n biases`. What comes out of a layer goes into the next as x / (1 + |x|); what comes "
        "out of the last is the output."
    )


def module(study: Study) -> "torch.nn.Module":
    """Return the network."""
    from fedhealth.training.per_patient import RowwiseNetwork

    return RowwiseNetwork(widths_of(study))


def loss(study: Study) -> "RecordLoss":
    """Return the loss of the endpoint's kind."""
    from fedhealth.learning.losses import LOSSES

    return LOSSES[study.endpoint.kind]
