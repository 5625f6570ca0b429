"""Who is held out: each patient alone, by a keyed hash, never by rank or by an exact size.

So one patient more or less moves nobody else to the other side, and all records of a patient, now and later, are
on one side. The two sides share no patient, which is why each has the whole privacy budget.
"""

import hashlib
import hmac

from fedhealth.canonical import canonical_bytes, digest_of


def is_held_out(split_key: bytes, patient: str, fraction: float) -> bool:
    """Say whether a patient is kept from training.

    Args:
        split_key: the site's own key, 32 bytes.
        patient: the patient's name in the table.
        fraction: the public share that is held out, in (0, 1).
    """
    mark = hmac.new(
        split_key, b"fedhealth/split/" + patient.encode("utf-8", "surrogateescape"), hashlib.sha256
    ).digest()
    return int.from_bytes(mark[:8], "big") < int(fraction * 2**64)


def sides_of(split_key: bytes, patient_column: str, fraction: float) -> str:
    """Return a commitment to everything that decides which side a patient is on, 64 hexadecimal digits.

    It hides the key, and changes with each of the three. The two sides of a data set share no patient for as long as
    it stays the same.
    """
    key = hashlib.sha256(b"fedhealth/split-key/" + split_key).hexdigest()
    return digest_of("sides", canonical_bytes([key, patient_column, fraction]))
