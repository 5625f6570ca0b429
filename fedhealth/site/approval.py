"""An administrator looks at a study once, with the hospital's own patients in view, and approves it or not.

This is the only place where feasibility (enough patients, both outcomes) may be looked at, because what is said here
stays at the hospital. Approving cuts the study's envelope out of the budget, and measures, on made-up records of
the declared size, how long a reply takes; that duration is public from then on.
"""

import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from fedhealth.errors import ApprovalMissing, DataUnusable
from fedhealth.learning.plan import envelope_of, plan_study
from fedhealth.policy.rules import check_policy, load_policy
from fedhealth.policy.site_file import SiteFile, load_site_file
from fedhealth.privacy.anchor import AnchorFile
from fedhealth.privacy.entries import Approved
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.pld import informative_epsilon
from fedhealth.privacy.release import Cohort, StepName
from fedhealth.privacy.stream import SECRET_BYTES, SiteNoiseSecret
from fedhealth.records.columns import NEARLY_UNIQUE
from fedhealth.records.marks import PatientMarks, without_patients
from fedhealth.records.source import read_source
from fedhealth.records.split import sides_of
from fedhealth.records.table import Table, made_up_records, patients_per_row, prepare_records
from fedhealth.secret_file import PUBLIC_MODE, create_file, replace_file
from fedhealth.site.acts import record_policy
from fedhealth.site.consent import forgotten_patients
from fedhealth.site.gate_inputs import Compute
from fedhealth.site.state import SiteState, local_user
from fedhealth.study.protocol import Study
from fedhealth.study.signature import open_signed_study

REPLY_MARGIN = 1.25
"""Public duration of a reply over the slowest of the trials."""

_TRIALS = 15
_SHORTEST_REPLY_MS = 20


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
        state: the site's state; the gate must not be running.
        data: the signed study.
        compute: the step functions, for measuring how long they take.

    Raises:
        PolicyForbids: the site's rules do not allow it.
        DataUnusable: the data lack a column, hold text for a number, or too few patients.
        BudgetExhausted: its envelope does not fit what is left.
        ApprovalMissing: the study does not fit this site, or was approved before.
    """
    site, (policy, _) = load_site_file(folder), load_policy(folder)
    signed = open_signed_study(data)
    study = signed.study
    check_policy(policy, signed, state.researchers())
    _check_fit(study, site)
    split_key, column = state.split_key(site.split_key), site.data_set.patient_column
    marks = PatientMarks.under(state.naming_secret(), site.data_set.name, column)
    with state.opened_ledger(site.id) as ledger:
        budget = ledger.created.budgets[study.data_set]
        forgotten = forgotten_patients(ledger, site.data_set.name, marks)
    table, _ = without_patients(read_source(site.data_set.source, strict=True), marks, forgotten)
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
    envelope = envelope_of(study, budget)
    approval = Approved(
        study=study.digest,
        researcher=signed.researcher,
        data_set=study.data_set,
        sides=sides_of(split_key, column, study.evaluation.held_out_fraction),
        declared_patients=site.data_set.declared_patients,
        reply_after_ms=_measure_replies(study, site.data_set.declared_patients, compute, state),
        envelope=envelope,
        delta=study.privacy.delta,
        by=local_user(),
        at=time.time_ns() // 10**6,
    )
    with state.opened_ledger(site.id) as ledger:
        _check_new(ledger, study, state, data)
        ledger.account.apply(approval)  # only this copy of the account, which is closed again
    seen = Feasibility(
        patients={name: side.patient_count for name, side in sides.items()},
        positives={name: np.unique(side.patients[side.labels > 0]).size for name, side in sides.items()},
        share={name: budget.share(cost) for name, cost in envelope.items()},
        epsilon={
            step.cohort: informative_epsilon(step.plan(), study.privacy.delta).epsilon
            for step in plan_study(study).values()
        },
        warnings=_doubts(table, column),
    )
    return Proposal(study, seen, data, approval)


def approve_study(folder: Path, state: SiteState, proposal: Proposal) -> None:
    """Approve what was examined, as the Unix user of this process: its envelope is set aside from now on.

    Raises:
        BudgetExhausted, ApprovalMissing: another approval came between.
        PolicyForbids: the policy was changed since, and does not allow the study any more.
    """
    site, (policy, policy_sha256) = load_site_file(folder), load_policy(folder)
    check_policy(policy, open_signed_study(proposal.signed_bytes), state.researchers())
    with state.opened_ledger(site.id) as ledger:
        _check_new(ledger, proposal.study, state, proposal.signed_bytes)
        record_policy(ledger, policy_sha256, time.time_ns() // 10**6)
        ledger.append(proposal.approval)
    create_file(_signed_file(state, proposal.study), proposal.signed_bytes, PUBLIC_MODE)


def _doubts(table: Table, patient_column: str) -> tuple[str, ...]:
    share = patients_per_row(table, patient_column)
    if share < NEARLY_UNIQUE:
        return ()
    return (
        f"column '{patient_column}' has a new value in {share:.0%} of the rows: it looks like a visit number, not a "
        "patient, and protection would be per visit. It is right only if the table has one row per patient; else "
        "correct patient_column in site.toml before anything is approved.",
    )


def _signed_file(state: SiteState, study: Study) -> Path:
    return state.studies / f"{study.digest}.json"


def _check_new(ledger: Ledger, study: Study, state: SiteState, data: bytes) -> None:
    if study.digest not in ledger.account.approved:
        return
    if not _signed_file(state, study).exists():  # a crash came between the two writes of an approval
        create_file(_signed_file(state, study), data, PUBLIC_MODE)
    raise ApprovalMissing(
        f"study '{study.name}' ({study.digest[:12]}) was approved here before",
        next_step="Nothing to do; an approval is given once.",
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


def _measure_replies(study: Study, declared_patients: int, compute: Compute, state: SiteState) -> dict[StepName, int]:
    """Return the public duration of each step's reply, in ms, from made-up records of the declared size.

    Includes what it takes to make a payload durable on this disk, and to move the ledger's anchor after it.
    """
    records = made_up_records(study, declared_patients)
    streams = partial(SiteNoiseSecret(secrets.token_bytes(SECRET_BYTES)).stream, "calibration")
    scratch, place = state.gate / "calibration.tmp", state.gate / "calibration.anchor"
    anchor = AnchorFile(place)
    anchor.create(1, "0" * 64, 0, 0)
    durations: dict[StepName, int] = {}
    for name, step in plan_study(study).items():
        weights, rate = np.zeros(step.input_length), step.sampling_rate
        # Six standard deviations more patients than are drawn on average, so that no draw makes a reply late.
        trial = replace(step, sampling_rate=min(1.0, rate + 6 * math.sqrt(rate / declared_patients)))
        trials = []
        for _ in range(_TRIALS):
            start = time.perf_counter()
            payload, _ = compute[name](trial, weights, records, streams)
            replace_file(scratch, payload)
            anchor.move(1, "0" * 64, 0, 0)
            trials.append(time.perf_counter() - start)
        slowest = sorted(trials[1:])[-2] * 1000  # the first warms up; one outlier is the machine's
        durations[name] = max(_SHORTEST_REPLY_MS, math.ceil(REPLY_MARGIN * slowest / 5) * 5)
    scratch.unlink()
    place.unlink()
    return durations
