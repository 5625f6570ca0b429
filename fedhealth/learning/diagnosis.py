"""Diagnosis: the two functions of the task, each from weights and records to a noised vector of integers.

Both are called inside the gate, after the charge. What they return besides the release is for the local journal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from fedhealth.learning.evaluation import CONFUSION_CELLS, OUTCOMES, SCORES, TABLE, Line, score_edges
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


_PATIENTS_AT_ONCE = 2**12
"""So many patients' vectors of an evaluation are held at once: those of many words are long."""


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
    places = [_places(line, patients, records) for line in step.lines]
    broken = ~np.isfinite(mean) | np.isnan(positives)
    fine, zeroed = np.zeros(step.mechanism.dimension, dtype=np.int64), 0
    for start in range(0, records.patient_count, _PATIENTS_AT_ONCE):
        block = slice(start, start + _PATIENTS_AT_ONCE)
        cells = _cells(step.lines, [place[block] for place in places])
        cells[broken[block]] = np.nan
        part, left_out = step.mechanism.fine_sum(cells)
        fine, zeroed = fine + part, zeroed + left_out
    return encode_release(step.mechanism.add_noise(step.mechanism.rounded(fine), streams("noise"))), zeroed


@dataclass(frozen=True)
class _Judged:
    """Held-out patients: whether each is ill, and the mean score, both of shape (patients,)."""

    ill: NDArray[np.bool_]
    score: NDArray[np.float64]

    def table(self) -> NDArray[np.int64]:
        """Return which cell of the confusion table each patient is in, shape (patients,), in the order of its cells."""
        return np.where(self.score > 0, np.where(self.ill, 0, 1), np.where(self.ill, 3, 2))


def _places(line: Line, patients: _Judged, records: Records) -> NDArray[np.int64]:
    """Return which of a line's cells each patient is in, shape (patients,), or -1 for none."""
    if line.name == TABLE:
        return patients.table()
    if line.name == SCORES:
        edges = score_edges(len(line.cells) // len(OUTCOMES))
        return np.searchsorted(edges, patients.score, side="left") + np.where(patients.ill, 0, len(edges) + 1)
    assert line.inputs is not None  # noqa: S101 - every other line is a subgroup's
    words = records.features[:, slice(*line.inputs)]
    named = np.where(words.max(axis=1, initial=0.0) > 0, np.argmax(words, axis=1), words.shape[1])
    group = np.full(records.patient_count, words.shape[1])
    np.minimum.at(group, records.patients, named)
    return np.where(group < words.shape[1], group * len(CONFUSION_CELLS) + patients.table(), -1)


def _cells(lines: Sequence[Line], places: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return what each patient adds to the vector, shape (patients, coordinates): in each line one cell or none."""
    cells = np.zeros((len(places[0]), sum(len(line.cells) for line in lines)))
    start = 0
    for line, place in zip(lines, places, strict=True):
        counted = np.flatnonzero(place >= 0)
        cells[counted, start + place[counted]] = line.weight
        start += len(line.cells)
    return cells


def _drawn(records: Records, patients: NDArray[np.int64]) -> Records:
    """Return the records of the patients that were drawn, who are numbered anew."""
    rows, places = PatientRecords(records.patients, records.patient_count).of(patients)
    return Records(records.features[rows], records.labels[rows], places, len(patients))


STEPS: Mapping[StepName, StepFunction] = MappingProxyType({"train": train, "evaluate": evaluate})


def logistic_loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the loss of one record, shape (), from its output, shape (1,), and its label, 0 or 1."""
    return torch.nn.functional.binary_cross_entropy_with_logits(output[0], label)
