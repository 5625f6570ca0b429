"""Keyed marks: how a site recognises a patient again without keeping the patient's name.

A mark is HMAC-SHA256 of the patient's name under a key of the data set, which is drawn from the site's naming secret.
Without that secret nobody can tell whose mark it is, or try names. Marks never leave the site.

Invariant: a mark changes with the naming secret, the name of the data set and its patient column, and all marks made
alike carry the same `scheme`, so that marks which could no longer be recognised are found out instead of ignored.
"""

import hmac
from collections.abc import Container
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedhealth.canonical import canonical_bytes, digest_of
from fedhealth.privacy.release import Digest
from fedhealth.records.table import Table


@dataclass(frozen=True)
class PatientMarks:
    """Makes the marks of one data set's patients.

    Attributes:
        key: 32 bytes, secret.
        patient_column: the column that names the patient.
    """

    key: bytes
    patient_column: str

    @staticmethod
    def under(naming_secret: bytes, data_set: str, patient_column: str) -> "PatientMarks":
        """Return the marks of a data set's patients.

        Args:
            naming_secret: the site's own, 32 bytes.
            data_set: its name.
            patient_column: the column that names the patient.
        """
        label = canonical_bytes(["fedhealth/patient-marks", data_set, patient_column])
        return PatientMarks(hmac.digest(naming_secret, label, "sha256"), patient_column)

    @property
    def scheme(self) -> Digest:
        """What marks of the same secret, data set and column have in common; hides the key."""
        return digest_of("patient-marks", self.key)

    def of(self, patient: str) -> Digest:
        """Return a patient's mark, 64 hexadecimal digits."""
        return hmac.digest(self.key, patient.encode("utf-8", "surrogateescape"), "sha256").hex()


def without_patients(
    table: Table, marks: PatientMarks, left_out: Container[Digest]
) -> tuple[Table, NDArray[np.uint64]]:
    """Return a table without some patients, and who is in it then.

    Every patient's mark is made, whether anybody is left out or not, so that the time does not tell.

    Args:
        table: the whole table; returned as it is when it lacks the patient column, as no study can read it then.
        marks: of its data set.
        left_out: marks of the patients to leave out, with all their rows.

    Returns:
        The table and the short marks (`short_mark`) of its patients, sorted, each once.
    """
    if marks.patient_column not in table.columns:
        return table, np.empty(0, dtype=np.uint64)
    place = table.columns.index(marks.patient_column)
    mark_of = {patient: marks.of(patient) for patient in dict.fromkeys(row[place] for _, row in table.rows) if patient}
    gone = {patient for patient, mark in mark_of.items() if mark in left_out}
    members = np.array([short_mark(mark) for patient, mark in mark_of.items() if patient not in gone], dtype=np.uint64)
    rows = tuple((line, row) for line, row in table.rows if row[place] not in gone)
    return replace(table, rows=rows), np.unique(members)


def short_mark(mark: Digest) -> int:
    """Return the first 64 bits of a mark: enough to tell a million patients apart but for one chance in 10**7."""
    return int(mark[:16], 16)
