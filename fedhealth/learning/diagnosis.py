"""Diagnosis: the two functions of the task, each from weights and records to a noised vector of integers.

Both are called inside the gate, after the charge. What they return besides the release is for the local journal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from fedhealth.learning.evaluation import OUTCOMES, SCORES, TABLE, Line, score_edges
from fedhealth.learning.plan import Step, encode_release
from fedhealth.privacy.release import StepName
from fedhealth.privacy.stream import KeyedStream
from fedhealth.records.table import Records
from fedhealth.training.per_patient import RowwiseLinear, model_outputs, per_patient_gradients
from fedhealth.training.sampling import PatientRecords, PatientSampler

Streams = Callable[[str], KeyedStream]
"""From a purpose to the release's keyed stream for it, at its first bit."""

StepFunction = Callable[[Step, NDArray[np.float64], Records, Streams], tuple[bytes, int]]
"""Returns the payload, and the number of patients that counted as zero, which must stay in the gate."""


def train(step: Step, weights: NDArray[np.float64], records: Records, streams: Streams) -> tuple[bytes, int]:
    """Release the noisy sum of the clipped gradients of the logistic loss, over the patients that were drawn."""
    if step.sampling_rate < 1:
        records = _drawn(records, PatientSampler(records.patient_count, step.sampling_rate).draw(streams("sampling")))
    gradients = per_patient_gradients(
        RowwiseLinear(step.input_length - 1),
        weights,
        logistic_loss,
        records.features,
        records.labels,
        records.patients,
        records.patient_count,
    )
    total, zeroed = step.mechanism.clip_and_sum(gradients)
    return encode_release(step.mechanism.add_noise(total, streams("noise"))), zeroed


def evaluate(step: Step, weights: NDArray[np.float64], records: Records, streams: Streams) -> tuple[bytes, int]:
    """Release the noisy counts of the step's lines; a patient is judged by the mean score of the patient's records.

    A patient counts as ill when any record says so, as called ill when the mean score is above zero, and in the first
    group of a subgroup's column that any record names.
    """
    scores = model_outputs(RowwiseLinear(step.input_length - 1), weights, records.features)[:, 0]
    with np.errstate(all="ignore"):
        count = np.bincount(records.patients, minlength=records.patient_count)
        mean = np.bincount(records.patients, weights=scores, minlength=records.patient_count) / count
    positives = np.bincount(records.patients, weights=records.labels, minlength=records.patient_count)
    patients = _Judged(positives > 0, mean)
    cells = np.concatenate([line.weight * _line_cells(line, patients, records) for line in step.lines], axis=1)
    cells[~np.isfinite(mean) | np.isnan(positives)] = np.nan
    total, zeroed = step.mechanism.clip_and_sum(cells)
    return encode_release(step.mechanism.add_noise(total, streams("noise"))), zeroed


@dataclass(frozen=True)
class _Judged:
    """Held-out patients: whether each is ill, and the mean score, both of shape (patients,)."""

    ill: NDArray[np.bool_]
    score: NDArray[np.float64]

    def table(self) -> NDArray[np.float64]:
        """Return each patient's cell of the confusion table, shape (patients, 4), in the order of its cells."""
        ill, called = self.ill, self.score > 0
        return np.stack([called & ill, called & ~ill, ~called & ~ill, ~called & ill], axis=1).astype(np.float64)


def _line_cells(line: Line, patients: _Judged, records: Records) -> NDArray[np.float64]:
    """Return where each patient counts in a line, shape (patients, len(line.cells)), one 1 in a row or none."""
    if line.name == TABLE:
        return patients.table()
    counted = np.zeros((records.patient_count, len(line.cells)))
    if line.name == SCORES:
        edges = score_edges(len(line.cells) // len(OUTCOMES))
        place = np.searchsorted(edges, patients.score, side="left") + np.where(patients.ill, 0, len(edges) + 1)
        counted[np.arange(len(place)), place] = 1
        return counted
    assert line.inputs is not None  # noqa: S101 - every other line is a subgroup's
    named = np.zeros((records.patient_count, line.inputs[1] - line.inputs[0]))
    np.maximum.at(named, records.patients, records.features[:, slice(*line.inputs)])
    group, tables = np.argmax(named, axis=1), patients.table() * named.max(axis=1)[:, None]
    for cell in range(tables.shape[1]):
        counted[np.arange(len(group)), group * tables.shape[1] + cell] = tables[:, cell]
    return counted


def _drawn(records: Records, patients: NDArray[np.int64]) -> Records:
    """Return the records of the patients that were drawn, who are numbered anew."""
    rows, places = PatientRecords(records.patients, records.patient_count).of(patients)
    return Records(records.features[rows], records.labels[rows], places, len(patients))


STEPS: Mapping[StepName, StepFunction] = MappingProxyType({"train": train, "evaluate": evaluate})


def logistic_loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the loss of one record, shape (), from its output, shape (1,), and its label, 0 or 1."""
    return torch.nn.functional.binary_cross_entropy_with_logits(output[0], label)
