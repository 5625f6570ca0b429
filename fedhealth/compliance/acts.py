"""What people did at a site, by whom and when, as its verified ledger says it. Torch-free.

Charges and releases are no acts of people; `budget` adds them up. What patients caused is in no ledger.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from fedhealth.compliance.history import History
from fedhealth.privacy.acts import (
    KeyRotated,
    Paused,
    PolicyChanged,
    ResearcherDistrusted,
    ResearcherTrusted,
    Unpaused,
)
from fedhealth.privacy.decisions import FirstApproval, Rejected
from fedhealth.privacy.entries import (
    ENTRY,
    Approved,
    Created,
    Entry,
    Recovered,
    Reserved,
    Stored,
    Unwitnessed,
    Withdrawn,
    WitnessRule,
)
from fedhealth.privacy.release import Digest
from fedhealth.study.signature import AnySigned


@dataclass(frozen=True)
class ActLine:
    """One act.

    Attributes:
        entry: its position in the ledger.
        at: Unix time in milliseconds, by the site's own clock.
        by: the local user; empty where the entry names none.
        what: one sentence.
    """

    entry: int
    at: int
    by: str
    what: str


def acts_of(history: History) -> tuple[ActLine, ...]:
    """Return what people did at a site, oldest first."""
    lines = []
    for position, body in enumerate(history.ledger.entries):
        entry = ENTRY.validate_json(body)
        if isinstance(entry, Reserved | Stored | Unwitnessed):
            continue
        by = "" if isinstance(entry, Created | WitnessRule) else entry.by
        lines.append(ActLine(position, entry.at, by, _said(entry, history.studies)))
    return tuple(lines)


def _said(entry: Entry, studies: Mapping[Digest, AnySigned]) -> str:
    match entry:
        case Created():
            caps = "; ".join(
                f"'{name}' epsilon {budget.epsilon:g} at delta {budget.delta:g}"
                for name, budget in entry.budgets.items()
            )
            pinned = "".join(f"; pinned key {key} of researcher '{name}'" for name, key in entry.researchers.items())
            return f"the ledger of site '{entry.site}' began, under key {entry.ledger_key}, with budgets {caps}{pinned}"
        case Approved():
            study = _study(entry.study, studies)
            return f"approved {study} of key {entry.researcher[:12]} on data set '{entry.data_set}'"
        case FirstApproval():
            study = _study(entry.study, studies)
            return f"approved {study} of key {entry.researcher[:12]} as the first of two people; opened nothing"
        case Rejected():
            reason = "" if entry.reason is None else f", because of: {entry.reason}"
            return f"rejected {_study(entry.study, studies)}{reason}"
        case Withdrawn():
            return f"withdrew {_study(entry.study, studies)}"
        case PolicyChanged():
            return f"the policy with SHA-256 {entry.policy_sha256} came into force"
        case WitnessRule():
            return f"the witness became '{entry.witness}', waited for {entry.wait_seconds} s"
        case Paused():
            return "paused the whole site"
        case Unpaused():
            return "let the site go on"
        case ResearcherTrusted():
            return f"pinned key {entry.key} of researcher '{entry.name}'"
        case ResearcherDistrusted():
            return f"let the key of researcher '{entry.name}' go"
        case KeyRotated():
            return f"changed the ledger key from {entry.rotation.former_key} to {entry.rotation.ledger_key}"
        case Recovered():
            lost = "" if entry.given_up is None else f"; gave up the head of {entry.given_up.size} entries it once had"
            return f"put back what an older copy of the ledger lacked, from entry {entry.first} on{lost}"
        case Reserved() | Stored() | Unwitnessed():
            raise ValueError(f"'{entry.kind}' is no act of a person")
        case _:
            assert_never(entry)


def _study(digest: Digest, studies: Mapping[Digest, AnySigned]) -> str:
    signed = studies.get(digest)
    return f"study '{signed.study.name}' ({digest[:12]})" if signed else f"study {digest}"
