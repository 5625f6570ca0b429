import hashlib
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import IdentityInvalid
from fedhealth.pki.certificates import key_pem, make_key
from fedhealth.signing import (
    create_signing_key,
    fingerprint,
    load_public_key,
    load_signing_key,
    public_key_hex,
    sign,
    verify,
)

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def test_a_created_key_is_private_loads_and_is_never_overwritten(tmp_path):
    public = create_signing_key(tmp_path / "signing.key")
    assert stat.S_IMODE((tmp_path / "signing.key").stat().st_mode) == 0o600
    assert load_signing_key(tmp_path / "signing.key").public_key() == public
    with pytest.raises(IdentityInvalid, match="will not overwrite"):
        create_signing_key(tmp_path / "signing.key")


def test_refuses_a_signing_key_that_is_missing_foreign_or_open_to_others(tmp_path):
    with pytest.raises(IdentityInvalid, match="cannot read"):
        load_signing_key(tmp_path / "none")
    (tmp_path / "p256").write_bytes(key_pem(make_key("P-256")))
    (tmp_path / "p256").chmod(0o600)
    with pytest.raises(IdentityInvalid, match="wanted an Ed25519 key"):
        load_signing_key(tmp_path / "p256")
    create_signing_key(tmp_path / "open")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(IdentityInvalid, match="open to other users"):
        load_signing_key(tmp_path / "open")


def test_a_public_key_loads_from_pem_and_from_hex(tmp_path):
    public = KEY.public_key()
    (tmp_path / "public.pem").write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert load_public_key(tmp_path / "public.pem") == public == load_public_key(public_key_hex(public))
    assert fingerprint(public) == hashlib.sha256(bytes.fromhex(public_key_hex(public))).hexdigest()


@pytest.mark.parametrize("text", ["", "00", "zz" * 32, "00" * 33])
def test_refuses_text_that_is_no_public_key(text):
    with pytest.raises(IdentityInvalid, match="Ed25519"):
        load_public_key(text)


def test_the_signed_message_is_the_label_a_zero_byte_and_the_data():
    KEY.public_key().verify(sign(KEY, "study", b"data"), b"fedhealth/1/study\0data")


@given(data=st.binary(max_size=64), bit=st.integers(0, 511))
def test_refuses_another_domain_other_data_another_key_or_a_flipped_bit(data, bit):
    public, signature = KEY.public_key(), sign(KEY, "study", data)
    verify(public, "study", data, signature)
    flipped = (int.from_bytes(signature) ^ (1 << bit)).to_bytes(64)
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    for case in [
        (public, "release", data, signature),
        (public, "study", data + b"\0", signature),
        (public, "study", data, flipped),
        (public, "study", data, signature[:-1]),
        (other, "study", data, signature),
    ]:
        with pytest.raises(IdentityInvalid, match="does not hold"):
            verify(*case)


@pytest.mark.parametrize("domain", ["", "Study", "a\0b", "a b", "é"])
def test_a_domain_of_another_form_is_a_mistake_in_the_program(domain):
    with pytest.raises(ValueError, match="not a signing domain"):
        sign(KEY, domain, b"")
