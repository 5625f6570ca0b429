"""What sources state beside text, each written in many ways: dates, sex, ages, codes. What is not understood is None.

A date is never guessed: 03/04/2024 is a day in March or in April, so only forms that say which are taken. That is ISO
8601 with or without a time, digits alone as DICOM writes them, and with dots, where the day comes first.
"""

import hashlib
import re
from datetime import date

from fedhealth.errors import DataUnusable
from fedhealth.search.documents import MAX_AGE_YEARS, MAX_NAME_CHARACTERS, Code, CodeSystem, Sex

_SEXES: dict[str, Sex] = {
    **dict.fromkeys(("f", "female", "femme", "féminin", "feminin", "w", "woman"), "female"),
    **dict.fromkeys(("m", "male", "h", "homme", "masculin", "man"), "male"),
}
_YEAR_FIRST = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:[T ].*)?)?)?")
_DIGITS = re.compile(r"(\d{4})(\d{2})(\d{2})(?:\d{6}.*)?")
_DAY_FIRST = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?: .*)?")
_BETWEEN_CODES = re.compile(r"[\s,;|]+")
_ICD10 = re.compile(r"([A-Z][0-9][0-9A-Z])\.?([0-9A-Z+]{0,4})")


def date_in(text: str) -> date | None:
    """Return the date that a text says; the first day where it says a year or a month."""
    text = text.strip()
    if found := _DAY_FIRST.fullmatch(text):
        day, month, year = found.groups()
    elif found := _DIGITS.fullmatch(text) or _YEAR_FIRST.fullmatch(text):
        year, month, day = found.groups()
    else:
        return None
    try:
        return date(int(year), int(month or 1), int(day or 1))
    except ValueError:
        return None


def sex_in(text: str) -> Sex | None:
    """Return the sex that a word says."""
    return _SEXES.get(text.strip().lower())


def age_in(text: str) -> int | None:
    """Return an age in whole years: 63, 63.0, or as DICOM writes it, 063Y, 018M."""
    found = re.fullmatch(r"(\d{1,3})(?:\.\d*)?([YMWD]?)", text.strip())
    if found is None:
        return None
    years = int(found[1]) // {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[found[2]]
    return years if years <= MAX_AGE_YEARS else None


def age_at(born: date | None, on: date | None) -> int | None:
    """Return the age in whole years on a day; None where either is not known, or cannot be."""
    if born is None or on is None:
        return None
    years = on.year - born.year - ((on.month, on.day) < (born.month, born.day))
    return years if 0 <= years <= MAX_AGE_YEARS else None


def code_in(text: str, system: CodeSystem) -> Code | None:
    """Return a code as documents hold it, or None where the text is none of the system."""
    value = text.strip().upper()
    if system == "icd10":
        found = _ICD10.fullmatch(value)
        value = ".".join(part for part in found.groups() if part) if found else ""
    try:
        return Code(system, value)
    except DataUnusable:
        return None


def codes_in(text: str, system: CodeSystem) -> tuple[Code, ...]:
    """Return the codes of a cell that may hold several."""
    return tuple(code for part in _BETWEEN_CODES.split(text) if part and (code := code_in(part, system)))


def key_of(*parts: str) -> str:
    """Return a document's key made of what names it; of a long name, the beginning and a digest."""
    whole = "/".join(parts)
    if len(whole) <= MAX_NAME_CHARACTERS // 2 and whole.isprintable():
        return whole
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def content_key(*parts: str) -> str:
    """Return the key of a document that nothing names: of its content, so that the same content is one document."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
