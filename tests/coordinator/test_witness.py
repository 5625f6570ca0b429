"""The witness: countersigns what grows, and nothing else, ever again."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import fedhealth.coordinator.witness as witness_module
from fedhealth.coordinator.head_log import WitnessUnavailable
from fedhealth.coordinator.witness import PinnedSite, Witness
from fedhealth.errors import FedHealthError, IdentityInvalid, LedgerDamaged
from fedhealth.privacy.checkpoint import Checkpoint, open_receipt, sign_checkpoint
from fedhealth.privacy.copies import page_of, read_page
from fedhealth.privacy.merkle import MerkleTree
from fedhealth.secret_file import replace_file
from fedhealth.signing import public_key_hex

SITE_KEY, WITNESS_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
CHALLENGE = "c" * 64
COPIES = [(position, b"copy %d" % position) for position in range(7)]


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
        signed = witness.countersign("ward-a", TRUE.head(size), TRUE.proof(seen, size), CHALLENGE, COPIES)
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
    witness.countersign("ward-a", TRUE.head(5), [], CHALLENGE, COPIES)
    if restarted:
        witness = open_witness()
    assert witness.seen("ward-a") == 5
    with pytest.raises((LedgerDamaged, IdentityInvalid)):
        witness.countersign("ward-a", *shown(), CHALLENGE, COPIES)
    # A refusal changes nothing: the true ledger goes on.
    assert witness.seen("ward-a") == 5
    witness.countersign("ward-a", TRUE.head(7), TRUE.proof(5, 7), CHALLENGE, COPIES)


def test_what_was_seen_is_on_disk_before_the_signature_exists(open_witness, monkeypatch):
    witness = open_witness()
    witness.countersign("ward-a", TRUE.head(2), [], CHALLENGE, COPIES)

    class PowerCut(BaseException):
        pass

    def cut(*_):
        raise PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(witness_module, "sign_receipt", cut)
        with pytest.raises(PowerCut):
            witness.countersign("ward-a", TRUE.head(5), TRUE.proof(2, 5), CHALLENGE, COPIES)
    assert open_witness().seen("ward-a") == 5
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", cut)
        with pytest.raises(PowerCut):
            witness.countersign("ward-a", TRUE.head(7), TRUE.proof(5, 7), CHALLENGE, COPIES)
    assert witness.seen("ward-a") == 5  # this process never saw it acknowledged
    assert open_witness().seen("ward-a") in (5, 7)


def test_an_unknown_site_is_never_countersigned(open_witness):
    with pytest.raises((KeyError, FedHealthError)):
        open_witness().countersign("ward-b", TRUE.head(1, site="ward-b"), [], CHALLENGE, COPIES)


def test_a_replaced_file_is_never_seen_half_written(tmp_path, monkeypatch):
    path = tmp_path / "file"
    replace_file(path, b"old")

    def cut(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", cut)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new and longer")
    assert path.read_bytes() == b"old"


# The copies that the site gave


def file_of(tmp_path):
    return tmp_path / "ward-a.heads"


def grown(witness, *sizes):
    seen = 0
    for size in sizes:
        witness.countersign("ward-a", TRUE.head(size), TRUE.proof(seen, size), CHALLENGE, COPIES)
        seen = size


def test_every_copy_is_kept_once_and_given_back_from_any_position(open_witness):
    grown(open_witness(), 2, 3, 3, 7)
    witness = open_witness()
    for first in range(8):
        assert read_page(witness.page("ward-a", first)) == COPIES[first:]


@pytest.mark.parametrize("lacking", range(2, 5))
def test_never_countersigns_a_head_whose_entries_it_could_not_give_back(open_witness, lacking):
    witness = open_witness()
    grown(witness, 2)
    copies = [copy for copy in COPIES if copy[0] != lacking]
    with pytest.raises(LedgerDamaged, match="copies"):
        witness.countersign("ward-a", TRUE.head(5), TRUE.proof(2, 5), CHALLENGE, copies)
    assert open_witness().seen("ward-a") == 2


def test_a_record_cut_off_anywhere_was_never_acknowledged_and_is_written_over(open_witness, tmp_path):
    grown(open_witness(), 2, 5)
    whole = file_of(tmp_path).read_bytes()
    open_witness().countersign("ward-a", TRUE.head(7), TRUE.proof(5, 7), CHALLENGE, COPIES)
    longer = file_of(tmp_path).read_bytes()
    assert longer.startswith(whole)
    for end in range(len(whole), len(longer)):
        file_of(tmp_path).write_bytes(longer[:end])
        witness = open_witness()
        assert witness.seen("ward-a") == 5
        assert read_page(witness.page("ward-a", 0)) == COPIES[:5]
        witness.countersign("ward-a", TRUE.head(7), TRUE.proof(5, 7), CHALLENGE, COPIES)
        assert file_of(tmp_path).read_bytes() == longer


def records_of(tmp_path, open_witness):
    """Return the file of three heads, and where each of its records ends."""
    witness, ends = open_witness(), []
    for seen, size in ((0, 2), (2, 5), (5, 7)):
        witness.countersign("ward-a", TRUE.head(size), TRUE.proof(seen, size), CHALLENGE, COPIES)
        ends.append(file_of(tmp_path).stat().st_size)
    return file_of(tmp_path).read_bytes(), ends


def refuses(open_witness, tmp_path, raw):
    file_of(tmp_path).write_bytes(raw)
    with pytest.raises(LedgerDamaged, match="was changed"):
        open_witness()
    assert file_of(tmp_path).read_bytes() == raw  # evidence


@pytest.mark.parametrize("flip", [0x01, 0x10, 0x80, 0xFF])
def test_a_changed_byte_anywhere_in_what_was_acknowledged_is_refused(open_witness, tmp_path, flip):
    """The last record too, and its length: it is as long as the file says, so nothing cut it off."""
    whole, _ = records_of(tmp_path, open_witness)
    for place in range(len(whole)):
        raw = bytearray(whole)
        raw[place] ^= flip
        refuses(open_witness, tmp_path, bytes(raw))


def test_bytes_that_were_taken_out_put_in_or_wiped_are_never_taken_for_a_record_that_was_cut_off(
    open_witness, tmp_path
):
    whole, (_, second, third) = records_of(tmp_path, open_witness)
    for place in range(second):  # what is cut out of the last record cannot be told from a cut at its end
        refuses(open_witness, tmp_path, whole[:place] + whole[place + 1 :])
    for place in range(third - 8):  # the file still holds the last record's header and all that it announces
        refuses(open_witness, tmp_path, whole[:place] + b"\xa5" + whole[place:])
    for place in range(third):
        if any(whole[place:]):
            refuses(open_witness, tmp_path, whole[:place].ljust(third, b"\0"))
    refuses(open_witness, tmp_path, whole + whole[second:])  # a record twice
    refuses(open_witness, tmp_path, whole[second:])  # without those before
    refuses(open_witness, tmp_path, whole + bytes(8))


def test_a_file_cut_anywhere_keeps_every_head_that_is_whole_in_it(open_witness, tmp_path):
    whole, ends = records_of(tmp_path, open_witness)
    for end in range(len(whole) + 1):
        file_of(tmp_path).write_bytes(whole[:end])
        expected = max((size for size, until in zip((2, 5, 7), ends, strict=True) if until <= end), default=0)
        assert open_witness().seen("ward-a") == expected


def test_with_a_full_disk_nothing_is_signed_and_nothing_forgotten(open_witness, tmp_path, monkeypatch):
    witness = open_witness()
    grown(witness, 2)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(WitnessUnavailable, match="No space left"):
            witness.countersign("ward-a", TRUE.head(5), TRUE.proof(2, 5), CHALLENGE, COPIES)
    assert witness.seen("ward-a") == 2
    witness.countersign("ward-a", TRUE.head(5), TRUE.proof(2, 5), CHALLENGE, COPIES)
    assert read_page(open_witness().page("ward-a", 0)) == COPIES[:5]


@pytest.mark.parametrize("page", [b"x", page_of(COPIES)[:-1], page_of([COPIES[0], COPIES[2]]), page_of([(0, b"")])])
def test_what_is_no_page_is_refused(page):
    with pytest.raises(LedgerDamaged):
        read_page(page)
