"""A site that is not there: its keys, its studies, and the calls a gate makes of its ledger, for the benchmarks.

Leaves to others: what is measured.
"""

from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.canonical import digest_of
from fedhealth.privacy.checkpoint import Receipt, SignedReceipt, open_checkpoint, sign_receipt
from fedhealth.privacy.entries import Approved, Created, Reserved
from fedhealth.privacy.events import GaussianEvent
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest
from fedhealth.privacy.renyi import RenyiBudget
from fedhealth.signing import load_public_key, public_key_hex

SITE, DATA_SET = "north", "icu"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - folders in it are made by tempfile
"""A folder where a flush costs nothing, if this machine has one."""

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
NEXT_KEY = Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32)
"""The ledger key that follows `KEY`, where a benchmark rotates it."""

WITNESS = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
BUDGET = RenyiBudget(epsilon=8.0, delta=1e-5, order=8.0)
COST = BUDGET.cost_of(GaussianEvent(noise_multiplier=100.0, sampling_rate=0.01, total_variation=2.0**-100))
"""Of one release."""


def created() -> Created:
    """Return the first entry of the site's ledger."""
    return Created(
        site=SITE,
        ledger_key=public_key_hex(KEY.public_key()),
        witness_key=public_key_hex(WITNESS.public_key()),
        budgets={DATA_SET: BUDGET},
        unsafe_test_site=True,
        at=1,
    )


def study_named(name: str) -> Digest:
    """Return the digest of a made-up study."""
    return digest_of("study", name.encode())


def approval(study: Digest, releases: int) -> Approved:
    """Return an approval whose envelope holds so many releases on the training side."""
    return Approved(
        study=study,
        researcher="c" * 64,
        data_set=DATA_SET,
        sides="d" * 64,
        declared_patients=1000,
        reply_after_ms={"train": 20},
        envelope={"training": COST.times(releases)},
        delta=1e-5,
        by="ada",
        at=2,
    )


def charge(study: Digest, number: int) -> Reserved:
    """Return the charge of a study's release of that number, from 0."""
    return Reserved(
        release=digest_of("release", f"{study} {number}".encode()),
        study=study,
        step="train",
        round=1 + number,
        cohort="training",
        cost=COST,
        at=1_700_000_000_000 + number,
    )


def receipt(ledger: Ledger, checkpointed: Iterable[Digest] = ()) -> SignedReceipt:
    """Return the coordinator's receipt for the ledger's head."""
    head = open_checkpoint(ledger.head(), SITE, load_public_key(ledger.public_key))
    return sign_receipt(Receipt(site=SITE, size=head.size, root=head.root, checkpointed=tuple(checkpointed)), WITNESS)


def create(path: Path) -> Ledger:
    """Return the site's new ledger, open."""
    return Ledger.create(path, created(), KEY)
