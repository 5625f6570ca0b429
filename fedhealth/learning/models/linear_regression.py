"""One linear layer: a quantity, scaled from its public range to [-1, 1]; starts from zero, the middle of the range.

Torch-free until a module is asked for.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.dense_layers import size_of, widths_of
from fedhealth.study.protocol import Study

if TYPE_CHECKING:
    import torch

    from fedhealth.training.per_patient import RecordLoss

ENDPOINTS = frozenset({"number"})
HAS_HIDDEN_LAYERS = False


def size(study: Study) -> int:
    """Return the number of weights: one for each input, and the bias last."""
    return size_of(widths_of(study))


def start(study: Study) -> NDArray[np.float64]:
    """Return zeros."""
    return np.zeros(size(study))


def tensors(study: Study) -> dict[str, tuple[int, ...]]:
    """Return one vector, the bias last."""
    return {"weights": (size(study),)}


def reading(study: Study) -> str:
    """Return how to compute a linear layer."""
    return (
        "The tensor `weights` has one weight for each input, and the bias last; the output is the sum of weight "
        "times input, and the bias."
    )


def module(study: Study) -> "torch.nn.Module":
    """Return the layer."""
    from fedhealth.training.per_patient import RowwiseLinear

    return RowwiseLinear(*widths_of(study))


def loss(study: Study) -> "RecordLoss":
    """Return the loss of the endpoint's kind."""
    from fedhealth.learning.losses import LOSSES

    return LOSSES[study.endpoint.kind]
