"""A patient withdraws the consent: out of every later cohort, and told which studies had used the records.

Forgetting covers training and held-out side, every study on the data set, and all of the patient's records, now and
later. A running gate does it at once (`fedhealth.site.running_site`), else it takes effect when the gate starts next,
also in the middle of a study: what was stored before stays stored, what is computed after is computed without the
patient. Consent given again (`renew_consent`) lets the patient back in; both are lines of the local journal, by whom
and when.

Invariants: nothing of it crosses the border: no entry of the ledger, no public figure changes. The patient's name is
in no file, log or message; the journal holds a keyed mark. A withdrawal that could no longer be recognised, because
the naming secret or the patient column changed, stops the gate.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from fedhealth.errors import ConfigInvalid, DataUnusable, FedHealthError
from fedhealth.policy.site_file import SiteFile, load_site_file
from fedhealth.privacy.entries import Approved, Reserved, Stored
from fedhealth.privacy.journal import ConsentNote, DataNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Cohort, Digest
from fedhealth.records.marks import PatientMarks, short_mark
from fedhealth.records.members import MemberHistory, digest_of_members
from fedhealth.records.source import read_source
from fedhealth.records.split import is_held_out, sides_of
from fedhealth.site.administration import tell_gate
from fedhealth.site.instructions import ChangeConsent
from fedhealth.site.state import SiteState, local_user
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy
from fedhealth.study.signature import open_signed


def forgotten_patients(ledger: Ledger, data_set: str, scheme: Digest) -> frozenset[Digest]:
    """Return the marks of the patients of a data set who withdrew their consent and did not give it again.

    Raises:
        ConfigInvalid: a withdrawal was marked in a way that marks of this scheme cannot recognise.
    """
    forgotten: set[Digest] = set()
    for note in ledger.journal():
        if not isinstance(note, ConsentNote) or note.data_set != data_set:
            continue
        if note.scheme != scheme:
            raise ConfigInvalid(
                f"patients of data set '{data_set}' who withdrew their consent cannot be recognised",
                got="another naming secret or patient column than when they did",
                next_step="Put patient_column in site.toml and gate/naming.secret back as they were.",
            )
        if note.kind == "consent-withdrawn":
            forgotten.add(note.mark)
        else:
            forgotten.discard(note.mark)
    return frozenset(forgotten)


class Forgotten(NamedTuple):
    """What came of keeping a patient out.

    Attributes:
        records: how many records of the patient are in the data now; None if the data cannot be read. For the
            administrator alone.
        at_once: whether a running gate did it, so that it holds already.
    """

    records: int | None
    at_once: bool


def forget_patient(folder: Path, state: SiteState, patient: str) -> Forgotten:
    """Keep a patient out of every later cohort. Doing it again changes nothing.

    Args:
        folder: the site's folder.
        state: the site's state.
        patient: as the patient column names the patient; need not be in the data yet.

    Raises:
        LedgerDamaged: the ledger is held, or cannot be written; nothing is recorded.
        ConfigInvalid: no patient was named, or this user may not tell the gate.
        LinkUnavailable: the gate does not answer.
    """
    site, patient = load_site_file(folder), _named(patient)
    at_once = _change_consent(state, site, patient, "forget")
    try:
        table = read_source(site.data_set.source, strict=False)
    except DataUnusable:
        return Forgotten(None, at_once)
    if site.data_set.patient_column not in table.columns:
        return Forgotten(None, at_once)
    place = table.columns.index(site.data_set.patient_column)
    return Forgotten(sum(row[place] == patient for _, row in table.rows), at_once)


def renew_consent(folder: Path, state: SiteState, patient: str) -> bool:
    """Let a patient who was forgotten back in.

    Returns:
        Whether a running gate did it, so that it holds already.

    Raises:
        ConfigInvalid: the patient was not forgotten.
        LedgerDamaged, LinkUnavailable: as `forget_patient`.
    """
    return _change_consent(state, load_site_file(folder), _named(patient), "unforget")


def write_consent(ledger: Ledger, instruction: ChangeConsent, scheme: Digest, by: str, at: int) -> None:
    """Journal a change of consent; durable on return. A patient who is forgotten already stays so.

    Args:
        ledger: the site's, open for writing.
        instruction: what to do.
        scheme: of the marks by which this data set's patients are recognised.
        by: the local user who records it.
        at: now, in Unix milliseconds.

    Raises:
        ConfigInvalid: the mark is of another data set or scheme, or who is let back in was not forgotten.
    """
    if instruction.data_set not in ledger.created.budgets or instruction.scheme != scheme:
        raise ConfigInvalid(
            f"patients of data set '{instruction.data_set}' cannot be recognised by the gate that is running",
            got="another data set or patient column in site.toml than the gate started with",
            next_step="Start the gate again; then repeat this.",
        )
    withdraws = instruction.verb == "forget"
    if (instruction.mark in forgotten_patients(ledger, instruction.data_set, scheme)) != withdraws:
        ledger.note(
            ConsentNote(
                kind="consent-withdrawn" if withdraws else "consent-renewed",
                data_set=instruction.data_set,
                scheme=scheme,
                mark=instruction.mark,
                by=by,
                at=at,
            )
        )
    elif not withdraws:
        raise ConfigInvalid(
            f"this patient of data set '{instruction.data_set}' has not withdrawn the consent",
            next_step="Nothing to do; or check how the patient column writes the patient.",
        )


def _change_consent(state: SiteState, site: SiteFile, patient: str, verb: Literal["forget", "unforget"]) -> bool:
    """Have a change of consent written; say whether a running gate did it."""
    name = site.data_set.name
    marks = PatientMarks.under(state.naming_secret(), name, site.data_set.patient_column)
    instruction = ChangeConsent(site=site.id, verb=verb, data_set=name, scheme=marks.scheme, mark=marks.of(patient))
    if tell_gate(state.administrators_socket, instruction):
        return True
    with state.opened_ledger(site.id) as ledger:
        write_consent(ledger, instruction, marks.scheme, local_user(), time.time_ns() // 10**6)
    return False


@dataclass(frozen=True)
class StudyUse:
    """What a study used of one patient.

    Attributes:
        study: its digest.
        title: its title; empty if its signed file is gone.
        approved_by: who approved it.
        approved_at: when, Unix time in milliseconds.
        used: releases that left, or are ready to, and were computed on a cohort with the patient in it.
        unknown: releases of which that cannot be said, because the record of who was in the data, or which side the
            patient was on, or whether the release left at all, is missing.
        last_charged_at: when the last of both was charged, Unix time in milliseconds.
    """

    study: Digest
    title: str
    approved_by: str
    approved_at: int
    used: int
    unknown: int
    last_charged_at: int


def studies_of(folder: Path, state: SiteState, patient: str) -> tuple[StudyUse, ...]:
    """Return the studies on the site's data set whose releases used a patient; the gate must not be running.

    A release counts where the patient had a record in the data when it was computed and stands on the side it was
    computed on. That is the most that can be: a patient whose endpoint is missing added nothing, and in a round that
    samples patients each is drawn by chance. A release that was charged and never stored used nobody, unless an older
    copy of the ledger was recovered since: then it may have left, and on which data nobody knows.

    Raises:
        ConfigInvalid: no patient was named.
        LedgerDamaged: the gate is running, or the ledger cannot be read.
    """
    site, patient = load_site_file(folder), _named(patient)
    column = site.data_set.patient_column
    mark = short_mark(PatientMarks.under(state.naming_secret(), site.data_set.name, column).of(patient))
    with state.copied_ledger(site.id) as ledger:
        account, history = ledger.account, tuple(ledger.history())
        versions = [(line, note) for line, note in enumerate(ledger.journal()) if isinstance(note, DataNote)]
    was_in = {note.version: _was_in(state.members(), note, mark) for _, note in versions}
    uses: dict[Digest, StudyUse] = {}
    for entry, written_after in history:
        if isinstance(entry, Stored):
            journal_size = written_after
        elif isinstance(entry, Reserved) and entry.release in account.closed:
            journal_size = None
        else:
            continue
        charge = account.reserved[entry.release]
        approval = account.approved[charge.study]
        if approval.data_set != site.data_set.name:
            continue
        before = [note.version for line, note in versions if journal_size is not None and line < journal_size]
        signed = _signed_study(state, charge.study)
        side = _side_of(patient, state, site, approval, signed)
        member = was_in[before[-1]] if before else None
        if charge.cohort == "everybody":
            member = None if member is False else member  # in the index a patient may be who is in no table
        elif member is False or side not in (None, charge.cohort):
            continue
        known = member is not None and (side is not None or charge.cohort == "everybody")
        last = uses.get(charge.study)
        uses[charge.study] = StudyUse(
            study=charge.study,
            title=signed.title if signed else "",
            approved_by=approval.by,
            approved_at=approval.at,
            used=(last.used if last else 0) + known,
            unknown=(last.unknown if last else 0) + (not known),
            last_charged_at=charge.at,
        )
    return tuple(uses.values())


def _named(patient: str) -> str:
    patient = patient.strip()  # as cells are read
    if not patient:
        raise ConfigInvalid("no patient was named", next_step="Give the patient as the patient column does.")
    return patient


def _was_in(history: MemberHistory, note: DataNote, mark: int) -> bool | None:
    members = history.members(note.version)
    return bool(np.isin(mark, members)) if digest_of_members(members) == note.members else None


def _signed_study(state: SiteState, study: Digest) -> Study | SearchStudy | None:
    try:
        return open_signed((state.studies / f"{study}.json").read_bytes()).study
    except (FedHealthError, OSError):
        return None


def _side_of(
    patient: str, state: SiteState, site: SiteFile, approval: Approved, study: Study | SearchStudy | None
) -> Cohort | None:
    """Return the side a patient was on in a study; None if the split is not the one that was approved.

    None, too, where a column states it: what it said then is not kept.
    """
    if not isinstance(study, Study) or site.data_set.split_column is not None:
        return None
    key, fraction = state.split_key(site.split_key), study.evaluation.held_out_fraction
    if sides_of(key, site.data_set.patient_column, fraction) != approval.sides:
        return None
    return "held-out" if is_held_out(key, patient, fraction) else "training"
