"""Why a passage is a hit: where it has what was asked, how it speaks of it, and the reasons in words.

Invariants: highlights are offsets in the document's text, in order, not overlapping; a reason names what the question
and the passage share, never a score without its meaning. Leaves to others: which passages these are (`answering`).
"""

import difflib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fedhealth.search.assertions import assertion_of
from fedhealth.search.concepts import Terminology
from fedhealth.search.documents import Assertion
from fedhealth.search.expansion import Expansion
from fedhealth.search.query import Question
from fedhealth.search.stored_rows import StoredPassage
from fedhealth.search.words import fold, words_of

STEM_LETTERS = 5
"""Two words that begin alike for so many letters, and end within `ENDING_LETTERS`, are forms of one."""
ENDING_LETTERS = 3
MISSPELLED_LETTERS = 2
"""A misspelled word is looked for among words that begin with so many of its letters."""
LEAST_ALIKE = 0.8
"""Share of letters that a word and its correction have in common."""


class Highlight(NamedTuple):
    """Words of a passage that were asked for.

    Args:
        start: offset of the first character in the document's text.
        end: offset behind the last.
        assertion: how the text speaks of them.
        asked: which word or concept of the question they are.
        kind: the word itself, a translation of it, what it was misspelled from, or a concept's term.
    """

    start: int
    end: int
    assertion: Assertion
    asked: str
    kind: str


class AskedForms:
    """The forms in which a question's words are recognised, made once for all passages.

    Args:
        question: as read.
        expansion: of it.
    """

    def __init__(self, question: Question, expansion: Expansion) -> None:
        self.question = question
        self._by_beginning: dict[str, list[tuple[str, str, str]]] = {}
        for word in question.words:
            misspelled = word.written in expansion.unknown
            self._put(word.folded, word.written, "spelling" if misspelled else "word")
            for other in expansion.translations.get(word.folded, ()):
                self._put(fold(other), word.written, "translation")

    def _put(self, form: str, written: str, kind: str) -> None:
        letters = MISSPELLED_LETTERS if kind == "spelling" else STEM_LETTERS
        self._by_beginning.setdefault(form[:letters], []).append((form, written, kind))

    def find(self, folded: str) -> tuple[str, str] | None:
        """Return which word of the question a folded word is, and how it is that word."""
        for form, written, kind in self._by_beginning.get(folded[:STEM_LETTERS], ()):
            if kind != "spelling" and _same_stem(form, folded):
                return written, kind
        for form, written, kind in self._by_beginning.get(folded[:MISSPELLED_LETTERS], ()):
            if kind == "spelling" and difflib.SequenceMatcher(None, form, folded).ratio() >= LEAST_ALIKE:
                return written, kind
        return None


def highlights(stored: StoredPassage, forms: AskedForms) -> tuple[Highlight, ...]:
    """Return where a passage has what was asked, longest first where some overlap."""
    passage = stored.passage
    found = []
    for word in words_of(passage.text):
        asked = forms.find(word.folded)
        if asked is not None:
            start, end = passage.start + word.start, passage.start + word.end
            found.append(Highlight(start, end, assertion_of(passage.spans, start, end), *asked))
    wanted = _concepts(forms.question)
    for mention, concepts in zip(stored.mentions, stored.concepts, strict=True):
        for concept in wanted & set(concepts):
            found.append(Highlight(mention.start, mention.end, mention.assertion, concept, "concept"))
            break
    kept: list[Highlight] = []
    for each in sorted(found, key=lambda found: (found.start - found.end, found.start)):
        if not any(each.start < other.end and other.start < each.end for other in kept):
            kept.append(each)
    return tuple(sorted(kept))


def affirmed_share(found: Sequence[Highlight], expansion: Expansion) -> float:
    """Return of what share of the asked words that a passage has it speaks as asked; 1 if it has none."""
    speaks: dict[str, bool] = {}
    for each in found:
        speaks[each.asked] = speaks.get(each.asked, False) or expansion.standings.get(each.assertion, 0.0) > 0
    return sum(speaks.values()) / len(speaks) if speaks else 1.0


def affirms_denied(stored: StoredPassage, found: Sequence[Highlight], question: Question) -> bool:
    """Return whether a passage affirms all that shall not be: "sans fièvre" is asked, and it speaks of fever."""
    if question.negates_all:
        return False
    denied = {word.written for word in question.words if word.assertion == "negated"}
    denied_concepts = {each.found.concept for each in question.concepts if each.assertion == "negated"}
    affirmed = {
        each.asked for each in found if each.assertion in ("affirmed", "history") and each.kind != "translation"
    }
    return bool(denied and denied <= affirmed) or bool(denied_concepts & (affirmed | set(stored.stated)))


def reasons(
    stored: StoredPassage,
    found: Sequence[Highlight],
    forms: AskedForms,
    terminology: Terminology,
    cosine: float | None,
) -> tuple[str, ...]:
    """Return why a passage is a hit, the strongest reason first."""
    shared = tuple(_reasons(stored, found, forms, terminology))
    if cosine is None:
        return shared
    return (*shared, f"{'' if shared else 'none of the words, but '}similar in meaning ({cosine:.2f} of 1)")


def _reasons(
    stored: StoredPassage,
    found: Sequence[Highlight],
    forms: AskedForms,
    terminology: Terminology,
) -> Iterator[str]:
    text, question = stored.passage.text, forms.question
    for identifier in question.identifiers:
        if identifier.lower() in f"{stored.document.title} {text}".lower():
            yield f"has {identifier}"
    for code in question.codes:
        if code in stored.stated:
            yield f"its source states {name_in_both(code, terminology)}"
        elif any(code in concepts for concepts in stored.concepts):
            yield f"names {name_in_both(code, terminology)}"
    for kind, label in (
        ("word", "has"),
        ("translation", "has in the other language"),
        ("spelling", "has, spelled right"),
    ):
        for assertion in dict.fromkeys(each.assertion for each in found if each.kind == kind):
            written = dict.fromkeys(
                text[each.start - stored.passage.start : each.end - stored.passage.start].lower()
                for each in found
                if each.kind == kind and each.assertion == assertion
            )
            spoken = "" if assertion == "affirmed" else f" ({assertion})"
            yield f"{label}{spoken}: {', '.join(written)}"
    for concept in dict.fromkeys(each.asked for each in found if each.kind == "concept"):
        here = [each for each in found if each.asked == concept]
        spoken = "" if here[0].assertion == "affirmed" else f" ({here[0].assertion})"
        written_here = text[here[0].start - stored.passage.start : here[0].end - stored.passage.start]
        yield f"speaks of {name_in_both(concept, terminology)}{spoken}: {written_here}"
    for concept in sorted(_concepts(question) & set(stored.stated) - set(question.codes)):
        yield f"its source states {name_in_both(concept, terminology)}"
    titled = _titled_words(stored.document.title, forms)
    if titled:
        yield f"its title has: {', '.join(titled)}"


def _titled_words(title: str, forms: AskedForms) -> list[str]:
    """Return the words of a document's title that were asked for, in small letters."""
    words = (word for word in words_of(title) if forms.find(word.folded) is not None)
    return list(dict.fromkeys(title[word.start : word.end].lower() for word in words))


def name_in_both(concept: str, terminology: Terminology) -> str:
    """Return a concept's code and its names, such as "I10 Hypertension essentielle = Essential hypertension"."""
    system, _, value = concept.partition(":")
    names = dict.fromkeys(name for language in ("fr", "en") if (name := terminology.name(concept, language)))
    written = " = ".join(names)
    return written if system == "word" else f"{value} {written}".strip()


def _concepts(question: Question) -> set[str]:
    """Return all concepts a question is about, denied ones too."""
    named = {concept for each in question.concepts for concept in (each.found.concept, *each.found.also)}
    return named | set(question.codes)


def _same_stem(one: str, other: str) -> bool:
    if one == other:
        return True
    same = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return same >= STEM_LETTERS and max(len(one), len(other)) - same <= ENDING_LETTERS
