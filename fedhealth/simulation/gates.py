"""Simulated hospitals: real gates over ledgers in memory, and the coordinator's side of each, in one process.

Everything that decides a number is the real thing: gate, ledger, mechanism, witness. Left out are the link, the node,
the waiting for the public time of a reply, and the disk: a simulated ledger protects nobody, so it may go with the
process. It says in its first entry that it is of a simulation, and none of a site is ever opened from a file of one.
"""

import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.coordinator.asking import Asker, NoRelease
from fedhealth.coordinator.evidence import LedgerHead
from fedhealth.coordinator.witness import PinnedSite, Witness
from fedhealth.flower.link_grid import NotReleased
from fedhealth.learning.plan import envelope_of
from fedhealth.learning.steps import STEPS
from fedhealth.policy.rules import Policy
from fedhealth.policy.site_file import SiteFile
from fedhealth.privacy.accountant import open_budget
from fedhealth.privacy.checkpoint import open_checkpoint
from fedhealth.privacy.entries import Approved, Created
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import ReleaseIdentity, StepName, input_digest
from fedhealth.privacy.simulated_ledger import write_simulated_ledger
from fedhealth.privacy.stream import UnsafeFixedNoiseSecret
from fedhealth.records.members import MemberHistory, PassingMembers
from fedhealth.records.split import sides_of
from fedhealth.records.table import Table
from fedhealth.signing import load_public_key, public_key_hex
from fedhealth.site.gate import Gate
from fedhealth.site.gate_inputs import Clock, Compute, GateInputs
from fedhealth.site.hold import LedgerHold
from fedhealth.study.protocol import Study
from fedhealth.study.signature import sign_study

RESEARCHER = "simulation"
_NOWHERE = Path("/nonexistent/simulation")
"""Where a simulated ledger would be held; it never is: nobody can put an older one in its place in memory."""

_TEST_REPLY_AFTER_MS = 20
_SIMULATED_REPLY_AFTER_MS = 60_000
"""Nobody waits for it; long, so that no reply is said to be late."""

_EPSILON_CAP = 25.0
"""Of a simulated data set: more than a study may ask, because one study is all that it pays for. Not much more: a
budget's room for the sampled noise's distance from exact is divided by e^epsilon, and a large model needs some."""


_Found = TypeVar("_Found")


@dataclass(frozen=True)
class SimulatedSite:
    """A site in this process.

    Attributes:
        file: what it says of itself.
        table: its records.
        split_key: 32 bytes; decides who is held out.
        noise_seed: known noise.
        naming_secret: 32 bytes; with the data it decides the key of the noise, as at a real site.
    """

    file: SiteFile
    table: Table
    split_key: bytes
    noise_seed: int
    naming_secret: bytes = bytes(32)


def real_clock() -> Clock:
    """Return the time of this machine."""
    return Clock(monotonic=time.monotonic, unix_ms=lambda: time.time_ns() // 10**6)


def open_gate(
    site: SimulatedSite,
    study: Study,
    folder: Path | None,
    researcher: Ed25519PrivateKey,
    witness: Ed25519PrivateKey,
    clock: Clock,
    compute: Compute = STEPS,
    noise_secret: UnsafeFixedNoiseSecret | None = None,
) -> tuple[Gate, Ledger]:
    """Make a site's ledger, approve the study, and return its gate and its ledger.

    Args:
        site: whose.
        study: the only one that is approved.
        folder: for a test site's files; None for a simulated site, which is in memory.
        researcher: signs the study.
        witness: the coordinator's key.
        clock: of the gate.
        compute: its step functions.
        noise_secret: that of the site's seed, where several sites share one.
    """
    key, signed, data_set = Ed25519PrivateKey.generate(), _signed(study, researcher), site.file.data_set
    work = (1.0, 1) if study.training is None else (study.training.sampling_rate, study.training.rounds)
    budget = open_budget(_EPSILON_CAP, study.privacy.delta, *work)
    created = Created(
        site=site.file.id,
        ledger_key=public_key_hex(key.public_key()),
        witness_key=public_key_hex(witness.public_key()),
        budgets={study.data_set: budget},
        unsafe_test_site=True,
        simulation=folder is None,
        at=clock.unix_ms(),
    )
    file = None if folder is None else folder / f"{site.file.id}.sqlite"
    ledger = Ledger.in_memory(created, key) if file is None else Ledger.create(file, created, key)
    reply_after = _SIMULATED_REPLY_AFTER_MS if folder is None else _TEST_REPLY_AFTER_MS
    ledger.append(
        Approved(
            study=study.digest,
            researcher=public_key_hex(researcher.public_key()),
            data_set=study.data_set,
            sides=sides_of(
                site.split_key, data_set.patient_column, study.evaluation.held_out_fraction, data_set.split_column
            ),
            declared_patients=data_set.declared_patients,
            reply_after_ms={"train": reply_after, "evaluate": reply_after},
            envelope=envelope_of(study, budget),
            delta=study.privacy.delta,
            by="simulation",
            at=clock.unix_ms(),
        )
    )
    inputs = GateInputs(
        site=site.file,
        policy=Policy.model_validate(
            {
                "tasks": [study.task],
                "purposes": [study.purpose_class],
                "researchers": [RESEARCHER],
                "min_patients_a_side": 1,
                "max_epsilon_a_study": 20,
                "budget": {study.data_set: {"epsilon": budget.epsilon, "delta": budget.delta}},
            }
        ),
        policy_change=None,
        table=site.table,
        split_key=site.split_key,
        naming_secret=site.naming_secret,
        members=PassingMembers() if folder is None else MemberHistory(folder / f"{site.file.id}.members"),
        copies_secret=bytes(32),
        hold=LedgerHold(folder or _NOWHERE, site.file.id),
        noise_secret=noise_secret or UnsafeFixedNoiseSecret(site.noise_seed),
        witness_key=witness.public_key(),
        researchers={RESEARCHER: public_key_hex(researcher.public_key())},
        patient_facts=tuple,  # no simulated site has an index
    )
    gate = Gate(inputs, ledger, compute, clock)
    gate.prepare(signed)
    return gate, ledger


@lru_cache(maxsize=4)
def _signed(study: Study, researcher: Ed25519PrivateKey) -> bytes:
    """Sign a study once for all its sites."""
    return sign_study(study, researcher)


def _at_once(steps: Coroutine[None, None, _Found]) -> _Found:
    """Run what never waits, because every gate answers within the call.

    Without an event loop, so that it runs in a notebook, which has one already.
    """
    try:
        steps.send(None)
    except StopIteration as end:
        found: _Found = end.value
        return found
    steps.close()
    raise RuntimeError("a simulated gate kept somebody waiting")


class SiteGroup:
    """Some simulated sites, and the coordinator's side of each; call it from one thread at a time.

    Args:
        study: the only one.
        sites: each with a name of its own.
        researcher: signs the study.
    """

    def __init__(self, study: Study, sites: Sequence[SimulatedSite], researcher: Ed25519PrivateKey) -> None:
        witness_key, clock = Ed25519PrivateKey.generate(), real_clock()
        secrets = {seed: UnsafeFixedNoiseSecret(seed) for seed in {site.noise_seed for site in sites}}
        self._digest = study.digest
        self._gates: dict[str, Gate] = {}
        self._ledgers: dict[str, Ledger] = {}
        for site in sites:
            self._gates[site.file.id], self._ledgers[site.file.id] = open_gate(
                site, study, None, researcher, witness_key, clock, noise_secret=secrets[site.noise_seed]
            )
        pinned = {name: PinnedSite(ledger_key=ledger.created.ledger_key) for name, ledger in self._ledgers.items()}
        self._asker = Asker(self._carry, Witness(None, pinned, witness_key))

    def releases(self, step: StepName, number: int, data: Mapping[str, bytes]) -> dict[str, bytes | NotReleased]:
        """Return the answer of each site in `data` to a question with its own input."""
        return _at_once(self._releases(step, number, data))

    def heads(self) -> dict[str, LedgerHead]:
        """Return the countersigned head of each site's ledger, and have the payloads dropped."""
        self._asker.checkpointed()
        return _at_once(self._heads())

    def write_ledgers(self, path: Path) -> None:
        """Write what the ledgers hold to a new file."""
        write_simulated_ledger(path, self._ledgers)

    def close(self) -> None:
        """Close the ledgers."""
        for ledger in self._ledgers.values():
            ledger.close()

    async def _releases(self, step: StepName, number: int, data: Mapping[str, bytes]) -> dict[str, bytes | NotReleased]:
        self._asker.checkpointed()  # of the step before: whoever asks for the next has it
        return {site: await self._release(site, step, number, body) for site, body in data.items()}

    async def _release(self, site: str, step: StepName, number: int, data: bytes) -> bytes | NotReleased:
        identity = ReleaseIdentity(
            site=site, study=self._digest, step=step, round=number, input_digest=input_digest(data)
        )
        try:
            return bytes(await self._asker.ask(identity, data))
        except NoRelease as refusal:
            return NotReleased(refusal.code)

    async def _heads(self) -> dict[str, LedgerHead]:
        found = {}
        for site, ledger in self._ledgers.items():
            note, key = (await self._asker.head(site)).note, ledger.created.ledger_key
            head = open_checkpoint(note, site, load_public_key(key))
            found[site] = LedgerHead(size=head.size, root=head.root, note=note, ledger_key=key)
        return found

    async def _carry(self, site: str, frame: bytes) -> bytes:
        return bytes(self._gates[site].handle(frame).frame)
