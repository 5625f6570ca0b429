"""Which sites took part in which round, and when a round counts. No I/O, no Flower.

A round counts when every required site and at least a quorum of all sites gave a release; who was absent, and the
public code why, is kept with the round and published with the result. Nobody is left out for being slow: a site is
waited for as long as the protocol says, and is asked again in the next round.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from fedhealth.errors import RefusalCode
from fedhealth.study.protocol import Study

_REFUSALS = frozenset({RefusalCode.POLICY.value, RefusalCode.BUDGET_SPENT.value, RefusalCode.NOT_APPROVED.value})
"""With these a gate that goes on refusing charges nothing more."""
SLOW = "slow"
"""A site that was asked, and had not answered when the wait was over."""
IMPLAUSIBLE = "implausible"
"""A site whose release is longer than its declared patients, clipped, and noise can be; it was left out."""


@dataclass(frozen=True)
class CompletedRound:
    """A round of training that counts.

    Attributes:
        round: from 1.
        number: of its releases; ahead of `round` where releases were lost and a spare number was used.
        absent: the public code of each site that gave none; every other site of the study gave one.
    """

    round: int
    number: int
    absent: Mapping[str, str] = field(default_factory=dict)


class Span(BaseModel):
    """Rounds that count and follow one another with the same sites, by the numbers of their releases.

    Attributes:
        first: number of the first round's releases, from 1.
        last: of the last one's.
        absent: the public code of each site that gave no release in any of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    first: int
    last: int
    absent: dict[str, str] = {}


@dataclass(frozen=True)
class Quorum:
    """When a round counts.

    Attributes:
        required: sites without which none does.
        least: how many sites must give a release.
    """

    required: frozenset[str]
    least: int

    def holds(self, given: Collection[str]) -> bool:
        """Say whether a round counts with the releases of these sites."""
        return self.required <= set(given) and len(given) >= self.least


def quorum_of(study: Study, sites: Collection[str]) -> Quorum:
    """Return what a study asks of the sites of its run: without a quorum all, and always what its strategy needs."""
    declared = len(sites) if study.sites.quorum is None else study.sites.quorum
    return Quorum(frozenset(study.sites.required), max(declared, study.strategy.least_sites(len(sites))))


def spans_of(rounds: Iterable[CompletedRound]) -> tuple[Span, ...]:
    """Return rounds, in order, as the fewest spans; a number between two spans was lost."""
    spans: list[Span] = []
    for each in rounds:
        absent = dict(each.absent)
        if spans and (spans[-1].last + 1, spans[-1].absent) == (each.number, absent):
            spans[-1] = spans[-1].model_copy(update={"last": each.number})
        else:
            spans.append(Span(first=each.number, last=each.number, absent=absent))
    return tuple(spans)


def rounds_of(spans: Iterable[Span]) -> list[CompletedRound]:
    """Return the rounds of spans, in order."""
    numbers = [(number, span.absent) for span in spans for number in range(span.first, span.last + 1)]
    return [CompletedRound(place, number, absent) for place, (number, absent) in enumerate(numbers, start=1)]


def perhaps_charged(codes: Iterable[str | None]) -> tuple[bool, ...]:
    """Return for which questions a site may have been charged though it gave nothing that counts.

    A question may be asked more than once, by processes that end and by links that break: a site that refuses now may
    have charged and answered before. So every absence counts but those that go on from one with the same refusal.

    Args:
        codes: of one site, question after question: why it gave nothing; None where it did.
    """
    found, last = [], None
    for code in codes:
        found.append(code is not None and not (code in _REFUSALS and code == last))
        last = code
    return tuple(found)


def numbers_with(site: str, rounds: Sequence[CompletedRound]) -> tuple[int, ...]:
    """Return the numbers of the releases that a site gave, as its ledger has them."""
    return tuple(each.number for each in rounds if site not in each.absent)
