"""What each study was approved for and has spent over all sites. Torch-free.

Releases add up. Epsilons do so only for a patient whom several hospitals know: who has records at one of them is
charged there alone, and who has them at all is charged at each (basic composition: epsilons and deltas add up).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from fedhealth.compliance.budget import SideUse, StudyUse, budget_use
from fedhealth.compliance.federation import SiteLedger
from fedhealth.privacy.release import Digest


@dataclass(frozen=True)
class StudyAtSite:
    """What a study has used at one site.

    Attributes:
        site: the site's id.
        data_set: which of its data sets.
        first_by: the first of two local users who approved it; None where one was enough.
        by: the local user who approved it, and so opened it.
        at: when, in Unix milliseconds.
        withdrawn: whether the approval was withdrawn since.
        charged: releases that were charged, of all steps.
        planned: releases that the protocol admits, spare rounds included; None where it is not here.
        epsilon_spent: of any one patient at most, who is on one side only; at `delta`.
        delta: of the data set's cap.
        share_of_cap: of the side that has spent most of its cap.
    """

    site: str
    data_set: str
    first_by: str | None
    by: str
    at: int
    withdrawn: bool
    charged: int
    planned: int | None
    epsilon_spent: float
    delta: float
    share_of_cap: float


@dataclass(frozen=True)
class StudyTotal:
    """What a study has used over the sites that approved it.

    Attributes:
        study: its digest.
        name: its name; None where no site's protocol is here.
        researcher: public key that signed it.
        sites: in order of their ids.
        charged: releases of all sites.
        planned: the same as the protocol admits; None where one is not here.
        epsilon_one_site: for a patient whom one site knows, at most.
        epsilon_all_sites: for a patient whom all these sites know, at most, at `delta_all_sites`.
        delta_all_sites: the sum of the deltas.
    """

    study: Digest
    name: str | None
    researcher: Digest
    sites: tuple[StudyAtSite, ...]
    charged: int
    planned: int | None
    epsilon_one_site: float
    epsilon_all_sites: float
    delta_all_sites: float


def study_totals(ledgers: Iterable[SiteLedger]) -> tuple[StudyTotal, ...]:
    """Return the totals of every study that a site approved, by the time of its first approval."""
    found: dict[Digest, list[tuple[str, list[tuple[SideUse, StudyUse]]]]] = {}
    for ledger in sorted(ledgers, key=lambda each: each.site):
        at_site: dict[Digest, list[tuple[SideUse, StudyUse]]] = {}
        for side in budget_use(ledger.history):
            for use in side.studies:
                at_site.setdefault(use.study, []).append((side, use))
        for study, uses in at_site.items():
            found.setdefault(study, []).append((ledger.site, uses))
    totals = [_total(study, sites) for study, sites in found.items()]
    return tuple(sorted(totals, key=lambda total: (min(each.at for each in total.sites), total.study)))


def _total(study: Digest, sites: list[tuple[str, list[tuple[SideUse, StudyUse]]]]) -> StudyTotal:
    lines = tuple(_at_site(site, uses) for site, uses in sites)
    uses = [use for _, of_site in sites for _, use in of_site]
    planned = [line.planned for line in lines]
    return StudyTotal(
        study=study,
        name=next((use.name for use in uses if use.name), None),
        researcher=uses[0].researcher,
        sites=lines,
        charged=sum(line.charged for line in lines),
        planned=None if None in planned else sum(each for each in planned if each is not None),
        epsilon_one_site=max(line.epsilon_spent for line in lines),
        epsilon_all_sites=sum(line.epsilon_spent for line in lines),
        delta_all_sites=sum(line.delta for line in lines),
    )


def _at_site(site: str, uses: list[tuple[SideUse, StudyUse]]) -> StudyAtSite:
    side, use = uses[0]
    # A step that both sides pay for is one step: a count is charged to everybody, and left once.
    steps = {step.step: step for _, each in uses for step in each.steps}.values()
    planned = [step.planned for step in steps if step.planned is not None]
    return StudyAtSite(
        site=site,
        data_set=side.data_set,
        first_by=use.first_by,
        by=use.by,
        at=use.at,
        withdrawn=use.withdrawn,
        charged=sum(step.charged for step in steps),
        planned=sum(planned) if use.name is not None else None,
        epsilon_spent=max(each.epsilon_spent for _, each in uses),
        delta=side.delta,
        share_of_cap=max(each.share_of_cap for _, each in uses),
    )
