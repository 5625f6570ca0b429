"""An answer of the search engine, for a person at a terminal of 80 columns and for a program.

What was asked for stands out in bold, in a pipe between asterisks; what the text denies, supposes or says of somebody
else stands out otherwise, and the reasons name it.
"""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fedhealth.cli.output import printable

if TYPE_CHECKING:
    from rich.text import Text

    from fedhealth.search.answering import Answer, Hit
    from fedhealth.search.documents import DocumentFilter
    from fedhealth.search.explanation import Highlight

_INDENT = "    "
_SHOWN_CHARACTERS = 420
"""Of a passage: five or six lines."""
_MOST_REASONS = 4

_LONGEST_ECHO = 80
"""Characters of a word or name of the question that are repeated in its answer."""


def document_of(found: "Answer") -> dict[str, Any]:
    """Return an answer as a JSON document; offsets of highlights count the characters of the hit's `text`."""
    searched = found.searched
    return {
        "language": found.language,
        "understood": list(found.understood),
        "denied": list(found.denied),
        "unknown": list(found.unknown),
        "hits": [_hit_document(hit) for hit in found.hits],
        "searched": {
            "documents": dict(searched.documents),
            "passages": searched.passages,
            "without_vector": searched.without_vector,
            "by_meaning": searched.by_meaning,
            "only": _filter_document(searched.only),
            "left_out": searched.left_out,
            "corpora": [dataclasses.asdict(each) for each in searched.corpora],
            "missing": dict(searched.missing),
            "heard": searched.heard,
        },
    }


def _hit_document(hit: "Hit") -> dict[str, Any]:
    document, passage = hit.document, hit.passage
    return {
        "rank": hit.rank,
        "score": hit.score,
        "source": document.source,
        "key": document.key,
        "patient": document.patient,
        "kind": document.kind,
        "title": document.title,
        "date": document.date,
        "age": document.age,
        "sex": document.sex,
        "codes": [f"{code.system}:{code.value}" for code in document.codes],
        "section": passage.section,
        "start": passage.start,
        "text": passage.text,
        "highlights": [
            {
                "start": each.start - passage.start,
                "end": each.end - passage.start,
                "assertion": each.assertion,
                "asked": each.asked,
                "kind": each.kind,
            }
            for each in hit.highlights
        ],
        "reasons": list(hit.reasons),
        "publishers": list(hit.publishers),
    }


def _filter_document(only: "DocumentFilter") -> dict[str, Any]:
    return {
        "kinds": sorted(only.kinds),
        "since": only.since,
        "until": only.until,
        "youngest": only.youngest,
        "oldest": only.oldest,
        "sex": only.sex,
        "codes": sorted(f"{code.system}:{code.value}" for code in only.codes),
        "patient": only.patient,
    }


def lines_of(found: "Answer", seconds: float, *, styled: bool) -> "Iterator[Text]":
    """Yield an answer as paragraphs that are to be wrapped.

    Args:
        found: the answer.
        seconds: that it took.
        styled: bold letters can be shown; else asterisks stand around what was asked for.
    """
    from rich.text import Text

    for label, words in (
        ("understood as", found.understood),
        ("not wanted", found.denied),
        ("in no document as written, so what is spelled like it was tried", found.unknown),
    ):
        if words:
            shown = (each if len(each) <= _LONGEST_ECHO else f"{each[:_LONGEST_ECHO]}..." for each in words)
            yield Text(f"{label}: {printable('; '.join(shown))}", style="dim" if styled else "")
    for hit in found.hits:
        yield Text()
        yield from _hit_lines(hit, styled)
    if found.hits:
        yield Text()
    else:
        yield Text(
            "nothing was found; --include-negated also looks at what texts deny"
            if found.searched.left_out
            else "nothing was found"
        )
    yield from _searched_lines(found, seconds)


def _hit_lines(hit: "Hit", styled: bool) -> "Iterator[Text]":
    from rich.text import Text

    document = hit.document
    yield Text(f"{hit.rank:>2}. {printable(document.title) or document.kind}", style="bold" if styled else "")
    about = [
        document.kind if document.title else "",
        str(document.date or ""),
        f"patient {printable(document.patient)}" if document.patient else "",
        document.sex or "",
        "" if document.age is None else f"{document.age} years",
        f"{document.source}/{printable(document.key)}",
        f"published by {' and '.join(hit.publishers)}" if hit.publishers else "",
    ]
    yield Text(_INDENT + ", ".join(filter(None, about)), style="dim" if styled else "")
    if hit.passage.section and not hit.passage.text.startswith(hit.passage.section):
        yield Text(f"{_INDENT}{printable(hit.passage.section)}:")
    yield _passage(hit, styled)
    yield Text(f"{_INDENT}why: {printable('; '.join(hit.reasons[:_MOST_REASONS]))}", style="dim" if styled else "")


def _passage(hit: "Hit", styled: bool) -> "Text":
    """Return the part of a passage around what was asked for, which stands out."""
    from rich.text import Text

    first, last = _shown(hit)
    text, base = hit.passage.text, hit.passage.start
    shown = Text(_INDENT + ("... " if first > 0 else ""))
    at = first
    for each in hit.highlights:
        start, end = each.start - base, each.end - base
        if start < at or end > last:
            continue
        shown.append(_flowing(text[at:start]))
        word = _flowing(text[start:end])
        shown.append(word if styled else f"*{word}*", style=_style(each) if styled else "")
        at = end
    shown.append(_flowing(text[at:last]))
    if last < len(text):
        shown.append(" ...")
    return shown


def _shown(hit: "Hit") -> tuple[int, int]:
    """Return from where to where a passage is shown: whole words, with the first of what was asked for."""
    text, base = hit.passage.text, hit.passage.start
    if len(text) <= _SHOWN_CHARACTERS:
        return 0, len(text)
    wanted = hit.highlights[0].start - base if hit.highlights else 0
    first = max(0, min(wanted - _SHOWN_CHARACTERS // 4, len(text) - _SHOWN_CHARACTERS))
    last = min(len(text), first + _SHOWN_CHARACTERS)
    if first > 0:
        first = text.find(" ", first, wanted) + 1 or first
    if last < len(text):
        last = text.rfind(" ", first, last) if " " in text[first:last] else last
    return first, last


def _style(highlight: "Highlight") -> str:
    return "bold" if highlight.assertion == "affirmed" else "bold yellow"


def _flowing(text: str) -> str:
    """Return text without the lines of its document, which a terminal makes anew."""
    return printable(text.replace("\n", " ").replace("\t", " "))


def _searched_lines(found: "Answer", seconds: float) -> "Iterator[Text]":
    from rich.text import Text

    searched = found.searched
    documents = sum(searched.documents.values())
    how = "by words and meaning" if searched.by_meaning else "by words"
    yield Text(
        f"searched {documents:,} documents of {len(searched.documents)} sources in {searched.passages:,} passages, "
        f"{how}, in {seconds:.2f} s"
    )
    if searched.without_vector:
        yield Text(f"{searched.without_vector:,} passages by words alone: their vectors are not made yet")
    if searched.corpora or searched.missing:
        yield from _open_articles(found)
    if only := list(_only(searched.only)):
        yield Text(f"only {printable(', '.join(only))}")
    if searched.left_out:
        yield Text(f"{searched.left_out:,} passages were left out: they deny what is asked, or have what is not wanted")


def _open_articles(found: "Answer") -> "Iterator[Text]":
    from rich.text import Text

    searched = found.searched
    named = ", ".join(f"{each.site} ({each.corpus}, {each.published})" for each in searched.corpora)
    heard = f", as known on {searched.heard:%Y-%m-%d %H:%M} UTC" if searched.heard else ""
    yield Text(f"open articles of {named or 'no site'}{heard}")
    if searched.missing:
        missing = "; ".join(f"{site}: {printable(why)}" for site, why in searched.missing.items())
        yield Text(f"articles that are missing: {missing}")


def _only(only: "DocumentFilter") -> "Iterator[str]":
    """Yield what a filter leaves, each in a few words."""
    if only.kinds:
        yield f"kind {' or '.join(sorted(only.kinds))}"
    if only.since or only.until:
        yield " ".join(f"{word} {day}" for word, day in (("since", only.since), ("until", only.until)) if day)
    ages = (("from", only.youngest), ("to", only.oldest))
    if said := " ".join(f"{word} {age}" for word, age in ages if age is not None):
        yield f"aged {said}"
    if only.sex:
        yield only.sex
    if only.codes:
        yield f"code {' or '.join(sorted(code.value for code in only.codes))}"
    if only.patient:
        yield f"patient {only.patient}"
