"""What was laid out of FHIR files, put together as documents.

Leaves to others: reading the files (`fedhealth.search.readers.fhir`).
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from fedhealth.search.documents import Code, Document, Kind
from fedhealth.search.readers.facts import age_at, date_in, key_of, sex_in
from fedhealth.search.readers.problem import Found, Problem, checked, made
from fedhealth.search.search_file import FhirFiles

LAYOUT = """
CREATE TABLE people (id TEXT PRIMARY KEY, name TEXT, sex TEXT, born TEXT);
CREATE TABLE medications (id TEXT PRIMARY KEY, code TEXT);
CREATE TABLE stays (id TEXT PRIMARY KEY, patient TEXT, day TEXT, title TEXT, why TEXT, codes TEXT, place TEXT);
CREATE TABLE lines (stay TEXT, patient TEXT, rank INTEGER, heading TEXT, day TEXT, line TEXT, codes TEXT, place TEXT);
CREATE TABLE texts (key TEXT PRIMARY KEY, stay TEXT, patient TEXT, kind TEXT, title TEXT, day TEXT, text TEXT,
                    codes TEXT, place TEXT);
CREATE TABLE waiting (resource TEXT, place TEXT, stay TEXT, patient TEXT, medication TEXT);
CREATE INDEX of_stay ON lines (stay);
"""
"""The scratch database: ids are those of resources, days and codes are texts, empty where there is none."""

_LONGEST_RECORD = 200_000
"""Characters of a record after which it goes on as another document: a stay in intensive care has many lines."""


@dataclass(frozen=True)
class _About:
    """What is known of a document beside its text."""

    key: str
    patient: str
    kind: Kind
    title: str
    day: str
    place: str


def packed(codes: Iterable[Code]) -> str:
    """Return codes as the scratch database holds them."""
    return json.dumps([[code.system, code.value] for code in codes])


def put_together(source: FhirFiles, scratch: sqlite3.Connection) -> Found:
    """Yield the documents of what was laid out."""
    texts = scratch.execute(
        "SELECT t.key, coalesce(nullif(t.patient, ''), s.patient, ''), t.kind, t.title,"
        " coalesce(nullif(t.day, ''), s.day, ''), t.place, t.text, t.codes"
        " FROM texts t LEFT JOIN stays s ON s.id = t.stay ORDER BY t.rowid"
    )
    for *about, text, codes in texts:
        yield _document(source, scratch, _About(*about), text, [codes])
    for own, patient, day, title, why, codes, place in scratch.execute("SELECT * FROM stays ORDER BY rowid"):
        about = _About(key_of("Encounter", own), patient, "record", title, day, place)
        lines = scratch.execute(
            "SELECT rank, heading, line, codes, day FROM lines WHERE stay = ? ORDER BY rank, rowid", (own,)
        ).fetchall()
        yield from _record(source, scratch, about, [why] if why else [], [codes], lines)
    loose = scratch.execute(
        "SELECT patient, min(place) FROM lines WHERE stay NOT IN (SELECT id FROM stays) GROUP BY patient"
    )
    for patient, place in loose:
        lines = scratch.execute(
            "SELECT rank, heading, line, codes, day FROM lines"
            " WHERE patient = ? AND stay NOT IN (SELECT id FROM stays) ORDER BY rank, rowid",
            (patient,),
        ).fetchall()
        day = max((row[4] for row in lines), default="")
        about = _About(key_of("Patient", patient), patient, "record", "", day, place)
        yield from _record(source, scratch, about, [], [], lines)


def _record(
    source: FhirFiles,
    scratch: sqlite3.Connection,
    about: _About,
    begin: list[str],
    codes: list[str],
    lines: list[tuple[int, str, str, str, str]],
) -> Found:
    """Yield a record, as several documents if it is long; none if nothing was recorded."""
    text, size, number = begin, sum(map(len, begin)), 1
    for heading, group in groupby(lines, key=lambda row: row[1]):
        text.append(f"{heading}:")
        for line, stated in dict.fromkeys((row[2], row[3]) for row in group):
            if size > _LONGEST_RECORD:
                yield _document(source, scratch, _numbered(about, number), "\n".join(text), codes)
                text, size, number, codes = [f"{heading}:"], 0, number + 1, []
            text.append(line)
            codes.append(stated)
            size += len(line) + 1
    if text:
        yield _document(source, scratch, _numbered(about, number), "\n".join(text), codes)


def _numbered(about: _About, number: int) -> _About:
    if number == 1:
        return about
    return _About(f"{about.key}/{number}", about.patient, about.kind, about.title, about.day, about.place)


def _document(
    source: FhirFiles, scratch: sqlite3.Connection, about: _About, text: str, codes: list[str]
) -> Document | Problem:
    name, sex, born = _person(source, scratch, about.patient)
    if not name:
        return Problem(source.name, about.place, "it names no patient who is known" if about.patient else "no patient")
    if (why := checked(text)) is not None:
        return Problem(source.name, about.place, why)
    day = date_in(about.day)
    stated = dict.fromkeys(Code(system, value) for each in codes if each for system, value in json.loads(each))
    return made(
        lambda: Document(
            key=about.key,
            patient=name,
            kind=about.kind,
            title=about.title,
            text=text,
            date=day,
            language=source.language,
            age=age_at(date_in(born), day),
            sex=sex_in(sex),
            codes=tuple(stated),
            source=source.name,
        ),
        source.name,
        about.place,
    )


def _person(source: FhirFiles, scratch: sqlite3.Connection, patient: str) -> tuple[str, str, str]:
    """Return a patient's name here, sex and date of birth; no name where none is known."""
    if patient.startswith("="):
        return patient[1:], "", ""
    row = scratch.execute("SELECT name, sex, born FROM people WHERE id = ?", (patient,)).fetchone()
    if row is not None:
        return row[0] or "", row[1] or "", row[2] or ""
    return (patient if source.patient_identifier is None else ""), "", ""
