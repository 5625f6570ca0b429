"""Sections of a document: where each heading stands, and what it says of all below it.

Headings are recognised by their form, not from a list: a line of its own in capitals, one that ends with a colon, a
Markdown heading, or capitals before a colon wherever a sentence may begin, as in transcribed reports without line
breaks ("ALLERGIES: , None.,OBJECTIVE: ,"). A short list adds the headings that hospitals write in small letters.

Invariants: sections follow each other without gap and cover the text; a heading is in the section that it opens.

Leaves to others: sentences and passages (`passages`), what a sentence says (`assertions`).
"""

import re
from collections.abc import Iterator

from fedhealth.search.documents import Assertion, Section

MOST_HEADING_CHARACTERS = 80
MOST_HEADING_WORDS = 9

_CAPITAL = "A-ZÀ-ÖØ-ÞŒ"
_KNOWN = "|".join(
    re.split(
        r"\s{2,}",
        """
    ant[ée]c[ée]dents?  atcds?  mode de vie  histoire de la maladie  motif  examens?  conclusion  au total
    synth[èe]se  [ée]volution  traitements?  allergies?  indication  technique  r[ée]sultats?  compte.rendu
    diagnostics?  discussion  prescriptions?  biologie  imagerie  interpr[ée]tation  devenir  suites
    observation  anamn[èe]se  clinique  interrogatoire  facteurs de risque  hypoth[èe]ses?  intervention
    description  habitus  vaccinations?  constantes  history  family history  past  medications?  impression
    findings  assessment  plan  physical  review  social history  chief  preoperative  postoperative  procedure
    ana?esthesia  complications?  laboratory  hospital course  discharge  recommendations?  background
    methods?  objectives?  introduction  materials  conclusions  differential  subjective
    """.strip(),
    )
)
_HEADING = re.compile(
    rf"""
    (?:^|(?<=\n)|(?<=\r))[ \t]*
    (?:
        \#{{1,6}}[ \t]+(?P<marked>[^\n\r]{{1,{MOST_HEADING_CHARACTERS}}})(?=[\n\r]|$)
      | (?:[0-9IVX]{{1,4}}[.)][ \t]*)?
        (?P<known>(?i:{_KNOWN.replace(" ", "[ ]")})\b
          (?:[^\n\r:.;,!?]{{0,50}}?(?=[ \t]*:)|(?:[ ][^\W\d_]{{4,}}|[ ]et){{0,4}}(?=[ \t]*(?:[\n\r]|$))))[ \t]*:?
      | (?P<line>[{_CAPITAL}][^\n\r:.;,!?]{{2,{MOST_HEADING_CHARACTERS}}}?)[ \t]*:[ \t]*(?=[\n\r])
      | (?P<capitals>[{_CAPITAL}0-9][{_CAPITAL}0-9 '’/&()\-]{{3,{MOST_HEADING_CHARACTERS}}})(?=[ \t]*(?:[\n\r]|$))
    )
  | (?:^|(?<=[\n\r.,;])|(?<=[.,;][ ])|(?<=[.,;][ ][ ]))[ \t]*
    (?P<inline>[{_CAPITAL}0-9][{_CAPITAL}0-9 '’/&()\-]{{3,60}}?)[ \t]*:(?=[ \t,\n\r]|$)
    """,
    re.VERBOSE,
)
_SAID: tuple[tuple[Assertion, re.Pattern[str]], ...] = (
    (
        "affirmed",
        re.compile(r"histoire de la maladie|present(?:ing)? (?:illness|complaint)|anamn[eè]se", re.IGNORECASE),
    ),
    (
        "family",
        re.compile(r"\bfam(?:il\w*|\.)?\b|h[ée]r[ée]dit", re.IGNORECASE),
    ),
    (
        "hypothesis",
        re.compile(r"diff[ée]rentiel|\bdifferential\b|hypoth[èe]ses?|suspicion|rule out", re.IGNORECASE),
    ),
    (
        "history",
        re.compile(
            r"ant[ée]c[ée]dent|\batcds?\b|\bpast\b.*\bhistory\b|\b(?:previous|medical|surgical) history\b|\bp[ms]hx?\b",
            re.IGNORECASE,
        ),
    ),
)


def sections_of(text: str) -> Iterator[Section]:
    r"""Yield the sections of a text in order.

    Args:
        text: of any length, with any kind of line ends.

    Returns:
        At least one; the first has the title "" unless the text begins with a heading.

    >>> [section.title for section in sections_of("Motif : toux\nCONCLUSION\nPas de pneumopathie.")]
    ['Motif', 'CONCLUSION']
    """
    title, start = "", 0
    for found in _HEADING.finditer(text):
        name = " ".join((found[found.lastgroup or 0] or "").split()).strip("#:- ")
        if not _is_heading(name):
            continue
        at = found.start()
        if text[start:at].strip():
            yield Section(title, start, at)
            start = at
        title = name
    yield Section(title, start, len(text))


def said_by_heading(title: str) -> Assertion:
    """Return how a heading speaks of all below it: "family history" makes each word there one of the family.

    >>> said_by_heading("Antécédents familiaux"), said_by_heading("Conclusion")
    ('family', 'affirmed')
    """
    return next((assertion for assertion, pattern in _SAID if pattern.search(title)), "affirmed")


def _is_heading(name: str) -> bool:
    return sum(letter.isalpha() for letter in name) >= 3 and len(name.split()) <= MOST_HEADING_WORDS
