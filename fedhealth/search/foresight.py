"""What is knowable of a search study before anybody asks: noise of a count, cost of all, and who allows it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedhealth.errors import ConfigInvalid
from fedhealth.policy.limits import SiteLimits
from fedhealth.privacy.accountant import open_budget
from fedhealth.privacy.pld import informative_epsilon
from fedhealth.search.counting import CountStep, envelope_of_search
from fedhealth.study.search_study import SearchStudy

_ROUNDING = 1e-9
"""What arithmetic may do to a probability, and more."""


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


@lru_cache(maxsize=64)
def half_width_of_count(epsilon: float, sites: int = 1, miss: float = 0.05) -> int:
    """Return the smallest whole number that the noise of a sum of counts exceeds with a probability of at most `miss`.

    One count: the noise is beyond k with probability 2 p**(k + 1) / (1 + p), p = exp(-epsilon). Of several sites the
    distribution of the sum follows from its characteristic function, ((1 - p)**2 / (1 - 2 p cos t + p**2))**sites, by a
    Fourier transform over a ring so wide that what passes its ends is less than e**-40.

    Args:
        epsilon: of each count.
        sites: how many counts are added up.
        miss: in (0, 1).
    """
    p = math.exp(-epsilon)
    if sites == 1:
        return max(0, math.ceil(math.log(miss * (1 + p) / 2) / math.log(p) - 1 - _ROUNDING))
    deviation = math.sqrt(2 * p * sites) / -math.expm1(-epsilon)
    ring = 2 ** math.ceil(math.log2(64 * (deviation + sites)))
    angles = 2 * math.pi * np.arange(ring // 2 + 1) / ring
    characteristic = (math.expm1(-epsilon) ** 2 / (1 - 2 * p * np.cos(angles) + p * p)) ** sites
    probabilities = np.fft.irfft(characteristic, ring)[: ring // 2]
    within = 2 * np.cumsum(probabilities) - probabilities[0]
    return int(np.searchsorted(within, 1 - miss - _ROUNDING))


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
