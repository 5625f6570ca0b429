"""Run a study over gates in this process.

Everything that decides a number is the real thing: gate, ledger, mechanism, strategy, witness. Left out are the link,
the node and the waiting for the public time of a reply. Every simulated site is a test site with known noise, and its
ledger says so in its first entry, so that no simulated ledger can pass for a hospital's.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from fedhealth.coordinator.asking import Asker, NoRelease
from fedhealth.coordinator.participation import quorum_of
from fedhealth.coordinator.server_app import StudyCodec
from fedhealth.coordinator.witness import PinnedSite, Witness
from fedhealth.flower.link_grid import LinkGrid, NotReleased, set_task_identity
from fedhealth.flower.rounds import EXAMPLES, Course, evaluate_model, strategy_for, train_rounds
from fedhealth.learning.diagnosis import STEPS
from fedhealth.learning.plan import envelope_of, plan_study
from fedhealth.policy.rules import Policy
from fedhealth.policy.site_file import SiteFile
from fedhealth.privacy.accountant import open_budget
from fedhealth.privacy.entries import Approved, Created
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import ReleaseIdentity, StepName, input_digest
from fedhealth.privacy.stream import UnsafeFixedNoiseSecret
from fedhealth.records.members import MemberHistory
from fedhealth.records.split import sides_of
from fedhealth.records.table import Table
from fedhealth.signing import public_key_hex
from fedhealth.site.gate import Gate
from fedhealth.site.gate_inputs import Clock, Compute, GateInputs
from fedhealth.site.hold import LedgerHold
from fedhealth.study.protocol import Study
from fedhealth.study.signature import sign_study

RESEARCHER = "simulation"
_STEPS: dict[str, StepName] = {"train": "train", "evaluate": "evaluate"}


@dataclass(frozen=True)
class SimulatedSite:
    """A site in this process.

    Attributes:
        file: what it says of itself.
        table: its records.
        split_key: 32 bytes; decides who is held out.
        noise_seed: known noise.
    """

    file: SiteFile
    table: Table
    split_key: bytes
    noise_seed: int


def open_gate(
    site: SimulatedSite,
    study: Study,
    folder: Path,
    researcher: Ed25519PrivateKey,
    witness: Ed25519PrivateKey,
    clock: Clock,
    compute: Compute = STEPS,
) -> tuple[Gate, Ledger]:
    """Make a test site's ledger in `folder`, approve the study, and return its gate and its ledger."""
    key, signed = Ed25519PrivateKey.generate(), sign_study(study, researcher)
    budget = open_budget(50.0, study.privacy.delta, study.training.sampling_rate, study.training.rounds)
    created = Created(
        site=site.file.id,
        ledger_key=public_key_hex(key.public_key()),
        witness_key=public_key_hex(witness.public_key()),
        budgets={study.data_set: budget},
        unsafe_test_site=True,
        at=clock.unix_ms(),
    )
    ledger = Ledger.create(folder / f"{site.file.id}.sqlite", created, key)
    ledger.append(
        Approved(
            study=study.digest,
            researcher=public_key_hex(researcher.public_key()),
            data_set=study.data_set,
            sides=sides_of(site.split_key, site.file.data_set.patient_column, study.evaluation.held_out_fraction),
            declared_patients=site.file.data_set.declared_patients,
            reply_after_ms={"train": 20, "evaluate": 20},
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
                "researchers": [RESEARCHER],
                "min_patients_a_side": 1,
                "max_epsilon_a_study": 20,
                "budget": {study.data_set: {"epsilon": budget.epsilon, "delta": budget.delta}},
            }
        ),
        policy_change=None,
        table=site.table,
        split_key=site.split_key,
        naming_secret=bytes(32),
        members=MemberHistory(folder / f"{site.file.id}.members"),
        copies_secret=bytes(32),
        hold=LedgerHold(folder, site.file.id),
        noise_secret=UnsafeFixedNoiseSecret(site.noise_seed),
        witness_key=witness.public_key(),
        researchers={RESEARCHER: public_key_hex(researcher.public_key())},
    )
    gate = Gate(inputs, ledger, compute, clock)
    gate.prepare(signed)
    return gate, ledger


class InProcessFederation:
    """Gates, witness and strategy of one study in this process.

    Args:
        study: the protocol.
        sites: at least two.
        folder: an empty folder for ledgers.
    """

    def __init__(self, study: Study, sites: Sequence[SimulatedSite], folder: Path) -> None:
        researcher, witness_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        clock = Clock(monotonic=time.monotonic, unix_ms=lambda: time.time_ns() // 10**6)
        self.study = study
        self.ledgers: dict[str, Ledger] = {}
        self._gates: dict[str, Gate] = {}
        for site in sites:
            self._gates[site.file.id], self.ledgers[site.file.id] = open_gate(
                site, study, folder, researcher, witness_key, clock
            )
        pinned = {name: PinnedSite(ledger_key=ledger.created.ledger_key) for name, ledger in self.ledgers.items()}
        self._asker = Asker(self._carry, Witness(folder, pinned, witness_key))
        declared = {site.file.id: site.file.data_set.declared_patients for site in sites}
        set_task_identity(run_id=int(study.digest[:12], 16))
        self._grid = LinkGrid(list(self._gates), self._ask, StudyCodec(study, declared))
        self._strategy = strategy_for(study, len(self._gates))

    def train(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Yield the number and the weights of each round."""
        start = np.zeros(plan_study(self.study)["train"].input_length)
        course = Course(self.study.training.rounds, quorum_of(self.study, self._gates).holds)
        for trained in train_rounds(self._grid, self._strategy, start, course):
            yield trained.round, trained.weights

    def evaluate(self, weights: NDArray[np.float64]) -> dict[str, dict[str, float]]:
        """Return the noisy counts of each site."""
        quorum = quorum_of(self.study, self._gates)
        replies, _ = evaluate_model(self._grid, self._strategy, weights, quorum.holds)
        return {
            site: {cell: float(str(count)) for cell, count in reply.items() if cell != EXAMPLES}
            for site, reply in replies.items()
        }

    def close(self) -> None:
        """Close the ledgers."""
        self._grid.close()
        for ledger in self.ledgers.values():
            with contextlib.suppress(OSError):
                ledger.close()

    async def _carry(self, site: str, frame: bytes) -> bytes:
        return self._gates[site].handle(frame).frame

    def _ask(self, site: str, step: str, number: int, data: bytes) -> bytes:
        identity = ReleaseIdentity(
            site=site, study=self.study.digest, step=_STEPS[step], round=number, input_digest=input_digest(data)
        )
        try:
            return bytes(asyncio.run(self._asker.ask(identity, data)))
        except NoRelease as refusal:
            raise NotReleased(refusal.code) from refusal
