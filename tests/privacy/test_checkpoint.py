import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import IdentityInvalid
from fedhealth.privacy.checkpoint import (
    Checkpoint,
    Receipt,
    SignedReceipt,
    open_checkpoint,
    open_receipt,
    sign_checkpoint,
    sign_receipt,
)
from fedhealth.signing import sign

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
HEAD = Checkpoint(site="north", size=12345, root=hashlib.sha256(b"x").hexdigest())
NOTE = sign_checkpoint(HEAD, KEY)
RECEIPT = Receipt(site="north", size=3, root="0" * 64, checkpointed=("1" * 64,))


def test_a_note_is_a_c2sp_signed_note_and_comes_back():
    # C2SP tlog-checkpoint: origin, decimal size, base64 root; signed-note: em dash, name, base64(key id | signature).
    origin, size, root, blank, mark, end = NOTE.split("\n")
    assert (origin, size, blank, end) == ("fedhealth/ledger/north", "12345", "", "")
    assert base64.b64decode(root).hex() == HEAD.root
    raw = base64.b64decode(mark.removeprefix("— fedhealth/ledger/north "))
    public = KEY.public_key().public_bytes_raw()
    assert raw[:4] == hashlib.sha256(b"fedhealth/ledger/north\n\x01" + public).digest()[:4]
    KEY.public_key().verify(raw[4:], "\n".join([origin, size, root, ""]).encode())
    assert open_checkpoint(NOTE, "north", KEY.public_key()) == HEAD


def test_every_changed_missing_or_added_byte_of_a_note_is_refused():
    raw = NOTE.encode()
    changed = [
        raw[:place] + bytes([raw[place] ^ flip]) + raw[place + 1 :]
        for place in range(len(raw))
        for flip in (1, 2, 16, 32, 128)
    ]
    changed += [raw[:place] + raw[place + 1 :] for place in range(len(raw))]
    changed += [raw[:place] + extra + raw[place:] for place in range(len(raw) + 1) for extra in (b" ", b"\n", b"0")]
    changed += [raw[:place] for place in range(len(raw))]
    for note in changed:
        with pytest.raises(IdentityInvalid):
            open_checkpoint(note.decode("utf-8", "replace"), "north", KEY.public_key())


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        NOTE.replace("12345", "+12345"),
        NOTE.replace("12345", "12_345"),
        NOTE.replace("12345", "012345"),
        NOTE.replace("12345", "١٢٣٤٥"),  # decimal digits, and not ASCII
        NOTE.replace("12345", "0"),
        NOTE.replace("12345", "9" * 5000),
        NOTE + NOTE,
        NOTE.replace("\n", "\r\n"),
        NOTE.replace("— ", "- "),
    ],
)
def test_another_form_of_the_same_note_is_refused(note):
    with pytest.raises(IdentityInvalid):
        open_checkpoint(note, "north", KEY.public_key())


def test_the_note_of_another_site_or_key_is_refused():
    for note, site, key in (
        (NOTE, "south", KEY),
        (NOTE, "north", OTHER),
        (sign_checkpoint(HEAD, OTHER), "north", KEY),
        (sign_checkpoint(HEAD.model_copy(update={"site": "south"}), KEY), "north", KEY),
    ):
        with pytest.raises(IdentityInvalid):
            open_checkpoint(note, site, key.public_key())


@pytest.mark.parametrize(
    "change",
    [
        {"site": "North"},
        {"site": "a\nb"},
        {"size": 0},
        {"size": 1.0},
        {"root": "0" * 63},
        {"root": "0" * 64 + "\n"},
        {"root": "A" * 64},
    ],
)
def test_a_head_that_has_no_note_does_not_exist(change):
    with pytest.raises(ValidationError):
        Checkpoint(**(HEAD.model_dump() | change))


def test_a_receipt_comes_back_from_the_witness_only():
    signed = sign_receipt(RECEIPT, KEY)
    assert open_receipt(signed, KEY.public_key()) == RECEIPT
    with pytest.raises(IdentityInvalid):
        open_receipt(signed, OTHER.public_key())


@pytest.mark.parametrize(
    "change",
    [{"site": "south"}, {"size": 4}, {"root": "1" + "0" * 63}, {"checkpointed": ()}, {"checkpointed": ("2" * 64,)}],
)
def test_a_changed_receipt_is_refused(change):
    signed = SignedReceipt(receipt=RECEIPT.model_copy(update=change), signature=sign_receipt(RECEIPT, KEY).signature)
    with pytest.raises(IdentityInvalid):
        open_receipt(signed, KEY.public_key())


def test_a_signature_on_the_same_bytes_as_something_else_is_no_receipt():
    signed = SignedReceipt(receipt=RECEIPT, signature=sign(KEY, "study", canonical_bytes(RECEIPT)).hex())
    with pytest.raises(IdentityInvalid):
        open_receipt(signed, KEY.public_key())


def test_a_receipt_names_at_most_64_releases():
    with pytest.raises(ValidationError):
        Receipt(site="north", size=3, root="0" * 64, checkpointed=("1" * 64,) * 65)
