"""What a person types to say which documents a question is about: days, months and years, ages, codes.

What cannot be understood is None; whoever asked says so in the person's words. Nothing typed is in an error.
"""

import re
from datetime import date, timedelta
from typing import NamedTuple

from fedhealth.search.documents import Code
from fedhealth.search.readers.facts import code_in, date_in


class Ages(NamedTuple):
    """Lowest and highest age in whole years; None for no bound."""

    youngest: int | None
    oldest: int | None


def typed_code(text: str) -> Code | None:
    """Return a code; three characters are ICD-10's unless they are said to be ATC's, since both have some alike.

    >>> typed_code("i219"), typed_code("atc:B01")
    (Code(system='icd10', value='I21.9'), Code(system='atc', value='B01'))
    """
    system, _, value = text.strip().rpartition(":")
    if system.lower() == "atc" or (not system and re.fullmatch(r"[A-Za-z]\d\d[A-Za-z].*", value)):
        return code_in(value, "atc")
    return code_in(value, "icd10") if system.lower() in ("", "icd10") else None


def first_day(text: str) -> date | None:
    """Return the first day of the year, month or day that was written, such as 2024, 2024-05 or 2024-05-31."""
    return date_in(text.strip())


def last_day(text: str) -> date | None:
    """Return the last day of the year, month or day that was written."""
    text = text.strip()
    first, parts = date_in(text), len(re.findall(r"\d+", text))
    if first is None or parts > 2:
        return first
    if first.year == date.max.year:  # the year after has no date
        return date.max
    after = date(first.year + 1, 1, 1) if parts == 1 and len(text) == 4 else None
    if parts == 2:
        after = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return after - timedelta(days=1) if after else first


def typed_ages(text: str) -> Ages | None:
    """Return ages such as 65, 40-65, 65- or -17."""
    found = re.fullmatch(r"(\d{1,3})?(-)?(\d{1,3})?", text.replace(" ", ""))
    if found is None or not any(found.group(1, 3)):
        return None
    low, dash, high = found.groups()
    return Ages(int(low) if low else None, int(high) if high else (int(low) if low and not dash else None))
