"""One count of a search study: what it costs everybody, and how a gate makes it. Torch-free.

A patient changes a count by at most one, whatever the query (`privacy.geometric`), so each new query is one count with
exact two-sided geometric noise. The threshold is looked at on the noisy number, which costs nothing: whatever is below
leaves as one and the same word.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedhealth.errors import ConfigInvalid
from fedhealth.privacy.accountant import AnyBudget, AnyCost
from fedhealth.privacy.events import GeometricEvent, Plan, plan_of
from fedhealth.privacy.geometric import GeometricHistogram
from fedhealth.privacy.release import Cohort, Everybody, StepName, paying_sides
from fedhealth.privacy.stream import KeyedStream
from fedhealth.search.coded_patients import CodedPatients
from fedhealth.study.count_query import CountQuery
from fedhealth.study.search_study import SearchStudy

PAYLOAD_BYTES = 8
_FEWER = -1
"""Stands for every noisy count below the threshold."""
_MOST = 2**53 - 1
"""No count is larger: noise passes it with a probability below e**-(2**40)."""


@dataclass(frozen=True)
class CountStep:
    """The one step of a search study.

    Attributes:
        study: that it is of.
        name: "count".
        cohort: everybody in the data set, whichever side of a split they stand on.
        rounds: the number of its only round; each new query is another release in it.
    """

    study: SearchStudy
    name: StepName = "count"
    cohort: Everybody = "everybody"
    rounds: int = 1

    @property
    def mechanism(self) -> GeometricHistogram:
        """How a count is noised."""
        return _mechanism(self.study)

    @property
    def event(self) -> GeometricEvent:
        """What one count does, as far as its price goes."""
        return self.mechanism.event

    def plan(self) -> Plan:
        """Return all counts of the study as a plan committed in advance."""
        return plan_of([(self.event, self.study.counts.most)])


@lru_cache(maxsize=64)
def _mechanism(study: SearchStudy) -> GeometricHistogram:
    return GeometricHistogram(epsilon_per_cell=study.counts.epsilon)


def envelope_of_search(study: SearchStudy, budget: AnyBudget) -> dict[Cohort, AnyCost]:
    """Return the most a search study may ever cost each side of a data set: both alike.

    Raises:
        ConfigInvalid: it has no price there.
    """
    try:
        cost = budget.cost_of(CountStep(study).event).times(study.counts.most)
    except ValueError as error:
        raise ConfigInvalid(
            f"search study '{study.name}' has no price in the budget of data set '{study.data_set}'",
            got=str(error),
            next_step="Ask its researcher for fewer counts, or for more noise on each.",
        ) from error
    return dict.fromkeys(paying_sides("everybody"), cost)


def count(step: CountStep, query: CountQuery, patients: CodedPatients, stream: KeyedStream) -> bytes:
    """Return the payload of one count: noised, and below the threshold one word for all.

    Args:
        step: of the study.
        query: which patients.
        patients: of the gate's data.
        stream: the release's noise, at its first bit.
    """
    exact = np.array([patients.count(query)], dtype=np.int64)
    noisy = int(step.mechanism.add_noise(exact, stream)[0])
    shown = noisy if noisy >= step.study.counts.least_shown else _FEWER
    return shown.to_bytes(PAYLOAD_BYTES, "little", signed=True)


def read_count(payload: bytes, study: SearchStudy) -> int | None:
    """Return the noisy count of a payload; None if it is below the study's threshold.

    Raises:
        ValueError: the payload is none of this study.
    """
    if len(payload) != PAYLOAD_BYTES:
        raise ValueError(f"a count of {len(payload)} bytes, wanted {PAYLOAD_BYTES}")
    shown = int.from_bytes(payload, "little", signed=True)
    if shown != _FEWER and not study.counts.least_shown <= shown <= _MOST:
        raise ValueError(f"a count of {shown}, which no study shows")
    return None if shown == _FEWER else shown
