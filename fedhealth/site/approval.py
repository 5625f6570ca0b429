"""An administrator looks at a study once, with the hospital's own patients in view, and approves it or not.

This is the only place where feasibility (enough patients, both outcomes) may be looked at, because what is said here
stays at the hospital. Approving cuts the study's envelope out of the budget, and makes the duration of a reply public,
which was measured on made-up records of the declared size. Looking is done on a copy of the ledger, so the gate may be
running; it writes the approval itself then.
"""

import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhealth.errors import ApprovalMissing, DataUnusable
from fedhealth.learning.plan import envelope_of, plan_study
from fedhealth.policy.rules import check_policy, load_policy
from fedhealth.policy.site_file import SiteFile, load_site_file
from fedhealth.privacy.entries import Approved, Created, ReplyAfter
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.pld import informative_epsilon
from fedhealth.privacy.release import Cohort
from fedhealth.records.columns import NEARLY_UNIQUE
from fedhealth.records.marks import PatientMarks, without_patients
from fedhealth.records.query_trial import check_rows_alone
from fedhealth.records.source import read_source
from fedhealth.records.split import sides_of
from fedhealth.records.table import Table, patients_per_row, prepare_records
from fedhealth.secret_file import PUBLIC_MODE, create_file
from fedhealth.site.acts import record_policy
from fedhealth.site.administration import tell_gate
from fedhealth.site.consent import forgotten_patients
from fedhealth.site.gate_inputs import Compute
from fedhealth.site.instructions import Approve
from fedhealth.site.reply_durations import measure_replies
from fedhealth.site.state import SiteState, local_user
from fedhealth.study.protocol import Study
from fedhealth.study.signature import SignedStudy, open_signed_study


@dataclass(frozen=True)
class Feasibility:
    """What the administrator may see and nobody else: counts of the hospital's own patients.

    Attributes:
        patients: per side.
        positives: of those, how many have the condition.
        share: the part of the data set's whole budget that the study may cost a patient of each side; this binds.
        epsilon: what that is as an epsilon, at the study's delta: it holds for the study as committed in advance.
        warnings: what looks wrong and only a person can tell.
    """

    patients: Mapping[Cohort, int]
    positives: Mapping[Cohort, int]
    share: Mapping[Cohort, float]
    epsilon: Mapping[Cohort, float]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Proposal:
    """A study that could be approved here, and what the administrator should see before.

    Attributes:
        study: the protocol.
        seen: of this hospital's patients.
        signed_bytes: the signed study.
        approval: what would be written into the ledger.
    """

    study: Study
    seen: Feasibility
    signed_bytes: bytes
    approval: Approved


def examine_study(folder: Path, state: SiteState, data: bytes, compute: Compute) -> Proposal:
    """Look at a signed study with this hospital's patients in view; nothing is written.

    Args:
        folder: the site's folder, with `site.toml` and `policy.toml`.
        state: the site's state; the gate may be running.
        data: the signed study.
        compute: the step functions, for measuring how long they take.

    Raises:
        PolicyForbids: the site's rules do not allow it.
        DataUnusable: the data lack a column, hold text for a number, or too few patients; or the rows of a query rest
            on several patients.
        BudgetExhausted: its envelope does not fit what is left.
        ApprovalMissing: the study does not fit this site, or was approved before.
    """
    site, (policy, _) = load_site_file(folder), load_policy(folder)
    signed = open_signed_study(data)
    study = signed.study
    check_policy(policy, signed, state.researchers())
    split_key, column = state.split_key(site.split_key), site.data_set.patient_column
    marks = PatientMarks.under(state.naming_secret(), site.data_set.name, column)
    with state.copied_ledger(site.id) as ledger:
        budget = ledger.created.budgets[site.data_set.name]
        forgotten = forgotten_patients(ledger, site.data_set.name, marks.scheme)
        approval = _approval_of(signed, site, ledger.created, split_key, {}, local_user(), time.time_ns() // 10**6)
        _check_new(ledger, state, study, data)
        ledger.account.apply(approval)  # a copy, which is dropped again
    whole = read_source(site.data_set.source, strict=True)
    check_rows_alone(site.data_set.source, whole, column)
    table, _ = without_patients(whole, marks, forgotten)
    names: tuple[Cohort, ...] = ("training", "held-out")
    sides = dict(zip(names, prepare_records(table, study, column, split_key, strict=True), strict=True))
    for name, side in sides.items():
        if side.patient_count < policy.min_patients_a_side:
            raise DataUnusable(
                f"there are too few patients for study '{study.name}' here",
                got=f"{side.patient_count} patients on the {name} side",
                wanted=f"at least {policy.min_patients_a_side} (min_patients_a_side in policy.toml)",
                next_step="Reject the study, or lower the rule. The coordinator learns nothing of this.",
            )
    durations = measure_replies(study, site.data_set.declared_patients, compute, state)
    approval = approval.model_copy(update={"reply_after_ms": durations})
    seen = Feasibility(
        patients={name: side.patient_count for name, side in sides.items()},
        positives={name: np.unique(side.patients[side.labels > 0]).size for name, side in sides.items()},
        share={name: budget.share(cost) for name, cost in approval.envelope.items()},
        epsilon={
            step.cohort: informative_epsilon(step.plan(), study.privacy.delta).epsilon
            for step in plan_study(study).values()
        },
        warnings=_doubts(table, column),
    )
    return Proposal(study, seen, data, approval)


def approve_study(folder: Path, state: SiteState, proposal: Proposal) -> bool:
    """Approve what was examined, as the Unix user of this process: its envelope is set aside from now on.

    Returns:
        Whether a running gate did it, so that it serves the study already.

    Raises:
        BudgetExhausted, ApprovalMissing: another approval came between.
        PolicyForbids: the policy was changed since, and does not allow the study any more.
        ConfigInvalid, LinkUnavailable: this user may not tell the gate, or it does not answer.
    """
    instruction = Approve(
        site=load_site_file(folder).id,
        signed_study=urlsafe_b64encode(proposal.signed_bytes),
        reply_after_ms=proposal.approval.reply_after_ms,
    )
    if tell_gate(state.administrators_socket, instruction):
        return True
    with state.opened_ledger(instruction.site) as ledger:
        write_approval(folder, state, ledger, instruction, local_user(), time.time_ns() // 10**6)
    return False


def write_approval(folder: Path, state: SiteState, ledger: Ledger, instruction: Approve, by: str, at: int) -> None:
    """Write an approval into the ledger and keep the signed study; durable on return.

    Whatever the study may cost follows from the study, the site's files and its budget, and is worked out again here.

    Args:
        folder: the site's folder; its files as they are now.
        state: the site's state.
        ledger: the site's, open for writing.
        instruction: what was examined.
        by: the local user who approves.
        at: now, in Unix milliseconds.

    Raises:
        FedHealthError: as `examine_study`, but for what only the data can tell; nothing was written.
    """
    site, (policy, policy_sha256) = load_site_file(folder), load_policy(folder)
    signed = open_signed_study(instruction.signed_study)
    check_policy(policy, signed, state.researchers())
    _check_new(ledger, state, signed.study, instruction.signed_study)
    split_key = state.split_key(site.split_key)
    approval = _approval_of(signed, site, ledger.created, split_key, instruction.reply_after_ms, by, at)
    if instruction.reply_after_ms.keys() != plan_study(signed.study).keys():
        raise ApprovalMissing(
            f"study '{signed.study.name}' has other steps than were measured",
            next_step="Use the program of the version that the gate runs.",
        )
    record_policy(ledger, policy_sha256, by, at)
    ledger.append(approval)
    _keep(state, signed.study, instruction.signed_study)


def _approval_of(
    signed: SignedStudy, site: SiteFile, created: Created, split_key: bytes, durations: ReplyAfter, by: str, at: int
) -> Approved:
    """Return the entry that approves a study.

    Raises:
        ApprovalMissing: the study does not fit the site.
    """
    study, data_set = signed.study, site.data_set
    _check_fit(study, site)
    return Approved(
        study=study.digest,
        researcher=signed.researcher,
        data_set=study.data_set,
        sides=sides_of(split_key, data_set.patient_column, study.evaluation.held_out_fraction),
        declared_patients=data_set.declared_patients,
        reply_after_ms=durations,
        envelope=envelope_of(study, created.budgets[study.data_set]),
        delta=study.privacy.delta,
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


def _keep(state: SiteState, study: Study, data: bytes) -> None:
    """Keep a signed study where the gate finds it; one that is there already stays."""
    file = state.studies / f"{study.digest}.json"
    if not file.exists():
        create_file(file, data, PUBLIC_MODE)


def _check_new(ledger: Ledger, state: SiteState, study: Study, data: bytes) -> None:
    approval = ledger.account.approved.get(study.digest)
    if approval is not None:
        _keep(state, study, data)  # a crash may have come between the two writes of an approval
        raise ApprovalMissing(
            f"study '{study.name}' ({study.digest[:12]}) was approved here before, by {approval.by}",
            next_step="Nothing to do and nothing was charged; an approval is given once.",
        )


def _check_fit(study: Study, site: SiteFile) -> None:
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
