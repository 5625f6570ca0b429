"""What a gate is given: its administrator's files and secrets, the step functions, and the time.

All of it is an argument of the gate, so that a gate in a test or a simulation is the real one with another clock or
another noise secret. Where the files lie is left to `state`, who opens the ledger to `gate_process`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedhealth.policy.rules import Policy, load_policy
from fedhealth.policy.site_file import SiteFile, load_site_file
from fedhealth.privacy.acts import PolicyChanged
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import StepName
from fedhealth.privacy.stream import NoiseSecret
from fedhealth.records.marks import PatientMarks
from fedhealth.records.members import MemberHistory, PassingMembers
from fedhealth.records.source import read_source
from fedhealth.records.table import Table
from fedhealth.search.coded_patients import PatientFacts, read_patient_facts
from fedhealth.signing import load_public_key
from fedhealth.site.hold import LedgerHold
from fedhealth.site.state import SiteState

Compute = Mapping[StepName, Callable[..., tuple[bytes, int]]]
"""The step functions of `fedhealth.learning.steps.STEPS`; an argument, so that this module loads no torch."""


@dataclass(frozen=True)
class Clock:
    """Time as the gate sees it.

    Attributes:
        monotonic: seconds, never backwards; decides when a reply leaves.
        unix_ms: milliseconds since 1970; written into the ledger.
    """

    monotonic: Callable[[], float]
    unix_ms: Callable[[], int]


@dataclass(frozen=True)
class GateInputs:
    """What a gate is given, all of it by its own administrator.

    Attributes:
        site: `site.toml`.
        policy: `policy.toml`.
        policy_change: what the ledger shall say of it, unless it says so already; None where nobody edits a policy.
        table: the data set as read.
        split_key: key of the held-out split.
        naming_secret: key of the content's fingerprint and of the patients' marks; both stay inside.
        members: who was in the data at each version; owns a file.
        copies_secret: seals the copies of the ledger's entries that the coordinator keeps.
        hold: the mark of a ledger that is behind or of another history; owns its files.
        noise_secret: opens the noise streams.
        witness_key: the coordinator's key.
        researchers: pinned keys by name.
        patient_facts: read the codes of the patients in the site's index, anew each time; for search studies.
        device: name of what its process computes on; it is chosen once, before a gate is opened.
    """

    site: SiteFile
    policy: Policy
    policy_change: PolicyChanged | None
    table: Table
    split_key: bytes
    naming_secret: bytes
    members: MemberHistory | PassingMembers
    copies_secret: bytes
    hold: LedgerHold
    noise_secret: NoiseSecret
    witness_key: Ed25519PublicKey
    researchers: Mapping[str, str]
    patient_facts: Callable[[], Iterable[PatientFacts]]
    device: str = "cpu"

    @property
    def marks(self) -> PatientMarks:
        """Make the marks of the data set's patients."""
        return PatientMarks.under(self.naming_secret, self.site.data_set.name, self.site.data_set.patient_column)


def read_inputs(folder: Path, state: SiteState, ledger: Ledger, by: str, at: int, device: str) -> GateInputs:
    """Read what a gate is given, all of it anew.

    Args:
        folder: the site's folder.
        state: its state.
        ledger: its ledger, which says whose keys are pinned.
        by: the local user for whom it is read, if the policy turns out to be another than the ledger says.
        at: now, in Unix milliseconds.
        device: name of what this process computes on.

    Raises:
        ConfigInvalid: a file of the site is missing or wrong.
        DataUnusable: the data set cannot be read.
    """
    site, (policy, policy_sha256) = load_site_file(folder), load_policy(folder)
    return GateInputs(
        site=site,
        policy=policy,
        policy_change=PolicyChanged(policy_sha256=policy_sha256, by=by, at=at),
        table=read_source(site.data_set.source, strict=False),
        split_key=state.split_key(site.split_key),
        naming_secret=state.naming_secret(),
        members=state.members(),
        copies_secret=state.copies_secret(),
        hold=state.hold,
        noise_secret=state.noise_secret(ledger.created),
        witness_key=load_public_key(ledger.created.witness_key),
        researchers=ledger.account.acts.researchers,
        patient_facts=partial(read_patient_facts, state.index),
        device=device,
    )
