"""What a gate computes: the two steps of a study, each from weights and records to a noised vector of integers.

Both are called inside the gate, after the charge. What they return besides the release is for the local journal.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.image_models import image_gradients
from fedhealth.learning.models.table import CONVOLVES, model_of
from fedhealth.learning.outcomes.table import outcome_of
from fedhealth.learning.plan import Step, encode_release
from fedhealth.privacy.release import StepName
from fedhealth.privacy.stream import KeyedStream
from fedhealth.records.table import Records
from fedhealth.training.per_patient import gradient_blocks, model_outputs
from fedhealth.training.sampling import PatientRecords, PatientSampler

Streams = Callable[[str], KeyedStream]
"""From a purpose to the release's keyed stream for it, at its first bit."""

StepFunction = Callable[[Step, NDArray[np.float64], Records, Streams], tuple[bytes, int]]
"""Returns the payload, and the number of patients that counted as zero, which must stay in the gate."""


def train(step: Step, weights: NDArray[np.float64], records: Records, streams: Streams) -> tuple[bytes, int]:
    """Release the noisy sum of the clipped gradients of the model's loss, over the patients that were drawn."""
    model = model_of(step.study)
    if step.sampling_rate < 1:
        records = _drawn(records, PatientSampler(records.patient_count, step.sampling_rate).draw(streams("sampling")))
    if step.study.model.kind in CONVOLVES:
        total, zeroed = image_gradients(step.study, step.mechanism).sum(
            weights, records.features, records.labels, records.patients, records.patient_count
        )
        return _released(step, total, streams), zeroed
    gradients = gradient_blocks(
        model.module(step.study),
        weights,
        model.loss(step.study),
        records.features,
        records.labels,
        records.patients,
        records.patient_count,
    )
    return _noised(step, gradients, streams)


def evaluate(step: Step, weights: NDArray[np.float64], records: Records, streams: Streams) -> tuple[bytes, int]:
    """Release the noisy sums of the step's lines over the held-out patients, or over all where nothing is trained."""
    model = model_of(step.study)
    outputs = np.zeros((len(records.labels), 0))
    if step.input_length:
        outputs = model_outputs(model.module(step.study), weights, records.features)
    return _noised(step, outcome_of(step.study).vectors(step.study, outputs, records), streams)


def _noised(step: Step, blocks: Iterable[NDArray[np.float64]], streams: Streams) -> tuple[bytes, int]:
    """Release the noisy sum of patients' vectors, which come in blocks: each sum is exact, so that they add up."""
    fine, zeroed = np.zeros(step.mechanism.dimension, dtype=np.int64), 0
    for vectors in blocks:
        part, left_out = step.mechanism.fine_sum(vectors)
        fine, zeroed = fine + part, zeroed + left_out
    return _released(step, step.mechanism.rounded(fine), streams), zeroed


def _released(step: Step, total: NDArray[np.int64], streams: Streams) -> bytes:
    return encode_release(step.mechanism.add_noise(total, streams("noise")))


def _drawn(records: Records, patients: NDArray[np.int64]) -> Records:
    """Return the records of the patients that were drawn, who are numbered anew."""
    rows, places = PatientRecords(records.patients, records.patient_count).of(patients)
    return Records(records.features[rows], records.labels[rows], places, len(patients))


STEPS: Mapping[StepName, StepFunction] = MappingProxyType({"train": train, "evaluate": evaluate})
