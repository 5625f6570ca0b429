"""Patients by their codes: what a gate counts on, made once from the index and held in memory.

A patient has a code where a source states it or a text affirms it. Of each patient so many codes are kept, in their
order, as the search study says, so that the time of a count follows from public figures. Codes lie sorted, so that a
code and all below it are one slice.

Invariant: every patient's part is made from this patient's facts alone.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import DataUnusable
from fedhealth.search import generations
from fedhealth.search.store import FILE, Store
from fedhealth.study.count_query import AGE_BAND, CODE_PATTERN, MAX_CODES, CountQuery, Sex, count_query

MAX_ENTRIES = 2**27
"""Codes of all patients together that a gate holds, 512 MiB."""
_SEXES: dict[Sex | None, int] = {None: 0, "female": 1, "male": 2}
_UNKNOWN_YEAR = -1
_CODE = re.compile(CODE_PATTERN.replace("[0-9A-Z]{1,4}", "[0-9A-Z+]{1,4}"))
"""Asked for are international codes; an index has national ones below them, such as "icd10:F10.0+0", as well."""
_PATIENTS = "SELECT patient, day, age, sex FROM documents WHERE patient IS NOT NULL ORDER BY day, id"
_CODES = (
    "SELECT DISTINCT d.patient, c.code FROM document_codes c JOIN documents d ON d.id = c.document "
    "WHERE d.patient IS NOT NULL"
)
_AFTER_ALL = "~"
"""Sorts behind every character of a code."""


@dataclass(frozen=True)
class PatientFacts:
    """What is known of one patient.

    Attributes:
        patient: a key that is this patient's alone.
        codes: in the form of `fedhealth.study.count_query.Code`.
        birth_year: None if it is not known.
        sex: None if it is not known.
    """

    patient: str
    codes: frozenset[str]
    birth_year: int | None
    sex: Sex | None


@dataclass(frozen=True)
class CodedPatients:
    """Patients, with who has which code.

    Attributes:
        codes: each once, sorted, without dots.
        starts: where the patients of each code begin, shape (codes + 1,).
        holders: indices of patients, code by code, shape (entries,).
        birth_years: shape (patients,), -1 where it is not known.
        sexes: shape (patients,), 0 where it is not known.
    """

    codes: tuple[str, ...]
    starts: NDArray[np.int64]
    holders: NDArray[np.int32]
    birth_years: NDArray[np.int64]
    sexes: NDArray[np.int8]

    @classmethod
    def of(cls, everybody: Iterable[PatientFacts], most_codes: int) -> "CodedPatients":
        """Return the patients, in the order of their keys.

        Args:
            everybody: each patient once.
            most_codes: so many codes of each are kept, in their order; not counting those that another one implies.
        """
        patients = sorted(everybody, key=lambda each: each.patient)
        holders: dict[str, list[int]] = defaultdict(list)
        for index, each in enumerate(patients):
            for code in _unimplied(each.codes)[:most_codes]:
                holders[code].append(index)
        codes = tuple(sorted(holders))
        return cls(
            codes=codes,
            starts=np.cumsum([0, *(len(holders[code]) for code in codes)], dtype=np.int64),
            holders=np.array([index for code in codes for index in holders[code]], dtype=np.int32),
            birth_years=np.array(
                [_UNKNOWN_YEAR if each.birth_year is None else each.birth_year for each in patients], dtype=np.int64
            ),
            sexes=np.array([_SEXES[each.sex] for each in patients], dtype=np.int8),
        )

    def count(self, query: CountQuery) -> int:
        """Return how many patients a query is about: for a mechanism only."""
        return int(np.count_nonzero(self.meet(query)))

    def meet(self, query: CountQuery) -> NDArray[np.bool_]:
        """Return which patients a query is about, in their order, shape (patients,); it must not leave the gate."""
        met = np.ones(len(self.sexes), dtype=np.bool_)
        for code in query.all_of:
            met &= self._have(code)
        for code in query.none_of:
            met &= ~self._have(code)
        if query.ages is not None:
            low, high = query.ages
            ages = int(query.quarter[:4]) - self.birth_years
            met &= (self.birth_years != _UNKNOWN_YEAR) & (low <= ages) & (ages < high)
        if query.sex is not None:
            met &= self.sexes == _SEXES[query.sex]
        return met

    def _have(self, code: str) -> NDArray[np.bool_]:
        general = code.replace(".", "")
        first, last = bisect_left(self.codes, general), bisect_left(self.codes, general + _AFTER_ALL)
        have = np.zeros(len(self.sexes), dtype=np.bool_)
        have[self.holders[self.starts[first] : self.starts[last]]] = True
        return have


def patients_counted(everybody: Iterable[PatientFacts], query: CountQuery, most_codes: int) -> frozenset[str]:
    """Return the keys of the patients whom a query counts; arguments as `CodedPatients.of`."""
    patients = sorted(everybody, key=lambda each: each.patient)
    met = CodedPatients.of(patients, most_codes).meet(query)
    return frozenset(each.patient for each, is_met in zip(patients, met, strict=True) if is_met)


def _unimplied(codes: Iterable[str]) -> list[str]:
    """Return codes without dots, sorted, without those that stand above another: who has "I501" has "I50"."""
    undotted = sorted({code.replace(".", "") for code in codes})
    # In this order whatever is below a code follows it at once.
    return [
        code for code, following in zip_longest(undotted, undotted[1:], fillvalue="") if not following.startswith(code)
    ]


def made_up_patients(patients: int, most_codes: int) -> tuple[CodedPatients, CountQuery]:
    """Return patients that never were, with as many codes as any may have, and the query that takes longest on them.

    Codes of one list of a query do not cover each other, so that it looks at each patient's codes twice at most: once
    for those wanted, once for those unwanted. This one does.

    Args:
        patients: how many.
        most_codes: that each of them has, all below the code that is wanted, shared among those unwanted.

    Raises:
        DataUnusable: so many codes do not fit a gate's memory at once.
    """
    if patients * most_codes > MAX_ENTRIES:
        raise DataUnusable(
            "a search study may look at more at once than a gate can hold",
            got=f"{patients} patients of {most_codes} codes",
            wanted=f"at most {MAX_ENTRIES} codes",
            next_step="Ask its researcher for a lower most_codes_of_a_patient.",
        )
    groups = tuple(f"atc:A{number:02}" for number in range(1, MAX_CODES))
    codes = tuple(sorted(f"{groups[number % len(groups)]}{number:03}" for number in range(most_codes)))
    made_up = CodedPatients(
        codes=codes,
        starts=np.arange(most_codes + 1, dtype=np.int64) * patients,
        holders=np.tile(np.arange(patients, dtype=np.int32), most_codes),
        birth_years=np.full(patients, 1950, dtype=np.int64),
        sexes=np.ones(patients, dtype=np.int8),
    )
    return made_up, count_query("2000-Q1", ("atc:A",), groups, (0, 24 * AGE_BAND), "female")


def read_patient_facts(index: Path) -> tuple[PatientFacts, ...]:
    """Return what a site's index says of each patient: codes that a source states or a text affirms.

    A year of birth follows from the last document that states an age, a sex from the last that states one.

    Args:
        index: the folder of the index; a site without one has no patients to count.

    Raises:
        DataUnusable: there is an index, and it is damaged or of another format.
    """
    if not generations.exists(index):
        return ()
    store = Store(generations.current_generation(index) / FILE)
    try:
        codes, born, sexes = defaultdict[str, set[str]](set), dict[str, int](), dict[str, Sex]()
        for key, day, age, sex in store.rows(_PATIENTS):
            patient = key.strip()  # as in a table: one patient, who counts once and may withdraw
            codes[patient]
            if age is not None and day is not None:
                born[patient] = date.fromordinal(day).year - age
            if sex is not None:
                sexes[patient] = sex
        for key, code in store.rows(_CODES):
            if _CODE.fullmatch(code):
                codes[key.strip()].add(code)
    finally:
        store.close()
    return tuple(PatientFacts(each, frozenset(codes[each]), born.get(each), sexes.get(each)) for each in sorted(codes))
