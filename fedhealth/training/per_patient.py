"""The gradient of each patient alone, for a torch model and a loss per record.

The gradient of a patient is the mean over the patient's records, so a patient with many records weighs as much as
one with few. A record whose gradient is not finite makes its patient's gradient not finite, and the mechanism then
counts that patient as zero. Clipping, summing and noise are the mechanism's, in `fedhealth.privacy`.

Invariant: row i of the result depends on the model and on the records of patient i, on nothing else, to the last bit.
The last bit matters: weights near the end of the number range turn the order of a sum into another gradient, and the
clip bounds what one patient changes, not what one patient changes in others. Matrix products do not have this
property (a row's result can depend on how many rows there are), so layers are written row by row; models that learn
in buffers are refused.

Source: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016; `torch.func` for per-record gradients.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call, grad, vmap

RecordLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From one record's output, shape (outputs,), and label, shape (), to its loss, shape ()."""


class RowwiseLinear(torch.nn.Module):
    """A linear layer with one output whose every row is computed alone: x . weight + bias.

    Args:
        inputs: number of inputs, at least 1.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(inputs, dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shape (..., 1) for inputs of shape (..., inputs)."""
        return (x * self.weight).sum(-1, keepdim=True) + self.bias


def make_deterministic() -> None:
    """Make this process compute the same bits each time: one thread, fixed kernels, no subnormals.

    Subnormal numbers are flushed because arithmetic on them is many times slower, which timing would show.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_flush_denormal(True)


@contextmanager
def deterministic_here() -> Iterator[None]:
    """Do so within a block, for a process that is somebody else's."""
    threads, kernels = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    make_deterministic()
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.use_deterministic_algorithms(kernels)
        torch.set_num_threads(threads)


def per_patient_gradients(
    model: torch.nn.Module,
    weights: NDArray[np.float64],
    loss: RecordLoss,
    features: NDArray[np.float64],
    labels: NDArray[np.float64],
    patients: NDArray[np.int64],
    patient_count: int,
) -> NDArray[np.float64]:
    """Return one gradient per patient.

    Args:
        model: any module without buffers; its parameters are replaced by `weights`.
        weights: all parameters, flattened in the order of `model.named_parameters()`, shape (d,).
        loss: loss of one record.
        features: shape (records, inputs).
        labels: shape (records,).
        patients: patient of each record, 0 to patient_count - 1, shape (records,).
        patient_count: number of patients, 0 or more.

    Returns:
        Shape (patient_count, d); may hold NaN and infinities.

    Raises:
        ValueError: the model has buffers, or the weights do not fit it.
    """
    if next(model.buffers(), None) is not None:
        raise ValueError("a model with buffers can learn from patients outside its gradient, and is refused")
    parameters = _unflatten(model, weights)
    if patient_count == 0:
        return np.zeros((0, weights.size))

    def record_loss(values: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss(functional_call(model, values, (x,)), y)

    per_record = vmap(grad(record_loss), in_dims=(None, 0, 0))(
        parameters, torch.from_numpy(features), torch.from_numpy(labels)
    )
    flat = torch.cat([per_record[name].reshape(len(labels), -1) for name in parameters], dim=1)
    index = torch.from_numpy(patients)
    total = torch.zeros(patient_count, flat.shape[1], dtype=flat.dtype).index_add_(0, index, flat)
    records = torch.bincount(index, minlength=patient_count).to(flat.dtype)
    return np.asarray((total / records[:, None]).numpy())


def model_outputs(
    model: torch.nn.Module, weights: NDArray[np.float64], features: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the model's outputs for each record, shape (records, outputs); may hold NaN and infinities."""
    with torch.no_grad():
        return np.asarray(functional_call(model, _unflatten(model, weights), (torch.from_numpy(features),)).numpy())


def _unflatten(model: torch.nn.Module, weights: NDArray[np.float64]) -> dict[str, torch.Tensor]:
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    if weights.shape != (sum(shape.numel() for shape in shapes.values()),):
        raise ValueError(f"the model has {sum(s.numel() for s in shapes.values())} weights, got {weights.shape}")
    flat, start, parameters = torch.from_numpy(weights), 0, {}
    for name, shape in shapes.items():
        parameters[name] = flat[start : start + shape.numel()].reshape(shape)
        start += shape.numel()
    return parameters
