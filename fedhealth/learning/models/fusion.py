"""Late fusion over the study's modalities: a linear layer or a network for each, and the mean of those that are there.

Linear towers start from zero, networks from small weights that follow from the study's digest and the modality's name.
A hospital that lacks a modality adds nothing to its tower but its noise. Torch-free until a module is asked for.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.dense_layers import size_of, start_of, tensors_of, widths_of
from fedhealth.study.modalities import Modality
from fedhealth.study.protocol import Study

if TYPE_CHECKING:
    import torch

    from fedhealth.training.per_patient import RecordLoss

ENDPOINTS = frozenset({"binary", "category", "classes", "number"})
HAS_HIDDEN_LAYERS = False


def size(study: Study) -> int:
    """Return the number of weights of all towers, biases included."""
    return sum(size_of(_widths(study, modality)) for modality in study.model.modalities)


def start(study: Study) -> NDArray[np.float64]:
    """Return where each tower starts."""
    towers = [(each, _widths(study, each)) for each in study.model.modalities]
    return np.concatenate(
        [
            start_of(widths, f"{study.digest}/{each.name}") if each.hidden else np.zeros(size_of(widths))
            for each, widths in towers
        ]
    )


def tensors(study: Study) -> dict[str, tuple[int, ...]]:
    """Return the tensors of each tower, each with the modality's name before its own."""
    return {
        f"{modality.name} {name}": shape
        for modality in study.model.modalities
        for name, shape in tensors_of(_widths(study, modality)).items()
    }


def reading(study: Study) -> str:
    """Return how to compute the towers, and what becomes of them."""
    towers = [
        f"{modality.name} takes {' and '.join(f'{first + 1} to {end}' for first, end in _places(study, modality))}"
        for modality in study.model.modalities
    ]
    return (
        f"Each modality has a tower, which takes its own of the inputs, numbered from 1: {'; '.join(towers)}. A tower "
        "multiplies its tensor `weights` (a row for each output) with what it takes, and adds `biases`; where it has "
        "layers, each does so, and what comes out of all but the last goes on as x / (1 + |x|). The output is the mean "
        "over the towers of those modalities that the record has, as the last inputs say."
    )


def module(study: Study) -> "torch.nn.Module":
    """Return the towers."""
    from fedhealth.training.late_fusion import LateFusion

    modalities = study.model.modalities
    return LateFusion([_places(study, each) for each in modalities], [_widths(study, each) for each in modalities])


def loss(study: Study) -> "RecordLoss":
    """Return the loss of the endpoint's kind, with modality dropout."""
    from fedhealth.learning.losses import LOSSES
    from fedhealth.training.late_fusion import ModalityDropoutLoss

    return ModalityDropoutLoss(LOSSES[study.endpoint.kind])


def _widths(study: Study, modality: Modality) -> tuple[int, ...]:
    inputs = sum(end - first for first, end in _places(study, modality))
    return (inputs, *modality.hidden, widths_of(study)[-1])


def _places(study: Study, modality: Modality) -> list[tuple[int, int]]:
    """Return the ranges of inputs, (first, end), that a modality's features are; neighbours are one."""
    found, at = list[tuple[int, int]](), 0
    for feature in study.features:
        if feature.column in modality.columns:
            first = found.pop()[0] if found and found[-1][1] == at else at
            found.append((first, at + feature.width))
        at += feature.width
    return found
