"""The clipped gradients of patients whose records are images: several patients at once, or one patient in pieces.

A patient's gradient is the mean over the patient's records, and of each record over its images: itself and those that
a public list of transforms makes of it. The clip comes after the mean, so that one patient changes the sum by what the
clip lets through, however many images there are.

How much memory it takes follows from public figures alone: so many rows are computed at once as keep the numbers of a
pass within `NUMBERS_AT_ONCE`, or one. Where all rows of any patient fit, patients stand side by side and are summed by
`exact_sum.py`. Else each patient is computed by itself, so many rows after another, their gradients are added in the
order of the records, and the whole is clipped. Either way a patient's bits rest on that patient alone.

Source: De et al., "Unlocking High-Accuracy Differentially Private Image Classification through Scale", 2022, on
augmentation multiplicity.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import vmap

from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.study.augmentation import Transform
from fedhealth.training.book_keeping import BookKeeper, RecordLosses
from fedhealth.training.device import computing_device
from fedhealth.training.exact_sum import ExactSummer
from fedhealth.training.image_network import ImageNetwork
from fedhealth.training.per_patient import RecordLoss

NUMBERS_AT_ONCE = 2**24
"""Of a pass forward and backward, 64 MiB: measured best on a processor of 2**21 to 2**28, whose cache is not much
larger. On a GPU `_ON_A_GPU` times as many."""

_ON_A_GPU = 64
_MOST_ROWS = 64
_MOST_ROWS_AHEAD = 1024


def rows_at_once(numbers_of_a_record: int) -> int:
    """Return how many rows are computed at once, a power of two, from how many numbers one takes."""
    room = NUMBERS_AT_ONCE * (_ON_A_GPU if computing_device().type == "cuda" else 1)
    return 1 << (min(_MOST_ROWS, max(1, room // numbers_of_a_record)).bit_length() - 1)


def gradients_alone(
    model: ImageNetwork,
    weights: NDArray[np.float64],
    loss: RecordLoss,
    transforms: Sequence[Transform],
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.float64],
    patients: NDArray[np.int64],
    patient_count: int,
    rows: int,
) -> Iterator[NDArray[np.float64]]:
    """Yield the gradient of each patient alone, shape (1, d), in the order of the patients' numbers; may hold NaN.

    Arguments as in `ImageGradients`.
    """
    model = model.to(computing_device()).eval()
    take_weights(model, weights)
    losses, parameters = vmap(loss), list(model.parameters())
    order, ends = _by_patient(patients, patient_count)
    records_at_once = max(1, rows // (1 + len(transforms)))
    for patient in range(patient_count):
        mine = order[(ends[patient - 1] if patient else 0) : ends[patient]]
        total = torch.zeros(weights.size, dtype=torch.float64, device=parameters[0].device)
        for few in np.split(mine, range(records_at_once, len(mine), records_at_once)) if len(mine) else ():
            x, y = _tensors(model, features[few], labels[few])
            images = model.images_of(x, transforms)
            for part in range(0, len(images), rows):
                own = slice(part, part + rows)
                each = losses(model(images[own]), y.repeat_interleave(1 + len(transforms), dim=0)[own])
                found = torch.autograd.grad(each.sum() / (len(mine) * (1 + len(transforms))), parameters)
                total += torch.cat([gradient.flatten() for gradient in found])
        yield total.cpu().numpy()[None]


def unclipped_sum(
    model: ImageNetwork,
    weights: NDArray[np.float64],
    loss: RecordLoss,
    transforms: Sequence[Transform],
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.float64],
    patients: NDArray[np.int64],
    rows: int,
) -> NDArray[np.float64]:
    """Return the sum of the patients' gradients as they are, shape (d,): for public data and simulation alone.

    Arguments as in `ImageGradients`.
    """
    model = model.to(computing_device()).eval()
    take_weights(model, weights)
    losses, parameters = vmap(loss), list(model.parameters())
    shares = 1 / (np.bincount(patients)[patients] * (1 + len(transforms)))
    total = torch.zeros(weights.size, dtype=torch.float64, device=parameters[0].device)
    at_once = max(1, rows // (1 + len(transforms)))
    for start in range(0, len(patients), at_once):
        few = slice(start, start + at_once)
        x, y = _tensors(model, features[few], labels[few])
        each = losses(model(model.images_of(x, transforms)), y.repeat_interleave(1 + len(transforms), dim=0))
        share = torch.from_numpy(shares[few]).to(each).repeat_interleave(1 + len(transforms))
        total += torch.cat([part.flatten() for part in torch.autograd.grad((each * share).sum(), parameters)])
    return np.asarray(total.cpu().numpy())


@dataclass
class ImageGradients:
    """Computes patients of one study; owns its network and what was found out of it.

    Attributes:
        model: its weights are replaced.
        loss: of one record.
        transforms: what further images are made.
        mechanism: of the release.
        most_records: of one patient.
        rows: computed at once.
    """

    model: ImageNetwork
    loss: RecordLoss
    transforms: Sequence[Transform]
    mechanism: GridGaussian
    most_records: int
    rows: int
    _summer: ExactSummer | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.model = self.model.to(computing_device()).eval()
        self._images, losses = 1 + len(self.transforms), vmap(self.loss)
        keeper = BookKeeper(self.model)  # refuses what mixes patients
        if 1 << (self.most_records * self._images - 1).bit_length() <= self.rows:
            self._summer = ExactSummer(keeper, self.mechanism, self.most_records * self._images, self.rows)
        self._losses: RecordLosses = lambda model, batch: losses(model(batch[0]), batch[1])

    def sum(
        self,
        weights: NDArray[np.float64],
        features: NDArray[np.floating[Any]],
        labels: NDArray[np.float64],
        patients: NDArray[np.int64],
        patient_count: int,
    ) -> tuple[NDArray[np.int64], int]:
        """Return the sum of the clipped gradients in steps of the mechanism's grid, and how many counted as zero.

        Args:
            weights: of the model, shape (d,).
            features: shape (records, inputs).
            labels: shape (records,), or (records, numbers of a label).
            patients: patient of each record, 0 to patient_count - 1, shape (records,).
            patient_count: number of patients, those without records too.
        """
        fine, zeroed = np.zeros(self.mechanism.dimension, dtype=np.int64), 0
        if self._summer is None:
            data = (features, labels, patients, patient_count)
            for block in gradients_alone(self.model, weights, self.loss, self.transforms, *data, self.rows):
                part, left_out = self.mechanism.fine_sum(block)
                fine, zeroed = fine + part, zeroed + left_out
            return self.mechanism.rounded(fine), zeroed
        take_weights(self.model, weights)
        if not self.transforms and computing_device().type == "cpu":  # the summer takes a batch's rows out: one copy
            x, y = _tensors(self.model, features, labels)
            fine, zeroed = self._summer.fine_sum(self._losses, (x, y), patients, patient_count)
            return self._summer.rounded(fine), zeroed
        order, ends = _by_patient(patients, patient_count)
        ahead = min(_MOST_ROWS_AHEAD, max(self.rows, NUMBERS_AT_ONCE // features.shape[1]))
        first = 0
        while first < patient_count:
            start = int(ends[first - 1]) if first else 0
            stop = max(first + 1, int(np.searchsorted(ends, start + ahead // self._images, side="right")))
            mine = order[start : ends[stop - 1]]
            x, y = _tensors(self.model, features[mine], labels[mine])
            batch = self.model.images_of(x, self.transforms), y.repeat_interleave(self._images, dim=0)
            owners = np.repeat(patients[mine] - first, self._images)
            part, left_out = self._summer.fine_sum(self._losses, batch, owners, stop - first)
            fine, zeroed, first = fine + part, zeroed + left_out, stop
        return self._summer.rounded(fine), zeroed


def take_weights(model: torch.nn.Module, weights: NDArray[np.float64]) -> None:
    """Put weights, shape (d,), in the place of a model's own, each rounded to what the model computes with."""
    own = list(model.parameters())
    if weights.shape != (sum(each.numel() for each in own),):
        raise ValueError(f"the model has {sum(each.numel() for each in own)} weights, got {weights.shape}")
    with torch.no_grad():
        values, at = torch.from_numpy(weights), 0
        for each in own:
            each.copy_(values[at : at + each.numel()].reshape(each.shape))
            at += each.numel()


def _tensors(
    model: torch.nn.Module, features: NDArray[np.floating[Any]], labels: NDArray[np.float64]
) -> tuple[torch.Tensor, torch.Tensor]:
    like = next(model.parameters())
    return torch.from_numpy(features).to(like), torch.from_numpy(labels).to(like)


def _by_patient(patients: NDArray[np.int64], patient_count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the records in the order of the patients, and where each patient's end."""
    return np.argsort(patients, kind="stable"), np.cumsum(np.bincount(patients, minlength=patient_count))
