"""Refusal of models whose patients cannot be told apart: layers that mix records, and buffers that learn.

The clip bounds what a patient's own gradient adds. It bounds nothing a patient does to the outputs of others in the
batch, nor what a layer remembers of a patient in a buffer or by editing its weights in the forward pass. So such
models are refused, by walking the modules that are really there: a model built with another `norm=` may still hold
BatchNorm (MONAI's ResNet does).

| refused | why |
|---|---|
| BatchNorm in every form, frozen too | statistics over the batch, running statistics; `train()` is one call away |
| a norm with `track_running_stats` | running statistics are learnt outside the gradient |
| recurrent or attention layers without `batch_first` | their first dimension is time: records would be mixed |
| `Embedding` with `max_norm`, `scale_grad_by_freq` or `sparse` | edits weights, or scales by the batch's counts |
| `EmbeddingBag` | its bags are cut from one long list, not one row a record |
| softmax or flatten over the first dimension, softmax without `dim` | mixes records |
| lazy parameters | nothing is known of them yet |
| dropout inside a layer that is computed again (`fallback.py`) | would draw another mask |

What types cannot show, `refuse_if_records_mix` looks for by computing made-up records alone and in company, which
`exact_sum.py` does before it reads a patient; and the engine refuses a forward pass that changed a buffer. A module
that keeps state in plain Python attributes is beyond all three: models come from our own list.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import UninitializedParameter

from fedhealth.training.layers import LAYERS

_RecordLosses = Callable[[nn.Module, tuple[torch.Tensor, ...]], torch.Tensor]


def refuse_what_mixes_patients(model: nn.Module) -> None:
    """Walk all modules and refuse the first that cannot be private.

    Raises:
        ValueError: names the module, its type and the reason.
    """
    for name, module in model.named_modules():
        for kind, reason_of in _REASONS.items():
            reason = reason_of(module) if isinstance(module, kind) else ""
            if reason:
                raise ValueError(f"layer '{name}' ({type(module).__name__}) is refused: {reason}")
        if any(isinstance(parameter, UninitializedParameter) for parameter in module.parameters(recurse=False)):
            raise ValueError(f"layer '{name}' ({type(module).__name__}) is refused: run it once to give it weights")
    for name, module in fallback_layers(model).items():
        for inner in module.modules():
            if float(getattr(inner, "dropout", 0.0)) > 0 or (isinstance(inner, nn.Dropout) and inner.p > 0):
                raise ValueError(
                    f"layer '{name}' ({type(module).__name__}) is refused: it is computed again for each patient, and "
                    "its dropout would draw another mask; put dropout outside the layer"
                )


def refuse_if_records_mix(model: nn.Module, losses: _RecordLosses, batch: tuple[torch.Tensor, ...]) -> None:
    """Refuse a model whose loss for a record changes by more than rounding when the other records change.

    Args:
        model: run without gradients, as it stands; it must not draw random numbers.
        losses: one loss per record, from model and batch.
        batch: at least two made-up records, all different; never a patient's.

    Raises:
        ValueError: there is not one loss per record, or a record's loss depends on the others.
    """
    count = len(batch[0])
    with torch.no_grad():
        whole = losses(model, batch)
        for record in range(count):
            # The same record, with each other one replaced by a copy of it.
            alone = losses(model, tuple(each[record : record + 1].expand(each.shape).contiguous() for each in batch))
            if whole.shape != (count,) or not torch.allclose(
                whole[record], alone[record], rtol=1e-3, atol=1e-5, equal_nan=True
            ):
                raise ValueError("the model's loss for one record depends on the other records of the batch")


def fallback_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return, by name, the modules with trainable parameters of their own that no function of `LAYERS` knows.

    Such a module is handled whole, with all modules below it.
    """
    found: dict[str, nn.Module] = {}
    _walk(model, "", found, {})
    return found


def known_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return, by name, the modules with trainable parameters that a function of `LAYERS` handles."""
    found: dict[str, nn.Module] = {}
    _walk(model, "", {}, found)
    return found


def _walk(module: nn.Module, name: str, unknown: dict[str, nn.Module], known: dict[str, nn.Module]) -> None:
    own = dict(module.named_parameters(recurse=False))
    if any(each.requires_grad for each in own.values()):
        # The exact type, because a subclass may compute something else; only these names, because a
        # reparametrised weight is not a parameter.
        if type(module) in LAYERS and own.keys() <= {"weight", "bias"}:
            known[name] = module
        else:
            unknown[name] = module
            return
    for key, child in module.named_children():
        _walk(child, f"{name}.{key}" if name else key, unknown, known)


def _first_dimension(dim: int | None) -> str:
    return "" if dim is not None and dim != 0 else "it works over the first dimension, which holds the records"


_REASONS: Mapping[type[nn.Module], Callable[[Any], str]] = MappingProxyType(
    {
        _BatchNorm: lambda layer: "it mixes the patients of a batch; use GroupNorm",
        _NormBase: lambda layer: "running statistics learn from patients" if layer.track_running_stats else "",
        nn.RNNBase: lambda layer: "" if layer.batch_first else "it needs batch_first=True, or it mixes records",
        nn.MultiheadAttention: lambda layer: "" if layer.batch_first else "it needs batch_first=True",
        nn.EmbeddingBag: lambda layer: "its bags are not rows; use Embedding and a mean",
        nn.Embedding: lambda layer: (
            "max_norm, scale_grad_by_freq and sparse depend on the batch"
            if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse
            else ""
        ),
        nn.Softmax: lambda layer: _first_dimension(layer.dim),
        nn.LogSoftmax: lambda layer: _first_dimension(layer.dim),
        nn.Softmin: lambda layer: _first_dimension(layer.dim),
        nn.Flatten: lambda layer: _first_dimension(layer.start_dim),
        nn.Unflatten: lambda layer: _first_dimension(layer.dim if isinstance(layer.dim, int) else None),
    }
)
