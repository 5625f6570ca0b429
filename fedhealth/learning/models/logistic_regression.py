"""One linear layer: the log odds of yes, or a score for each class, whose softmax are the chances; starts from zero.

Torch-free until a module is asked for.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.dense_layers import size_of, tensors_of, widths_of
from fedhealth.study.protocol import Study

if TYPE_CHECKING:
    import torch

    from fedhealth.training.per_patient import RecordLoss

ENDPOINTS = frozenset({"binary", "category", "classes"})
HAS_HIDDEN_LAYERS = False


def size(study: Study) -> int:
    """Return the number of weights: for each output one for each input, and the biases last."""
    return size_of(widths_of(study))


def start(study: Study) -> NDArray[np.float64]:
    """Return zeros."""
    return np.zeros(size(study))


def tensors(study: Study) -> dict[str, tuple[int, ...]]:
    """Return one vector with the bias last; of several classes, a row of weights for each, and the biases."""
    widths = widths_of(study)
    return {"weights": (size(study),)} if widths[-1] == 1 else tensors_of(widths)


def reading(study: Study) -> str:
    """Return how to compute a linear layer."""
    if widths_of(study)[-1] == 1:
        return (
            "The tensor `weights` has one weight for each input, and the bias last; the output is the sum of weight "
            "times input, and the bias."
        )
    return "The outputs are the tensor `weights` (a row for each class) times the inputs, plus `biases`."


def module(study: Study) -> "torch.nn.Module":
    """Return the layer."""
    from fedhealth.training.per_patient import RowwiseLinear

    return RowwiseLinear(*widths_of(study))


def loss(study: Study) -> "RecordLoss":
    """Return the loss of the endpoint's kind."""
    from fedhealth.learning.losses import LOSSES

    return LOSSES[study.endpoint.kind]
