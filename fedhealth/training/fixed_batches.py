"""Physical batches whose shape no patient decides for another: the same rows, filled up with nobody.

A kernel may round a row differently when there are more rows, or fewer. Here there never are: a patient with n records
takes r rows, r the smallest power of two that holds n, in a batch with `rows // r` places of r rows each. So what
a patient is computed with follows from the patient's own number of records; others decide only in which batch, and at
which place, the patient stands. Rows beyond a patient's own records repeat the first of them, at weight zero, and
places without a patient hold zeros.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fedhealth.training.micro_batches import Bucket


class FixedBatch(NamedTuple):
    """What is computed at once.

    Attributes:
        bucket: its places, all with the same number of rows.
        taken: whether a patient stands at a place, shape (places,).
        records: record of each row, -1 in rows of nobody, shape (rows,).
        weights: 1 / (records of the patient), and 0 in rows that only fill up, shape (rows,).
    """

    bucket: Bucket
    taken: NDArray[np.bool_]
    records: NDArray[np.int64]
    weights: NDArray[np.float64]

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Return the rows of the batch from those of all records."""
        records = torch.from_numpy(self.records).to(values.device)
        nobody = torch.from_numpy(np.flatnonzero(self.records < 0)).to(values.device)
        return values[records.clamp(min=0)].index_fill_(0, nobody, 0)  # a mask would go through all the numbers again


def fixed_batches(
    patients: NDArray[np.int64], patient_count: int, rows: int, alike: Mapping[int, NDArray[np.int64]]
) -> tuple[list[FixedBatch], int]:
    """Return batches that hold each patient with records once, and how many patients have too many for any.

    Args:
        patients: patient of each record, 0 to patient_count - 1, shape (records,), in any order.
        patient_count: number of patients, those without records too.
        rows: rows of a batch, a power of two; a patient with more records is alone in a larger one.
        alike: by rows of a patient, all powers of two up to some most: which places may be taken.

    Raises:
        ValueError: a record belongs to no patient.
    """
    if len(patients) and (patients.min() < 0 or patients.max() >= patient_count):
        raise ValueError(f"patients must be from 0 to {patient_count - 1}")
    by_patient = np.argsort(patients, kind="stable")
    counts = np.bincount(patients, minlength=patient_count)
    first = np.cumsum(counts) - counts
    rows_each = np.array([1 << (int(count) - 1).bit_length() for count in counts], dtype=np.int64)
    batches = []
    for each, places in alike.items():
        group = np.flatnonzero((counts > 0) & (rows_each == each))
        for start in range(0, len(group), len(places)):
            mine = group[start : start + len(places)]
            batch = _empty(each, rows)
            own = np.arange(each)[None, :] < counts[mine][:, None]
            taken = places[: len(mine)]
            batch.taken[taken] = True
            batch.records.reshape(-1, each)[taken] = by_patient[
                first[mine][:, None] + np.where(own, np.arange(each), 0)
            ]
            batch.weights.reshape(-1, each)[taken] = own / counts[mine][:, None]
            batches.append(batch)
    return batches, int(np.count_nonzero(rows_each > max(alike)))


def everybody_the_same(rows_each: int, rows: int) -> FixedBatch:
    """Return the batch of this shape with one patient at every place, whose records are 0 to rows_each - 1."""
    batch = _empty(rows_each, rows)
    batch.taken[:] = True
    batch.records.reshape(-1, rows_each)[:] = np.arange(rows_each)
    batch.weights[:] = 1 / rows_each
    return batch


def _empty(rows_each: int, rows: int) -> FixedBatch:
    places = max(1, rows // rows_each)
    bucket = Bucket(slice(0, places), slice(0, places * rows_each), rows_each)
    size = places * rows_each
    return FixedBatch(bucket, np.zeros(places, dtype=np.bool_), np.full(size, -1), np.zeros(size))
