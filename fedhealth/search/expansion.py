"""Expand a question into what an index is asked: its words, their translations and corrections, its concepts.

Each part is a `Clause` with the ways of speaking (standings) in which it counts and a weight. A word counts as it
stands; its translations count by their probability, in documents of the other language only; a word that no passage has
counts as the words a typing error away. A concept counts where text or source names it or anything below it, in any
language.

Invariants: what a text denies, or says of the family, does not count unless the question asks so; weights are the same
for all questions. Leaves to others: how clauses score (`lexical`), and how scores are joined (`ranking`).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, get_args

from fedhealth.search.concepts import Terminology
from fedhealth.search.documents import Assertion
from fedhealth.search.lexical import Analysis, Clause, Standing
from fedhealth.search.query import AskedWord, Question
from fedhealth.search.terminology import content_words

OTHER_LANGUAGE: dict[str, Analysis] = {"fr": "en", "en": "fr"}
MOST_WORDS = 64
"""Of a question, the first ones: a pasted page is a question about its beginning."""
MOST_SPELLED = 4
"""Words of a question whose spelling is looked at: in a longer one the others say what is meant, and a word that no
term has is one of life more often than a slip (MedQuAD's development half: 0.652 against 0.639)."""
FEW_WORDS = 3
"""Of so few words the language is not sure: they are translated both ways."""
CONCEPT_WEIGHT = 0.3
"""For each word of the term that names it, which count themselves where the text has them: chosen on PubMedQA's
development half, MedQuAD and labels, flat between 0.15 and 0.5."""
TRANSLATION_WEIGHT = 1.0
CORRECTION_WEIGHT = 0.6
EXACT_WEIGHT = 3.0
DENIED_WEIGHT = 0.5
"""Of what a question says shall not be, where a text says that it is not."""
SUPPOSED = 0.5
"""Of what is supposed: "suspicion d'embolie" is less of an answer than an embolism."""

AFFIRMED: Mapping[Standing, float] = {"affirmed": 1.0, "history": 1.0, "title": 1.0, "hypothesis": SUPPOSED}
STANDINGS: dict[Assertion, Mapping[Standing, float]] = {
    "affirmed": AFFIRMED,
    "history": AFFIRMED,
    "hypothesis": {"affirmed": 1.0, "history": 1.0, "title": 1.0, "hypothesis": 1.0},
    "family": {"family": 1.0, "title": 1.0},
    "negated": {"negated": 1.0},
}
EVERY_STANDING: Mapping[Standing, float] = dict.fromkeys(get_args(Standing), 1.0)


class Vocabulary(Protocol):
    """What knows the words of all passages: a `SearchIndex`."""

    def frequency(self, word: str, clause: Clause) -> int:
        """Return in how many passages a word is found as a clause would find it."""
        ...


@dataclass(frozen=True)
class Expansion:
    """What an index is asked.

    Args:
        clauses: for words, concepts, codes and identifiers.
        exact: for each code and identifier, the clauses of which a hit must meet one to come before all others.
        standings: how a text may speak of what is wanted.
        all_words: what a passage of average length would score that had each word of the question once.
        translations: of each folded word of the question, into the other language.
        unknown: words of the question that no passage has.
    """

    clauses: tuple[Clause, ...]
    exact: tuple[tuple[Clause, ...], ...]
    standings: Mapping[Standing, float]
    all_words: float
    translations: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...]


def misspelled_words(question: Question, terminology: Terminology, vocabulary: Vocabulary) -> dict[AskedWord, str]:
    """Return words of a question that neither a passage nor a term has, each with the word of a term that is nearest.

    Args:
        question: as it was read.
        terminology: whose terms are what may be meant.
        vocabulary: tells which words are known.
    """
    meant: dict[AskedWord, str] = {}
    for word in question.words if len(question.words) <= MOST_SPELLED else ():
        near = None
        if not vocabulary.frequency(word.written, Clause(word.written, standings=EVERY_STANDING)):
            near = terminology.spelling(word.written)
        if near is not None:
            meant[word] = near
    return meant


def expand(
    question: Question,
    terminology: Terminology,
    vocabulary: Vocabulary,
    passages: int,
    include_negated: bool,
    misspelled: Iterable[AskedWord] = (),
) -> Expansion:
    """Return what to ask an index for a question.

    Args:
        question: as it was read.
        terminology: whose hierarchy and translations are used.
        vocabulary: tells how many passages have a word.
        passages: of all documents, how many.
        include_negated: also what texts deny, suppose or say of the family.
        misspelled: words in whose place the question has others.
    """
    clauses = [
        Clause(word.written, "typo", _standings(word.assertion, include_negated), CORRECTION_WEIGHT)
        for word in misspelled
    ]
    translations: dict[str, tuple[str, ...]] = {}
    unknown = [word.written for word in misspelled]
    all_words = 0.0
    for word in _distinct(question):
        standings = _standings(word.assertion, include_negated)
        weight = DENIED_WEIGHT if word.assertion == "negated" and not question.negates_all else 1.0
        whole = Clause(word.written, standings=standings, weight=weight)
        clauses.append(whole)
        others = _translations(word, question, terminology)
        translations[word.folded] = tuple(other.text for other in others)
        clauses += [
            Clause(other.text, standings=standings, weight=weight * other.weight, analyses=other.analyses)
            for other in others
        ]
        frequencies = [
            vocabulary.frequency(each.text, replace(each, standings=EVERY_STANDING)) for each in (whole, *others)
        ]
        all_words += _rarity(next((each for each in frequencies if each), 0), passages)
        if not frequencies[0]:
            unknown.append(word.written)
            clauses.append(Clause(word.written, "typo", standings, CORRECTION_WEIGHT * weight))
    named = {
        (concept, asked.assertion): len(content_words(question.text[asked.found.start : asked.found.end]))
        for asked in question.concepts
        for concept in (asked.found.concept, *asked.found.also)
    }
    for (concept, assertion), words in list(named.items())[:MOST_WORDS]:
        weight = (
            CONCEPT_WEIGHT * words * (DENIED_WEIGHT if assertion == "negated" and not question.negates_all else 1.0)
        )
        clauses.append(Clause(concept, "concept", _standings(assertion, include_negated), weight))
    exact = tuple(_exact(question, include_negated))
    clauses += [clause for group in exact for clause in group]
    wanted: Assertion = "negated" if question.negates_all else "affirmed"
    return Expansion(
        tuple(clauses),
        exact,
        _standings(wanted, include_negated),
        all_words,
        translations,
        tuple(unknown),
    )


def _distinct(question: Question) -> Iterator[AskedWord]:
    seen = {word.folded: word for word in reversed(question.words)}
    yield from list(dict.fromkeys(seen[word.folded] for word in question.words))[:MOST_WORDS]


def _translations(word: AskedWord, question: Question, terminology: Terminology) -> list[Clause]:
    few = len(question.words) <= FEW_WORDS
    return [
        Clause(each.other, weight=TRANSLATION_WEIGHT * each.probability, analyses=(other,))
        for language, other in OTHER_LANGUAGE.items()
        if language == question.language or few
        for each in terminology.translations(word.folded, language)
    ]


def _rarity(frequency: int, passages: int) -> float:
    """Return BM25's weight of a word that so many of all passages have."""
    return math.log(1 + (max(passages - frequency, 0) + 0.5) / (frequency + 0.5))


def _standings(assertion: Assertion, include_negated: bool) -> Mapping[Standing, float]:
    return EVERY_STANDING if include_negated else STANDINGS[assertion]


def _exact(question: Question, include_negated: bool) -> Iterator[tuple[Clause, ...]]:
    standings = _standings("affirmed", include_negated)
    for code in question.codes[:MOST_WORDS]:
        value = code.partition(":")[2]
        yield (
            Clause(code, "concept", standings, EXACT_WEIGHT),
            Clause(value, "phrase", standings, EXACT_WEIGHT),
        )
    for identifier in question.identifiers[:MOST_WORDS]:
        yield (Clause(identifier, "phrase", EVERY_STANDING, EXACT_WEIGHT),)
