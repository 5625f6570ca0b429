"""Random tables, releases on them, and how far one patient's presence moves what the others add."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from fedhealth.learning import steps
from fedhealth.learning.plan import plan_study
from fedhealth.privacy.stream import UnsafeFixedNoiseSecret
from fedhealth.records.table import Table, prepare_records

SIDES = {"train": 0, "evaluate": 1}
SECRET = UnsafeFixedNoiseSecret(3)
SPLIT_KEY = bytes(range(32))
CELLS = {
    "id": ["p0", "p1", "p2", "p3", "p4", "p5", "p6", ""],
    "age": ["17", "18", "45.5", "60", "80", "81", "", "old", "1e999"],
    "dose": ["0", "2.5", "7", "11", "", "much", "-1e308"],
    "sex": ["f", "m", "d", ""],
    "ward": ["A", "B", "C", "D", ""],
    "ill": ["yes", "probably", "no", "no", "no", "perhaps", ""],
    "grade": ["none", "mild", "severe", "severe", "odd", ""],
    "pressure": ["80", "120", "133.25", "250", "0", "", "high"],
}


def table_of(seed, columns=tuple(CELLS)):
    generator = np.random.default_rng(seed)
    rows = zip(*(generator.choice(CELLS[column], 30) for column in columns), strict=True)
    return Table(Path("t"), columns, tuple((line, tuple(map(str, row))) for line, row in enumerate(rows, 2)))


def only(table, wanted):
    return replace(table, rows=tuple((line, row) for line, row in table.rows if wanted(row[0])))


def prepared(study, table):
    return prepare_records(table, study, "id", SPLIT_KEY, strict=False)


def release(study, name, weights, table, prepare=None):
    records = (prepare or partial(prepared, study))(table)[SIDES[name]]
    payload, _ = steps.STEPS[name](plan_study(study)[name], weights, records, partial(SECRET.stream, "0" * 64))
    return np.frombuffer(payload, dtype="<i8")


def reach_of_others(study, name, weights, table, patient, prepare=None):
    """Return how many steps a patient's presence moves what the others add, in the coordinate where it is most."""
    whole, without, alone, nobody = (
        release(study, name, weights, only(table, wanted), prepare)
        for wanted in (
            lambda row: True,
            lambda row: row != patient,
            lambda row: row == patient,
            lambda row: False,
        )
    )
    return int(np.abs((whole - without) - (alone - nobody)).max())
