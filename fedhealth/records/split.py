"""Who is held out: each patient alone, by a keyed hash, never by rank or by an exact size.

So one patient more or less moves nobody else to the other side, and all records of a patient, now and later, are
on one side. The two sides share no patient, which is why each has the whole privacy budget.
"""

import hashlib
import hmac


def is_held_out(split_key: bytes, patient: str, fraction: float) -> bool:
    """Say whether a patient is kept from training.

    Args:
        split_key: the site's own key, 32 bytes.
        patient: the patient's name in the table.
        fraction: the public share that is held out, in (0, 1).
    """
    mark = hmac.new(split_key, b"fedhealth/split/" + patient.encode(), hashlib.sha256).digest()
    return int.from_bytes(mark[:8], "big") < int(fraction * 2**64)
