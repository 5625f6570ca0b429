import hashlib
import hmac
import logging

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedhealth.privacy.stream import KeyedStream, SiteNoiseSecret, UnsafeFixedNoiseSecret


def hkdf_sha256(secret, info):
    """RFC 5869, sections 2.2 and 2.3, for 32 bytes and no salt."""
    extracted = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def counter_mode_words(key, count):
    """NIST SP 800-38A, 6.5, block by block, from a counter of zero."""
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305 - counter mode is built from it
    raw = b"".join(block.update(number.to_bytes(16, "big")) for number in range(count // 2 + 1))
    return [int.from_bytes(raw[8 * i : 8 * i + 8], "little") for i in range(count)]


def test_a_stream_is_counter_mode_under_the_derived_key():
    secret = bytes(range(32))
    key = hkdf_sha256(secret, b"fedhealth/noise/train/" + b"ab" * 32)
    assert SiteNoiseSecret(secret).stream("ab" * 32, "train").words(1001).tolist() == counter_mode_words(key, 1001)


def test_the_independent_derivation_is_that_of_rfc_5869_test_case_3():
    # A.3: no salt, no info; the first 32 bytes of the output key.
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert hkdf_sha256(b"\x0b" * 22, b"").hex() == expected


def test_the_counter_mode_key_stream_is_that_of_aes_256_for_key_zero():
    # FIPS 197 / NIST known answer: AES-256, key of zeros, block of zeros.
    first = KeyedStream(bytes(32)).words(2).tobytes()
    assert first.hex() == "dc95c078a2408989ad48a21492842087"


def test_a_stream_goes_on_where_it_stopped():
    secret = SiteNoiseSecret(bytes(32))
    pieces, whole = secret.stream("k", "p"), secret.stream("k", "p")
    assert [word for count in (1, 0, 2, 7) for word in pieces.words(count).tolist()] == whole.words(10).tolist()


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_noise_secret_of_another_length_is_refused(length):
    with pytest.raises(ValueError):
        SiteNoiseSecret(bytes(length))


def test_a_known_noise_secret_warns_each_time(caplog):
    with caplog.at_level(logging.WARNING):
        UnsafeFixedNoiseSecret(1)
        UnsafeFixedNoiseSecret(1)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "nothing it releases is private" in caplog.text


def test_a_real_noise_secret_says_nothing(caplog):
    with caplog.at_level(logging.DEBUG):
        SiteNoiseSecret(bytes(32)).stream("k", "p").words(3)
    assert not caplog.records
