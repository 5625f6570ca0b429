"""The gradient of each patient alone, for a torch model and a loss per record.

The gradient of a patient is the mean over the patient's records, so a patient with many records weighs as much as
one with few. A record whose gradient is not finite makes its patient's gradient not finite, and the mechanism then
counts that patient as zero. Clipping, summing and noise are the mechanism's, in `fedhealth.privacy`.

Invariant: row i of the result depends on the model and on the records of patient i, on nothing else, to the last bit.
The last bit matters: weights near the end of the number range turn the order of a sum into another gradient, and the
clip bounds what one patient changes, not what one patient changes in others. Matrix products do not have this
property (a row's result can depend on how many rows there are), so layers are written row by row; models that learn
in buffers are refused. Nor do all functions of one element: torch computes the last few of a tensor by other code,
whose bits differ for sigmoid, softplus, SiLU and GELU, so that a value's place decides. `softsign` is made of
operations that IEEE 754 rounds correctly, and is the same by whatever code.

Patients are computed in blocks, so that as many gradients as fit some tens of megabytes are held at once.

Source: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016; `torch.func` for per-record gradients.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call, vmap

from fedhealth.training.device import computing_device

RecordLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From one record's output, shape (outputs,), and label, shape (), to its loss, shape ()."""


_NUMBERS_AT_ONCE = 2**21
"""So many numbers of gradients are held at once, or those of one patient; a few copies of them are."""


class RowwiseLinear(torch.nn.Module):
    """A linear layer whose every row is computed alone: x . weight + bias, for each output.

    Args:
        inputs: number of inputs, at least 1.
        outputs: number of outputs, at least 1.
    """

    def __init__(self, inputs: int, outputs: int = 1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(outputs, inputs, dtype=torch.float64))
        self.bias = torch.nn.Parameter(torch.zeros(outputs, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shape (..., outputs) for inputs of shape (..., inputs)."""
        return (x.unsqueeze(-2) * self.weight).sum(-1) + self.bias


class RowwiseNetwork(torch.nn.Module):
    """Layers of `RowwiseLinear` with `softsign` between them, and nothing after the last.

    Args:
        widths: number of inputs, of units of each hidden layer, and of outputs.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(itertools.starmap(RowwiseLinear, itertools.pairwise(widths)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shape (..., outputs) for inputs of shape (..., inputs)."""
        for number, layer in enumerate(self.layers):
            x = layer(x if number == 0 else softsign(x))
        return x


def softsign(x: torch.Tensor) -> torch.Tensor:
    """Return x / (1 + |x|): its slope is 1 at 0, and nowhere 0.

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
    2010.
    """
    return x / (1 + x.abs())


def make_deterministic() -> None:
    """Make this process compute the same bits each time: one thread, fixed kernels, no subnormals.

    Subnormal numbers are flushed because arithmetic on them is many times slower, which timing would show.
    """
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")  # the same switch by its name that does not load torch's compiler
    torch.set_flush_denormal(True)


@contextmanager
def deterministic_here() -> Iterator[None]:
    """Do so within a block, for a process that is somebody else's."""
    threads, kernels = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    make_deterministic()
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_deterministic_debug_mode(kernels)
        torch.set_num_threads(threads)


def per_patient_gradients(
    model: torch.nn.Module,
    weights: NDArray[np.float64],
    loss: RecordLoss,
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.float64],
    patients: NDArray[np.int64],
    patient_count: int,
) -> NDArray[np.float64]:
    """Return one gradient per patient, shape (patient_count, d); may hold NaN and infinities.

    Arguments and errors are those of `gradient_blocks`.
    """
    blocks = list(gradient_blocks(model, weights, loss, features, labels, patients, patient_count))
    return np.concatenate([np.zeros((0, weights.size)), *blocks])


def gradient_blocks(
    model: torch.nn.Module,
    weights: NDArray[np.float64],
    loss: RecordLoss,
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.float64],
    patients: NDArray[np.int64],
    patient_count: int,
) -> Iterator[NDArray[np.float64]]:
    """Yield one gradient per patient, in blocks of shape (patients, d) in the order of the patients' numbers.

    Args:
        model: any module without buffers, put in training mode; its parameters are replaced by `weights`.
        weights: all parameters, flattened in the order of `model.named_parameters()`, shape (d,).
        loss: loss of one record.
        features: shape (records, inputs).
        labels: shape (records,), or (records, numbers of a label).
        patients: patient of each record, 0 to patient_count - 1, shape (records,).
        patient_count: number of patients, 0 or more.

    Raises:
        ValueError: the model has buffers, or the weights do not fit it.
    """
    if next(model.buffers(), None) is not None:
        raise ValueError("a model with buffers can learn from patients outside its gradient, and is refused")
    parameters = _unflatten(model.train(), weights)

    def record_loss(values: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss(functional_call(model, values, (x,)), y)

    record_losses = vmap(record_loss)  # and autograd, because torch.func.grad loads torch's compiler, for a second
    order, ends = np.argsort(patients, kind="stable"), np.cumsum(np.bincount(patients, minlength=patient_count))
    first = 0
    while first < patient_count:
        start = int(ends[first - 1]) if first else 0
        most = start + _NUMBERS_AT_ONCE // max(1, weights.size)
        stop = max(first + 1, int(np.searchsorted(ends, most, side="right")))
        rows = order[start : ends[stop - 1]]
        own = {name: each.expand(len(rows), *each.shape).requires_grad_() for name, each in parameters.items()}
        losses = record_losses(own, torch.from_numpy(features[rows]).double(), torch.from_numpy(labels[rows]))
        found = torch.autograd.grad(losses.sum(), list(own.values()), materialize_grads=True)
        flat = torch.cat([each.reshape(len(rows), -1) for each in found], dim=1)
        index = torch.from_numpy(patients[rows] - first)
        total = torch.zeros(stop - first, flat.shape[1], dtype=flat.dtype).index_add_(0, index, flat)
        records = torch.bincount(index, minlength=stop - first).to(flat.dtype)
        yield np.asarray((total / records[:, None]).numpy())
        first = stop


def model_outputs(
    model: torch.nn.Module, weights: NDArray[np.float64], features: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return the outputs for each record, shape (records, outputs), in evaluation mode; may hold NaN and infinities.

    A model whose layers round a record by how many there are says so (`one_at_a_time`): its records are computed one by
    one, on the computing device.
    """
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, weights.size))
    if getattr(model, "one_at_a_time", False):
        model, at_once = model.to(computing_device()), 1
    parameters = _unflatten(model.eval(), weights)
    like = next(iter(parameters.values()))
    starts = range(0, max(1, len(features)), at_once)  # of nobody, too, the outputs have a shape
    with torch.no_grad():
        parts = (torch.from_numpy(features[at : at + at_once]).to(like) for at in starts)
        blocks = [functional_call(model, parameters, (part,)) for part in parts]
    return np.concatenate([np.asarray(block.double().cpu().numpy()) for block in blocks])


def _unflatten(model: torch.nn.Module, weights: NDArray[np.float64]) -> dict[str, torch.Tensor]:
    own = dict(model.named_parameters())
    shapes = {name: parameter.shape for name, parameter in own.items()}
    if weights.shape != (sum(shape.numel() for shape in shapes.values()),):
        raise ValueError(f"the model has {sum(s.numel() for s in shapes.values())} weights, got {weights.shape}")
    flat, start, parameters = torch.from_numpy(weights), 0, {}
    for name, shape in shapes.items():
        parameters[name] = flat[start : start + shape.numel()].reshape(shape).to(own[name])
        start += shape.numel()
    return parameters
