"""The losses of one record, for torch."""

import torch


def logistic_loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the loss of one record, shape (), from its output, shape (1,), and its label, 0 or 1."""
    return torch.nn.functional.binary_cross_entropy_with_logits(output[0], label)
