"""The losses of one record, for torch, by the kind of the endpoint.

| endpoint | loss | label |
|---|---|---|
| yes or no | logistic | 1.0 or 0.0 |
| classes | cross-entropy of the softmax | place of the class |
| number | half the squared error | the value, scaled from its public range to [-1, 1] |

Why the squared error, for a number: what it fits is the mean, which is what the evaluation judges (the mean error is
0). That one patient with a wild value cannot pull at it without bound is the clip's work, which does to a gradient
(f - y) (x, 1) what Huber's loss does, with the threshold l2_clip_norm / ||(x, 1)||; Huber's on top would be a second
threshold, for nobody to choose.

Invariant: a record's gradient is the same to the last bit whatever its place among others; see
`fedhealth.training.per_patient`. Of exp and log, torch computes the last few of a tensor by the same code as the rest.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from fedhealth.training.per_patient import RecordLoss


def logistic_loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the loss of one record, shape (), from its output, shape (1,), and its label, 0 or 1."""
    return torch.nn.functional.binary_cross_entropy_with_logits(output[0], label)


def softmax_loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the loss of one record, shape (), from its outputs, shape (classes,), and the place of its class.

    A label that is no number gives NaN, as everywhere.
    """
    classes = torch.arange(output.shape[0], dtype=output.dtype)
    shifted = output - output.detach().amax()
    logarithm = shifted.exp().sum().log()
    return logarithm - (shifted * (classes == label)).sum() + 0 * label * shifted.sum()


def squared_loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the loss of one record, shape (), from its output, shape (1,), and its label."""
    return (output[0] - label).square() / 2


LOSSES: Mapping[str, RecordLoss] = MappingProxyType(
    {"binary": logistic_loss, "category": logistic_loss, "classes": softmax_loss, "number": squared_loss}
)
"""By `endpoint.kind`."""
