"""Parts of a batch that fit into memory, cut between patients only, with equal patients side by side.

A patient's records are never split: the clip needs the patient's whole gradient. Patients are ordered by their number
of records, so that those with equally many (a bucket) are a plain dimension of every tensor, without padding.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray


class Bucket(NamedTuple):
    """Patients next to one another with the same number of records.

    Attributes:
        patients: where they lie among the patients of the batch.
        records: where their records lie among the records of the batch.
        records_each: records of each of them, at least 1.
    """

    patients: slice
    records: slice
    records_each: int

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Return shape (patients, records_each * positions, width) of values (records, positions, width)."""
        return values[self.records].reshape(self.patients.stop - self.patients.start, -1, values.shape[-1])


class MicroBatch(NamedTuple):
    """What is computed at once.

    Attributes:
        records: record numbers, grouped by patient, shape (records,); None: all, as they lie.
        patients: patient numbers in the order of their records, shape (patients,).
        buckets: the same patients, by their number of records.
    """

    records: NDArray[np.int64] | None
    patients: NDArray[np.int64]
    buckets: list[Bucket]


def micro_batches(patients: NDArray[np.int64], patient_count: int, most: int | None) -> Iterator[MicroBatch]:
    """Yield micro-batches that hold each patient with records once.

    Args:
        patients: patient of each record, 0 to patient_count - 1, shape (records,), in any order.
        patient_count: number of patients, those without records too.
        most: records in one micro-batch, at least 1; a patient with more is alone in one. None: no limit.

    Raises:
        ValueError: a record belongs to no patient.
    """
    if not len(patients):
        return
    each = len(patients) // patient_count if patient_count else 0
    all_at_once = most is None or most >= len(patients)
    if all_at_once and patients.tobytes() == _in_turn(patient_count, each).tobytes():
        # The common case of a batch that lies as it is wanted, in a fifth of the time.
        whole = Bucket(slice(0, patient_count), slice(0, len(patients)), each)
        yield MicroBatch(None, _in_turn(patient_count, 1), [whole])
        return
    if patients.min() < 0 or patients.max() >= patient_count:
        raise ValueError(f"patients must be from 0 to {patient_count - 1}")
    counts = np.bincount(patients, minlength=patient_count)
    present = np.argsort(counts, kind="stable")
    present = present[np.searchsorted(counts[present], 1) :]
    place = np.empty_like(counts)
    place[present] = np.arange(len(present))
    places = place[patients]
    as_they_lie = all_at_once and bool((places[1:] >= places[:-1]).all())
    order = None if as_they_lie else np.argsort(places, kind="stable")
    ends = np.cumsum(counts[present])
    start = first = 0
    while start < len(present):
        stop = len(present) if most is None else max(start + 1, int(np.searchsorted(ends, first + most, "right")))
        end = int(ends[stop - 1])
        rows = None if order is None else order[first:end]
        yield MicroBatch(rows, present[start:stop], _buckets(counts[present[start:stop]]))
        start, first = stop, end


@lru_cache(maxsize=2)
def _in_turn(patient_count: int, each: int) -> NDArray[np.int64]:
    patients = np.arange(patient_count)
    patients = patients if each == 1 else np.repeat(patients, each)
    patients.flags.writeable = False
    return patients


def _buckets(lengths: NDArray[np.int64]) -> list[Bucket]:
    edges = [0, *(np.flatnonzero(lengths[1:] != lengths[:-1]) + 1).tolist(), len(lengths)]
    buckets, record = [], 0
    for start, stop in pairwise(edges):
        each = int(lengths[start])
        end = record + (stop - start) * each
        buckets.append(Bucket(slice(start, stop), slice(record, end), each))
        record = end
    return buckets
