"""Who was in a data set at each of its versions, as short keyed marks, for telling patients what used their records.

One file holds, for each patient that ever was in the data, the versions from which and up to which: 16 bytes a
patient, whatever the number of versions. The gate writes it before its journal names the version and the digest of
the version's members; so whatever comes back of the file is checked against the journal, and a file that is lost,
damaged or of another time makes "unknown" and never a wrong answer.

Invariants: the file is replaced whole; recording a version again, after a crash, undoes what was recorded of it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhealth.canonical import digest_of
from fedhealth.privacy.release import Digest
from fedhealth.secret_file import replace_file

_ROW = np.dtype([("mark", "<u8"), ("since", "<u4"), ("until", "<u4")])
_STILL = 2**32 - 1


def digest_of_members(members: NDArray[np.uint64]) -> Digest:
    """Return the digest of short marks, shape (patients,), sorted."""
    return digest_of("members", members.astype("<u8").tobytes())


@dataclass(frozen=True)
class MemberHistory:
    """Who was in the data at each version; owns one file, which is made with the first version.

    Attributes:
        path: the file, in a folder of the gate's own.
    """

    path: Path

    def record(self, version: int, members: NDArray[np.uint64]) -> Digest:
        """Write durably who is in a version, and return the members' digest.

        Args:
            version: 1, 2, ...; one more than the last one that the journal names.
            members: short marks, shape (patients,), sorted, each once.
        """
        rows = self._rows()
        rows = rows[rows["since"] < version]  # later ones were begun before a crash
        before = rows["until"] >= version - 1
        stay = np.isin(rows["mark"], members)
        rows["until"][before & stay] = _STILL
        rows["until"][before & ~stay] = version - 1
        new = np.setdiff1d(members, rows["mark"][before], assume_unique=True)
        added = np.zeros(len(new), dtype=_ROW)
        added["mark"], added["since"], added["until"] = new, version, _STILL
        replace_file(self.path, np.concatenate([rows, added]).tobytes())
        return digest_of_members(members)

    def members(self, version: int) -> NDArray[np.uint64]:
        """Return who was in a version as far as the file knows, as short marks, sorted; compare their digest."""
        rows = self._rows()
        return np.unique(rows["mark"][(rows["since"] <= version) & (rows["until"] >= version)]).astype(np.uint64)

    def _rows(self) -> NDArray[np.void]:
        try:
            raw = self.path.read_bytes()
        except OSError:
            raw = b""
        return np.frombuffer(raw if len(raw) % _ROW.itemsize == 0 else b"", dtype=_ROW).copy()


@dataclass(frozen=True)
class PassingMembers:
    """The same for a simulated site, whose data have one version and whose members nobody asks for."""

    def record(self, version: int, members: NDArray[np.uint64]) -> Digest:
        """Return the members' digest."""
        return digest_of_members(members)
