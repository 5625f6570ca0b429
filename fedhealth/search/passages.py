"""Passages: what a search finds, whole sentences of one section, long enough to understand and short enough to read.

Sentences are told from abbreviations, decimals and hard line breaks; text without any punctuation is cut between words,
so that a passage is bounded whatever the text. All is found in one walk through the text, section by section.

Invariants: passages follow each other without gap and cover the text to the last character; none crosses a section; the
work for a passage does not grow with the length of the document.

Leaves to others: headings (`sections`), what sentences say (`assertions`).
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from fedhealth.search.documents import Section

LEAST_WORDS = 80
MOST_WORDS = 120
"""A passage takes sentences until it has the former, and none that would bring it above the latter."""
MOST_CHARACTERS = 2_000
"""Whatever its words, for text that has none, such as white space."""
LEAST_WORDS_OF_LAST = 25
"""A section's last passage of fewer is joined to the one before it."""
MOST_SENTENCE_CHARACTERS = 800
"""Longer stretches without a sentence's end are cut where a clause ends, or between words, or anywhere."""

_ABBREVIATION = re.compile(
    r"(?:^|[\s(,.;:])(?:dr|drs|pr|prof|m|mm|mme|mlle|mr|mrs|ms|st|ste|cf|vs|no|nos|fig|ex|env|approx|art|tel|av|bd|min|max|resp"
    r"|i\.e|e\.g|c\.-à-d|p\.ex|r\.a\.s|[a-zA-Z])\.$",
    re.IGNORECASE,
)
_END = re.compile(
    r"""
    (?<![.!?…])[.!?…]++["»)\]]*+(?=[ \t]*(?:[\n\r]|$))   # the line ends, too
  | (?<![!?…])[!?…]++["»)\]]*+(?=[ \t])
  | \.["»)\]]*(?=,?[ \t]*[^\s,.;:)a-zà-öø-ÿœ0-9%])   # a capital, bullet or quote follows
  | \.(?=,[ \t]*[A-Z0-9])                          # line breaks that a table made commas
  | \.(?=[ \t]{2,})
  | \.(?=[ \t][0-9]+[.)] )
  | (?:\r\n|\n|\r)(?=[ \t]*(?:\r\n|\n|\r))          # an empty line
  | (?:\r\n|\n|\r)(?=[ \t]*(?:[-*•·–—+>○●▪]|[0-9]{1,2}[.)/°])[ \t])   # an item of a list
  | (?P<line>(?:\r\n|\n|\r)(?=[ \t]*\S))
    """,
    re.VERBOSE,
)
_CLAUSE_END = re.compile(r"[;:,](?=\s)|\s-\s")
_SPACE = re.compile(r"\s")
WRAPPED_LINE_CHARACTERS = 60
"""A line of so many that ends in no sign was broken for its width."""


class Stretch(NamedTuple):
    """A part of a text, as offsets in it."""

    start: int
    end: int


def sentences_of(text: str, start: int, end: int) -> Iterator[Stretch]:
    """Yield the sentences of a part of a text, without gap; white space belongs to the sentence before it.

    Args:
        text: the document's text.
        start: offset of the part's first character.
        end: offset behind its last.
    """
    begin = behind = start
    for found in _END.finditer(text, start, end):
        if found.end() <= behind or not _ends_sentence(text, begin, found, end):
            continue
        behind = found.end()
        while behind < end and text[behind].isspace():
            behind += 1
        if text[begin:behind].isspace():
            continue
        yield from _cut(text, begin, behind)
        begin = behind
    if begin < end:
        yield from _cut(text, begin, end)


def passages_of(text: str, section: Section) -> Iterator[list[Stretch]]:
    """Yield the passages of a section in order, each as its sentences.

    Args:
        text: the document's text.
        section: one of its sections.
    """
    waiting: list[Stretch] = []
    gathered: list[Stretch] = []
    words = 0
    for sentence in sentences_of(text, section.start, section.end):
        length = _words_in(text, sentence)
        is_full = words >= LEAST_WORDS or words + length > MOST_WORDS
        if gathered and (is_full or sentence.end - gathered[0].start > MOST_CHARACTERS):
            if waiting:
                yield waiting
            waiting, gathered, words = gathered, [], 0
        gathered.append(sentence)
        words += length
    if waiting and words < LEAST_WORDS_OF_LAST:
        yield waiting + gathered
        return
    if waiting:
        yield waiting
    if gathered:
        yield gathered


def _ends_sentence(text: str, begin: int, found: re.Match[str], end: int) -> bool:
    if found.lastgroup == "line":
        return _line_ends_sentence(text, begin, found.start(), found.end(), end)
    if found.group() == ".":
        return _ABBREVIATION.search(text[max(begin, found.end() - 12) : found.end()]) is None
    return True


def _line_ends_sentence(text: str, begin: int, at: int, behind: int, end: int) -> bool:
    """Return whether a line break that no sign precedes ends a sentence, or only a line of a page."""
    line = max(text.rfind("\n", begin, at), text.rfind("\r", begin, at), begin - 1) + 1
    following = behind
    while following < end and text[following] in " \t":
        following += 1
    if text[following : following + 1].islower():
        return False
    last = text[line:at].rstrip()[-1:]
    return len(text[line:at]) < WRAPPED_LINE_CHARACTERS and last not in {",", "(", "-", "/"}


def _cut(text: str, start: int, end: int) -> Iterator[Stretch]:
    """Yield a sentence as it is, or in pieces if it is too long to be one."""
    while end - start > MOST_SENTENCE_CHARACTERS:
        limit = start + MOST_SENTENCE_CHARACTERS
        middle = start + MOST_SENTENCE_CHARACTERS // 2
        at = max((found.end() for found in _CLAUSE_END.finditer(text, middle, limit)), default=0)
        at = at or max((found.end() for found in _SPACE.finditer(text, middle, limit)), default=limit)
        yield Stretch(start, at)
        start = at
    if start < end:
        yield Stretch(start, end)


def _words_in(text: str, stretch: Stretch) -> int:
    return len(text[stretch.start : stretch.end].split())
