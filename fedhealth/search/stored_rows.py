"""Rows of the store and the values they hold: documents, passages with their concepts, and filters as conditions.

Invariants: what is read from a row equals what was written to it; values are always bound, never part of a statement.

Leaves to others: the file and its transactions (`store`).
"""

import datetime
import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fedhealth.search.documents import AssertedSpan, Code, Document, DocumentFilter, Mention, Passage

PASSAGE_QUERY = """
SELECT p.id, p.number, p.section, p.start, p.stop, p.text, p.spans, p.mentions, d.language, d.stated,
  source, key, patient, kind, title, '', day, language_stated, age, sex, codes
FROM passages p JOIN documents d ON d.id = p.document WHERE p.id = ?
"""
DOCUMENT_COLUMNS = "source, key, patient, kind, title, text, day, language_stated, age, sex, codes"


Ancestors = Callable[[str], Iterable[str]]
"""From a concept, such as "icd10:I21.9", to all above it in its classification."""


@dataclass(frozen=True)
class StoredPassage:
    """A passage as it is kept, with its document but without the document's text.

    Args:
        id: its number in this index, never used again.
        passage: offsets, text and asserted spans.
        document: the document with an empty text; `Store.document` gives it whole.
        language: of the document, as found by reading.
        mentions: concepts that begin in the passage.
        concepts: of each mention, the concept's name ("icd10:I21.9", "word:troponin") and all above it.
        stated: concepts that the document's source states, and all above them.
    """

    id: int
    passage: Passage
    document: Document
    language: str
    mentions: tuple[Mention, ...]
    concepts: tuple[tuple[str, ...], ...]
    stated: tuple[str, ...]

    @property
    def is_knowledge(self) -> bool:
        """Whether it is of an article, which is about what it denies, too: "no association of X with Y"."""
        return self.document.kind == "article"


def concept_of(mention: Mention) -> str:
    """Return the name under which a mention is found: of its code, or of its term where it has none."""
    return f"word:{mention.term}" if mention.code is None else f"{mention.code.system}:{mention.code.value}"


def mention_rows(mentions: Iterable[Mention], passages: Sequence[Passage], ancestors: Ancestors) -> list[list[Any]]:
    """Return, for each passage, the mentions that begin in it, each with all concepts above it, as they are kept."""
    ordered = sorted(mentions, key=lambda each: each.start)
    starts = [each.start for each in ordered]
    rows = []
    for passage in passages:
        inside = ordered[bisect_left(starts, passage.start) : bisect_left(starts, passage.end)]
        named = [(each, concept_of(each)) for each in inside]
        rows.append([(m.start, m.end, name, m.term, m.assertion, sorted(ancestors(name))) for m, name in named])
    return rows


def content_digest(document: Document) -> bytes:
    """Return what changes when anything that a source states changes."""
    return hashlib.sha256(json.dumps(document_columns(document)).encode()).digest()


def filter_condition(only: DocumentFilter) -> tuple[str, list[Any]]:
    """Return a condition of SQL over the table `documents`, and its values."""
    conditions: list[str] = []
    values: list[Any] = []
    for column, allowed in (("kind", only.kinds), ("language", only.languages)):
        if allowed:
            conditions.append(f"{column} IN ({','.join('?' * len(allowed))})")
            values += sorted(allowed)
    for condition, bound in (
        ("day >= ?", only.since and only.since.toordinal()),
        ("day <= ?", only.until and only.until.toordinal()),
        ("age >= ?", only.youngest),
        ("age <= ?", only.oldest),
        ("sex = ?", only.sex),
        ("patient = ?", only.patient),
    ):
        if bound is not None:
            conditions.append(condition)
            values.append(bound)
    if only.codes:
        marks = ",".join("?" * len(only.codes))
        conditions.append(f"id IN (SELECT document FROM document_codes WHERE code IN ({marks}))")  # noqa: S608
        values += sorted(f"{code.system}:{code.value}" for code in only.codes)
    return " AND ".join(conditions) or "1", values


def document_columns(document: Document) -> tuple[Any, ...]:
    """Return a document as a row of `DOCUMENT_COLUMNS`."""
    return (
        document.source,
        document.key,
        document.patient,
        document.kind,
        document.title,
        document.text,
        None if document.date is None else document.date.toordinal(),
        document.language,
        document.age,
        document.sex,
        json.dumps([(code.system, code.value) for code in document.codes]),
    )


def document_of(columns: Sequence[Any]) -> Document:
    """Return the document that a row of `DOCUMENT_COLUMNS` holds."""
    source, key, patient, kind, title, text, day, language, age, sex, codes = columns
    return Document(
        key=key,
        patient=patient,
        kind=kind,
        title=title,
        text=text,
        date=None if day is None else datetime.date.fromordinal(day),
        language=language,
        age=age,
        sex=sex,
        codes=tuple(Code(system, value) for system, value in json.loads(codes)),
        source=source,
    )


def stored_passage(row: Sequence[Any]) -> StoredPassage:
    """Return the passage that a row of `Store.passages` holds."""
    number, at, section, start, stop, text, spans, mentions, language, stated, *document = row
    asserted = tuple(AssertedSpan(*span) for span in json.loads(spans))
    inside = json.loads(mentions)
    return StoredPassage(
        id=number,
        passage=Passage(document[1], at, section, start, stop, text, asserted),
        document=document_of(document),
        language=language,
        mentions=tuple(
            Mention(first, behind, _code_of(concept), term, assertion)
            for first, behind, concept, term, assertion, _ in inside
        ),
        concepts=tuple((concept, *above) for _, _, concept, _, _, above in inside),
        stated=tuple(json.loads(stated)),
    )


def _code_of(concept: str) -> Code | None:
    system, _, value = concept.partition(":")
    if system == "icd10":
        return Code("icd10", value)
    return Code("atc", value) if system == "atc" else None
