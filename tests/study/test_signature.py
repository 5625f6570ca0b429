import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from test_protocol import VALUES

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import IdentityInvalid
from fedhealth.signing import public_key_hex, sign
from fedhealth.study.protocol import Study
from fedhealth.study.signature import MAX_SIGNED_STUDY_BYTES, open_signed_study, sign_study

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
STUDY = Study.model_validate(VALUES)
SIGNED = sign_study(STUDY, KEY)


def test_a_signed_study_comes_back_with_who_signed_it():
    opened = open_signed_study(SIGNED)
    assert opened.study == STUDY and opened.study.digest == STUDY.digest
    assert opened.researcher == public_key_hex(KEY.public_key())


def test_every_changed_missing_or_added_byte_is_refused():
    changed = [SIGNED[:i] + bytes([SIGNED[i] ^ flip]) + SIGNED[i + 1 :] for i in range(len(SIGNED)) for flip in (1, 32)]
    changed += [SIGNED[:i] + SIGNED[i + 1 :] for i in range(len(SIGNED))]
    changed += [SIGNED + b"\n", b" " + SIGNED, b"", SIGNED + SIGNED]
    for data in changed:
        with pytest.raises(IdentityInvalid):
            open_signed_study(data)


def altered(**changes):
    return json.dumps(json.loads(SIGNED) | changes, separators=(",", ":"), sort_keys=True).encode()


CASES = {
    "the same value in another form": json.dumps(json.loads(SIGNED), sort_keys=True).encode(),
    "the same value with a key twice": SIGNED[:-1] + b',"signature":"' + b"0" * 128 + b'"}',
    "another key, which did not sign": altered(researcher=public_key_hex(OTHER.public_key())),
    "a key that is none": altered(researcher="f" * 64),
    "no signature": altered(signature="0" * 128),
    "a signature on it as something else": altered(signature=sign(KEY, "release", canonical_bytes(STUDY)).hex()),
    "an unknown key": altered(note="x"),
    "a number that is none": SIGNED.replace(b'"held_out_fraction":0.25', b'"held_out_fraction":NaN'),
    "not JSON": b"\xff" * 100,
    "very deep": b"[" * 100_000,
    "too large": SIGNED + b" " * MAX_SIGNED_STUDY_BYTES,
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_a_study_signed_by_its_researcher_is_refused(case):
    with pytest.raises(IdentityInvalid):
        open_signed_study(CASES[case])
