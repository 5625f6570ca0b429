"""Every study that a site knows of, for its administrator: what waits, what runs, what it costs, what was decided.

Offered studies come from the node's folder, where anything may lie: only a signature that holds is believed, and who
signed is named only where the key is pinned here. What is said of the hospital's own patients stays at the hospital.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from fedhealth.errors import ApprovalMissing, ConfigInvalid, FedHealthError, IdentityInvalid
from fedhealth.privacy.asked_counts import NO_SHARES, Asked, Shares
from fedhealth.privacy.pld import informative_epsilon
from fedhealth.privacy.release import Cohort, Digest, Everybody, StepName, paying_sides
from fedhealth.privacy.verified_ledger import spending_of
from fedhealth.site.examination import Feasibility, SiteInView
from fedhealth.site.offers import read_offers
from fedhealth.site.state import SiteState, local_user
from fedhealth.site.study_steps import delta_of_study, numbers_of, price_of, releases_of, steps_of
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy
from fedhealth.study.signature import AnySigned, open_signed

_LOG = logging.getLogger(__name__)

Standing = Literal[
    "waits", "waits for a second person", "approved", "running", "stopped", "complete", "withdrawn", "rejected"
]
"""Where a study stands: nobody decided yet; one of two people approved; nothing left yet; some of it left; a failure
stopped it here; its last step left, so that nothing more is asked; withdrawn; rejected."""


@dataclass(frozen=True)
class StepLeaving:
    """What leaves the hospital in one step of a study, at most.

    Attributes:
        step: its name.
        cohort: the patients it uses.
        releases: how often, spare rounds included.
        charged: how often it was charged so far.
        numbers: how many whole numbers each release holds, each with noise in it.
        bytes: of each release.
    """

    step: StepName
    cohort: Cohort | Everybody
    releases: int
    charged: int
    numbers: int
    bytes: int


@dataclass(frozen=True)
class SideCost:
    """What a study costs a patient of one side.

    Attributes:
        cohort: the side.
        share: the most, as a part of the data set's whole budget; this binds.
        share_spent: what was charged so far.
        share_left: of the budget, once this study is approved; for one that is, what is left now. Below zero where
            it does not fit.
        epsilon: of its plan as committed in advance, at the study's delta; informative.
        delta: the study's.
    """

    cohort: Cohort
    share: float
    share_spent: float
    share_left: float
    epsilon: float
    delta: float


@dataclass(frozen=True)
class StudyView:
    """One study, as its administrator sees it.

    Attributes:
        study: its digest.
        standing: where it stands.
        decided: by whom and when, in Unix milliseconds; None where nobody has.
        name: its short name; empty, like all that follows, where its signed file is not here.
        title: for people.
        task: what kind of question it is.
        purpose: why patients' data may be used.
        legal_basis: on what ground.
        researcher: the public key that signed it.
        asked_by: the name under which that key is pinned here; None for an unknown key.
        cohort: whom it is about, where codes say so; empty where the table alone does.
        leaves: what leaves, step by step.
        costs: per side.
        shares: of an approved search study, what each asker and each hospital may cause in a quarter.
        asked: of a search study, who caused how many counts in which quarter.
        obstacle: why it cannot be approved as things stand; empty where it can, or was.
        here: of this hospital's patients, where the study waits and they could be counted; never for anybody else.
    """

    study: Digest
    standing: Standing
    decided: tuple[str, int] | None
    name: str = ""
    title: str = ""
    task: str = ""
    purpose: str = ""
    legal_basis: str = ""
    researcher: str = ""
    asked_by: str | None = None
    cohort: str = ""
    leaves: tuple[StepLeaving, ...] = ()
    costs: tuple[SideCost, ...] = ()
    shares: Shares = NO_SHARES
    asked: tuple[Asked, ...] = ()
    obstacle: str = ""
    here: Feasibility | None = None


def studies_at(view: SiteInView, state: SiteState) -> tuple[StudyView, ...]:
    """Return every study that was offered or decided on: those that wait first, then in order of decision.

    Args:
        view: the site.
        state: its state.
    """
    account = view.account
    offered = {signed.study.digest: signed for signed in _offers(state)}
    known = [*account.approved, *account.decisions.rejected]
    waiting = [study for study in offered if study not in known]
    waiting += [study for study in account.decisions.first if study not in offered]
    return tuple(_view_of(view, study, offered.get(study) or _kept(state, study)) for study in (*waiting, *known))


def approved_studies(view: SiteInView, state: SiteState) -> tuple[StudyView, ...]:
    """Return the studies that were approved, withdrawn since or not; arguments as `studies_at`."""
    return tuple(_view_of(view, study, _kept(state, study)) for study in view.account.approved)


def offered_study(state: SiteState, prefix: str) -> AnySigned:
    """Return the one offered study whose digest begins so.

    Raises:
        ApprovalMissing: there is none.
        ConfigInvalid: there are several.
    """
    found = {signed.study.digest: signed for signed in _offers(state) if signed.study.digest.startswith(prefix)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise ConfigInvalid(
            f"{len(found)} offered studies have a digest that begins with {prefix}", next_step="Give more digits."
        )
    raise ApprovalMissing(
        f"no study whose digest begins with {prefix[:12]} is offered",
        wanted="at least the first 8 hexadecimal digits, of a study whose signature holds",
        next_step="See what is: fedhealth site studies --help. Or give the file of the signed study.",
    )


def _offers(state: SiteState) -> list[AnySigned]:
    try:
        return list(read_offers(state.node).values())
    except OSError:
        _LOG.warning("which studies are offered is not known: this user may not read the node's folder")
        return []


def _kept(state: SiteState, study: Digest) -> AnySigned | None:
    try:
        return open_signed((state.studies / f"{study}.json").read_bytes())
    except (IdentityInvalid, OSError):
        return None


def _view_of(view: SiteInView, study: Digest, signed: AnySigned | None) -> StudyView:
    standing, decided = _standing(view, study, signed)
    if signed is None:
        return StudyView(study, standing, decided)
    asked, pinned = signed.study, view.account.acts.researchers
    obstacle, here = "", None
    try:
        leaves, costs = _leaves(view, signed), _costs(view, signed, standing)
        if standing.startswith("waits"):
            here = view.examine(signed, local_user(), time.time_ns() // 10**6).seen
    except FedHealthError as error:
        obstacle = str(error)
        leaves, costs = _if_priced(view, signed, standing)
    return StudyView(
        study,
        standing,
        decided,
        name=asked.name,
        title=asked.title,
        task=asked.task,
        purpose=asked.purpose,
        legal_basis=asked.legal_basis,
        researcher=signed.researcher,
        asked_by=next((name for name, key in pinned.items() if key == signed.researcher), None),
        cohort=asked.cohort.words if isinstance(asked, Study) and asked.cohort else "",
        leaves=leaves,
        costs=costs,
        shares=approval.shares if (approval := view.account.approved.get(study)) else NO_SHARES,
        asked=view.account.asked.of(study),
        obstacle=obstacle,
        here=here,
    )


def _if_priced(
    view: SiteInView, signed: AnySigned, standing: Standing
) -> tuple[tuple[StepLeaving, ...], tuple[SideCost, ...]]:
    """Return what leaves and what it costs of a study that cannot be approved; nothing where it has no price here."""
    try:
        return _leaves(view, signed), _costs(view, signed, standing)
    except FedHealthError:
        return (), ()


def _standing(view: SiteInView, study: Digest, signed: AnySigned | None) -> tuple[Standing, tuple[str, int] | None]:
    account = view.account
    decisions = account.decisions
    decision = account.approved.get(study) or decisions.rejected.get(study) or decisions.first.get(study)
    decided = (decision.by, decision.at) if decision else None
    if study in account.withdrawn:
        return "withdrawn", decided
    if study in account.approved:
        if study in view.stopped:
            return "stopped", decided
        if signed and _is_complete(view, signed.study):
            return "complete", decided
        return "running" if any(_charged(view, study).values()) else "approved", decided
    if study in account.decisions.rejected:
        return "rejected", decided
    return "waits for a second person" if study in account.decisions.first else "waits", decided


def _is_complete(view: SiteInView, study: Study | SearchStudy) -> bool:
    """Say whether the last step left as often as planned; it comes after all others, used up or not."""
    account, last = view.account, list(steps_of(study).values())[-1]
    left = [
        release
        for release, charge in account.reserved.items()
        if (charge.study, charge.step) == (study.digest, last.name) and release in account.stored
    ]
    return len(left) >= releases_of(last)


def _charged(view: SiteInView, study: Digest) -> Mapping[StepName, int]:
    return {step: view.account.releases(study, step) for step in get_args(StepName)}


def _leaves(view: SiteInView, signed: AnySigned) -> tuple[StepLeaving, ...]:
    charged = _charged(view, signed.study.digest)
    return tuple(
        StepLeaving(
            step=name,
            cohort=step.cohort,
            releases=releases_of(step),
            charged=charged[name],
            numbers=numbers_of(step),
            bytes=8 * numbers_of(step),
        )
        for name, step in steps_of(signed.study).items()
    )


def _costs(view: SiteInView, signed: AnySigned, standing: Standing) -> tuple[SideCost, ...]:
    study, account = signed.study, view.account
    budget = view.created.budgets.get(study.data_set)
    if budget is None:
        return ()
    aside = {each.cohort: each.share_set_aside for each in spending_of(account) if each.data_set == study.data_set}
    approval = account.approved.get(study.digest)
    envelope = approval.envelope if approval else price_of(study, budget)
    costs, delta = [], delta_of_study(study)
    for step, side in ((each, side) for each in steps_of(study).values() for side in paying_sides(each.cohort)):
        share, spent = budget.share(envelope[side]), account.spent(study.digest, side)
        costs.append(
            SideCost(
                cohort=side,
                share=share,
                share_spent=budget.share(spent) if spent else 0.0,
                share_left=1.0 - aside[side] - (share if standing.startswith("waits") else 0.0),
                epsilon=informative_epsilon(step.plan(), delta).epsilon,
                delta=delta,
            )
        )
    return tuple(costs)
