"""What each data set's privacy budget was spent on, for the person who answers for it. Torch-free.

Two numbers for people. The **share of the cap** is what the filter enforces, in the budget's currency; it binds. The
**epsilon of a study's plan** is tighter, holds for the plan as it was committed in advance and for nothing else, and
is labelled so (`fedhealth.privacy.pld`).
"""

from dataclasses import dataclass
from typing import get_args

from fedhealth.compliance.history import History
from fedhealth.privacy.asked_counts import Asked, Shares
from fedhealth.privacy.currency import Budget
from fedhealth.privacy.entries import Approved, Name
from fedhealth.privacy.events import plan_of
from fedhealth.privacy.pld import InformativeEpsilon, informative_epsilon
from fedhealth.privacy.release import Cohort, Digest, StepName, paying_sides
from fedhealth.site.study_steps import releases_of, steps_of
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy


@dataclass(frozen=True)
class StepUse:
    """Releases of one step of a study.

    Attributes:
        step: its name.
        charged: how many releases were charged.
        planned: how many the protocol admits, spare rounds included; None where the protocol is not here.
    """

    step: StepName
    charged: int
    planned: int | None


@dataclass(frozen=True)
class StudyUse:
    """What one study may use and has used of one side of a data set.

    Attributes:
        study: its digest.
        name: its name; None where the protocol is not here.
        researcher: public key that signed it.
        first_by: the first of two local users who approved it; None where one was enough.
        by: the local user who approved it, and so opened it.
        at: when, in Unix milliseconds.
        withdrawn: whether the approval was withdrawn since; what was not spent is free again.
        steps: its releases on this side.
        shares: of a search study, what each asker and each hospital may cause in a quarter.
        asked: of a search study, who caused how many counts in which quarter.
        charged: when the first and the last of them were charged, in Unix milliseconds; None before the first.
        epsilon_spent: what its releases guarantee together at the data set's delta, whatever was chosen adaptively.
        share_of_cap: what was spent, over the data set's cap.
        share_set_aside: what is spent or may still be spent, over the data set's cap.
        share_of_envelope: what was spent, over the most the study may ever spend.
        plan: the informative epsilon of the whole plan; None where the protocol is not here.
    """

    study: Digest
    name: str | None
    researcher: Digest
    first_by: str | None
    by: str
    at: int
    withdrawn: bool
    steps: tuple[StepUse, ...]
    shares: Shares
    asked: tuple[Asked, ...]
    charged: tuple[int, int] | None
    epsilon_spent: float
    share_of_cap: float
    share_set_aside: float
    share_of_envelope: float
    plan: InformativeEpsilon | None


@dataclass(frozen=True)
class SideUse:
    """One side of a data set: its cap, and what was used of it. Shares are of the cap, and bind.

    Attributes:
        data_set: its name.
        cohort: which patients.
        epsilon: the cap for the life of the data.
        delta: the cap for the life of the data.
        currency: what costs are counted in.
        epsilon_spent: what all releases together guarantee at `delta`, whatever was chosen adaptively.
        share_spent: charged.
        share_set_aside: charged, or still to be charged by approved studies.
        share_left: for studies to come.
        studies: in order of approval.
    """

    data_set: Name
    cohort: Cohort
    epsilon: float
    delta: float
    currency: str
    epsilon_spent: float
    share_spent: float
    share_set_aside: float
    share_left: float
    studies: tuple[StudyUse, ...]


def budget_use(history: History) -> tuple[SideUse, ...]:
    """Return what each side of each data set has used, data sets and sides in order of their names."""
    sides = []
    for line in history.ledger.verified.spending:
        budget = history.created.budgets[line.data_set]
        studies = tuple(
            _study_use(history, approval, line.cohort, budget)
            for approval in history.account.approved.values()
            if approval.data_set == line.data_set and line.cohort in approval.envelope
        )
        sides.append(
            SideUse(
                data_set=line.data_set,
                cohort=line.cohort,
                epsilon=line.epsilon_cap,
                delta=line.delta,
                currency=budget.cap().currency,
                epsilon_spent=line.epsilon_spent,
                share_spent=line.share_spent,
                share_set_aside=line.share_set_aside,
                share_left=1.0 - line.share_set_aside,
                studies=studies,
            )
        )
    return tuple(sides)


def _study_use(history: History, approval: Approved, cohort: Cohort, budget: Budget) -> StudyUse:
    signed, account = history.studies.get(approval.study), history.account
    spent, withdrawn = account.spent(approval.study, cohort), approval.study in account.withdrawn
    share_of_cap, share_of_envelope = budget.share(spent) if spent else 0.0, budget.share(approval.envelope[cohort])
    paid = [entry for entry in account.reserved.values() if cohort in paying_sides(entry.cohort)]
    times = [entry.at for entry in paid if entry.study == approval.study]
    return StudyUse(
        study=approval.study,
        name=signed.study.name if signed else None,
        researcher=approval.researcher,
        first_by=first.by if (first := history.first_approvals.get(approval.study)) else None,
        by=approval.by,
        at=approval.at,
        withdrawn=withdrawn,
        steps=tuple(_step_uses(history, approval.study, signed.study if signed else None, cohort)),
        shares=approval.shares,
        asked=account.asked.of(approval.study),
        charged=(min(times), max(times)) if times else None,
        epsilon_spent=budget.epsilon_of(spent) if spent else 0.0,
        share_of_cap=share_of_cap,
        share_set_aside=share_of_cap if withdrawn else share_of_envelope,
        share_of_envelope=share_of_cap / share_of_envelope,
        plan=_plan_epsilon(signed.study, cohort, approval.delta) if signed else None,
    )


def _step_uses(history: History, digest: Digest, study: Study | SearchStudy | None, cohort: Cohort) -> list[StepUse]:
    if study is not None:
        return [
            StepUse(name, history.account.releases(digest, name), releases_of(step))
            for name, step in steps_of(study).items()
            if cohort in paying_sides(step.cohort)
        ]
    paid = [entry for entry in history.account.reserved.values() if cohort in paying_sides(entry.cohort)]
    charged = {entry.step for entry in paid if entry.study == digest}
    return [
        StepUse(name, history.account.releases(digest, name), None) for name in get_args(StepName) if name in charged
    ]


def _plan_epsilon(study: Study | SearchStudy, cohort: Cohort, delta: float) -> InformativeEpsilon:
    steps = [step for step in steps_of(study).values() if cohort in paying_sides(step.cohort)]
    return informative_epsilon(plan_of((each.event, releases_of(each)) for each in steps), delta)
