"""One linear layer and a logistic output; starts from zero. Torch-free until a module is asked for."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhealth.study.protocol import Study

if TYPE_CHECKING:
    import torch

    from fedhealth.training.per_patient import RecordLoss

ENDPOINTS = frozenset({"binary", "category"})
HAS_HIDDEN_LAYERS = False


def size(study: Study) -> int:
    """Return the number of weights: one for each input, and the bias last."""
    return study.dimension + 1


def start(study: Study) -> NDArray[np.float64]:
    """Return zeros."""
    return np.zeros(size(study))


def module(study: Study) -> "torch.nn.Module":
    """Return the layer."""
    from fedhealth.training.per_patient import RowwiseLinear

    return RowwiseLinear(study.dimension)


def loss(study: Study) -> "RecordLoss":
    """Return the logistic loss."""
    from fedhealth.learning.losses import logistic_loss

    return logistic_loss
