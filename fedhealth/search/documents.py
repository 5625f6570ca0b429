"""What is searched, in frozen values: a document, what reading it finds, and which documents a question is about.

Invariants: a value that exists is well formed; offsets count characters (code points) of `Document.text`, start
included, end excluded, so that a highlight is exact; an error names the field and never its content.

Leaves to others: finding sections, passages, assertions and codes in a text (`reading`), keeping them (`index`).
"""

import datetime
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from fedhealth.errors import DataUnusable

Kind = Literal["report", "letter", "record", "image-text", "article"]
Language = Literal["fr", "en"]
Sex = Literal["female", "male"]
CodeSystem = Literal["icd10", "atc"]
Assertion = Literal["affirmed", "negated", "hypothesis", "family", "history"]

MAX_TEXT_CHARACTERS = 5_000_000
"""Of one document: some 1,500 pages. A longer one is several documents, or no document."""
MAX_NAME_CHARACTERS = 1_000
"""Of a key, a patient's key, a title or a source."""
MAX_AGE_YEARS = 130

CODE_FORMS: dict[CodeSystem, re.Pattern[str]] = {
    "icd10": re.compile(r"[A-Z][0-9][0-9A-Z](\.[0-9A-Z+]{1,4})?"),
    "atc": re.compile(r"[A-Z]([0-9]{2}([A-Z]([A-Z]([0-9]{2})?)?)?)?"),
}
"""ICD-10 from the category on, dotted (WHO and national subdivisions); ATC from the anatomical group on."""


@dataclass(frozen=True)
class Code:
    """A code of a classification.

    Args:
        system: `icd10` (CIM-10 in French) or `atc`.
        value: upper case; ICD-10 with its dot ("I50.1"), ATC without one ("N04BA02").

    Raises:
        DataUnusable: the value has not the form of the system.
    """

    system: CodeSystem
    value: str

    def __post_init__(self) -> None:
        """Refuse what cannot be a code."""
        _check("a code's system", self.system in CODE_FORMS, "icd10 or atc")
        form = "I50.1" if self.system == "icd10" else "N04BA02"
        _check("a code", CODE_FORMS[self.system].fullmatch(self.value) is not None, f"a form such as {form}")


@dataclass(frozen=True)
class Document:
    """One text of a source, and what the source states about it.

    Args:
        key: names it within the source for ever; the same key with other content replaces it.
        patient: the patient's key as in the hospital's data sets; None for an article, and for nothing else.
        kind: what sort of document it is.
        title: one line, may be empty.
        text: what is searched, at most `MAX_TEXT_CHARACTERS`.
        date: when it was written, if known.
        language: if the source states it; found by reading otherwise.
        age: of the patient at that date, in whole years, if known.
        sex: of the patient, if known.
        codes: stated by the source.
        source: names where it came from, such as a folder or a server.

    Raises:
        DataUnusable: a field is not as described.
    """

    key: str
    patient: str | None
    kind: Kind
    title: str
    text: str
    date: datetime.date | None = None
    language: Language | None = None
    age: int | None = None
    sex: Sex | None = None
    codes: tuple[Code, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what is not well formed."""
        _check_text("a document's key", self.key, MAX_NAME_CHARACTERS, least=1)
        _check("a document's kind", self.kind in get_args(Kind), "one of " + ", ".join(get_args(Kind)))
        if self.kind == "article":
            _check("the patient of an article", self.patient is None, "none: it is about no single patient")
        else:
            _check("a document's patient", self.patient is not None, "the key of one patient")
            _check_text("a document's patient", self.patient or "", MAX_NAME_CHARACTERS, least=1)
        _check_text("a document's title", self.title, MAX_NAME_CHARACTERS)
        _check_text("a document's text", self.text, MAX_TEXT_CHARACTERS)
        _check_text("a document's source", self.source, MAX_NAME_CHARACTERS)
        _check("a document's language", self.language in (None, *get_args(Language)), "fr, en or none")
        _check("a document's sex", self.sex in (None, *get_args(Sex)), "female, male or none")
        _check_age("a document's age", self.age)


@dataclass(frozen=True)
class Section:
    """A part of a document under one heading, as offsets in its text."""

    title: str
    start: int
    end: int

    def __post_init__(self) -> None:
        """Refuse offsets in the wrong order."""
        _check_offsets("a section", self.start, self.end)


class AssertedSpan(NamedTuple):
    """Words that are not simply affirmed, as offsets in the document's text."""

    start: int
    end: int
    assertion: Assertion


@dataclass(frozen=True)
class Passage:
    """What is found: whole sentences of one section.

    Args:
        document: the document's key.
        number: from 0, in the order of the text.
        section: the heading it stands under, or "".
        start: offset of its first character in the document's text.
        end: offset behind its last character.
        text: the document's text from `start` to `end`.
        spans: what in it is negated, supposed, of the family or past; the rest is affirmed. In order, not overlapping.
    """

    document: str
    number: int
    section: str
    start: int
    end: int
    text: str
    spans: tuple[AssertedSpan, ...] = ()

    def __post_init__(self) -> None:
        """Refuse offsets that do not fit together."""
        _check_offsets("a passage", self.start, self.end)
        _check("a passage's text", len(self.text) == self.end - self.start, "as many characters as its offsets say")
        at = self.start
        for start, end, assertion in self.spans:
            inside = at <= start < end <= self.end
            _check("a passage's asserted spans", inside, "spans inside the passage, in order, not overlapping")
            _check("a span's assertion", assertion in get_args(Assertion), "one of " + ", ".join(get_args(Assertion)))
            at = end


@dataclass(frozen=True)
class Mention:
    """A concept found in a document's text.

    Args:
        start: offset of its first character in the document's text.
        end: offset behind its last character.
        code: which concept, if it has a code.
        term: the concept's name.
        assertion: how the text speaks of it.
    """

    start: int
    end: int
    code: Code | None
    term: str
    assertion: Assertion

    def __post_init__(self) -> None:
        """Refuse offsets in the wrong order."""
        _check_offsets("a mention", self.start, self.end)
        _check("a mention's assertion", self.assertion in get_args(Assertion), "one of the five assertions")


@dataclass(frozen=True)
class ReadDocument:
    """What reading finds in one document.

    Args:
        language: an ISO 639-1 code; "fr" and "en" are stemmed, any other is searched by its words as they stand.
        sections: in the order of the text.
        passages: in the order of the text, numbered from 0.
        mentions: in the order of the text.
    """

    language: str
    sections: tuple[Section, ...]
    passages: tuple[Passage, ...]
    mentions: tuple[Mention, ...]


@dataclass(frozen=True)
class DocumentFilter:
    """Which documents a question is about; a field that is None or empty leaves nothing out.

    A document without the figure asked for (no date, age, sex) is left out where a filter asks for one.

    Args:
        kinds: any of these.
        since: this day or later.
        until: this day or earlier.
        youngest: the patient's age in years at the document's date, at least.
        oldest: the same, at most.
        sex: of the patient.
        codes: stated by the source or affirmed in the text: one of these, or one below it in its classification.
        languages: ISO 639-1 codes, any of these.
        patient: the key of one patient.

    Raises:
        DataUnusable: a field is not as described, or nothing could ever pass.
    """

    kinds: frozenset[Kind] = frozenset()
    since: datetime.date | None = None
    until: datetime.date | None = None
    youngest: int | None = None
    oldest: int | None = None
    sex: Sex | None = None
    codes: frozenset[Code] = frozenset()
    languages: frozenset[str] = frozenset()
    patient: str | None = None

    def __post_init__(self) -> None:
        """Refuse what nothing could pass."""
        _check("a filter's kinds", self.kinds <= set(get_args(Kind)), "some of " + ", ".join(get_args(Kind)))
        _check("a filter's sex", self.sex in (None, *get_args(Sex)), "female, male or none")
        _check_age("a filter's lowest age", self.youngest)
        _check_age("a filter's highest age", self.oldest)
        ages_in_order = self.youngest is None or self.oldest is None or self.youngest <= self.oldest
        _check("a filter's ages", ages_in_order, "the lowest not above the highest")
        days_in_order = self.since is None or self.until is None or self.since <= self.until
        _check("a filter's period", days_in_order, "a first day not after the last")

    def keeps_all(self) -> bool:
        """Return whether nothing is left out."""
        return self == EVERY_DOCUMENT


def _check(what: str, holds: bool, wanted: str) -> None:
    """Refuse without showing the value: it may be a patient's, and a message may end up anywhere."""
    if not holds:
        raise DataUnusable(f"{what} cannot be used", wanted=wanted, next_step="Correct the source of this document.")


def _check_text(what: str, text: str, most: int, least: int = 0) -> None:
    _check(what, len(text) <= most, f"at most {most:,} characters")
    _check(what, len(text) >= least, "at least one character")
    _check(what, "\0" not in text, "text without NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        _check(what, False, "text that can be written as UTF-8, without lone surrogates")


def _check_offsets(what: str, start: int, end: int) -> None:
    _check(f"the offsets of {what}", 0 <= start <= end, "a start from 0 on and an end not before it")


def _check_age(what: str, age: int | None) -> None:
    _check(what, age is None or 0 <= age <= MAX_AGE_YEARS, f"whole years from 0 to {MAX_AGE_YEARS}, or none")


EVERY_DOCUMENT = DocumentFilter()
