"""The witness: countersigns what grows, and nothing else, ever again."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import fedhealth.coordinator.witness as witness_module
from fedhealth.coordinator.witness import PinnedSite, Witness
from fedhealth.errors import FedHealthError, IdentityInvalid, LedgerDamaged
from fedhealth.privacy.checkpoint import Checkpoint, open_receipt, sign_checkpoint
from fedhealth.privacy.merkle import MerkleTree
from fedhealth.signing import public_key_hex

SITE_KEY, WITNESS_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
CHALLENGE = "c" * 64


class Log:
    """A ledger's tree, its heads and its proofs."""

    def __init__(self, *leaves):
        self.tree = MerkleTree()
        for leaf in leaves:
            self.tree.append(hashlib.sha256(leaf.encode()).digest())

    def head(self, size=None, key=SITE_KEY, site="ward-a"):
        size = size or self.tree.size
        return sign_checkpoint(Checkpoint(site=site, size=size, root=self.tree.root(size).hex()), key)

    def proof(self, first, second=None):
        return [node.hex() for node in self.tree.consistency_proof(first, second)]


TRUE = Log(*"abcdefg")
FORK = Log(*"abcXefg")


@pytest.fixture
def open_witness(tmp_path):
    pinned = {"ward-a": PinnedSite(ledger_key=public_key_hex(SITE_KEY.public_key()))}
    return lambda: Witness(tmp_path, pinned, WITNESS_KEY)


def test_countersigns_every_step_of_a_growing_ledger(open_witness):
    witness, seen = open_witness(), 0
    for size in (1, 2, 2, 3, 5, 7):
        signed = witness.countersign("ward-a", TRUE.head(size), TRUE.proof(seen, size), CHALLENGE)
        receipt = open_receipt(signed, WITNESS_KEY.public_key())
        assert (receipt.site, receipt.size, receipt.root) == ("ward-a", size, TRUE.tree.root(size).hex())
        assert receipt.challenge == CHALLENGE
        seen = size
        assert witness.seen("ward-a") == size


# Each row is shown to a witness that has countersigned the first five entries of the true ledger.
REFUSED = [
    ("a rollback", lambda: (TRUE.head(4), [])),
    ("a rollback with the proof the other way round", lambda: (TRUE.head(4), TRUE.proof(4, 5))),
    ("a rollback to the first entry", lambda: (TRUE.head(1), [])),
    ("a fork of the same size", lambda: (FORK.head(5), [])),
    ("a longer fork with its own proof", lambda: (FORK.head(7), FORK.proof(5, 7))),
    ("a longer fork with the true proof", lambda: (FORK.head(7), TRUE.proof(5, 7))),
    ("growth without a proof", lambda: (TRUE.head(7), [])),
    ("growth with a proof from another size", lambda: (TRUE.head(7), TRUE.proof(4, 7))),
    ("growth with one node too many", lambda: (TRUE.head(7), [*TRUE.proof(5, 7), "00" * 32])),
    ("growth with a node changed", lambda: (TRUE.head(7), ["00" * 32, *TRUE.proof(5, 7)[1:]])),
    ("the same head with a proof it does not need", lambda: (TRUE.head(5), TRUE.proof(4, 5))),
    ("another key", lambda: (TRUE.head(7, key=WITNESS_KEY), TRUE.proof(5, 7))),
    ("another site's head", lambda: (TRUE.head(7, site="ward-b"), TRUE.proof(5, 7))),
    ("a head of size 0", lambda: (TRUE.head(5).replace("\n5\n", "\n0\n"), [])),
    ("a head whose size was changed", lambda: (TRUE.head(5).replace("\n5\n", "\n6\n"), [])),
    ("a note with a line added", lambda: (TRUE.head(5) + "\n", [])),
    ("no note at all", lambda: ("", [])),
]


@pytest.mark.parametrize("shown", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
@pytest.mark.parametrize("restarted", [False, True], ids=["same process", "restarted"])
def test_never_countersigns(open_witness, shown, restarted):
    witness = open_witness()
    witness.countersign("ward-a", TRUE.head(5), [], CHALLENGE)
    if restarted:
        witness = open_witness()
    assert witness.seen("ward-a") == 5
    with pytest.raises((LedgerDamaged, IdentityInvalid)):
        witness.countersign("ward-a", *shown(), CHALLENGE)
    # A refusal changes nothing: the true ledger goes on.
    assert witness.seen("ward-a") == 5
    witness.countersign("ward-a", TRUE.head(7), TRUE.proof(5, 7), CHALLENGE)


def test_what_was_seen_is_on_disk_before_the_signature_exists(open_witness, monkeypatch):
    witness = open_witness()
    witness.countersign("ward-a", TRUE.head(2), [], CHALLENGE)

    class PowerCut(BaseException):
        pass

    def cut(*_):
        raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(witness_module, "sign_receipt", cut)
        with pytest.raises(PowerCut):
            witness.countersign("ward-a", TRUE.head(5), TRUE.proof(2, 5), CHALLENGE)
    assert open_witness().seen("ward-a") == 5
    with monkeypatch.context() as patched:
        patched.setattr(witness_module, "replace_file", cut)
        with pytest.raises(PowerCut):
            witness.countersign("ward-a", TRUE.head(7), TRUE.proof(5, 7), CHALLENGE)
    assert open_witness().seen("ward-a") == 5
    assert witness.seen("ward-a") == 5


def test_an_unknown_site_is_never_countersigned(open_witness):
    with pytest.raises((KeyError, FedHealthError)):
        open_witness().countersign("ward-b", TRUE.head(1, site="ward-b"), [], CHALLENGE)


def test_a_replaced_file_is_never_seen_half_written(tmp_path, monkeypatch):
    path = tmp_path / "file"
    witness_module.replace_file(path, b"old")

    def cut(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", cut)
    with pytest.raises(OSError, match="No space"):
        witness_module.replace_file(path, b"new and longer")
    assert path.read_bytes() == b"old"
