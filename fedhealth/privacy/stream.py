"""The keyed cryptographic stream that noise is drawn from.

AES-256 in counter mode under a key that HKDF derives from the site's noise secret, the release's noise key and
a purpose. Outside the gate the bits cannot be told from random ones; inside, the same release draws the same
bits again after a crash, so a repeated answer is the same answer and never a second sample of the noise.

Sources: RFC 5869 (HKDF), NIST SP 800-38A (counter mode).
"""

import logging
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

SECRET_BYTES = 32
_LOG = logging.getLogger(__name__)


class NoiseSecret(Protocol):
    """What can open a stream; the secret itself never leaves its holder."""

    def stream(self, noise_key: str, purpose: str) -> "KeyedStream":
        """Return the stream of one release and purpose, from its first bit."""
        ...


class KeyedStream:
    """Uniform random 64-bit words; the stream owns its position.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        # A zero nonce is sound because a key is derived for one stream and never used for another.
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return the next `count` words, uniform on [0, 2**64)."""
        return np.frombuffer(self._encryptor.update(bytes(8 * count)), dtype="<u8")


class SiteNoiseSecret:
    """The noise secret of a real site.

    Args:
        secret: 32 bytes from the operating system, made at `site init`.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a noise secret has {SECRET_BYTES} bytes, got {len(secret)}")
        self._secret = secret

    def stream(self, noise_key: str, purpose: str) -> KeyedStream:
        """Return the stream of one release and purpose, from its first bit."""
        info = f"fedhealth/noise/{purpose}/{noise_key}".encode()
        return KeyedStream(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._secret))


class UnsafeFixedNoiseSecret(SiteNoiseSecret):
    """A known noise secret: whoever knows it can take the noise off. For tests and simulation only.

    A gate accepts it only at a site created with `site init --unsafe-test-site`, whose ledger says so for ever.
    """

    def __init__(self, seed: int) -> None:
        _LOG.warning("UnsafeFixedNoiseSecret: the noise of this site is known; nothing it releases is private")
        super().__init__(seed.to_bytes(SECRET_BYTES, "big"))
