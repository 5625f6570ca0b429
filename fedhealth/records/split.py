"""Who is held out: each patient alone, by a keyed hash, never by rank or by an exact size.

So one patient more or less moves nobody else to the other side, and all records of a patient, now and later, are
on one side. The two sides share no patient, which is why each has the whole privacy budget.

Public records may come with a split of their own, for comparing with others: then a column says it in words, by which
again all records of a patient are on one side. Its words are the administrator's, as the patients' names are.
"""

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Iterable

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


SIDE_WORDS = ("train", "test")
"""What a split column says of a patient who trains, and of one who is held out."""


def stated_sides(cells: Iterable[tuple[str, str]]) -> dict[str, bool]:
    """Return for each patient whether a split column has the patient held out.

    Args:
        cells: patient and word of each row. Blanks say nothing.

    Returns:
        Without the patients of whom no row says a side, or one another word, or two rows both sides.
    """
    said: defaultdict[str, set[str]] = defaultdict(set)
    for patient, word in cells:
        said[patient] |= {word} - {""}
    train, test = ({word} for word in SIDE_WORDS)
    return {patient: words == test for patient, words in said.items() if words in (train, test)}


def sides_of(split_key: bytes, patient_column: str, fraction: float, split_column: str | None = None) -> str:
    """Return a commitment to everything that decides which side a patient is on, 64 hexadecimal digits.

    It hides the key, and changes with each of the four. The two sides of a data set share no patient for as long as
    it stays the same, and no patient is renamed, or said to be on the other side, in the table.
    """
    key = hashlib.sha256(b"fedhealth/split-key/" + split_key).hexdigest()
    told = [key, patient_column, fraction] + ([] if split_column is None else [split_column])
    return digest_of("sides", canonical_bytes(told))
