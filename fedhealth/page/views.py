"""What the page's templates show: a passage with what was asked for marked, a hit, a count's parts.

Everything is escaped by the templates. Letters that are not to be seen, or that turn the order of what is read, are
shown as a box: a document may come from anywhere.
"""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined

from fedhealth.page.messages import FoundDocument, Mark
from fedhealth.page.words import Tongue, reason_in
from fedhealth.study.coded_cohort import query_words
from fedhealth.study.count_query import CountQuery

_FOLDER = files("fedhealth.page") / "templates"
_MOST_REASONS = 4
_SHOWN_CHARACTERS = 600


class Piece(NamedTuple):
    """A part of a text: plain where `assertion` is empty, else what was asked for and how the text speaks of it."""

    text: str
    assertion: str = ""


def templates() -> Environment:
    """Return the page's templates; everything in them is escaped, and what is missing is an error."""
    environment = Environment(
        loader=FunctionLoader(lambda name: (_FOLDER / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seen": seen, "number": number_in}
    return environment


def style() -> bytes:
    """Return the page's style sheet."""
    return (_FOLDER / "style.css").read_bytes()


def seen(text: object) -> str:
    """Return a text as it may be shown: lines and tabs stay, other letters that are not to be seen become a box."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in str(text))


def number_in(number: int, tongue: Tongue) -> str:
    """Return a whole number as a language writes it."""
    return f"{number:,}".replace(",", "\u202f" if tongue == "fr" else ",")


def pieces(text: str, marks: Sequence[Mark], first: int = 0, last: int | None = None) -> Iterator[Piece]:
    """Yield a text, or a part of it, cut where what was asked for begins and ends.

    Args:
        text: the whole of it.
        marks: offsets in it; those that do not fit are left out.
        first: where the part begins.
        last: where it ends; the text's end by default.
    """
    last, at = len(text) if last is None else last, first
    for mark in sorted(marks, key=lambda each: each.start):
        if not at <= mark.start < mark.end <= last:
            continue
        yield Piece(text[at : mark.start])
        yield Piece(text[mark.start : mark.end], mark.assertion)
        at = mark.end
    yield Piece(text[at:last])


class PassageView(NamedTuple):
    """The part of a passage around what was asked for."""

    pieces: tuple[Piece, ...]
    begins: bool
    ends: bool


def passage_view(hit: FoundDocument) -> PassageView:
    """Return what of a hit's passage is shown: whole words, with the first of what was asked for."""
    text = hit.text
    if len(text) <= _SHOWN_CHARACTERS:
        return PassageView(tuple(pieces(text, hit.highlights)), True, True)
    wanted = min((each.start for each in hit.highlights), default=0)
    first = max(0, min(wanted - _SHOWN_CHARACTERS // 4, len(text) - _SHOWN_CHARACTERS))
    if first:
        first = text.find(" ", first, max(first, wanted)) + 1 or first
    last = min(len(text), first + _SHOWN_CHARACTERS)
    if last < len(text):
        last = max(text.rfind(" ", first, last), first) if " " in text[first:last] else last
    return PassageView(tuple(pieces(text, hit.highlights, first, last)), first == 0, last == len(text))


def about(hit: FoundDocument, words: Mapping[str, str]) -> str:
    """Return in a line what is known of a document: its kind, date, patient, sex, age."""
    day: datetime.date | None = hit.date
    known = (
        words[f"kind_{hit.kind}"],
        day.isoformat() if day else "",
        f"{words['patient'].lower()} {hit.patient}" if hit.patient else "",
        words[hit.sex] if hit.sex else "",
        "" if hit.age is None else words["years"].format(age=hit.age),
        words["published_by"].format(sites=", ".join(hit.publishers)) if hit.publishers else "",
        f"{hit.source}/{hit.key}",
    )
    return " · ".join(filter(None, known))


def reasons(hit: FoundDocument, tongue: Tongue) -> str:
    """Return why a document is a hit, in a line."""
    return (" ; " if tongue == "fr" else "; ").join(reason_in(tongue, each) for each in hit.reasons[:_MOST_REASONS])


def parts_of_query(query: CountQuery, words: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the parts of a query as `fedhealth count` shows them, in the page's words."""
    shown = dict(query_words(query))
    if query.ages:
        shown["ages"] = words["ages_value"].format(low=query.ages[0], high=query.ages[1])
    if query.sex:
        shown["sex"] = words[query.sex]
    return [(words[f"part_{name}"], value) for name, value in shown.items()]
