"""The words of an index: a tantivy index in which a word is found by how the text speaks of it.

Each passage has, for each standing (affirmed, negated, hypothesis, family, history, and its document's title), the
words that stand so in fields of their own, so that a question for an effusion does not meet "no effusion" unless it
asks to. Of each standing there are three fields: words under the name of their language, French and English ones
without stop words, folded to plain letters and stemmed (Snowball), others folded; all words folded and in order, for
identifiers, codes in the text and typing errors; and the concepts of a classification with all above them.

Invariants: a passage's words are here from one commit on, all of them; nothing is stored but words and numbers; the
numbers of passages are the store's, which decides whether a passage still exists.

Source: tantivy, https://docs.rs/tantivy; BM25 with k1 = 1.2 and b = 0.75 (Robertson & Zaragoza 2009).
Leaves to others: which questions to ask (`query`, `expansion`), what a hit looks like (`store`), erasure (`index`).
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import tantivy

from fedhealth.search.documents import Assertion, DocumentFilter
from fedhealth.search.stored_rows import StoredPassage
from fedhealth.search.words import ONE_EDIT_LETTERS, TWO_EDITS_LETTERS

Standing = Literal["affirmed", "negated", "hypothesis", "family", "history", "title"]
Analysis = Literal["fr", "en", "other"]
Match = Literal["words", "phrase", "typo", "concept"]

STEMMERS: dict[Analysis, str] = {"fr": "french", "en": "english"}
EXACT = "exact"
STEMMED = "stemmed"
CONCEPT = "concept"
LONGEST_WORD_BYTES = 80
WRITER_BYTES = 50_000_000
WORD = re.compile(r"[^\W_]+")
AGAIN = 0.6
"""Of a word's score where a passage has it in a second standing: a word in text and title says more than in one.
Chosen on the development half of MedQuAD's questions (`benchmarks/search.py`), flat from there to 1."""


class ScoredPassage(NamedTuple):
    """A passage and how well it answers; comparable within one answer only."""

    passage: int
    score: float


def default_standings() -> Mapping[Standing, float]:
    """Return what a question means that says nothing else: affirmed, now or in the past, or in the title."""
    return {"affirmed": 1.0, "history": 1.0, "title": 1.0}


@dataclass(frozen=True)
class Clause:
    """A part of a question; a passage scores the sum over the clauses it meets.

    Args:
        text: words, an identifier, or a concept such as "icd10:I21" or "atc:N04B".
        match: `words` scores each word by itself, stemmed; `phrase` wants all words in order, as they stand but for
            case and accents; `typo` is `words` with small errors in each; `concept` finds the concept and all below it.
        standings: how the text may speak of it, and the weight of each; a word counts where it weighs most, and by
            `AGAIN` of that wherever else the passage has it; the others count once.
        weight: of the whole clause.
        occur: `must` and `must-not` keep and leave out passages; `should` only scores.
        analyses: which stemmed words `words` looks at.
    """

    text: str
    match: Match = "words"
    standings: Mapping[Standing, float] = field(default_factory=default_standings)
    weight: float = 1.0
    occur: Literal["should", "must", "must-not"] = "should"
    analyses: tuple[Analysis, ...] = ("fr", "en", "other")


class Lexical:
    """One open tantivy index.

    Args:
        folder: of its files; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._schema = _schema()
        self._index = tantivy.Index(self._schema, path=str(folder))
        self._analyzers = {name: _analyzer(name) for name in get_args(Analysis)}
        self._index.register_tokenizer(STEMMED, tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
        self._index.register_tokenizer(EXACT, self._analyzers["other"])
        self._index.config_reader("manual")
        self.reload()

    def reload(self) -> None:
        """Look at what was committed last, by whichever process."""
        self._index.reload()
        self._searcher = self._index.searcher()

    def put(self, gone: Iterable[int], passages: Iterable[tuple[StoredPassage, Sequence[str]]]) -> None:
        """Take passages out, put others in, and make both durable and visible at once.

        Args:
            gone: numbers to take out; a passage that is put in again must be among them.
            passages: each with all concepts that its document holds.
        """
        writer = self._index.writer(heap_size=WRITER_BYTES, num_threads=1)
        numbers = list(gone)
        if numbers:  # by a query: of a number alone, tantivy makes a signed term, which names no passage
            writer.delete_documents_by_query(tantivy.Query.term_set_query(self._schema, "passage", numbers))
        for passage, held in passages:
            writer.add_document(self._fields_of(passage, held))
        writer.commit()
        writer.wait_merging_threads()
        self.reload()

    def search(
        self, clauses: Sequence[Clause], only: DocumentFilter, limit: int, within: Sequence[int] | None = None
    ) -> list[ScoredPassage]:
        """Return the passages that meet the clauses best, best first; equal ones in the order of their numbers.

        Args:
            clauses: of which a passage meets at least one that is not `must-not`.
            only: which documents; a patient's are named by `within`, because no patient's key is here.
            limit: at most so many.
            within: numbers of passages, if no others are wanted.
        """
        parts = [(_OCCUR[clause.occur], query) for clause in clauses if (query := self._query(clause)) is not None]
        if not any(occur != tantivy.Occur.MustNot for occur, _ in parts):
            return []
        query = tantivy.Query.boolean_query(
            [(tantivy.Occur.Must, tantivy.Query.boolean_query(parts)), *self._filters(only, within)]
        )
        hits = self._searcher.search(query, limit, count=False).hits
        numbers = self._searcher.fast_field_values("passage", [address for _, address in hits])
        found = [
            ScoredPassage(int(number), float(score))
            for number, (score, _) in zip(numbers, hits, strict=True)
            if number is not None
        ]
        return sorted(found, key=lambda each: (-each.score, each.passage))

    def _fields_of(self, stored: StoredPassage, held: Sequence[str]) -> tantivy.Document:
        document = stored.document
        made = tantivy.Document()
        made.add_unsigned("passage", stored.id)
        made.add_text("kind", document.kind)
        made.add_text("language", stored.language)
        if document.sex is not None:
            made.add_text("sex", document.sex)
        if document.date is not None:
            made.add_integer("day", document.date.toordinal())
        if document.age is not None:
            made.add_integer("age", document.age)
        for concept in held:
            made.add_text("held", concept)
        for concept in stored.stated:
            made.add_text(f"title_{CONCEPT}", concept)
        analysis: Analysis = next((name for name in STEMMERS if name == stored.language), "other")
        analyze = self._analyzers[analysis].analyze
        texts: list[tuple[str, str]] = [*texts_by_standing(stored).items(), ("title", document.title)]
        if stored.is_knowledge:
            texts = [("affirmed", stored.passage.text), *(each for each in texts if each[0] != "affirmed")]
        for standing, text in texts:
            made.add_text(f"{standing}_{STEMMED}", " ".join(_marked(analysis, token) for token in analyze(text)))
            made.add_text(f"{standing}_{EXACT}", text)
        for mention, concepts in zip(stored.mentions, stored.concepts, strict=True):
            standings = {mention.assertion, "affirmed"} if stored.is_knowledge else {mention.assertion}
            for standing, concept in itertools.product(standings, concepts):
                made.add_text(f"{standing}_{CONCEPT}", concept)
        return made

    def frequency(self, word: str, standing: Standing, analysis: Analysis) -> int:
        """Return in how many passages a word stands so, as this analysis sees it; 0 for a stop word."""
        tokens = self._analyzers[analysis].analyze(word)
        return sum(self._searcher.doc_freq(f"{standing}_{STEMMED}", _marked(analysis, token)) for token in tokens)

    def _query(self, clause: Clause) -> tantivy.Query | None:
        made = {"words": self._words, "phrase": self._phrase, "typo": self._typo, "concept": self._concept}
        query = made[clause.match](clause)
        return None if query is None else tantivy.Query.boost_query(query, clause.weight)

    def _words(self, clause: Clause) -> tantivy.Query | None:
        words = []
        for word in WORD.findall(clause.text):
            analyzed = [(name, token) for name in clause.analyses for token in self._analyzers[name].analyze(word)]
            terms = [
                (self._term(f"{standing}_{STEMMED}", _marked(name, token)), weight)
                for name, token in analyzed
                for standing, weight in clause.standings.items()
            ]
            best = self._best(terms, AGAIN)
            words += [best] if analyzed else []
        return _any_of(words)

    def _typo(self, clause: Clause) -> tantivy.Query | None:
        words = []
        for word in self._analyzers["other"].analyze(clause.text):
            edits = (len(word) >= ONE_EDIT_LETTERS) + (len(word) >= TWO_EDITS_LETTERS)
            if edits and not any(letter.isdigit() for letter in word):
                words.append(
                    self._best(
                        (tantivy.Query.fuzzy_term_query(self._schema, f"{standing}_{EXACT}", word, edits), weight)
                        for standing, weight in clause.standings.items()
                    )
                )
        return _any_of(words)

    def _phrase(self, clause: Clause) -> tantivy.Query | None:
        words: list[str | tuple[int, str]] = list(self._analyzers["other"].analyze(clause.text))
        if not words:
            return None
        return self._best(
            (
                tantivy.Query.phrase_query(self._schema, f"{standing}_{EXACT}", words)
                if len(words) > 1
                else self._term(f"{standing}_{EXACT}", str(words[0])),
                weight,
            )
            for standing, weight in clause.standings.items()
        )

    def _concept(self, clause: Clause) -> tantivy.Query:
        return self._best(
            (tantivy.Query.term_query(self._schema, f"{standing}_{CONCEPT}", clause.text, "basic"), weight)
            for standing, weight in clause.standings.items()
        )

    def _term(self, name: str, token: str) -> tantivy.Query:
        return tantivy.Query.term_query(self._schema, name, token, "freq")

    def _best(self, queries: Iterable[tuple[tantivy.Query, float]], again: float = 0.0) -> tantivy.Query:
        """Return what counts with the best of its scores, and with a share of each of the others."""
        return tantivy.Query.disjunction_max_query(
            [tantivy.Query.boost_query(query, weight) for query, weight in queries if weight > 0], again
        )

    def _filters(self, only: DocumentFilter, within: Sequence[int] | None) -> list[tuple[tantivy.Occur, tantivy.Query]]:
        query, schema = tantivy.Query, self._schema
        wanted = [
            query.term_set_query(schema, name, sorted(values))
            for name, values in (
                ("kind", only.kinds),
                ("language", only.languages),
                ("sex", {only.sex} - {None}),
                ("held", {f"{code.system}:{code.value}" for code in only.codes}),
            )
            if values
        ]
        if within is not None:
            wanted.append(query.term_set_query(schema, "passage", within))
        days = tuple(None if day is None else day.toordinal() for day in (only.since, only.until))
        wanted += [
            query.range_query(schema, name, tantivy.FieldType.Integer, low, high, include_upper=True)
            for name, (low, high) in (("day", days), ("age", (only.youngest, only.oldest)))
            if low is not None or high is not None
        ]
        return [(tantivy.Occur.Must, query.const_score_query(each, 0.0)) for each in wanted]


_OCCUR = {"should": tantivy.Occur.Should, "must": tantivy.Occur.Must, "must-not": tantivy.Occur.MustNot}


def texts_by_standing(passage: StoredPassage) -> dict[Assertion, str]:
    """Return a passage's text taken apart by how it speaks, each part in the order of the text."""
    parts: dict[Assertion, list[str]] = {name: [] for name in get_args(Assertion)}
    at = passage.passage.start
    for start, end, assertion in passage.passage.spans:
        parts["affirmed"].append(_between(passage, at, start))
        parts[assertion].append(_between(passage, start, end))
        at = end
    parts["affirmed"].append(_between(passage, at, passage.passage.end))
    return {name: "\n".join(texts) for name, texts in parts.items() if any(texts)}


def _between(passage: StoredPassage, start: int, end: int) -> str:
    return passage.passage.text[start - passage.passage.start : end - passage.passage.start]


def _any_of(queries: Sequence[tantivy.Query]) -> tantivy.Query | None:
    return tantivy.Query.boolean_query([(tantivy.Occur.Should, each) for each in queries]) if queries else None


def _analyzer(name: Analysis) -> tantivy.TextAnalyzer:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    builder = builder.filter(tantivy.Filter.remove_long(LONGEST_WORD_BYTES)).filter(tantivy.Filter.lowercase())
    language = STEMMERS.get(name)
    if language is not None:  # stop words are listed with their accents, words are stemmed without theirs
        builder = builder.filter(tantivy.Filter.stopword(language))
    builder = builder.filter(tantivy.Filter.ascii_fold())
    if language is not None:
        builder = builder.filter(tantivy.Filter.stemmer(language))
    return builder.build()


def _marked(analysis: Analysis, token: str) -> str:
    """Return a token with its analysis before it.

    All languages share a field for each standing: were each a field of its own, whose mean length tantivy takes over
    all passages, then one French letter among thousands of English reports would look thousands of times too long, and
    BM25 would not count its words.
    """
    return f"{analysis}|{token}"


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder().add_unsigned_field("passage", indexed=True, fast=True)
    for name in ("kind", "language", "sex", "held"):
        builder = builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
    for name in ("day", "age"):
        builder = builder.add_integer_field(name, indexed=True, fast=True)
    for standing in get_args(Standing):
        builder = builder.add_text_field(f"{standing}_{STEMMED}", tokenizer_name=STEMMED, index_option="freq")
        builder = builder.add_text_field(f"{standing}_{EXACT}", tokenizer_name=EXACT, index_option="position")
        builder = builder.add_text_field(f"{standing}_{CONCEPT}", tokenizer_name="raw", index_option="basic")
    return builder.build()
