"""What parts of a FHIR R4 resource say, read so that a part of another form is as if it were not there.

Source: HL7 FHIR R4 (4.0.1), datatypes. The JSON comes from systems of all ages; a resource that is wrong in one place
is read in the others.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from html import unescape
from typing import Any

from fedhealth.search.documents import Code, CodeSystem
from fedhealth.search.readers.facts import code_in
from fedhealth.search.readers.written_forms import form_of, text_in

Resource = Mapping[str, Any]

_SYSTEMS: dict[str, CodeSystem] = {
    "http://hl7.org/fhir/sid/icd-10": "icd10",
    "http://hl7.org/fhir/sid/icd-10-cm": "icd10",
    "http://hl7.org/fhir/sid/icd-10-de": "icd10",
    "http://hl7.org/fhir/sid/icd-10-nl": "icd10",
    "http://fhir.de/CodeSystem/bfarm/icd-10-gm": "icd10",
    "http://fhir.de/CodeSystem/dimdi/icd-10-gm": "icd10",
    "urn:oid:2.16.840.1.113883.6.3": "icd10",
    "urn:oid:2.16.840.1.113883.6.90": "icd10",
    "urn:oid:1.2.250.1.213.2.5": "icd10",
    "http://www.whocc.no/atc": "atc",
    "http://fhir.de/CodeSystem/bfarm/atc": "atc",
    "http://fhir.de/CodeSystem/dimdi/atc": "atc",
    "urn:oid:2.16.840.1.113883.6.73": "atc",
}
"""By what names ICD-10, its national editions and ATC go; among them the French CIM-10 by its OID."""

_ATTACHED = frozenset(
    {
        *("text/plain", "text/html", "application/xhtml+xml", "text/markdown"),
        *("text/rtf", "application/rtf", "application/pdf"),
    }
)

_BLOCKS = frozenset(
    "p div br tr li h1 h2 h3 h4 h5 h6 table ul ol section header footer blockquote pre hr dt dd".split()  # noqa: SIM905
)

_CELLS, _HIDDEN = frozenset({"td", "th"}), frozenset({"script", "style"})
_TAG = re.compile(r"(/?)([a-zA-Z][a-zA-Z0-9]*)")
_CDATA = "![CDATA["


def part(resource: object, *names: str) -> Resource:
    """Return an object inside a resource; an empty one where there is none."""
    for name in names:
        resource = resource.get(name) if isinstance(resource, Mapping) else None
    return resource if isinstance(resource, Mapping) else {}


def parts(resource: object, name: str) -> Iterator[Resource]:
    """Yield the objects of a list inside a resource, or the one object in its place."""
    found = resource.get(name) if isinstance(resource, Mapping) else None
    for each in found if isinstance(found, list) else [found]:
        if isinstance(each, Mapping):
            yield each


def word(resource: object, *names: str) -> str:
    """Return a text, number or truth value inside a resource; empty where there is none."""
    inside = part(resource, *names[:-1]) if len(names) > 1 else resource
    found = inside.get(names[-1]) if isinstance(inside, Mapping) else None
    if isinstance(found, bool):
        return "yes" if found else "no"
    return str(found).strip() if isinstance(found, str | int | float) else ""


def concept(resource: object, name: str) -> str:
    """Return what codeable concepts of a resource say to a person; without a text, their codes."""
    said = []
    for each in parts(resource, name):
        codings = list(parts(each, "coding"))
        displays = [display for coding in codings if (display := word(coding, "display"))]
        codes = [code for coding in codings if (code := word(coding, "code"))]
        said.append(word(each, "text") or next(iter(displays), "") or next(iter(codes), "") or word(each, "display"))
    return ", ".join(dict.fromkeys(filter(None, said)))


def codes(resource: object, *names: str) -> tuple[Code, ...]:
    """Return the ICD-10 and ATC codes that codeable concepts of a resource state."""
    found: dict[Code, None] = {}
    for name in names:
        for each in parts(resource, name):
            for coding in parts(each, "coding"):
                system = _SYSTEMS.get(word(coding, "system").rstrip("/"))
                code = code_in(word(coding, "code"), system) if system else None
                if code:
                    found[code] = None
    return tuple(found)


def quantity(value: object) -> str:
    """Return a quantity with its unit."""
    unit = word(value, "unit") or word(value, "code")
    number = word(value, "comparator") + word(value, "value")
    return f"{number} {unit}".strip() if number else ""


def reference(resource: object, name: str) -> str:
    """Return what a reference points at, such as Patient/1 or urn:uuid:...; empty where there is none."""
    for each in parts(resource, name):
        if target := word(each, "reference"):
            return target
    return ""


def text_of_html(html: str) -> str:
    """Return the words of XHTML or HTML, a block a line.

    In a time that grows with its length, whatever it is: the parser of Python's library takes hours over a megabyte of
    tags that never end.
    """
    first, *rest = html.split("<")
    found, hidden, in_comment = [unescape(first)], 0, False
    for piece in rest:
        if in_comment or piece.startswith("!--"):
            _, ended, text = piece.partition("-->")
            in_comment = not ended
        elif piece.startswith(_CDATA):
            text = piece[len(_CDATA) :].replace("]]>", "")
        else:
            tag, ended, text = piece.partition(">")
            named = _TAG.match(tag)
            if not ended or (named is None and tag[:1] not in ("!", "?")):
                text = f"<{piece}"  # a sign of its own: p < 0.05
            elif named:
                name = named[2].lower()
                if name in _HIDDEN and not tag.endswith("/"):
                    hidden = max(0, hidden - 1 if named[1] else hidden + 1)
                if not hidden:
                    found.append("\n" if name in _BLOCKS else " " if name in _CELLS else "")
        if not hidden:
            found.append(unescape(text))
    lines = (" ".join(line.split()) for line in "".join(found).splitlines())
    return "\n".join(filter(None, lines))


def narrative(resource: object) -> str:
    """Return the words of a resource's narrative."""
    return text_of_html(word(resource, "text", "div"))


def attachment(attached: Resource) -> tuple[str, str]:
    """Return an attachment's text, and what is to be said of it; an empty text where it has none that is read here."""
    kind = word(attached, "contentType").split(";")[0].strip().lower() or "text/plain"
    data = word(attached, "data")
    if not data:
        return "", "an attachment that lies elsewhere is not read" if word(attached, "url") else ""
    if kind not in _ATTACHED:
        return "", f"an attachment of type '{kind[:60]}' is not read; text, RTF and PDF are"
    try:
        raw = base64.b64decode(data, validate=False)
    except (binascii.Error, ValueError):
        return "", "an attachment is no base64"
    if (form := kind[-3:].upper()) in ("PDF", "RTF") and form_of(raw) != form:
        return "", f"an attachment says that it is {form} and is not"
    decoded = text_in(raw)
    if isinstance(decoded, str):
        return "", f"an attachment is not read: {decoded}"
    text = text_of_html(decoded.text) if "html" in kind else decoded.text
    return text, f"an attachment is {decoded.remark}" if decoded.remark else ""
