"""Reading a document: its language, sections, passages, what they say of what they name, and the concepts in them.

The one function that an index calls for each document, before it keeps anything.

Invariants: passages cover the text; each mention lies in one passage; the same document is read alike every time.

Leaves to others: which words are terms of a concept (`concepts`), what is kept (`index`).
"""

from collections.abc import Iterator, Sequence

from fedhealth.search.assertions import asserted_spans, assertion_of, fold
from fedhealth.search.concepts import Terminology
from fedhealth.search.documents import AssertedSpan, Document, Mention, Passage, ReadDocument, Section
from fedhealth.search.language import detect
from fedhealth.search.passages import passages_of
from fedhealth.search.sections import said_by_heading, sections_of

PART_CHARACTERS = 20_000
"""Terms are looked for in so much text at once: in less it takes longer, in more it needs memory."""


def read_document(document: Document, terms: Terminology) -> ReadDocument:
    """Return what a document's text says.

    Args:
        document: any, however strange its text.
        terms: finds the concepts.

    Returns:
        Language, sections, passages with their asserted spans, and mentions.
    """
    text = document.text
    language = document.language or detect(f"{document.title}\n{text}")
    folded = fold(text)
    sections = tuple(sections_of(text))
    passages = tuple(_passages(document, folded, sections, language))
    mentions = tuple(mention for part in _parts(passages) for mention in _mentions(text, part, terms, language))
    return ReadDocument(language, sections, passages, mentions)


def _passages(document: Document, folded: str, sections: Sequence[Section], language: str) -> Iterator[Passage]:
    is_article = document.kind == "article"
    number = 0
    for section in sections:
        default = "affirmed" if is_article else said_by_heading(section.title)
        for sentences in passages_of(document.text, section):
            spans: list[AssertedSpan] = []
            for start, end in sentences:
                spans.extend(asserted_spans(folded, start, end, language, default=default, article=is_article))
            start, end = sentences[0].start, sentences[-1].end
            yield Passage(document.key, number, section.title, start, end, document.text[start:end], tuple(spans))
            number += 1


def _parts(passages: Sequence[Passage]) -> Iterator[list[Passage]]:
    """Yield passages together, as many as make a text that terms are looked for in at once."""
    part: list[Passage] = []
    for passage in passages:
        part.append(passage)
        if passage.end - part[0].start >= PART_CHARACTERS:
            yield part
            part = []
    if part:
        yield part


def _mentions(text: str, passages: Sequence[Passage], terms: Terminology, language: str) -> Iterator[Mention]:
    """Yield the terms in some passages that follow each other; one across the edge of two is in neither."""
    begin = passages[0].start
    following = iter(passages)
    passage = next(following)
    for found in terms.find_mentions(text[begin : passages[-1].end], language):
        start, end = begin + found.start, begin + found.end
        while start >= passage.end:
            passage = next(following)
        if end <= passage.end:
            yield Mention(start, end, found.code, found.term, assertion_of(passage.spans, start, end))
