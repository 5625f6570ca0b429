"""The sum of the patients' clipped gradients in one backward pass, for a torch model and a loss per record.

Hooks store what goes into each layer and the gradient of what comes out; no gradient of a parameter is computed by
autograd. The gradient of a patient is the mean over the patient's records. When the pass is over, the norm of each
patient's gradient is known from all layers (`layers.py`, `fallback.py`), hence the patient's clip factor, and the
clipped sum is one product a layer: no second backward pass.

Sources: Bu, Wang, Zha, Karypis, "Differentially Private Optimization on Large Model at Small Cost", ICML 2023
(book-keeping); Li, Tramer, Liang, Hashimoto, ICLR 2022 (ghost clipping). Opacus is the oracle of the tests.

Promises:

| case | result |
|---|---|
| a patient without records | counts, with a gradient of zero |
| a patient whose gradient, or its squared norm, is not finite | counts as zero; the others' gradients are kept |
| nobody | zeros |
| `max_records_at_once` | splits between patients only; a patient with more records goes alone |
| a parameter of several layers or calls | its gradients add up before the norm |
| frozen parameters | are not in the result; a gradient passes through them |
| a layer with trainable parameters that is not called | refused: somebody uses its weights where no hook sees it |
| a forward pass that changes a buffer, or a stored input in place | refused; the buffer is put back |

**What `clipped_sum` does not promise.** Matrix products round a row differently when there are more rows, and the sum
is rounded, so one patient moves the last bits of all others' contributions, and with weights of 1e300 more than those.
`clipped_sum` is for public data and simulation. What crosses a border needs `exact_sum.py`, which takes the same passes
and parts (`BookKeeper.listen`) and has a proven sensitivity.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedhealth.training.fallback import fallback_parts, output_tensors, separate
from fedhealth.training.feed_forward import (
    FeedForward,
    LinearCall,
    feed_forward,
    gradients_of,
    have_rank_one,
    rank_one_sum,
)
from fedhealth.training.layer_calls import (
    LayerCall,
    Rooted,
    TrainableLayer,
    detached,
    group_statistics,
    refuse_changed_inputs,
)
from fedhealth.training.layers import LAYERS, group_norm_parts
from fedhealth.training.micro_batches import Bucket, micro_batches
from fedhealth.training.parts import Part, clip_factors, record_weights
from fedhealth.training.privacy_check import fallback_layers, known_layers, refuse_what_mixes_patients

Batch = tuple[torch.Tensor, ...]
"""Tensors whose first dimension holds the records."""

RecordLosses = Callable[[nn.Module, Batch], torch.Tensor]
"""From model and batch to one loss per record, shape (records,). Calls the model as a module, so that hooks run."""


class ClippedSum(NamedTuple):
    """The clipped gradients of all patients of a batch, summed. Nothing of it may leave before noise.

    Attributes:
        total: shape (d,), trainable parameters flattened in the order of `model.named_parameters()`.
        norms: L2 norm of each patient's gradient before the clip, shape (patients,); for the gate alone.
        zeroed: how many patients counted as zero because their gradient was not finite; for the local journal alone.
    """

    total: torch.Tensor
    norms: torch.Tensor
    zeroed: int


def clipped_sum(
    model: nn.Module,
    losses: RecordLosses,
    batch: Batch,
    patients: NDArray[np.int64],
    patient_count: int,
    l2_clip_norm: float,
    max_records_at_once: int | None = None,
) -> ClippedSum:
    """Return `BookKeeper(model).clipped_sum(...)`: for one step; a loop keeps its `BookKeeper`."""
    return BookKeeper(model).clipped_sum(losses, batch, patients, patient_count, l2_clip_norm, max_records_at_once)


class BookKeeper:
    """A model accepted for training under patient-level privacy; owns what its hooks store during a step.

    Attributes:
        model: as given.
        trainable: its trainable parameters, in the order in which a sum holds them.

    Args:
        model: any module that `refuse_what_mixes_patients` accepts, with trainable parameters of one dtype on one
            device. Its layers, and which of its parameters are trainable, must stay as they are.

    Raises:
        ValueError: the model is refused.
    """

    def __init__(self, model: nn.Module) -> None:
        refuse_what_mixes_patients(model)
        self.model, self._modules = model, list(model.modules())
        self.trainable = [each for each in model.parameters() if each.requires_grad]
        if len({(each.dtype, each.device) for each in self.trainable}) != 1:
            raise ValueError("the model needs trainable parameters, of one dtype and on one device")
        self._layers: list[TrainableLayer] = []
        for known, layers in ((True, known_layers(model)), (False, fallback_layers(model))):
            for name, module in layers.items():
                if not any(module is other.module for other in self._layers):
                    own = module.named_parameters(recurse=not known)
                    wanted = {key: each for key, each in own if each.requires_grad}
                    size = sum(each.numel() for each in wanted.values())
                    self._layers.append(TrainableLayer(name, module, known, wanted, size))
        self._chain = feed_forward(model, self._layers)
        self._size = sum(each.numel() for each in self.trainable)
        self._anchor = self.trainable[0].new_zeros((), requires_grad=True)
        self._buckets: list[Bucket] = []
        self._forget()

    @torch.no_grad()
    def clipped_sum(
        self,
        losses: RecordLosses,
        batch: Batch,
        patients: NDArray[np.int64],
        patient_count: int,
        l2_clip_norm: float,
        max_records_at_once: int | None = None,
    ) -> ClippedSum:
        """Return the sum over patients of min(1, l2_clip_norm / norm) times the mean gradient of the patient's records.

        Args:
            losses: one loss per record.
            batch: tensors with the records first, on the model's device.
            patients: patient of each record, 0 to patient_count - 1, shape (records,), in any order.
            patient_count: number of patients, 0 or more, those without records too.
            l2_clip_norm: the most one patient's gradient may measure, above 0, in the gradient's own unit.
            max_records_at_once: bounds memory; changes the result by rounding only (and the draws of dropout).

        Raises:
            ValueError: shapes do not fit, or the model did what the module's table refuses.
        """
        if not (math.isfinite(l2_clip_norm) and l2_clip_norm > 0):
            raise ValueError(f"l2_clip_norm must be finite and above 0, got {l2_clip_norm}")
        if max_records_at_once is not None and max_records_at_once < 1:
            raise ValueError(f"max_records_at_once must be at least 1, got {max_records_at_once}")
        if patients.ndim != 1 or any(each.shape[:1] != patients.shape for each in batch):
            raise ValueError("batch and patients must have as many rows as there are records")
        norms, total, zeroed = None, None, 0
        for part in micro_batches(patients, patient_count, max_records_at_once):
            mine = batch
            if part.records is not None:
                rows = torch.from_numpy(part.records)
                mine = tuple(each[rows.to(each.device)] for each in batch)
            try:
                own, measured, finite = self._sum_of(losses, mine, part.buckets, l2_clip_norm)
            finally:
                self._forget()
            total = own if total is None else total.add_(own)
            if finite is not None:
                zeroed += int((~finite).sum())
            if part.records is None and len(measured) == patient_count:
                norms = measured
            else:
                norms = self._anchor.new_zeros(patient_count) if norms is None else norms
                norms[torch.from_numpy(part.patients).to(norms.device)] = measured
        nothing = self._anchor.new_zeros
        return ClippedSum(
            nothing(self._size) if total is None else total, nothing(patient_count) if norms is None else norms, zeroed
        )

    @torch.no_grad()
    def listen(
        self, losses: RecordLosses, batch: Batch, buckets: list[Bucket], weights: torch.Tensor
    ) -> list[list[Part]]:
        """Run the model forward and backward; return the parts of each trainable parameter, in the model's order.

        Args:
            losses: one loss per record.
            batch: tensors with the records first, grouped by patient.
            buckets: the patients, by their number of records.
            weights: of each record in its patient's loss, shape (records,).

        Raises:
            ValueError: the model did what the module's table refuses.
        """
        try:
            self._keep_calls(self._listen(losses, batch, buckets, weights))
            return [self._parts.get(id(parameter), []) for parameter in self.trainable]
        finally:
            self._forget()

    def _sum_of(
        self, losses: RecordLosses, batch: Batch, buckets: list[Bucket], l2_clip_norm: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Run the model forward and backward; return the clipped sum, the norms, and who is finite (None: all)."""
        calls = self._listen(losses, batch, buckets, record_weights(buckets, self._anchor.dtype, self._anchor.device))
        if have_rank_one(calls, self._layers, buckets):
            return rank_one_sum(calls, self._size, l2_clip_norm)
        self._keep_calls(calls)
        lengths = [part.measured(buckets) for parts in self._parts.values() for part in parts if not part.in_other]
        norms = self._anchor.new_zeros(buckets[-1].patients.stop) if not lengths else lengths[0]
        if len(lengths) > 1:
            norms = torch.linalg.vector_norm(torch.stack(lengths), dim=0)
        factors, finite = clip_factors(norms, l2_clip_norm)
        return self._weighted_sum(factors, finite), norms, finite

    def _listen(
        self, losses: RecordLosses, batch: Batch, buckets: list[Bucket], weights: torch.Tensor
    ) -> list[LinearCall]:
        """Make the parts with hooks, or return a chain's calls, whose parts are not made yet."""
        self._buckets = buckets
        if self._chain is not None:
            return self._listen_to_chain(self._chain, losses, batch, weights)
        self._listen_with_hooks(losses, batch, weights)
        return []

    def _keep_calls(self, calls: list[LinearCall]) -> None:
        for layer, a, g in calls:
            self._keep(layer, self._parts_of(layer, a, g, must_keep=len(calls) > len(self._layers)))

    def _listen_to_chain(
        self, chain: FeedForward, losses: RecordLosses, batch: Batch, weights: torch.Tensor
    ) -> list[LinearCall]:
        """Return inputs and output gradients of all layers, from the chain's forward pass in the model's place."""
        try:
            self.model.__dict__["forward"] = chain.forward
            with torch.enable_grad():
                each_loss = losses(self.model, batch)
            self._refuse_losses_that_are_not_one_per_record(each_loss)
            outputs = chain.outputs
            if not outputs:
                self._refuse_layers_that_were_not_called()
            if not each_loss.requires_grad:
                return []
            return chain.calls(gradients_of(each_loss, outputs, weights.to(each_loss.dtype)))
        finally:
            del self.model.__dict__["forward"]
            chain.forget()

    def _listen_with_hooks(self, losses: RecordLosses, batch: Batch, weights: torch.Tensor) -> None:
        """Make the parts of all layers from what hooks store in a pass of the model's own."""
        buffers = [
            (module, name, each, each._version, each.clone())
            for module in self._modules
            for name, each in module._buffers.items()
            if each is not None
        ]
        handles = [
            each.module.register_forward_hook(partial(self._called, each), with_kwargs=True) for each in self._layers
        ]
        try:
            for parameter in self.trainable:
                parameter.requires_grad_(False)
            with torch.enable_grad():
                each_loss = losses(self.model, batch)
            for handle in handles:
                handle.remove()
            self._refuse_changed_buffers(buffers)
            self._refuse_losses_that_are_not_one_per_record(each_loss)
            self._refuse_layers_that_were_not_called()
            if each_loss.requires_grad:
                torch.autograd.grad(each_loss, self._anchor, weights.to(each_loss.dtype), allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
            for parameter in self.trainable:
                parameter.requires_grad_()
        self._use_fallback()

    def _refuse_losses_that_are_not_one_per_record(self, each_loss: torch.Tensor) -> None:
        if each_loss.shape != (self._buckets[-1].records.stop,):
            raise ValueError(f"the losses have shape {tuple(each_loss.shape)}, wanted one per record")

    def _weighted_sum(self, factors: torch.Tensor, finite: torch.Tensor | None) -> torch.Tensor:
        total, start = factors.new_empty(self._size), 0
        for parameter in self.trainable:
            own = total[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()
            parts = self._parts.get(id(parameter))
            if not parts:
                own.zero_()
                continue
            parts[0].weigh(factors, finite, own)
            for part in parts[1:]:
                more = torch.empty_like(own)
                part.weigh(factors, finite, more)
                own += more
        return total

    def _called(
        self,
        layer: TrainableLayer,
        module: nn.Module,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        output: Any,  # noqa: ANN401 - what a module returns
    ) -> Any:  # noqa: ANN401 - what a module returns
        """Store what a layer was called with, and wait for the gradient of its output."""
        self._uses[id(module)] = self._uses.get(id(module), 0)
        if not torch.is_grad_enabled():
            return output
        versions: list[tuple[torch.Tensor, int]] = []
        statistics = group_statistics(module, output) if layer.known else ()
        call = LayerCall(layer, detached(arguments, versions), detached(keywords, versions), versions, statistics)
        self._calls.append(call)
        for parameter in layer.wanted.values():
            self._uses[id(parameter)] = self._uses.get(id(parameter), 0) + 1
        tensors = [(output, 0)] if layer.known else output_tensors(module, output)
        for tensor, _ in tensors:
            if not tensor.requires_grad:
                Rooted.apply(tensor, self._anchor)  # type: ignore[no-untyped-call]
        if len(tensors) > 1:
            output = separate(output)
            tensors = output_tensors(module, output)
        for place, (tensor, _) in enumerate(tensors):
            call.gradients.append(None)
            tensor.register_hook(partial(self._arrived, call, place))
        return output

    def _arrived(self, call: LayerCall, place: int, gradient: torch.Tensor) -> None:
        """Make the parts of a known layer, and let go of its input if they do not need it."""
        if not call.layer.known:
            call.gradients[place] = gradient
            return
        refuse_changed_inputs(call.layer, call.versions)
        a = call.arguments[0] if call.arguments else call.keywords["input"]
        must_keep = any(self._uses[id(parameter)] > 1 for parameter in call.layer.wanted.values())
        self._keep(call.layer, self._parts_of(call.layer, a, gradient, must_keep, call.statistics))
        call.arguments, call.keywords, call.versions, call.statistics = (), {}, [], ()

    def _parts_of(
        self,
        layer: TrainableLayer,
        a: torch.Tensor,
        g: torch.Tensor,
        must_keep: bool,
        statistics: tuple[torch.Tensor, ...] = (),
    ) -> Sequence[Part]:
        records = self._buckets[-1].records.stop
        if a.dim() < 2 - (not a.is_floating_point()) or len(a) != records or len(g) != records:
            raise ValueError(
                f"layer '{layer.name}' got {tuple(a.shape)}, whose first dimension does not hold the {records} records"
            )
        parts_of = partial(group_norm_parts, statistics) if statistics else LAYERS[type(layer.module)]
        return parts_of(layer.module, a, g, self._buckets, layer.wanted.keys(), must_keep)

    def _use_fallback(self) -> None:
        for call in self._calls:
            if not call.layer.known and any(each is not None for each in call.gradients):
                refuse_changed_inputs(call.layer, call.versions)
                module, wanted = call.layer.module, call.layer.wanted.keys()
                parts = fallback_parts(module, call.arguments, call.keywords, call.gradients, self._buckets, wanted)
                self._keep(call.layer, parts)

    def _keep(self, layer: TrainableLayer, parts: Sequence[Part]) -> None:
        for part in parts:
            before = self._parts.setdefault(id(layer.wanted[part.parameter]), [])
            if before and before[0].kept is not None and part.kept is not None:
                before[0] = Part(part.parameter, kept=before[0].kept + part.kept)
            else:
                before.append(part)

    def _forget(self) -> None:
        self._parts: dict[int, list[Part]] = {}
        self._calls: list[LayerCall] = []
        self._uses: dict[int, int] = {}

    def _refuse_changed_buffers(self, buffers: list[tuple[nn.Module, str, torch.Tensor, int, torch.Tensor]]) -> None:
        changed = False
        for module, name, buffer, version, copy in buffers:
            if module._buffers.get(name) is not buffer or buffer._version != version:
                changed = True
                module._buffers[name] = buffer.copy_(copy)
        if changed:
            raise ValueError("the forward pass changed a buffer of the model: it would learn outside the gradient")

    def _refuse_layers_that_were_not_called(self) -> None:
        for layer in self._layers:
            if id(layer.module) not in self._uses:
                raise ValueError(
                    f"layer '{layer.name}' has trainable parameters and was not called as a module, so that its "
                    "gradient cannot be told; freeze it, or call it"
                )
