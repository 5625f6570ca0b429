"""What `fedhealth site studies`, `approve` and `budget` say to people: lines of at most 80 columns.

A study that is offered comes from a stranger, so its words are shown without what a terminal would obey.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from fedhealth.cli.audit_text import asked_lines
from fedhealth.compliance.times import time_text

if TYPE_CHECKING:
    from fedhealth.privacy.verified_ledger import Spending
    from fedhealth.site.examination import Proposal, YearUse
    from fedhealth.site.studies import StudyView
    from fedhealth.study.search_study import SearchStudy

_LABEL = 13
"""Columns of a label, its two leading blanks included."""


def study_lines(view: "StudyView") -> Iterator[str]:
    """Say all there is to say of a study."""
    yield from _heading(f"{view.title or 'a study whose signed file is not here'} ({view.name or view.study[:12]})")
    yield f"  {'digest':<{_LABEL - 2}}{view.study}"
    by = f", by {view.decided[0]} on {time_text(view.decided[1])}" if view.decided else ""
    yield from _said("stands", view.standing + by)
    if not view.researcher:
        return
    yield from _said("asked by", view.asked_by or f"UNKNOWN KEY {view.researcher}")
    yield from _said("purpose", view.purpose)
    yield from _said("on ground", view.legal_basis)
    if view.cohort:
        yield from _said("cohort", view.cohort)
    for step in view.leaves:
        what = f"{step.step}: at most {step.releases} times {step.numbers:,} whole numbers with noise in them"
        charged = f"; {step.charged} times so far" if step.charged else ""
        yield from _said("leaves", f"{what}, {step.bytes:,} bytes each, of {_whom(step.cohort)}{charged}")
    for cost in view.costs:
        planned = f"epsilon {cost.epsilon:.3f} at delta {cost.delta:g} as planned (informs)"
        yield from _said(
            "costs", f"each {cost.cohort} patient at most {cost.share:.1%} of the budget (binds); {planned}"
        )
        then = "would be left then" if view.standing.startswith("waits") else "is left now"
        yield from _said("", f"{cost.share_spent:.1%} was spent; {cost.share_left:.1%} {then}")
    if view.here is not None:
        for side, patients in view.here.patients.items():
            shared = any(step.cohort == "everybody" for step in view.leaves)
            yield from _said("here", _counted(patients, side, view.here.composition[side], shared))
        for warning in view.here.warnings:
            yield from _said("WARNING", warning)
        yield from _said("to decide", f"fedhealth site approve, or reject, with {view.study[:12]}")
    if view.obstacle:
        yield from _said("NOT AS IS", view.obstacle)


def proposal_lines(proposal: "Proposal") -> Iterator[str]:
    """Say what an administrator should see before a study is approved."""
    from fedhealth.site.study_steps import numbers_of, releases_of, steps_of
    from fedhealth.study.search_study import SearchStudy

    study, seen = proposal.signed.study, proposal.seen
    yield from _heading(f"{study.title} ({study.name})")
    yield f"  {'digest':<{_LABEL - 2}}{study.digest}"
    yield from _said("asked by", proposal.asked_by)
    yield from _said("purpose", study.purpose)
    yield from _said("on ground", study.legal_basis)
    for step in steps_of(study).values():
        what = f"{step.name}: at most {releases_of(step)} times {numbers_of(step):,} whole numbers with noise in them"
        yield from _said("leaves", f"{what}, {8 * numbers_of(step):,} bytes each, of {_whom(step.cohort)}")
    if isinstance(study, SearchStudy):
        yield from _said("may ask", _askers(study))
    elif study.cohort is not None:
        yield from _said("cohort", study.cohort.words)
    for side, patients in seen.patients.items():
        yield from _said("here", _counted(patients, side, seen.composition[side], isinstance(study, SearchStudy)))
        planned = f"epsilon {seen.epsilon[side]:.3f} at delta {proposal.approval.delta:g} as planned (informs)"
        yield from _said("costs", f"each of them at most {seen.share[side]:.1%} of the budget (binds); {planned}")
        yield from _said("", f"{seen.share_left[side]:.1%} would be left then")
    for warning in seen.warnings:
        yield from _said("WARNING", warning)


def _askers(study: "SearchStudy") -> str:
    when = f"from {study.first_quarter} to {study.last_quarter}"
    return f"{study.who_asks}, {when}; {study.counts.shares}; below {study.counts.least_shown} no number is said"


def _whom(cohort: str) -> str:
    return "everybody" if cohort == "everybody" else f"{cohort} patients"


def _counted(patients: int, side: str, composition: Mapping[str, int], everybody: bool) -> str:
    who = f"{patients} patients in all, who pay as {side} patients" if everybody else f"{patients} {side} patients"
    return ", ".join([who, *(f"{count} {what}" for what, count in composition.items())])


def budget_lines(sides: "Iterable[tuple[Spending, YearUse]]", approved: "Iterable[StudyView]") -> Iterator[str]:
    """Say what a budget is, what each approved study may cost and has cost, and what is left, also of this year."""
    approved = tuple(approved)
    for side, year in sides:
        yield f"{side.data_set}, {side.cohort} patients"
        yield f"  cap      epsilon {side.epsilon_cap:g} at delta {side.delta:g}, for the life of the data"
        yield f"  spent    {side.share_spent:.1%} of it, which is epsilon {side.epsilon_spent:.3f} (informs)"
        yield f"  aside    {side.share_set_aside:.1%} by approvals, with what is spent (binds)"
        yield f"  left     {1.0 - side.share_set_aside:.1%}"
        most = "no limit a year" if year.most is None else f"at most {year.most:g} (binds)"
        yield f"  {year.year}     approved: epsilon {year.epsilon:.3f} together; {most}"
        for each in approved:
            for cost in (cost for cost in each.costs if cost.cohort == side.cohort):
                yield f"  {each.name} ({each.study[:12]}), {each.standing}"
                yield f"    may cost {cost.share:.1%} and has cost {cost.share_spent:.1%} of the budget (binds)"
                yield f"    epsilon {cost.epsilon:.3f} at delta {cost.delta:g} as planned (informs)"
    for each in approved:
        if each.asked or each.shares.of_an_asker is not None:
            yield f"{each.name} ({each.study[:12]}), counts that askers caused"
            yield from asked_lines(each.shares, each.asked)
    yield "Shares add up; epsilons of several studies do not."


def _said(label: str, text: str) -> Iterator[str]:
    first = f"  {label:<{_LABEL - 2}}"
    yield from textwrap.wrap(
        "".join(each if each.isprintable() else " " for each in text),
        80,
        initial_indent=first,
        subsequent_indent=" " * _LABEL,
    )


def _heading(text: str) -> list[str]:
    return textwrap.wrap("".join(each if each.isprintable() else "?" for each in text), 80)
