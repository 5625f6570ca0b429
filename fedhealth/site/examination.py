"""What an administrator may look at before deciding on a study: the hospital's own patients, and what it would cost.

This is the only place where feasibility (enough patients, both outcomes) may be looked at, because what is said here
stays at the hospital. It is done on a copy of the ledger, so the gate may be running, and nothing is written.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from fedhealth.errors import ApprovalMissing, DataUnusable
from fedhealth.learning.outcomes.table import outcome_of
from fedhealth.learning.plan import MOST_PATIENTS_PER_DECLARED
from fedhealth.policy.rules import Policy, check_policy, check_year, cost_of_year, load_policy
from fedhealth.policy.site_file import SiteFile, load_site_file
from fedhealth.privacy.decisions import Rejected
from fedhealth.privacy.entries import Account, Approved, Created, ReplyAfter
from fedhealth.privacy.pld import informative_epsilon
from fedhealth.privacy.release import Cohort, Digest, paying_sides
from fedhealth.privacy.verified_ledger import spending_of
from fedhealth.records.columns import NEARLY_UNIQUE
from fedhealth.records.image_fit import find_image_problems
from fedhealth.records.marks import PatientMarks, without_patients
from fedhealth.records.modality_fit import find_modality_problems
from fedhealth.records.query_trial import check_rows_alone
from fedhealth.records.source import read_source
from fedhealth.records.study_fit import find_giveaways, find_uniform
from fedhealth.records.survival_fit import find_follow_up_problems
from fedhealth.records.table import Table, patients_per_row, prepare_records
from fedhealth.records.trial_fit import find_trial_problems
from fedhealth.search.coded_patients import PatientFacts, read_patient_facts
from fedhealth.site.cohorts import find_cohort_problems, rows_of_cohort
from fedhealth.site.consent import forgotten_patients
from fedhealth.site.state import SiteState
from fedhealth.site.stopped_studies import stopped_in
from fedhealth.site.study_steps import delta_of_study, price_of, sides_asked, steps_of
from fedhealth.study.count_query import quarter_of
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy
from fedhealth.study.signature import AnySigned


@dataclass(frozen=True)
class Feasibility:
    """What the administrator may see and nobody else: counts of the hospital's own patients.

    Attributes:
        patients: per side.
        composition: of those, how many have what matters for the study, such as the condition.
        share: the part of the data set's whole budget that the study may cost a patient of each side; this binds.
        share_left: what is left of that budget then.
        epsilon: what that is as an epsilon, at the study's delta: it holds for the study as committed in advance.
        warnings: what looks wrong and only a person can tell.
    """

    patients: Mapping[Cohort, int]
    composition: Mapping[Cohort, Mapping[str, int]]
    share: Mapping[Cohort, float]
    share_left: Mapping[Cohort, float]
    epsilon: Mapping[Cohort, float]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Proposal:
    """A study that could be approved here, and what the administrator should see before.

    Attributes:
        signed: the study.
        asked_by: the name under which the key that signed it is pinned here.
        seen: of this hospital's patients.
        approval: what would be written into the ledger, once all who must approve have.
        rejected: a rejection that an approval would undo.
        is_first: another person must approve after this one, before the study is opened.
    """

    signed: AnySigned
    asked_by: str
    seen: Feasibility
    approval: Approved
    rejected: Rejected | None
    is_first: bool


@dataclass(frozen=True)
class YearUse:
    """What the studies that were approved in a calendar year may cost a patient of one side together.

    Attributes:
        year: of the hospital's time zone.
        epsilon: at the budget's delta; of a withdrawn study, what it has cost.
        most: what the policy allows in a year; None where it sets no such limit.
    """

    year: int
    epsilon: float
    most: float | None


@dataclass(frozen=True)
class SiteInView:
    """A site as its administrator looks at it, at one moment.

    Attributes:
        site: `site.toml`.
        policy: `policy.toml`.
        created: the first entry of the ledger.
        account: a copy of what its entries add up to.
        stopped: studies that a failure stopped here.
        split_key: key of the held-out split.
        marks: make the marks of the data set's patients.
        forgotten: marks of those who withdrew their consent.
        patient_facts: read the codes of the patients in the site's index.
    """

    site: SiteFile
    policy: Policy
    created: Created
    account: Account
    stopped: frozenset[Digest]
    split_key: bytes
    marks: PatientMarks
    forgotten: frozenset[Digest]
    patient_facts: Callable[[], Iterable[PatientFacts]]

    @cached_property
    def table(self) -> Table:
        """The data set without the patients who withdrew their consent.

        Raises:
            DataUnusable: it cannot be read, or the rows of a query rest on several patients.
        """
        source = self.site.data_set.source
        whole = read_source(source, strict=True)
        check_rows_alone(source, whole, self.site.data_set.patient_column)
        return without_patients(whole, self.marks, self.forgotten)[0]

    def year_use(self, data_set: str, cohort: Cohort, at: int) -> YearUse:
        """Return what was approved in the calendar year of a time, for one side of a data set."""
        year = self.policy.year_of(at)
        held = cost_of_year(self.policy, self.account, data_set, cohort, year)
        epsilon = 0.0 if held is None else self.created.budgets[data_set].epsilon_of(held)
        return YearUse(year, epsilon, self.policy.max_epsilon_a_year)

    def examine(self, signed: AnySigned, by: str, at: int) -> Proposal:
        """Look at a study with this hospital's patients in view.

        Args:
            signed: the study, whose signature holds.
            by: the local user who would approve.
            at: now, in Unix milliseconds.

        Raises:
            PolicyForbids: the site's rules do not allow it.
            DataUnusable: the data lack a column, hold text for a number, or too few patients; or the rows of a query
                rest on several patients.
            BudgetExhausted: its envelope does not fit what is left.
            ApprovalMissing: the study does not fit this site, or was approved before.
        """
        study, decisions = signed.study, self.account.decisions
        check_policy(self.policy, signed, self.account.acts.researchers)
        check_undecided(self.account, study, by)
        approval = approval_of(signed, self.site, self.created, self.split_key, {}, by, at)
        check_year(self.policy, self.account, approval, self.created.budgets[study.data_set])
        self.account.check_approval(approval)
        seen = self._search_seen(study, approval) if isinstance(study, SearchStudy) else self._seen(study, approval)
        is_first = self.policy.approvals_needed == 2 and study.digest not in decisions.first
        asked_by = next(name for name, key in self.account.acts.researchers.items() if key == signed.researcher)
        return Proposal(signed, asked_by, seen, approval, decisions.rejected.get(study.digest), is_first)

    def _seen(self, study: Study, approval: Approved) -> Feasibility:
        """Return what there is of this hospital's patients for a study that is run once."""
        column, split_column = self.site.data_set.patient_column, self.site.data_set.split_column
        names: tuple[Cohort, ...] = ("training", "held-out")
        problems = find_cohort_problems(self.table, study, column, self.patient_facts)
        if wrong := [each for each in problems if each.level == "error"]:
            raise DataUnusable(f"study '{study.name}' cannot run here: {wrong[0].what}", next_step=wrong[0].next_step)
        table = rows_of_cohort(self.table, study, column, self.patient_facts)
        records = prepare_records(table, study, column, self.split_key, split_column, strict=True)
        sides = {name: side for name, side in zip(names, records, strict=True) if name in approval.envelope}
        for name, side in sides.items():
            self._check_enough(study, side.patient_count, f"on the {name} side")
        return self._feasibility(
            study,
            approval,
            {name: side.patient_count for name, side in sides.items()},
            {name: outcome_of(study).composition(study, side) for name, side in sides.items()},
            (
                *_doubts(self.table, column),
                *_figure_doubts(max(each.patient_count for each in records), self.site.data_set.declared_patients),
                *(f"{each.what}. {each.next_step}" for each in problems),
                *_warnings(table, study),
            ),
        )

    def _search_seen(self, study: SearchStudy, approval: Approved) -> Feasibility:
        """Return what there is in the site's index for a search study: all patients who did not withdraw consent."""
        facts = [each for each in self.patient_facts() if self.marks.of(each.patient) not in self.forgotten]
        self._check_enough(study, len(facts), "in the site's index")
        composition = {
            "with a code": sum(bool(each.codes) for each in facts),
            "of known age": sum(each.birth_year is not None for each in facts),
            "of known sex": sum(each.sex is not None for each in facts),
        }
        both = paying_sides("everybody")
        warnings = _figure_doubts(len(facts), self.site.data_set.declared_patients)
        return self._feasibility(
            study, approval, dict.fromkeys(both, len(facts)), dict.fromkeys(both, composition), warnings
        )

    def _check_enough(self, study: Study | SearchStudy, patients: int, where: str) -> None:
        if patients < self.policy.min_patients_a_side:
            raise DataUnusable(
                f"there are too few patients for study '{study.name}' here",
                got=f"{patients} patients {where}",
                wanted=f"at least {self.policy.min_patients_a_side} (min_patients_a_side in policy.toml)",
                next_step="Reject the study, or lower the rule. The coordinator learns nothing of this.",
            )

    def _feasibility(
        self,
        study: Study | SearchStudy,
        approval: Approved,
        patients: Mapping[Cohort, int],
        composition: Mapping[Cohort, Mapping[str, int]],
        warnings: tuple[str, ...],
    ) -> Feasibility:
        budget = self.created.budgets[study.data_set]
        aside = {each.cohort: each.share_set_aside for each in spending_of(self.account)}
        return Feasibility(
            patients=patients,
            composition=composition,
            share={name: budget.share(cost) for name, cost in approval.envelope.items()},
            share_left={name: 1.0 - aside[name] - budget.share(cost) for name, cost in approval.envelope.items()},
            epsilon={
                side: informative_epsilon(step.plan(), approval.delta).epsilon
                for step in steps_of(study).values()
                for side in paying_sides(step.cohort)
            },
            warnings=warnings,
        )


def look_at_site(folder: Path, state: SiteState) -> SiteInView:
    """Return a site as it is now; the gate may be running.

    Raises:
        ConfigInvalid: a file of the site is wrong.
        LedgerDamaged, IdentityInvalid: its ledger cannot be read or is held.
    """
    site, (policy, _) = load_site_file(folder), load_policy(folder)
    marks = PatientMarks.under(state.naming_secret(), site.data_set.name, site.data_set.patient_column)
    with state.copied_ledger(site.id) as ledger:
        return SiteInView(
            site=site,
            policy=policy,
            created=ledger.created,
            account=ledger.account,
            stopped=stopped_in(ledger.journal()),
            split_key=state.split_key(site.split_key),
            marks=marks,
            forgotten=forgotten_patients(ledger, site.data_set.name, marks.scheme),
            patient_facts=partial(read_patient_facts, state.index),
        )


def check_undecided(account: Account, study: Study | SearchStudy, by: str) -> None:
    """Return if a study was not approved yet, nor by this person as the first of two.

    Raises:
        ApprovalMissing: it was.
    """
    approval, first = account.approved.get(study.digest), account.decisions.first.get(study.digest)
    if approval is not None:
        raise ApprovalMissing(
            f"study '{study.name}' ({study.digest[:12]}) was approved here before, by {approval.by}",
            next_step="Nothing to do and nothing was charged; an approval is given once.",
        )
    if first is not None and first.by == by:
        raise ApprovalMissing(
            f"{by} approved study '{study.name}' ({study.digest[:12]}) before, as the first of two people",
            wanted="an approval by another Unix user",
            next_step="Nothing is open yet. Ask a second person; or take it back: fedhealth site reject --help",
        )


def approval_of(
    signed: AnySigned, site: SiteFile, created: Created, split_key: bytes, durations: ReplyAfter, by: str, at: int
) -> Approved:
    """Return the entry that approves a study.

    Raises:
        ApprovalMissing: the study does not fit the site.
    """
    study, data_set = signed.study, site.data_set
    _check_fit(study, site)
    if isinstance(study, Study) and study.cohort is not None and study.cohort.query.quarter > quarter_of(at):
        raise ApprovalMissing(
            f"the cohort of study '{study.name}' is of a quarter that has not come",
            got=study.cohort.query.quarter,
            wanted=f"at latest {quarter_of(at)}: nobody's index says yet who will be in it",
            next_step="Reject the study, or approve it then.",
        )
    return Approved(
        study=study.digest,
        researcher=signed.researcher,
        data_set=study.data_set,
        sides=sides_asked(study, data_set, split_key),
        declared_patients=data_set.declared_patients,
        reply_after_ms=durations,
        envelope=price_of(study, created.budgets[study.data_set]),
        counts_of_an_asker=study.counts.most_of_an_asker if isinstance(study, SearchStudy) else None,
        counts_of_a_hospital=study.counts.most_of_a_hospital if isinstance(study, SearchStudy) else None,
        delta=delta_of_study(study),
        by=by,
        at=at,
    )


def _doubts(table: Table, patient_column: str) -> tuple[str, ...]:
    share = patients_per_row(table, patient_column)
    if share < NEARLY_UNIQUE:
        return ()
    return (
        f"column '{patient_column}' has a new value in {share:.0%} of the rows: it looks like a visit number, not a "
        "patient, and protection would be per visit. It is right only if the table has one row per patient; else "
        "correct patient_column in site.toml before anything is approved.",
    )


def _figure_doubts(patients: int, declared: int) -> tuple[str, ...]:
    if patients <= MOST_PATIENTS_PER_DECLARED * declared:
        return ()
    return (
        f"the study has more than {MOST_PATIENTS_PER_DECLARED} times as many patients here as the {declared} that are "
        "declared: they count for less than they are, and a release of theirs may be left out as implausible. Correct "
        "declared_patients in site.toml before anything is approved.",
    )


def _warnings(table: Table, study: Study) -> Iterator[str]:
    """Yield what looks wrong with a study here: what they lack, what all have alike, what gives the answer away."""
    yield from (problem.what for problem in find_follow_up_problems(table, study))
    yield from (f"column '{each.column}': {each.what}" for each in find_trial_problems(table, study))
    yield from (f"{each.what}. {each.next_step}" for each in find_modality_problems(table, study))
    columns = (*find_uniform(table, study), *find_image_problems(table, study))
    yield from (f"column '{each.column}': {each.what}. {each.next_step}" for each in columns)
    yield from map(str, find_giveaways(table, study))


def _check_fit(study: Study | SearchStudy, site: SiteFile) -> None:
    if study.data_set != site.data_set.name:
        raise ApprovalMissing(
            f"study '{study.name}' asks for data set '{study.data_set}'",
            got=f"'{site.data_set.name}' at site '{site.id}'",
            next_step="Correct `name` in site.toml, or reject the study.",
        )
    if site.data_set.declared_patients < study.min_declared_patients:
        raise ApprovalMissing(
            f"study '{study.name}' asks for larger sites",
            got=f"{site.data_set.declared_patients} declared patients",
            wanted=f"at least {study.min_declared_patients}",
            next_step="Reject the study.",
        )
