"""Poisson sampling of patients, and the records that belong to the patients drawn.

Each patient is in a batch with the same probability, independently of everything else. That independence is what the
accountant's amplification stands on (Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, section 3.1),
so a batch has no fixed size, may be empty, and is never cut short: a cap of 1.1 times the expected size turned an
epsilon of 3.1 into 14.8.

Promises:

| case | result |
|---|---|
| the same stream from its first word | the same patients |
| `sampling_rate` q < 1 | each patient with probability floor(q * 2**64) / 2**64, which is never above q |
| `sampling_rate` 1 | everybody; no words are drawn |
| nobody drawn | an empty batch, which is a batch like any other: its release is noise alone |

The stream is the caller's: the gate gives one that its noise secret keys, so that nobody outside can tell who was
drawn, and a release that is computed again after a crash draws the same patients.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class WordStream(Protocol):
    """Uniform random words, such as `fedhealth.privacy.stream.KeyedStream`; owns its position."""

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return the next `count` words, uniform on [0, 2**64)."""
        ...


@dataclass(frozen=True)
class PatientSampler:
    """Who takes part in a step.

    Attributes:
        patient_count: number of patients that may be drawn, 0 or more.
        sampling_rate: probability of each patient, in (0, 1].
    """

    patient_count: int
    sampling_rate: float

    def __post_init__(self) -> None:
        if self.patient_count < 0:
            raise ValueError(f"patient_count must be 0 or more, got {self.patient_count}")
        if not 0 < self.sampling_rate <= 1:  # also refuses NaN
            raise ValueError(f"sampling_rate must be in (0, 1], got {self.sampling_rate}")

    def draw(self, stream: WordStream) -> NDArray[np.int64]:
        """Return the patients of one step, ascending, each from 0 to patient_count - 1; consumes one word a patient."""
        if self.sampling_rate == 1:
            return np.arange(self.patient_count, dtype=np.int64)
        # Exact: a double times a power of two, cut to an integer.
        threshold = np.uint64(int(self.sampling_rate * 2.0**64))
        return np.flatnonzero(stream.words(self.patient_count) < threshold)


class PatientRecords:
    """Which records belong to which patient.

    Args:
        patients: patient of each record, 0 to patient_count - 1, shape (records,), in any order.
        patient_count: number of patients, 0 or more.

    Raises:
        ValueError: a record belongs to no patient.
    """

    def __init__(self, patients: NDArray[np.int64], patient_count: int) -> None:
        if patients.ndim != 1 or (len(patients) and not (patients.min() >= 0 and patients.max() < patient_count)):
            raise ValueError(f"patients must be of shape (records,) with values from 0 to {patient_count - 1}")
        self._by_patient = np.argsort(patients, kind="stable")
        self._counts = np.bincount(patients, minlength=patient_count).astype(np.int64)
        self._first = np.cumsum(self._counts) - self._counts

    def of(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the records of the chosen patients, and for each its patient's place in `chosen`.

        Args:
            chosen: patients, shape (chosen,); what `PatientSampler.draw` returned.

        Returns:
            Record numbers and places, both of shape (records of the chosen,), grouped by patient.

        Example:
            >>> records, places = PatientRecords(np.array([2, 0, 2]), 3).of(np.array([1, 2]))
            >>> records.tolist(), places.tolist()
            ([0, 2], [1, 1])
        """
        counts = self._counts[chosen]
        places = np.repeat(np.arange(len(chosen), dtype=np.int64), counts)
        within = np.arange(len(places), dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._by_patient[np.repeat(self._first[chosen], counts) + within], places
