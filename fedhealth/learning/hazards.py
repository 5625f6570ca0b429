"""Cox's model, and the loss of one record of each model of the time to an event: all that torch is needed for.

| model | output for interval k | loss |
|---|---|---|
| `ProportionalHazards` (Cox) | log hazard, a_k + x b, per unit of time | `PiecewiseExponentialLoss` |
| `RowwiseNetwork` | log odds of the event in k for those who reach it | `DiscreteTimeLoss` |

A label is (event, time): event 1.0 or 0.0, time within [0, horizon].

Invariant: as in `fedhealth.training.per_patient`, a row's bits depend on that row alone; layers are written row by row.
"""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from fedhealth.learning.time_grid import TimeGrid


class ProportionalHazards(torch.nn.Module):
    """Cox's model with a baseline hazard that is constant within intervals.

    Args:
        inputs: number of inputs, at least 1.
        intervals: of the grid.
    """

    def __init__(self, inputs: int, intervals: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(inputs, dtype=torch.float64))
        self.baseline = torch.nn.Parameter(torch.zeros(intervals, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return log hazards, shape (..., intervals), for inputs of shape (..., inputs)."""
        return (x * self.weight).sum(-1, keepdim=True) + self.baseline


class _GridLoss:
    def __init__(self, grid: TimeGrid) -> None:
        self._starts, self._widths = torch.from_numpy(grid.starts), torch.from_numpy(grid.widths)
        self._ends = torch.tensor(grid.ends, dtype=torch.float64)

    def _ended_in(self, label: torch.Tensor) -> torch.Tensor:
        """Return 1 for the interval of the event, if there was one, else 0, shape (intervals,)."""
        event, time = label[0], label[1]
        inside = (time <= self._ends) & ((time > self._starts) | (self._starts == 0))
        return inside * event


class PiecewiseExponentialLoss(_GridLoss):
    """The Poisson form of Cox's loss; see `fedhealth.learning.time_grid`.

    Its gradient for a patient is (expected - happened) x in the coefficients, and the same by interval in the baseline:
    the martingale residual, of that patient alone.
    """

    def __call__(self, output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the loss of one record, shape (), from log hazards, shape (intervals,), and (event, time)."""
        lived = torch.minimum((label[1] - self._starts).clamp(min=0.0), self._widths)
        return (lived * torch.exp(output) - self._ended_in(label) * output).sum(-1)


class DiscreteTimeLoss(_GridLoss):
    """The cross-entropy of each interval that a patient reached.

    Whoever was censored within an interval counts as having survived it if at least half of it was lived through.

    Source: Gensheimer and Narasimhan, PeerJ 2019; Brown, Biometrics 1975.
    """

    def __call__(self, output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the loss of one record, shape (), from log odds, shape (intervals,), and (event, time)."""
        ended = self._ended_in(label)
        survived = label[1] >= torch.where(label[0] > 0, self._ends, (self._starts + self._ends) / 2)
        reached = torch.maximum(ended, survived * (1 - ended))
        return (reached * binary_cross_entropy_with_logits(output, ended, reduction="none")).sum(-1)
