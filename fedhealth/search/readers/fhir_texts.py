"""Resources of FHIR R4 that are texts: DiagnosticReport, DocumentReference, Composition; attachments where inline."""

from collections.abc import Iterator
from dataclasses import dataclass

from fedhealth.search.documents import Kind
from fedhealth.search.readers.fhir_values import (
    Resource,
    attachment,
    concept,
    narrative,
    part,
    parts,
    text_of_html,
    word,
)

_DEEPEST = 20


@dataclass(frozen=True)
class TextForm:
    """How resources of one type are read.

    Attributes:
        kind: of the documents that they are.
        days: where they say when they were written.
    """

    kind: Kind
    days: tuple[str, ...]


TEXTS: dict[str, TextForm] = {
    "DiagnosticReport": TextForm("report", ("effectiveDateTime", "effectivePeriod", "issued")),
    "DocumentReference": TextForm("letter", ("date", "context")),
    "Composition": TextForm("letter", ("date",)),
}


@dataclass(frozen=True)
class Text:
    """What a resource says.

    Attributes:
        title: what it is called.
        text: its words; empty if there are none.
        remarks: what is to be said of what was not read, or read otherwise.
    """

    title: str
    text: str
    remarks: tuple[str, ...]


def text_of(resource: Resource) -> Text:
    """Return the words of a resource of a type in `TEXTS`."""
    kind = word(resource, "resourceType")
    title = word(resource, "title") or word(resource, "description") or concept(resource, "code")
    title = title or concept(resource, "type") or concept(resource, "category")
    if kind == "Composition":
        body = "\n".join(_sections(resource, 0))
        return Text(title, body or narrative(resource), ())
    if kind == "DocumentReference":
        attached = [part(content, "attachment") for content in parts(resource, "content")]
        said = [word(resource, "description")]
    else:
        attached = list(parts(resource, "presentedForm"))
        said = [word(resource, "conclusion"), concept(resource, "conclusionCode")]
    read = [attachment(each) for each in attached]
    texts = [text for text, _ in read if text]
    if not texts:
        texts = [narrative(resource)]
    title = title or next((word(each, "title") for each in attached if word(each, "title")), "")
    # A report's conclusion often stands in its attachment as well.
    beside = [each for each in said if each and not any(each in text for text in texts)]
    remarks = tuple(dict.fromkeys(remark for _, remark in read if remark))
    return Text(title, "\n".join(filter(None, (*texts, *beside))), remarks)


def _sections(resource: Resource, depth: int) -> Iterator[str]:
    """Yield title and text of each section, in order, with those inside it."""
    for section in parts(resource, "section") if depth < _DEEPEST else ():
        heading = word(section, "title") or concept(section, "code")
        body = text_of_html(word(section, "text", "div")) or concept(section, "emptyReason")
        if body or any(parts(section, "section")):
            yield from filter(None, (f"{heading}:" if heading else "", body))
        yield from _sections(section, depth + 1)
