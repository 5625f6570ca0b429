"""Resources of FHIR R4 as lines of a patient's record, in the words by which reports say the same.

A condition that was refuted reads "No ...", one that is over "History of ...", one that is only thought of "Suspected
...", so that it is read as a sentence of a report would be. What was entered in error is nothing. A code of what is
refuted, or was not done, is not stated of the document.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date

from fedhealth.search.documents import Code, Language
from fedhealth.search.readers.facts import date_in
from fedhealth.search.readers.fhir_values import Resource, codes, concept, part, parts, quantity, word

_WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "conditions": "Conditions",
        "observations": "Observations",
        "medications": "Medications",
        "procedures": "Procedures",
        "no": "No {}",
        "past": "History of {}",
        "supposed": "Suspected {}",
        "not taken": "Not taking {}",
        "not done": "Not done: {}",
    },
    "fr": {
        "conditions": "Diagnostics",
        "observations": "Observations",
        "medications": "Médicaments",
        "procedures": "Actes",
        "no": "Pas de {}",
        "past": "Antécédent de {}",
        "supposed": "Suspicion de {}",
        "not taken": "Ne prend pas {}",
        "not done": "Non réalisé : {}",
    },
}


_ELIDED = re.compile(r" de ([aeiouyàâéèêëîïôœh])", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """A line of a record.

    Attributes:
        rank: of the part of the record that it belongs to, from 0.
        heading: of that part.
        line: what it says.
        on: when, if known.
        codes: what it states.
    """

    rank: int
    heading: str
    line: str
    on: date | None
    codes: tuple[Code, ...] = ()


def entry_of(resource: Resource, language: Language | None) -> Entry | None:
    """Return a resource as a line of a record; None where it says nothing, or was entered in error.

    Args:
        resource: of a type in `ENTRIES`.
        language: of the words around what the resource says; English where it says none itself.
    """
    stated = word(resource, "language")[:2].lower()
    words = _WORDS[language or ("fr" if stated == "fr" else "en")]
    if "entered-in-error" in (word(resource, "status"), _coded(resource, "verificationStatus")):
        return None
    found = ENTRIES[word(resource, "resourceType")](resource, words)
    if not found.line:
        return None
    stated_codes = [code.value for code in found.codes if code.value not in found.line]
    behind = f" ({', '.join(stated_codes)})" if stated_codes else ""
    return replace(found, line=" ".join(f"{found.line}{behind}.".split()))


def day_of(resource: Resource, *names: str) -> date | None:
    """Return the first of some dates, times or periods that a resource has."""
    for name in names:
        if found := date_in(word(resource, name)) or date_in(word(resource, name, "start")):
            return found
    return None


def _said(form: str, what: str) -> str:
    """Return a word's sentence: in its midst in small letters, but for abbreviations, and elided as French does."""
    small = what[:1].lower() + what[1:] if what[1:2].islower() else what
    return _ELIDED.sub(r" d'\1", form.format(small), count=1)


def _coded(resource: Resource, name: str) -> str:
    return next((word(coding, "code") for coding in parts(part(resource, name), "coding")), "")


def _condition(resource: Resource, words: Mapping[str, str]) -> Entry:
    said, stated = concept(resource, "code"), codes(resource, "code")
    verified, clinical = _coded(resource, "verificationStatus"), _coded(resource, "clinicalStatus")
    site = concept(resource, "bodySite")
    line = f"{said}, {site}" if said and site else said
    if verified == "refuted":
        line, stated = _said(words["no"], line), ()
    elif verified in ("provisional", "differential", "unconfirmed"):
        line, stated = _said(words["supposed"], line), ()
    elif clinical in ("inactive", "resolved", "remission"):
        line = _said(words["past"], line)
    on = day_of(resource, "onsetDateTime", "onsetPeriod", "recordedDate")
    return Entry(0, words["conditions"], line if said else "", on, stated)


def _observation(resource: Resource, words: Mapping[str, str]) -> Entry:
    measured = [_measured(resource), *(_measured(each) for each in parts(resource, "component"))]
    line = "; ".join(filter(None, measured))
    meaning, notes = concept(resource, "interpretation"), [word(note, "text") for note in parts(resource, "note")]
    line = ". ".join(filter(None, (f"{line} ({meaning})" if line and meaning else line, *notes)))
    on = day_of(resource, "effectiveDateTime", "effectivePeriod", "issued")
    return Entry(3, words["observations"], line, on, codes(resource, "valueCodeableConcept"))


def _measured(item: Resource) -> str:
    value = (
        quantity(part(item, "valueQuantity"))
        or concept(item, "valueCodeableConcept")
        or next(filter(None, (word(item, f"value{kind}") for kind in ("String", "Integer", "Boolean", "DateTime"))), "")
    )
    return ": ".join((concept(item, "code"), value)) if value else ""


def _medication(resource: Resource, words: Mapping[str, str]) -> Entry:
    said = concept(resource, "medicationCodeableConcept") or word(resource, "medicationReference", "display")
    stated = codes(resource, "medicationCodeableConcept")
    doses = [word(each, "text") for name in ("dosageInstruction", "dosage") for each in parts(resource, name)]
    line = ", ".join(filter(None, (said, *doses))) if said else ""
    if line and word(resource, "status") in ("not-taken", "not-done"):
        line, stated = _said(words["not taken"], line), ()
    elif line and word(resource, "doNotPerform") == "yes":
        line, stated = _said(words["no"], line), ()
    on = day_of(resource, "authoredOn", "effectiveDateTime", "effectivePeriod", "dateAsserted")
    return Entry(2, words["medications"], line, on, stated)


def _procedure(resource: Resource, words: Mapping[str, str]) -> Entry:
    said, why, out = (concept(resource, name) for name in ("code", "reasonCode", "outcome"))
    line = ", ".join(filter(None, (said, why, out))) if said else ""
    stated = codes(resource, "code", "reasonCode")
    if line and word(resource, "status") == "not-done":
        line, stated = _said(words["not done"], line), ()
    return Entry(1, words["procedures"], line, day_of(resource, "performedDateTime", "performedPeriod"), stated)


ENTRIES: dict[str, Callable[[Resource, Mapping[str, str]], Entry]] = {
    "Condition": _condition,
    "Observation": _observation,
    "MedicationRequest": _medication,
    "MedicationStatement": _medication,
    "MedicationAdministration": _medication,
    "Procedure": _procedure,
}
"""How a resource of each type is read."""
