"""Attacks on the counts that a gate gives: is one patient, whose every other record is known, among those counted?

Three attacks, 1,000 times each with the patient and 1,000 times without, with noise of fresh secrets. An attack's
advantage is its rate of a right yes less that of a wrong one; whoever saw releases of epsilon e together has one of at
most tanh(e / 2) (Kairouz, Oh & Viswanath 2015, for two equally likely worlds). One count of the geometric mechanism
reaches that bound exactly, so that a figure near it is no failing: one above its interval is.

Beside each stands what the same attack learns of i2b2 as it is shipped (`crc.properties`): Gaussian noise of standard
deviation 1.323 drawn anew for each answer, and a user locked out after 7 times the same query.

Run: .venv/bin/python benchmarks/counts.py, which runs these too.
"""

import math
import random
import secrets
import statistics
from collections.abc import Callable
from typing import Protocol

from fedhealth.privacy.release import ReleaseIdentity, input_digest, noise_key
from fedhealth.privacy.stream import SECRET_BYTES, SiteNoiseSecret
from fedhealth.search.coded_patients import CodedPatients, PatientFacts
from fedhealth.search.counting import CountStep, count, read_count
from fedhealth.study.count_query import CountQuery, count_query
from fedhealth.study.search_study import SearchStudy

TRIALS = 1000
EPSILON = 0.5
REPEATS = 20
ALIKE = 5
LOCKED_OUT_AFTER = 7
I2B2_SIGMA = 1.323
OTHERS = [PatientFacts(f"p{number}", frozenset({"icd10:G20"}), 1960, None) for number in range(100)]
TARGET = PatientFacts("target", frozenset({"icd10:G20", "icd10:C50"}), 1960, None)


class Counter(Protocol):
    """Whoever answers how many patients there are."""

    def ask(self, code: str, *, none_of: tuple[str, ...] = ()) -> float | None:
        """Return a blurred count; None where it gives no answer any more."""
        ...


class Gate:
    """One gate's answers, its noise drawn as the gate draws it: one count a query, whoever asks and however often."""

    def __init__(self, is_in: bool, study: SearchStudy) -> None:
        self._patients, self._study = CodedPatients.of(_people(is_in), 100), study
        self._secret = SiteNoiseSecret(secrets.token_bytes(SECRET_BYTES))
        self._kept: dict[CountQuery, int] = {}

    def ask(self, code: str, *, none_of: tuple[str, ...] = ()) -> float:
        """Return a noisy count; 0 for "fewer"."""
        query = count_query("2026-Q4", (code,), none_of)
        if query not in self._kept:
            named = input_digest(query.input_bytes)
            name = ReleaseIdentity(site="ward", study=self._study.digest, step="count", round=1, input_digest=named)
            stream = self._secret.stream(noise_key(name.digest, "1", "everybody"), "noise")
            step = CountStep(self._study)
            self._kept[query] = read_count(count(step, query, self._patients, stream), self._study) or 0
        return self._kept[query]


class I2b2:
    """The same of i2b2 as shipped; of one query no more answers than before the lockout."""

    def __init__(self, is_in: bool) -> None:
        self._patients, self._asked = CodedPatients.of(_people(is_in), 100), dict[CountQuery, int]()

    def ask(self, code: str, *, none_of: tuple[str, ...] = ()) -> float | None:
        """Return a count with noise of its own; None once the user is locked out."""
        query = count_query("2026-Q4", (code,), none_of)
        self._asked[query] = self._asked.get(query, 0) + 1
        if self._asked[query] > LOCKED_OUT_AFTER:
            return None
        return round(self._patients.count(query) + random.gauss(0, I2B2_SIGMA))


def _people(is_in: bool) -> list[PatientFacts]:
    return [*OTHERS, *([TARGET] if is_in else [])]


def _mean(counter: Counter, *none_of: str) -> float:
    """Return the mean of what one query says, as often as it is worth asking and answered."""
    said = (counter.ask("icd10:G20", none_of=none_of) for _ in range(REPEATS))
    return statistics.fmean(each for each in said if each is not None)


def repeated(counter: Counter) -> float:
    """Return how many patients more than are known one query says, asked again and again."""
    return _mean(counter) - len(OTHERS)


def averaged(counter: Counter) -> float:
    """Return the same of five queries that mean the same here, each asked again and again."""
    return statistics.fmean(_mean(counter, f"icd10:X{number:02}") for number in range(ALIKE)) - len(OTHERS)


def differenced(counter: Counter) -> float:
    """Return the difference that the patient's own code makes."""
    return _mean(counter) - _mean(counter, "icd10:C50")


ATTACKS: tuple[tuple[str, Callable[[Counter], float], int], ...] = (
    (f"repeat: one query, {REPEATS} times", repeated, 1),
    (f"averaging: {ALIKE} queries that mean the same here", averaged, ALIKE),
    ("differencing: with and without the patient's code", differenced, 2),
)
"""Each with how many releases it sees."""


def advantage(attack: Callable[[Counter], float], counter: Callable[[bool], Counter]) -> tuple[float, float]:
    """Return an attack's advantage at half a patient, and half of its 95 % interval (of two proportions)."""
    yes, no = (sum(attack(counter(is_in)) > 0.5 for _ in range(TRIALS)) / TRIALS for is_in in (True, False))
    return yes - no, 1.96 * math.sqrt((yes * (1 - yes) + no * (1 - no)) / TRIALS)


def attack_counts(study: SearchStudy) -> None:
    """Print what each attack learns, beside what the study's epsilon allows and what it learns of i2b2."""
    for words, attack, releases in ATTACKS:
        bound = math.tanh(releases * study.counts.epsilon / 2)
        found, half = advantage(attack, lambda is_in: Gate(is_in, study))
        print(f"{words}: advantage {found:.3f} +-{half:.3f}  (at most {bound:.3f}) {found - half <= bound}")
        found, half = advantage(attack, I2b2)
        print(f"  i2b2, locked out after {LOCKED_OUT_AFTER} of each: {found:.3f} +-{half:.3f}", flush=True)
