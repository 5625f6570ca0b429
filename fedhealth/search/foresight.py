"""What is knowable of a search study before anybody asks: noise of a count, cost of all, and who allows it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedhealth.errors import ConfigInvalid
from fedhealth.policy.limits import SiteLimits
from fedhealth.privacy.accountant import open_budget
from fedhealth.privacy.pld import informative_epsilon
from fedhealth.search.counting import CountStep, envelope_of_search
from fedhealth.study.search_study import SearchStudy


@dataclass(frozen=True)
class SearchVerdict:
    """What a site's published limits say to a search study.

    Attributes:
        site: its id.
        share: the part of the data set's whole budget that all counts would use; None where it has no price.
        refusals: rules that forbid it, in words.
    """

    site: str
    share: float | None
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class SearchForesight:
    """All of it.

    Attributes:
        digest: of the study.
        half_width: a count is within so many patients of the truth with probability 0.95 at least.
        epsilon: of all counts together at the study's delta, as a plan fixed in advance.
        sites: verdicts, in the order of the limits.
    """

    digest: str
    half_width: int
    epsilon: float
    sites: tuple[SearchVerdict, ...]


def foresee_search(study: SearchStudy, limits: Sequence[SiteLimits] = ()) -> SearchForesight:
    """Return what is knowable of a search study.

    Args:
        study: the protocol.
        limits: what sites publish; may be empty.
    """
    return SearchForesight(
        digest=study.digest,
        half_width=half_width_of_count(study.counts.epsilon),
        epsilon=informative_epsilon(CountStep(study).plan(), study.delta).epsilon,
        sites=tuple(_verdict(study, site) for site in limits),
    )


def half_width_of_count(epsilon: float, sites: int = 1, miss: float = 0.05) -> int:
    """Return a whole number that the noise of a sum of counts exceeds with a probability of at most `miss`.

    One count: the noise is beyond k with probability 2 p**(k + 1) / (1 + p), p = exp(-epsilon), exactly. Of several
    sites each is given its share of `miss` (a union bound).

    Args:
        epsilon: of each count.
        sites: how many counts are added up.
        miss: in (0, 1).
    """
    p = math.exp(-epsilon)
    beyond = math.log(miss / sites * (1 + p) / 2) / math.log(p) - 1
    return sites * max(0, math.ceil(beyond - 1e-9))


def _verdict(study: SearchStudy, site: SiteLimits) -> SearchVerdict:
    work = site.budget.expected_work
    budget = open_budget(site.budget.epsilon, site.budget.delta, work.sampling_rate, work.rounds)
    refusals: list[str] = []
    share: float | None = None
    try:
        cost = next(iter(envelope_of_search(study, budget).values()))
    except ConfigInvalid as error:
        refusals.append(error.got)
    else:
        share, asked = budget.share(cost), budget.epsilon_of(cost)
        if share > 1:
            refusals.append(f"costs {share:.0%} of the whole budget")
        if asked > site.max_epsilon_a_study:
            refusals.append(
                f"asks epsilon {asked:.2f} at delta {site.budget.delta:g}; a study may ask {site.max_epsilon_a_study:g}"
            )
    if study.data_set != site.data_set:
        refusals.append(f"asks for data set '{study.data_set}'; the site has '{site.data_set}'")
    if study.task not in site.tasks:
        refusals.append(f"task '{study.task}' is not among {list(site.tasks)}")
    if study.purpose_class not in site.purposes:
        refusals.append(f"purpose '{study.purpose_class}' is not among {list(site.purposes)}")
    if site.declared_patients < study.min_declared_patients:
        refusals.append(f"wants {study.min_declared_patients} declared patients; the site has {site.declared_patients}")
    return SearchVerdict(site.site, share, tuple(refusals))
