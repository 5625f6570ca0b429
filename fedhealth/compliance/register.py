"""The register of processing: what was done with patients' data at each site, why, on which ground and whose word.

Made from verified ledgers and signed studies alone, so nothing in it depends on patients. Withdrawals of consent are in
no ledger: each entry has a commitment of fixed size to the site's local journal, and that is all that leaves a
hospital. The text of a study is not in a ledger either, only its digest; where it is not at hand, that is said.
Torch-free.
"""

from dataclasses import dataclass

import fedhealth
from fedhealth.compliance.acts import ActLine, acts_of
from fedhealth.compliance.budget import SideUse, StudyUse, budget_use
from fedhealth.compliance.federation import Federation, SiteLedger
from fedhealth.compliance.totals import StudyTotal, study_totals
from fedhealth.privacy.acts import ResearcherTrusted
from fedhealth.privacy.entries import ENTRY, Approved, Created, Entry, Withdrawn
from fedhealth.privacy.release import Digest
from fedhealth.privacy.verified_ledger import VerifiedLedger
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy


@dataclass(frozen=True)
class SideOfActivity:
    """What an activity may use and has used of one side of its data set: the side's cap, and the study's part."""

    epsilon_cap: float
    delta: float
    currency: str
    share_left: float
    cohort: str
    use: StudyUse


@dataclass(frozen=True)
class Activity:
    """One study that a site approved.

    Attributes:
        study: its digest.
        text: the protocol as its researcher signed it; None where it is not at hand.
        researcher: public key that signed it.
        researcher_name: the name under which the site had pinned that key; None where its ledger says none.
        data_set: which data set it uses.
        declared_patients: the site's public round figure.
        delta: at which the study's own epsilon is stated.
        first: the first of two local users who approved, and when; None where one was enough.
        by: the local user who approved, and so opened it.
        at: when, in Unix milliseconds.
        withdrawn: who withdrew it and when; None if nobody did.
        sides: training patients, then held-out ones.
    """

    study: Digest
    text: Study | SearchStudy | None
    researcher: Digest
    researcher_name: str | None
    data_set: str
    declared_patients: int
    delta: float
    first: tuple[str, int] | None
    by: str
    at: int
    withdrawn: tuple[str, int] | None
    sides: tuple[SideOfActivity, ...]


@dataclass(frozen=True)
class SiteRegister:
    """One site's part.

    Attributes:
        site: its id.
        source: name of the folder or file that was read.
        exported: who exported the bundle and when; None where the site's own ledger was read.
        began: when the ledger was made, in Unix milliseconds.
        witness_key: the coordinator's, which signs receipts for this ledger's heads.
        ledger: what verifying it found.
        commitment: of the last entry to the local journal, of fixed size.
        activities: in order of approval.
        budgets: caps and what is left of them.
        acts: what people did, oldest first.
    """

    site: str
    source: str
    exported: tuple[str, int] | None
    began: int
    witness_key: Digest
    ledger: VerifiedLedger
    commitment: Digest
    activities: tuple[Activity, ...]
    budgets: tuple[SideUse, ...]
    acts: tuple[ActLine, ...]


@dataclass(frozen=True)
class NotCounted:
    """A site or file that the register lacks, and why."""

    name: str
    what: str
    got: str
    next_step: str


@dataclass(frozen=True)
class Register:
    """The whole register.

    Attributes:
        made: when, in Unix milliseconds.
        software: what made it.
        sites: in order of their ids.
        studies: totals over sites, by the time of the first approval.
        not_counted: what was missing or did not verify; nothing of it is in the rest.
    """

    made: int
    software: str
    sites: tuple[SiteRegister, ...]
    studies: tuple[StudyTotal, ...]
    not_counted: tuple[NotCounted, ...]


def make_register(federation: Federation, at_ms: int) -> Register:
    """Return the register of one site or of many.

    Args:
        federation: the verified ledgers.
        at_ms: now, in Unix milliseconds.
    """
    return Register(
        made=at_ms,
        software=f"fedhealth {fedhealth.__version__}",
        sites=tuple(map(_site_register, federation.sites)),
        studies=study_totals(federation.sites),
        not_counted=tuple(
            NotCounted(each.name, each.error.what, each.error.got, each.error.next_step) for each in federation.failed
        ),
    )


def _site_register(ledger: SiteLedger) -> SiteRegister:
    history, exported = ledger.history, ledger.exported
    entries = [ENTRY.validate_json(body) for body in history.ledger.entries]
    budgets = budget_use(history)
    return SiteRegister(
        site=ledger.site,
        source=ledger.path.name,
        exported=None if exported is None else (exported.by, exported.at),
        began=history.created.at,
        witness_key=history.created.witness_key,
        ledger=history.ledger.verified,
        commitment=entries[-1].journal,
        activities=tuple(
            _activity(entry, ledger, budgets, entries) for entry in entries if isinstance(entry, Approved)
        ),
        budgets=budgets,
        acts=acts_of(history),
    )


def _activity(approval: Approved, ledger: SiteLedger, budgets: tuple[SideUse, ...], entries: list[Entry]) -> Activity:
    signed = ledger.history.studies.get(approval.study)
    first = ledger.history.first_approvals.get(approval.study)
    withdrawn = next((each for each in entries if isinstance(each, Withdrawn) and each.study == approval.study), None)
    return Activity(
        study=approval.study,
        text=signed.study if signed else None,
        researcher=approval.researcher,
        researcher_name=_pinned(entries).get(approval.researcher),
        data_set=approval.data_set,
        declared_patients=approval.declared_patients,
        delta=approval.delta,
        first=(first.by, first.at) if first else None,
        by=approval.by,
        at=approval.at,
        withdrawn=(withdrawn.by, withdrawn.at) if withdrawn else None,
        sides=tuple(
            SideOfActivity(side.epsilon, side.delta, side.currency, side.share_left, side.cohort, use)
            for side in budgets
            for use in side.studies
            if use.study == approval.study
        ),
    )


def _pinned(entries: list[Entry]) -> dict[Digest, str]:
    """Return the names under which researchers' keys were pinned at any time, by key."""
    names: dict[Digest, str] = {}
    for entry in entries:
        if isinstance(entry, Created):
            names |= {key: name for name, key in entry.researchers.items()}
        elif isinstance(entry, ResearcherTrusted):
            names[entry.key] = entry.name
    return names
