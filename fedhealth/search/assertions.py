"""How a sentence speaks of what it names: affirmed, negated, supposed, of the family, past.

The method is ConText's (Harkema et al., J Biomed Inform 2009; NegEx, Chapman et al. 2001): a cue ("pas de", "suspicion
de", "denies") has a scope before or behind it, and the scope ends where the clause does ("mais", a finite verb). Ours
differs at the comma, which in clinical notes separates clauses as often as the members of a list: a scope goes on
behind one if what follows reads as a further member. Where scopes of several kinds meet, a negation counts before the
family, the family before a supposition, a supposition before the past: "no family history of cancer" names no cancer.

It reads words and not codes, so that any word of a question can be told affirmed from negated.

Invariants: a span never leaves its sentence; spans are in order and do not overlap.

Leaves to others: the cues (`french_cues`, `english_cues`, `other_cues`), sentences (`passages`), headings that speak
for all below them (`sections`).
"""

import itertools
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence

from fedhealth.search.cues import CueFound, Grammar
from fedhealth.search.documents import AssertedSpan, Assertion
from fedhealth.search.english_cues import ENGLISH
from fedhealth.search.french_cues import FRENCH
from fedhealth.search.other_cues import OTHER

PRECEDENCE: dict[Assertion, int] = {"affirmed": 0, "history": 1, "hypothesis": 2, "family": 3, "negated": 4}
"""Which assertion counts where scopes meet: the highest."""
OF_KNOWLEDGE: frozenset[Assertion] = frozenset({"negated"})
"""What counts in an article, which is about a disease and not about a patient: "risk of stroke" speaks of stroke."""

GRAMMARS = {"fr": FRENCH, "en": ENGLISH}
LEAST_COVERED = 0.5
"""Share of a mention's characters that spans must cover for it not to be affirmed."""

MOST_WORDS_OF_MEMBER = 2
"""Behind "et" so many words are a last member ("pas de nausées et vomissements"), more are a clause."""
MOST_WORD_CHARACTERS = 30

_WORD = re.compile(r"\w+")
_PLAIN = {
    ord(letter): plain
    for letters, plain in {
        "àáâãäåÀÁÂÃÄÅ": "a", "çÇ": "c", "èéêëÈÉÊË": "e", "ìíîïÌÍÎÏ": "i", "ñÑ": "n", "òóôõöÒÓÔÕÖ": "o", "ùúûüÙÚÛÜ": "u",
        "ýÿÝŸ": "y", "Œ": "œ", "Æ": "æ", "’ʼ´`‘": "'", "–—‑‐−": "-", "：": ":", "，": ",", "；": ";", "？": "?",
        "\n\r\t\v\f\u00a0\u202f\u2009\u2007\u3000": " ",
    }.items()
    for letter in letters
}  # fmt: skip


def fold(text: str) -> str:
    """Return a text in small letters without accents, each character at its place.

    >>> fold("Pas d’ÉPANCHEMENT")
    "pas d'epanchement"
    """
    plain = text.translate(_PLAIN)
    lowered = plain.lower()
    if len(lowered) == len(plain):
        return lowered
    return "".join(low if len(low := sign.lower()) == 1 else sign for sign in plain)


def asserted_spans(
    folded: str, start: int, end: int, language: str, *, default: Assertion = "affirmed", article: bool = False
) -> list[AssertedSpan]:
    """Return what is not simply affirmed in one sentence.

    Args:
        folded: the folded text of the document (`fold`).
        start: offset of the sentence's first character.
        end: offset behind its last.
        language: its ISO 639-1 code.
        default: what the section says of all in it: its heading is "family history", for one.
        article: it is of an article: only negation counts.

    Returns:
        Spans in order, not overlapping, with offsets in the document's text.
    """
    sentence = folded[start:end]
    grammar = GRAMMARS.get(language, OTHER)
    scopes: list[AssertedSpan] = []
    if default != "affirmed" and sentence:
        scopes.append(AssertedSpan(0, len(sentence), default))
    negated_until = 0
    for found in grammar.finder.find(sentence):
        assertion = found.cue.assertion
        if assertion is None or (article and assertion not in OF_KNOWLEDGE):
            continue
        if assertion != "negated" and found.start < negated_until:
            continue  # "sans antecedent de ..., admis pour ...": a past that is denied does not go on behind the comma
        for first, behind in _scopes(sentence, found, grammar):
            if first < behind:
                scopes.append(AssertedSpan(first, behind, assertion))
                if assertion == "negated" and first >= found.end:
                    negated_until = behind
    return [AssertedSpan(start + first, start + behind, kind) for first, behind, kind in _flatten(scopes)]


def assertion_of(spans: Sequence[AssertedSpan], start: int, end: int) -> Assertion:
    """Return how a text speaks of the words between two offsets.

    Args:
        spans: in order, of the passage that the words are in.
        start: offset of the first character.
        end: offset behind the last.

    Returns:
        The assertion that covers most of them, "affirmed" where more than half is uncovered.
    """
    covered: dict[Assertion, int] = {}
    for span in itertools.islice(spans, bisect_right(spans, start, key=lambda each: each.end), None):
        if span.start >= end:
            break
        length = min(end, span.end) - max(start, span.start)
        if length > 0:
            covered[span.assertion] = covered.get(span.assertion, 0) + length
    if sum(covered.values()) < LEAST_COVERED * (end - start) or not covered:
        return "affirmed"
    return max(covered, key=lambda kind: (covered[kind], PRECEDENCE[kind]))


def _scopes(sentence: str, found: CueFound, grammar: Grammar) -> list[tuple[int, int]]:
    """Return the one or two scopes of a cue, as offsets in its sentence."""
    direction = found.cue.direction
    if direction == "behind":
        return [_behind(sentence, found, grammar)]
    if direction == "before":
        return [_before(sentence, found, grammar)]
    if direction == "around":
        return [_before(sentence, found, grammar), _behind(sentence, found, grammar)]
    if direction == "adjective" and not grammar.complement.match(sentence, found.end):
        return [_behind(sentence, found, grammar)]
    before = _before(sentence, found, grammar)
    if _WORD.search(sentence, *before):
        return [before]
    return [_behind(sentence, found, grammar)]


def _behind(sentence: str, found: CueFound, grammar: Grammar) -> tuple[int, int]:
    cue = found.cue
    if cue.assertion is None:
        return (found.end, found.end)
    end = len(sentence)
    for number, word in enumerate(_WORD.finditer(sentence, found.end)):
        if number == cue.reach:
            end = word.start()
            break
    barrier = grammar.barriers[cue.assertion].search(sentence, found.end, end)
    end = barrier.start() if barrier else end
    for joint in grammar.joints.finditer(sentence, found.end, end):
        if not _goes_on(sentence, joint, end, found, grammar):
            end = joint.start()
            break
    return (found.end, end)


def _goes_on(sentence: str, joint: re.Match[str], end: int, found: CueFound, grammar: Grammar) -> bool:
    """Return whether the scope goes on behind a comma or an "et"."""
    at = joint.end()
    if joint.start() == found.end or grammar.member.match(sentence, at):
        return True
    if found.cue.lists == "all":
        return True
    if grammar.clause.match(sentence, at):
        return False
    if joint.group().strip() == ",":
        if grammar.lists_by_commas or grammar.alternative.match(sentence, at, end) is not None:
            return True
        if found.cue.lists != "of few words":
            return False
    following = grammar.joints.search(sentence, at, end)
    member = sum(1 for _ in _WORD.finditer(sentence, at, following.start() if following else end))
    return grammar.lists_by_commas or member <= MOST_WORDS_OF_MEMBER


def _before(sentence: str, found: CueFound, grammar: Grammar) -> tuple[int, int]:
    cue = found.cue
    if cue.assertion is None:
        return (found.start, found.start)
    start = max(0, found.start - cue.reach * MOST_WORD_CHARACTERS)
    words = list(_WORD.finditer(sentence, start, found.start))
    start = words[-cue.reach].start() if len(words) > cue.reach else start
    for barrier in grammar.barriers_before.finditer(sentence, start, found.start):
        if barrier.group() == "," or sentence[barrier.end() : found.start].strip(" (:-"):
            start = barrier.end()  # not the sign itself, as in "fracture (exclue)", "fièvre : absente"
    if not grammar.lists_by_commas and not sentence.endswith("s", found.start, found.end):
        for joint in grammar.conjunction.finditer(sentence, start, found.start):
            start = joint.end()  # "toux et fièvre absente", but "toux et fièvre absentes"
    return (start, found.start)


def _flatten(scopes: Iterable[AssertedSpan]) -> list[AssertedSpan]:
    """Return spans that do not overlap: where some meet, the one that counts."""
    scopes = list(scopes)
    if len(scopes) < 2:  # one overlaps with none
        return scopes
    edges = sorted([(first, kind, 1) for first, _, kind in scopes] + [(behind, kind, -1) for _, behind, kind in scopes])
    inside: Counter[Assertion] = Counter()
    flat: list[AssertedSpan] = []
    for (first, opened, by), (behind, *_) in itertools.pairwise(edges):
        inside[opened] += by
        kind = max((each for each, times in inside.items() if times), key=PRECEDENCE.__getitem__, default=None)
        if kind is None or first == behind:
            continue
        if flat and flat[-1].end == first and flat[-1].assertion == kind:
            flat[-1] = AssertedSpan(flat[-1].start, behind, kind)
        else:
            flat.append(AssertedSpan(first, behind, kind))
    return flat
