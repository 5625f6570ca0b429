"""Answer a question from an index: read it, expand it, search words and vectors, rank, explain.

An `Answer` says what was understood, what was searched and what was left out, and why each hit is one.

Invariants: a passage that only denies what is asked is no hit unless the question asks for it; whoever asks for a code
or an identifier gets what has it first. Nothing is kept of a question, and nothing of it is in a log.
Leaves to others: each of these steps, in the module of its name; showing the answer (the command line).
"""

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedhealth.search.concepts import Terminology
from fedhealth.search.documents import Document, DocumentFilter, Passage
from fedhealth.search.expansion import EVERY_STANDING, Expansion, expand, misspelled_words
from fedhealth.search.explanation import (
    AskedForms,
    Highlight,
    affirmed_share,
    affirms_denied,
    highlights,
    name_in_both,
    reasons,
)
from fedhealth.search.index import SearchIndex
from fedhealth.search.lexical import Clause
from fedhealth.search.query import Question, SearchRequest, read_question, respelled
from fedhealth.search.ranking import CANDIDATES, Evidence, Ranked, rank
from fedhealth.search.stored_rows import StoredPassage

LEAST_COSINE = 0.82
"""Below it a passage that has none of the words is no hit. Of multilingual-e5-small, on PubMedQA and MedQuAD: nine in
ten passages drawn at random are below it, and one in twenty of those that answer."""
MOST_MEANT = 1_000
"""Characters of a question that its vector is made of: what goes on for longer is about its beginning."""
SHORTLIST = 60
"""Passages of each side that are read: those below can hardly be among the hits."""
MOST_EXACT = CANDIDATES
"""Passages with a code or identifier that come before all others."""


class QueryEncoder(Protocol):
    """What makes the vector of a question."""

    def query(self, text: str) -> npt.NDArray[np.float32]:
        """Return a vector of length 1, comparable with those of passages."""
        ...


@dataclass(frozen=True)
class Hit:
    """A document that answers.

    Args:
        rank: from 1.
        score: comparable within one answer only.
        document: without its text.
        passage: the best of it.
        highlights: what was asked, as offsets in the document's text, within the passage.
        reasons: why it is a hit, the strongest first.
        publishers: sites that published this very text as an open article; none for the hospital's own.
    """

    rank: int
    score: float
    document: Document
    passage: Passage
    highlights: tuple[Highlight, ...]
    reasons: tuple[str, ...]
    publishers: tuple[str, ...] = ()


@dataclass(frozen=True)
class SearchedCorpus:
    """A corpus of open articles in the index, as its publisher states it.

    Args:
        site: who published it.
        corpus: its name.
        licence: under which.
        published: when.
        articles: how many there are.
    """

    site: str
    corpus: str
    licence: str
    published: datetime.date
    articles: int


@dataclass(frozen=True)
class Searched:
    """What an answer rests on.

    Args:
        documents: in the index, of each source.
        passages: in the index.
        without_vector: of these, found by their words only so far.
        by_meaning: vectors were compared.
        only: which documents the question was about.
        left_out: passages that had what was asked but only deny it, or affirm what the question denies.
        corpora: open articles among the documents, by who published them.
        missing: other sites whose newest articles are not among them, and why.
        heard: when it was last known which articles there are elsewhere; None if never.
    """

    documents: Mapping[str, int]
    passages: int
    without_vector: int
    by_meaning: bool
    only: DocumentFilter
    left_out: int
    corpora: tuple[SearchedCorpus, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    heard: datetime.datetime | None = None


@dataclass(frozen=True)
class Answer:
    """What an index says to a question.

    Args:
        language: of the question, its ISO 639-1 code.
        understood: concepts recognised in it, each with its code and names.
        denied: words that shall not be, or that shall be denied if nothing else is asked.
        unknown: words that no passage has, for which similar ones were tried.
        hits: best first.
        searched: what the answer rests on.
    """

    language: str
    understood: tuple[str, ...]
    denied: tuple[str, ...]
    unknown: tuple[str, ...]
    hits: tuple[Hit, ...]
    searched: Searched


@dataclass
class _Found:
    """What was found while answering one question: owned by `SearchEngine.search`, thrown away with it."""

    evidence: dict[int, Evidence]
    stored: dict[int, StoredPassage]
    floor: float
    left_out: int


class SearchEngine:
    """An index with the words and vectors to ask it by; keep it for the next question.

    Args:
        index: open.
        terminology: compiled for any index.
        encoder: the one that made the index's vectors; None asks by words alone.
    """

    def __init__(self, index: SearchIndex, terminology: Terminology, encoder: QueryEncoder | None) -> None:
        self._index = index
        self._terminology = terminology
        self._encoder = encoder

    def search(self, request: SearchRequest) -> Answer:
        """Return the documents of an index that answer a question."""
        status = self._index.status()
        question = read_question(request.query, self._terminology)
        spelled = misspelled_words(question, self._terminology, self._index)
        if spelled:
            question = respelled(question, spelled, self._terminology)
        expansion = expand(question, self._terminology, self._index, status.passages, request.include_negated, spelled)
        found = self._evidence(question, expansion, request.only)
        ranked = rank(found.evidence, found.floor, expansion.all_words)[: request.limit]
        forms = AskedForms(question, expansion)
        hits = tuple(
            self._hit(place, each, found.stored[each.passage], found.evidence[each.passage], forms)
            for place, each in enumerate(ranked, start=1)
        )
        return Answer(
            language=question.language,
            understood=tuple(
                name_in_both(concept, self._terminology)
                for concept in dict.fromkeys([*question.codes, *(each.found.concept for each in question.concepts)])
            ),
            denied=tuple(word.written for word in question.words if word.assertion == "negated"),
            unknown=expansion.unknown,
            hits=hits,
            searched=Searched(
                documents=status.documents,
                passages=status.passages,
                without_vector=status.without_vector,
                by_meaning=self._encoder is not None and question.has_meaning,
                only=request.only,
                left_out=found.left_out,
            ),
        )

    def _evidence(self, question: Question, expansion: Expansion, only: DocumentFilter) -> _Found:
        """Return what speaks for each passage found, once those that deny what is asked are left out."""
        words = dict(self._index.matching(expansion.clauses, only, CANDIDATES))
        denying = dict(self._index.matching(_denying(expansion), only, CANDIDATES)).keys() - words.keys()
        cosines, floor = self._cosines(question, words, only)
        exact = [set(dict(self._index.matching(group, only, MOST_EXACT))) for group in expansion.exact]
        having_all = set.intersection(*exact) if exact else set()
        best = [sorted(scores, key=lambda each: -scores[each])[:SHORTLIST] for scores in (words, cosines)]
        forms = AskedForms(question, expansion)
        found = _Found({}, {}, floor, len(denying))
        numbers: dict[tuple[str, str], int] = {}
        shortlist = dict.fromkeys([*best[0], *best[1], *(each for each in words if each in having_all)])
        for stored in self._index.passages(list(shortlist)):
            cosine = cosines.get(stored.id)
            affirmed = 1.0
            if stored.passage.spans or question.denies:
                marked = highlights(stored, forms)
                affirmed = 1.0 if stored.is_knowledge else affirmed_share(marked, expansion)
                if affirms_denied(stored, marked, question) or (affirmed == 0 and stored.id not in words):
                    found.left_out += stored.id not in denying
                    continue
            if stored.id not in words and (cosine is None or cosine < LEAST_COSINE):
                continue
            document = numbers.setdefault((stored.document.source, stored.document.key), len(numbers))
            found.stored[stored.id] = stored
            found.evidence[stored.id] = Evidence(
                document, words.get(stored.id, 0.0), cosine, affirmed, stored.id in having_all
            )
        return found

    def _cosines(
        self, question: Question, words: Collection[int], only: DocumentFilter
    ) -> tuple[dict[int, float], float]:
        """Return the cosine of each passage that is near or has the words, and that of the last that is near."""
        if self._encoder is None or not question.has_meaning:
            return {}, 0.0
        vector = self._encoder.query(question.wanted[:MOST_MEANT])
        near = dict(self._index.nearest(vector, only, CANDIDATES))
        found, vectors = self._index.vectors_of([each for each in words if each not in near])
        others = zip(found, map(float, vectors @ vector), strict=True) if found else ()
        floor = min(near.values(), default=LEAST_COSINE)
        if len(near) < CANDIDATES:  # all there are: the last of them may be near
            floor = min(floor, LEAST_COSINE)
        return {**near, **dict(others)}, floor

    def _hit(self, place: int, ranked: Ranked, stored: StoredPassage, evidence: Evidence, forms: AskedForms) -> Hit:
        found = highlights(stored, forms)
        why = reasons(stored, found, forms, self._terminology, evidence.cosine)
        return Hit(place, ranked.score, stored.document, stored.passage, found, why)


def _denying(expansion: Expansion) -> tuple[Clause, ...]:
    """Return the words and concepts of a question, as a text speaks of them that does not count."""
    others = {each: 1.0 for each in EVERY_STANDING if each not in expansion.standings}
    asked = (each for each in expansion.clauses if each.match in ("words", "concept"))
    return tuple(replace(each, standings=others) for each in asked) if others else ()
