"""What recognising a million patients costs a gate: at its start, at a new version of the data, and per question.

Run: .venv/bin/python benchmarks/consent.py
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from fedhealth.records.marks import PatientMarks, short_mark, without_patients
from fedhealth.records.members import MemberHistory, digest_of_members
from fedhealth.records.table import Table

PATIENTS = 1_000_000
CHANGED = 1_000
"""Patients who are new in the next version of the data, and as many who left."""

Result = TypeVar("Result")


def main() -> None:
    """Print what each step takes."""
    marks = PatientMarks.under(bytes(32), "icu", "id")
    table = Table(Path("made-up.csv"), ("id",), tuple((line, (f"patient-{line}",)) for line in range(PATIENTS)))
    forgotten = {marks.of(f"patient-{line}") for line in range(0, PATIENTS, 1000)}
    with tempfile.TemporaryDirectory(prefix="fedhealth-bench-") as folder:
        history = MemberHistory(Path(folder) / "members")
        print(f"{PATIENTS} patients, {len(forgotten)} of whom withdrew their consent")
        _, members = timed("every start: mark all, leave those out", lambda: without_patients(table, marks, forgotten))
        timed("first version of the data, durable", lambda: history.record(1, members))
        later = np.unique(np.concatenate([members[CHANGED:], np.arange(CHANGED, dtype=np.uint64)]))
        timed(f"next version: {CHANGED} came, {CHANGED} left, durable", lambda: history.record(2, later))
        mark = short_mark(marks.of("patient-7"))
        timed("was one patient in a version", lambda: mark in history.members(1))
        timed("and is that what the journal says", lambda: digest_of_members(history.members(1)))
        print(f"{history.path.stat().st_size / PATIENTS:.3f} bytes a patient on disk, for both versions")


def timed(what: str, call: Callable[[], Result]) -> Result:
    """Print how long a call takes, and return its result."""
    start = time.perf_counter()
    result = call()
    print(f"{what:40s} {time.perf_counter() - start:6.2f} s")
    return result


if __name__ == "__main__":
    main()
