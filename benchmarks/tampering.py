"""How many changes of one byte, and cuts at one length, of a ledger bundle and of a ledger's file go unnoticed.

The bundle: each of the 8 bits of each byte flipped, a cut at each length, bytes added at each end. The ledger's SQLite
file, where a verification takes milliseconds: each byte changed to a random other, a cut at each length.

Run: .venv/bin/python benchmarks/tampering.py            (about four minutes; the bundle alone: --bundle, half a minute)
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.compliance.bundle import make_bundle, read_bundle
from fedhealth.compliance.history import read_gate
from fedhealth.errors import FedHealthError
from fedhealth.learning.plan import envelope_of, plan_study
from fedhealth.privacy.entries import Approved, Created, Reserved
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.mu_squared import MuSquaredBudget
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import public_key_hex
from fedhealth.study.protocol import load_study
from fedhealth.study.signature import sign_study

PROTOCOL = Path(__file__).resolve().parents[1] / "protocols" / "heart-disease-diagnosis.toml"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
BUDGET = MuSquaredBudget(epsilon=8.0, delta=1e-4)
CHARGES = 3


def make_gate(folder: Path) -> Path:
    """Make a ledger with one approved study and three charges, and its signed protocol beside it."""
    (folder / "studies").mkdir()
    study, key = load_study(PROTOCOL), public_key_hex(KEY.public_key())
    created = Created(
        site="north", ledger_key=key, witness_key=key, budgets={study.data_set: BUDGET}, unsafe_test_site=False, at=1
    )
    ledger = Ledger.create(folder / "ledger.sqlite", created, KEY)
    ledger.append(
        Approved(
            study=study.digest,
            researcher=key,
            data_set=study.data_set,
            sides="d" * 64,
            declared_patients=100,
            reply_after_ms={"train": 20, "evaluate": 20},
            envelope=envelope_of(study, BUDGET),
            delta=study.privacy.delta,
            by="ada",
            at=2,
        )
    )
    for number in range(CHARGES):
        ledger.reserve(
            Reserved(
                release=f"{number:064x}",
                study=study.digest,
                step="train",
                round=number + 1,
                cohort="training",
                cost=BUDGET.cost_of(plan_study(study)["train"].event),
                at=3,
            )
        )
    ledger.close()
    (folder / "studies" / f"{study.digest}.json").write_bytes(sign_study(study, KEY))
    return folder


def flips_of_each_bit(whole: bytes) -> Iterator[bytes]:
    """Yield the file with each bit flipped in turn."""
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            yield bytes(changed)


def change_of_each_byte(whole: bytes) -> Iterator[bytes]:
    """Yield the file with each byte changed in turn."""
    generator = random.Random(1)  # noqa: S311 - which byte it becomes is no secret
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= generator.randrange(1, 256)
        yield bytes(changed)


def cuts(whole: bytes) -> Iterator[bytes]:
    """Yield the file cut at each length."""
    return (whole[:length] for length in range(len(whole)))


def additions(whole: bytes) -> Iterator[bytes]:
    """Yield the file with each byte before it and after it, and with itself."""
    for value in range(256):
        yield whole + bytes([value])
        yield bytes([value]) + whole
    yield whole + whole


def sweep(what: str, changes: Iterator[bytes], verify: Callable[[bytes], object]) -> int:
    """Verify each changed file; print how many were found, and return how many were not."""
    tried = missed = 0
    start = time.perf_counter()
    for changed in changes:
        tried += 1
        try:
            verify(changed)
            missed += 1
        except FedHealthError:
            pass
    share = (tried - missed) / tried
    print(f"{what:42} {tried:8,} tried, {missed} missed: {share:.2%}  (target: 100 %) {missed == 0}", end="")
    print(f"  [{time.perf_counter() - start:.0f} s]", flush=True)
    return missed


def main() -> int:
    """Print the counts; end with 1 if anything was missed."""
    with tempfile.TemporaryDirectory() as name:
        folder = make_gate(Path(name))
        bundle = make_bundle(read_gate(folder), KEY, "ada", 4)
        ledger, copy = (folder / "ledger.sqlite").read_bytes(), folder / "changed.sqlite"

        def verify_file(data: bytes) -> None:
            copy.write_bytes(data)
            verify_ledger(copy)

        read_bundle(bundle)
        verify_file(ledger)
        missed = sweep(f"bundle of {len(bundle):,} bytes: flips of each bit", flips_of_each_bit(bundle), read_bundle)
        missed += sweep("bundle: cuts at each length", cuts(bundle), read_bundle)
        missed += sweep("bundle: additions", additions(bundle), read_bundle)
        if "--bundle" not in sys.argv:
            title = f"ledger.sqlite of {len(ledger):,} bytes: each byte"
            missed += sweep(title, change_of_each_byte(ledger), verify_file)
            missed += sweep("ledger.sqlite: cuts at each length", cuts(ledger), verify_file)
            missed += sweep("ledger.sqlite: additions", additions(ledger), verify_file)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
