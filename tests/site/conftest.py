"""A hospital of 24 made-up patients whose gate can be crashed and opened again."""

import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gate_by_socket import Running
from pair import Pair, in_memory
from small_study import protocol
from ward import Ward

from fedhealth.canonical import canonical_bytes
from fedhealth.learning.plan import encode_release, encode_weights, envelope_of, plan_study
from fedhealth.link.frames import (
    Answer,
    AskHead,
    NeedWitness,
    Witnessed,
    pack,
    unpack_reply,
)
from fedhealth.policy.rules import Policy
from fedhealth.policy.site_file import SiteFile
from fedhealth.privacy.checkpoint import Receipt, open_checkpoint, sign_receipt
from fedhealth.privacy.entries import Approved, Created
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.mu_squared import MuSquaredBudget
from fedhealth.privacy.stream import UnsafeFixedNoiseSecret
from fedhealth.records.members import MemberHistory
from fedhealth.records.split import sides_of
from fedhealth.records.table import read_table
from fedhealth.signing import public_key_hex
from fedhealth.site.gate import Gate
from fedhealth.site.gate_inputs import Clock, GateInputs
from fedhealth.site.hold import LedgerHold
from fedhealth.study.signature import sign_study

REPLY_AFTER_MS = {"train": 20, "evaluate": 40}
PATIENTS = 24
DECLARED = 30


def noise_only(step, weights, records, streams):
    """A step whose release is noise and nothing else, so that equal payloads mean equal noise."""
    return encode_release(step.mechanism.add_noise(np.zeros(step.mechanism.dimension, np.int64), streams("noise"))), 0


def counting(step, weights, records, streams):
    """A step that depends on the patients: the noisy number of records with the condition, in each coordinate."""
    vectors = np.repeat(records.labels[:, None], step.mechanism.dimension, axis=1)
    total, zeroed = step.mechanism.clip_and_sum(vectors)
    return encode_release(step.mechanism.add_noise(total, streams("noise"))), zeroed


def csv_text(ill=lambda patient: patient % 2):
    rows = [f"p{patient},{20 + patient},{patient % 10},{ill(patient)}" for patient in range(PATIENTS)]
    return "id,age,dose,ill\n" + "\n".join(rows) + "\n"


class FakeClock:
    """Time that moves only when told to."""

    def __init__(self):
        self.now = 1000.0

    @property
    def clock(self):
        return Clock(monotonic=lambda: self.now, unix_ms=lambda: 1_700_000_000_000)


class Hospital:
    """One site: keys and files that stay, a ledger and a gate that can be opened again and again."""

    def __init__(self, folder, study=None, compute=noise_only, facts=()):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.study, self.time = folder, study or protocol(), FakeClock()
        self.site = "ward-a"
        self.key = Ed25519PrivateKey.from_private_bytes(b"ledger key".ljust(32))
        self.researcher = Ed25519PrivateKey.from_private_bytes(b"researcher key".ljust(32))
        self.witness = Ed25519PrivateKey.from_private_bytes(b"witness key".ljust(32))
        self.signed = sign_study(self.study, self.researcher)
        self.path = folder / "ledger.sqlite"
        self.csv = folder / "patients.csv"
        self.csv.write_text(csv_text())
        self.max_epsilon, self.rules, self.facts = 20.0, {}, tuple(facts)
        created = Created(
            site=self.site,
            ledger_key=public_key_hex(self.key.public_key()),
            witness_key=public_key_hex(self.witness.public_key()),
            budgets={"ward": MuSquaredBudget(epsilon=20.0, delta=1e-4)},
            unsafe_test_site=True,
            at=0,
        )
        self.ledger = Ledger.create(self.path, created, self.key)
        self.ledger.append(
            Approved(
                study=self.study.digest,
                researcher="c" * 64,
                sides=sides_of(bytes(32), "id", self.study.evaluation.held_out_fraction),
                data_set="ward",
                declared_patients=DECLARED,
                reply_after_ms=REPLY_AFTER_MS,
                envelope=envelope_of(self.study, created.budgets["ward"]),
                delta=self.study.privacy.delta,
                by="test",
                at=0,
            )
        )
        self._serve(compute)

    def reopen(self, compute=noise_only, *, confirm=True):
        """Open ledger and gate again, as after a restart of the process."""
        self.ledger.close()
        self.ledger = Ledger.open(self.path, self.site, self.key)
        self._serve(compute, confirm)

    def _serve(self, compute, confirm=True):
        site = SiteFile.model_validate(
            {
                "id": self.site,
                "title": "Ward A",
                "data_set": {
                    "name": "ward",
                    "file": self.csv,
                    "patient_column": "id",
                    "declared_patients": DECLARED,
                },
            }
        )
        policy = {
            "tasks": ["diagnosis"],
            "purposes": ["scientific-research"],
            "researchers": ["test"],
            "min_patients_a_side": 1,
            "max_epsilon_a_study": self.max_epsilon,
            "budget": {"ward": {"epsilon": 20.0, "delta": 1e-4}},
            **self.rules,
        }
        inputs = GateInputs(
            site=site,
            policy=Policy.model_validate(policy),
            policy_change=None,
            table=read_table(self.csv, strict=False),
            split_key=bytes(32),
            naming_secret=bytes(32),
            members=MemberHistory(self.folder / "members"),
            copies_secret=bytes(32),
            hold=LedgerHold(self.folder),
            noise_secret=UnsafeFixedNoiseSecret(5),
            witness_key=self.witness.public_key(),
            researchers={"test": public_key_hex(self.researcher.public_key())},
            patient_facts=lambda: self.facts,
        )
        ready = [False]

        def step(*arguments):
            # Warming up is on made-up records and must not meet what a test plants.
            return compute(*arguments) if ready[0] else noise_only(*arguments)

        self.gate = Gate(inputs, self.ledger, {"train": step, "evaluate": step}, self.time.clock)
        try:
            self.gate.prepare(self.signed)
        finally:
            ready[0] = True
        if confirm:  # as the coordinator does with every gate that it meets
            self.acknowledge()

    def close(self):
        self.ledger.close()

    def resume(self):
        """Let a stopped study go on, as its administrator does."""
        self.ledger.resume(self.study.digest, JournalNote(kind="resumed", text=self.study.digest, at=1))

    # What the other side does

    def send(self, frame):
        """Return the reply's header, its body, and the seconds after which it may leave."""
        arrived = self.time.now
        reply = self.gate.handle(frame)
        header, body = unpack_reply(reply.frame)
        return header, body, reply.leaves_at - arrived

    def question(self, step="train", number=1, data=None):
        data = self.weights(0.0) if data is None else data
        return pack(Answer(study=self.study.digest, step=step, round=number), data)

    def weights(self, value):
        return encode_weights(np.full(plan_study(self.study)["train"].input_length, value))

    def receipt(self, note=None, *, key=None, checkpointed=(), **changes):
        head = open_checkpoint(note or self.ledger.head(), self.site, self.key.public_key())
        challenge = unpack_reply(self.gate.handle(pack(AskHead(since=0))).frame)[0].challenge
        fields = {"site": self.site, "size": head.size, "root": head.root, "checkpointed": checkpointed}
        fields = fields | {"challenge": challenge} | changes
        return sign_receipt(Receipt(**fields), key or self.witness)

    def witnessed(self, **changes):
        return pack(Witnessed(study=self.study.digest, receipt=self.receipt(**changes)))

    def acknowledge(self, *releases):
        return self.send(pack(Witnessed(study=None, receipt=self.receipt(checkpointed=releases))))

    def ask(self, step="train", number=1, data=None):
        """Ask, countersign where wanted, and return the last reply."""
        reply = self.send(self.question(step, number, data))
        while isinstance(reply[0], NeedWitness):
            reply = self.send(self.witnessed())
        return reply

    # What the ledger says

    @property
    def entries(self):
        return open_checkpoint(self.ledger.head(), self.site, self.key.public_key()).size

    def charges(self, step="train"):
        return self.ledger.account.releases(self.study.digest, step)


def raw_frame(header, body=b""):
    """Return a frame with any header at all, a mapping or bytes."""
    head = header if isinstance(header, bytes) else canonical_bytes(header)
    return struct.pack("!I", len(head)) + head + body


@pytest.fixture
def hospital(tmp_path):
    opened = []

    def make(name="hospital", **arguments):
        opened.append(Hospital(tmp_path / name, **arguments))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture(scope="session")
def steps():
    """The planted step functions by name."""
    return {"noise_only": noise_only, "counting": counting}


@pytest.fixture(scope="session")
def make_protocol():
    return protocol


@pytest.fixture(scope="session")
def make_csv():
    return csv_text


@pytest.fixture(scope="session")
def raw():
    return raw_frame


@pytest.fixture(scope="session")
def make_hospital():
    return Hospital


@pytest.fixture
def ward(tmp_path, make_csv):
    def make(text=None, name="", **arguments):
        return Ward(tmp_path / name, make_csv() if text is None else text, **arguments)

    return make


@pytest.fixture
def pair(make_protocol, make_csv, steps):
    with in_memory() as folder:
        made = Pair(Ward(folder, make_csv(), epsilon=20.0), make_protocol(), folder, steps["noise_only"])
        yield made
        made.stop_gate()


@pytest.fixture(scope="module")
def start(make_protocol, make_csv):
    """Start a real gate process on a site of its own; all are gone after the module."""
    started = []

    def make():
        folder = Path(tempfile.mkdtemp(prefix="fh-"))
        started.append(Running(folder, make_protocol(), make_csv()))
        return started[-1]

    yield make
    for each in started:
        each.stop()
        shutil.rmtree(each.root)
