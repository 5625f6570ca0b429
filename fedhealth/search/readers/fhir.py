"""FHIR R4 as documents: one a stay or visit with all that was recorded in it, and one each for whatever is a text.

Bundles and bulk exports put the patient, the stay and what belongs to them in any order, over any number of files. So a
source is read once to its end and laid out in a scratch database, which is gone with this process; then the documents
are put together (`fedhealth.search.readers.fhir_records`). DiagnosticReport, DocumentReference and Composition are
texts of their own; conditions, observations, medications and procedures are lines of the record of their encounter, or
of their patient where they name none.

Source: HL7 FHIR R4 (4.0.1), Bulk Data Access (ndjson).
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fedhealth.search.readers.articles import json_object, lines_of
from fedhealth.search.readers.facts import content_key, key_of
from fedhealth.search.readers.fhir_entries import ENTRIES, day_of, entry_of
from fedhealth.search.readers.fhir_records import LAYOUT, packed, put_together
from fedhealth.search.readers.fhir_texts import TEXTS, text_of
from fedhealth.search.readers.fhir_values import Resource, codes, concept, part, parts, reference, word
from fedhealth.search.readers.problem import Found, Problem, checked, cleaned, files_below, one_line, read_whole
from fedhealth.search.search_file import FhirFiles

_ENDINGS = (".json", ".ndjson", ".jsonl")
_OTHER_FORMS = {
    ".xml": "FHIR in XML is not read: export it as JSON (.json), or in bulk (.ndjson)",
    **dict.fromkeys((".gz", ".zip", ".bz2", ".xz", ".zst"), "a compressed file is not read: unpack it"),
}


@dataclass(frozen=True)
class _Placed:
    """A resource, and what others call it.

    Attributes:
        resource: itself.
        place: where it is, for people.
        own: its id.
        others: ids of the resources of the same bundle, by the URL that references may give.
    """

    resource: Resource
    place: str
    own: str
    others: Mapping[str, str]

    def id_of(self, target: str) -> str:
        """Return the id of what a reference points at; empty for what is contained, or nothing."""
        if target in self.others:
            return self.others[target]
        return "" if target.startswith("#") else _id_in(target)


def read_fhir(source: FhirFiles, path: Path) -> Found:
    """Yield the documents of FHIR files.

    Args:
        source: how it is named and read.
        path: a folder, or one file.
    """
    with closing(sqlite3.connect("")) as scratch:
        scratch.executescript(LAYOUT)
        gathered = _Gathered(source, scratch)
        for file, name in files_below(path, (*_ENDINGS, *_OTHER_FORMS)):
            for placed in _resources(source, file, name):
                if isinstance(placed, Problem):
                    yield placed
                else:
                    yield from gathered.take(placed)
        yield from gathered.take_waiting()
        yield from put_together(source, scratch)


def _resources(source: FhirFiles, file: Path, name: str) -> Iterator[_Placed | Problem]:
    if file.suffix.lower() == ".json":
        yield from _inside(source, json_object(read_whole(file)), name)
        return
    if not file.name.lower().endswith(_ENDINGS):
        yield Problem(source.name, name, _OTHER_FORMS[file.suffix.lower()])
        return
    for place, line in lines_of(file, name):
        yield from _inside(source, json_object(line), place)


def _inside(source: FhirFiles, found: Resource | str, place: str) -> Iterator[_Placed | Problem]:
    """Yield the resources of a bundle, or the one that is none."""
    if isinstance(found, str) or not word(found, "resourceType"):
        yield Problem(source.name, place, found if isinstance(found, str) else "no FHIR resource")
        return
    if word(found, "resourceType") != "Bundle":
        yield _Placed(found, place, word(found, "id"), {})
        return
    entries = list(parts(found, "entry"))
    urls = {word(entry, "fullUrl"): _own_id(entry) for entry in entries if word(entry, "fullUrl")}
    empty = [number for number, entry in enumerate(entries, 1) if not part(entry, "resource")]
    if empty:  # one problem, however many they are
        more = f", nor do {len(empty) - 1:,} more" if empty[1:] else ""
        yield Problem(source.name, f"{place} entry {empty[0]}", f"the entry holds no resource{more}")
    for number, entry in enumerate(entries, 1):
        if resource := part(entry, "resource"):
            yield _Placed(resource, f"{place} entry {number}", _own_id(entry), urls)


def _own_id(entry: Resource) -> str:
    return word(entry, "resource", "id") or _id_in(word(entry, "fullUrl"))


def _id_in(target: str) -> str:
    """Return the id in Patient/1, https://.../Patient/1/_history/2 or urn:uuid:1."""
    return target.split("/_history/")[0].rsplit("/", 1)[-1].rsplit(":", 1)[-1]


class _Gathered:
    """Lays resources out in the scratch database."""

    def __init__(self, source: FhirFiles, scratch: sqlite3.Connection) -> None:
        self._source, self._scratch = source, scratch
        self._twice = set[str]()

    def take(self, placed: _Placed) -> Found:
        """Lay out a resource; yield what is wrong with it. Of what nobody searches, nothing is kept."""
        resource, kind = placed.resource, word(placed.resource, "resourceType")
        if kind == "Patient":
            yield from self._take_person(placed)
        elif kind == "Medication":
            medication = (placed.own, json.dumps(part(resource, "code")))
            self._scratch.execute("INSERT OR REPLACE INTO medications VALUES (?, ?)", medication)
        elif kind == "Encounter":
            said = (concept(resource, "type"), concept(resource, "serviceType"), word(resource, "class", "display"))
            title, day = ", ".join(dict.fromkeys(filter(None, said))), str(day_of(resource, "period") or "")
            why, stated = concept(resource, "reasonCode"), packed(codes(resource, "reasonCode"))
            stay = (placed.own, self._patient(placed), day, one_line(title), cleaned(why), stated, placed.place)
            self._scratch.execute("INSERT OR REPLACE INTO stays VALUES (?, ?, ?, ?, ?, ?, ?)", stay)
        elif kind in ENTRIES and "medicationReference" in resource:
            target = placed.id_of(reference(resource, "medicationReference"))
            waiting = (json.dumps(resource), placed.place, *self._belonging(placed), target)
            self._scratch.execute("INSERT INTO waiting VALUES (?, ?, ?, ?, ?)", waiting)
        elif kind in ENTRIES:
            self._take_line(resource, placed.place, *self._belonging(placed))
        elif kind in TEXTS:
            yield from self._take_text(placed)

    def _take_person(self, placed: _Placed) -> Found:
        """Lay out a patient. Two people of one id would be mixed up in every record: neither is anybody then."""
        resource = placed.resource
        name, sex, born = self._name(resource), word(resource, "gender"), word(resource, "birthDate")
        known = self._scratch.execute("SELECT name, born FROM people WHERE id = ?", (placed.own,)).fetchone()
        both = zip(known or ("", ""), (name, born), strict=True)
        if any(before and now and before != now for before, now in both):
            yield Problem(self._source.name, placed.place, "another patient has the same id: nothing of either is read")
            self._twice.add(placed.own)
        name = "" if placed.own in self._twice else name or (known or ("",))[0]
        self._scratch.execute("INSERT OR REPLACE INTO people VALUES (?, ?, ?, ?)", (placed.own, name, sex, born))

    def take_waiting(self) -> Found:
        """Lay out what points at a medication, which may have stood in a later file."""
        for raw, place, stay, patient, medication in self._scratch.execute("SELECT * FROM waiting").fetchall():
            resource = json.loads(raw)
            target = reference(resource, "medicationReference")
            inside = (each for each in parts(resource, "contained") if f"#{word(each, 'id')}" == target)
            code = next((part(each, "code") for each in inside), None) or self._medication(medication)
            if code:
                resource["medicationCodeableConcept"] = code
            elif not word(resource, "medicationReference", "display"):
                yield Problem(self._source.name, place, "the medication that it names is not there", "noted")
            self._take_line(resource, place, stay, patient)

    def _medication(self, own: str) -> Resource:
        row = self._scratch.execute("SELECT code FROM medications WHERE id = ?", (own,)).fetchone()
        return part({"code": json.loads(row[0])}, "code") if row else {}

    def _take_line(self, resource: Resource, place: str, stay: str, patient: str) -> None:
        entry = entry_of(resource, self._source.language)
        if entry is not None:
            row = (stay, patient, entry.rank, entry.heading, str(entry.on or ""), cleaned(entry.line))
            self._scratch.execute(
                "INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, packed(entry.codes), place)
            )

    def _take_text(self, placed: _Placed) -> Found:
        resource = placed.resource
        if "entered-in-error" in (word(resource, "status"), word(resource, "docStatus")):
            return
        found = text_of(resource)
        text = cleaned(found.text)
        for remark in found.remarks:
            yield Problem(self._source.name, placed.place, remark, "noted")
        if (why := checked(text)) is not None:
            yield Problem(self._source.name, placed.place, why)
            return
        kind = word(resource, "resourceType")
        key = key_of(kind, placed.own) if placed.own else content_key(kind, found.title, text)
        day = str(day_of(resource, *TEXTS[kind].days) or "")
        stated = packed(codes(resource, "conclusionCode", "event"))
        row = (key, *self._belonging(placed), TEXTS[kind].kind, one_line(found.title), day, text, stated, placed.place)
        self._scratch.execute("INSERT OR REPLACE INTO texts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _belonging(self, placed: _Placed) -> tuple[str, str]:
        """Return the ids of the encounter and the patient that a resource belongs to; empty where it names none."""
        resource = placed.resource
        stay = reference(resource, "encounter") or reference(resource, "context")
        stay = stay or reference(part(resource, "context"), "encounter")
        return placed.id_of(stay), self._patient(placed)

    def _patient(self, placed: _Placed) -> str:
        """Return the id of a resource's patient; or "=" and the identifier that it gives in place of a reference."""
        for name in ("subject", "patient"):
            if target := reference(placed.resource, name):
                return placed.id_of(target)
            if identifier := self._wanted(part(placed.resource, name)):
                return f"={identifier}"
        return ""

    def _name(self, patient: Resource) -> str:
        return word(patient, "id") if self._source.patient_identifier is None else self._wanted(patient)

    def _wanted(self, resource: Resource) -> str:
        """Return the identifier of the wanted system; empty if there is none."""
        system = self._source.patient_identifier
        values = (word(each, "value") for each in parts(resource, "identifier") if word(each, "system") == system)
        return next(filter(None, values), "") if system else ""
