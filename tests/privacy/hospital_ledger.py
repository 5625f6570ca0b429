from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.privacy.checkpoint import Receipt, open_checkpoint, sign_receipt
from fedhealth.privacy.entries import Approved, Created, Reserved
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.mu_squared import MuSquaredBudget, MuSquaredCost


class Hospital:
    """A ledger at `path`, the keys it needs, and the calls a gate makes in their order."""

    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    witness_key = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
    study, other_study = "a" * 64, "b" * 64

    def __init__(self, folder: Path, site="north"):
        self.path, self.site = folder / "ledger.sqlite", site

    def created(self, unsafe=False, epsilon=3.0):
        return Created(
            site=self.site,
            ledger_key=self.key.public_key().public_bytes_raw().hex(),
            witness_key=self.witness_key.public_key().public_bytes_raw().hex(),
            budgets={"icu": MuSquaredBudget(epsilon=epsilon, delta=1e-5)},
            unsafe_test_site=unsafe,
            at=1,
        )

    def create(self, unsafe=False):
        return Ledger.create(self.path, self.created(unsafe), self.key)

    def open(self):
        return Ledger.open(self.path, self.site, self.key)

    def approval(self, study=None, training=1000, held_out=None, data_set="icu"):
        envelope = {"training": cost(training)} | ({"held-out": cost(held_out)} if held_out else {})
        return Approved(
            study=study or self.study,
            researcher="c" * 64,
            sides="d" * 64,
            data_set=data_set,
            declared_patients=100,
            reply_after_ms={"train": 10},
            envelope=envelope,
            delta=1e-5,
            by="ada",
            at=2,
        )

    def charge(self, number, study=None, mu_squared=1, cohort="training"):
        return Reserved(
            release=f"{number:064x}",
            study=study or self.study,
            step="train",
            round=1 + number,
            cohort=cohort,
            cost=cost(mu_squared),
            at=3,
        )

    def receipt(self, ledger, checkpointed=()):
        head = open_checkpoint(ledger.head(), self.site, self.key.public_key())
        receipt = Receipt(site=self.site, size=head.size, root=head.root, checkpointed=checkpointed)
        return sign_receipt(receipt, self.witness_key)


def cost(mu_squared, total_variation=0):
    return MuSquaredCost(mu_squared=mu_squared, total_variation=total_variation)


def payload_of(ledger, release):
    """The stored payload of a release, or None."""
    size = ledger.row(release).payload_bytes
    if size is None:
        return None
    payload = b"".join(bytes(part) for part in ledger.payload_parts(release))
    assert len(payload) == size
    return payload
