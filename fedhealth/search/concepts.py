"""Concepts of medicine: find their terms in text, name them in two languages, go up and down their hierarchy.

Invariants: a concept is "icd10:I50.1", "atc:N04BA02", or "word:troponin" where no classification has it. Terms are
found whatever the order of their words, accents, plurals and function words between them, never across the end of a
sentence; of overlapping terms the longest counts. An abbreviation or a brand as short as one counts in text only where
it is in capitals, and an abbreviation of two letters never: it stands for too much.

Leaves to others: where terms come from (`terminology`), and how a text speaks of what it mentions (`assertions`).
"""

import functools
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedhealth.search.documents import Code
from fedhealth.search.terminology import FILE_NAME, MOST_WORDS, compile_terms, digest
from fedhealth.search.translation import Translation
from fedhealth.search.words import FUNCTION_WORDS, TWO_EDITS_LETTERS, Word, edits, fold, plain, words_of

SENTENCE_END = re.compile(r"[.;:!?](?=\s|$)|\n\s*\n")
LANGUAGES = ("fr", "en")
FEW_WORDS = 12
"""Of so few words the language is a guess."""
LEAST_SPELLED = 5
"""Letters of the shortest word that is taken for another, misspelled."""
LONGEST_ABBREVIATION = 5
LEAST_CLEAR = 3
"""Letters of the shortest abbreviation that is taken at its word in a report."""


class TermFound(NamedTuple):
    """A concept's term in a text.

    Args:
        start: offset of its first character.
        end: offset behind its last character.
        concept: such as "icd10:I50.1".
        term: as the terminology writes it.
        also: further concepts the term covers; a search for the term looks for them too.
    """

    start: int
    end: int
    concept: str
    term: str
    also: tuple[str, ...]

    @property
    def code(self) -> Code | None:
        """The concept's code, None if no classification has it."""
        return code_of(self.concept)


def code_of(concept: str) -> Code | None:
    """Return the code of a concept, None for one that no classification has."""
    system, _, value = concept.partition(":")
    if system == "icd10":
        return Code("icd10", value)
    return Code("atc", value) if system == "atc" else None


class _Term(NamedTuple):
    concept: str
    text: str
    also: tuple[str, ...]
    is_abbreviation: bool


class Terminology:
    """All concepts and terms, read from a compiled file; many threads may ask at once.

    Args:
        path: what `compile_terms` returned.

    >>> terminology = Terminology.load(folder)  # doctest: +SKIP
    >>> terminology.find_mentions("Pas d'infarctus du myocarde.", "fr")[0].concept  # doctest: +SKIP
    'icd10:I21'
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)
        self._lock = threading.Lock()
        self._keys: dict[str, tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]] = {}
        for language, keys, numbers in self._ask("SELECT language, keys, terms FROM found"):
            self._keys[language] = (np.frombuffer(keys, np.uint64), np.frombuffer(numbers, np.uint32))
        self._term = functools.lru_cache(maxsize=1 << 14)(self._read_term)

    @classmethod
    def load(cls, folder: Path, withheld: frozenset[str] = frozenset()) -> "Terminology":
        """Return the terminology compiled in a folder, compiling it first (some seconds) if it is missing or old.

        Args:
            folder: as `compile_terms` wants it.
            withheld: concepts that it must not know, for benchmarks that ask for them.
        """
        return cls(compile_terms(folder, withheld))

    @classmethod
    def at_hand(cls, folder: Path) -> "Terminology | None":
        """Return the terminology that is compiled in a folder, of whatever version; None where this user finds none."""
        path = folder / FILE_NAME
        try:
            return cls(path) if path.is_file() else None
        except (OSError, sqlite3.Error):
            return None

    def find_mentions(self, text: str, language: str | None, *, asked: bool = False) -> tuple[TermFound, ...]:
        """Return the terms in a text.

        Args:
            text: of any length.
            language: "fr" or "en"; any other or None looks for terms of both, and so does a text of few words.
            asked: the text is a query, in which abbreviations count in small letters too.

        Returns:
            Terms in the order of the text, not overlapping.
        """
        words = [word for word in words_of(text) if text[word.start : word.end].lower() not in FUNCTION_WORDS]
        if not words:
            return ()
        among = (language,) if language in LANGUAGES and len(words) > FEW_WORDS else LANGUAGES
        candidates = [each for name in among for each in self._candidates(words, name)]
        candidates.sort(key=lambda found: (found[0] - found[1], found[0]))  # longest first
        taken = np.zeros(len(words), dtype=bool)
        found = []
        for first, behind, number in candidates:
            start, end = words[first].start, words[behind - 1].end
            if taken[first:behind].any() or SENTENCE_END.search(text, start, end):
                continue
            term = self._term(number)
            if term.is_abbreviation and not _stands_for_it(text[start:end], asked):
                continue
            taken[first:behind] = True
            found.append(TermFound(start, end, term.concept, term.text, term.also))
        return tuple(sorted(found))

    def name(self, concept: str, language: str) -> str | None:
        """Return a concept's name in a language, in the other one if it has none there, or None if it is unknown."""
        rows = self._ask("SELECT fr, en FROM concept WHERE id = ?", concept)
        names = dict(zip(LANGUAGES, rows[0], strict=True)) if rows else {}
        return names.get(language) or names.get("fr") or names.get("en")

    def meaning(self, code: str, language: str) -> str | None:
        """Return a code's name, or of a group without one some names of what is below it; None if all are unknown.

        Args:
            code: in the form of `fedhealth.study.count_query.Code`.
            language: as of `name`.
        """
        if (name := self.name(code, language)) is not None:
            return name
        below = self._ask(
            "SELECT id FROM concept WHERE id LIKE ? || '_%' AND coalesce(fr, en) IS NOT NULL ORDER BY id LIMIT 4", code
        )
        names = [self.name(str(concept), language) or str(concept) for (concept,) in below]
        return "; ".join([*names[:3], *(["and others"] if len(names) > 3 else [])]) if names else None

    def knows(self, concept: str) -> bool:
        """Return whether a concept is of its classification, with a name or, as a group of drugs, without one."""
        return bool(self._ask("SELECT 1 FROM concept WHERE id = ?", concept))

    def spelling(self, word: str) -> str | None:
        """Return the nearest word of a term for one that no term has, None where none is near.

        Args:
            word: as a person writes it.
        """
        folded = fold(word)
        most = (len(folded) >= LEAST_SPELLED) + (len(folded) >= TWO_EDITS_LETTERS)
        if not most or not folded.isalpha() or self._ask("SELECT 1 FROM word WHERE folded = ?", folded):
            return None
        near = self._ask(
            "SELECT folded, written, times FROM word WHERE (substr(folded, 1, 1) = ? OR substr(folded, 2, 2) = ?)"
            " AND length(folded) BETWEEN ? AND ?",
            folded[0],
            folded[1:3],
            len(folded) - most,
            len(folded) + most,
        )
        distances = ((edits(folded, other), other[0] != folded[0], written, times) for other, written, times in near)
        nearest = (
            (far, is_other, edits(plain(word), written), -times, written)
            for far, is_other, written, times in distances
            if far <= most
        )
        best = min(nearest, default=None)
        return best and str(best[-1])

    def named_in_both(self, system: str) -> tuple[str, ...]:
        """Return the concepts of a classification, such as "icd10", that have a name in both languages, in order."""
        rows = self._ask(
            "SELECT id FROM concept WHERE id LIKE ? || ':%' AND fr IS NOT NULL AND en IS NOT NULL ORDER BY id", system
        )
        return tuple(str(each) for (each,) in rows)

    def terms(self, concept: str, language: str) -> tuple[str, ...]:
        """Return how a language writes a concept, our own terms first, then labels from the classifications."""
        rows = self._ask(
            "SELECT DISTINCT text FROM term WHERE concept = ? AND language IN (?, '') ORDER BY rank, number",
            concept,
            language,
        )
        return tuple(str(text) for (text,) in rows)

    def ancestors(self, concept: str) -> tuple[str, ...]:
        """Return the concepts above, nearest first."""
        above = []
        while rows := self._ask("SELECT parent FROM concept WHERE id = ? AND parent IS NOT NULL", concept):
            concept = str(rows[0][0])
            above.append(concept)
        return tuple(above)

    def descendants(self, concept: str) -> tuple[str, ...]:
        """Return all concepts below, in the order of their codes."""
        rows = self._ask(
            "WITH RECURSIVE below(id) AS (SELECT id FROM concept WHERE parent = ?"
            " UNION SELECT concept.id FROM concept JOIN below ON concept.parent = below.id)"
            " SELECT id FROM below ORDER BY id",
            concept,
        )
        return tuple(str(each) for (each,) in rows)

    def translations(self, word: str, language: str) -> tuple[Translation, ...]:
        """Return a folded word's translations from French or English into the other, the likeliest first."""
        rows = self._ask(
            "SELECT word, other, probability FROM translation WHERE language = ? AND word = ?"
            " ORDER BY probability DESC, other",
            language,
            word,
        )
        return tuple(Translation(*row) for row in rows)

    def _ask(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(question, values).fetchall()

    def _read_term(self, number: int) -> _Term:
        ((concept, text, rank, also),) = self._ask(
            "SELECT concept, text, rank, also FROM term WHERE number = ?", number
        )
        own_or_brand = rank == 0 or concept.startswith("atc:")
        short = own_or_brand and text == text.upper() and len(text) <= LONGEST_ABBREVIATION and " " not in text
        return _Term(concept, text, tuple(also.split()), short)

    def _candidates(self, words: list[Word], language: str) -> Iterator[tuple[int, int, int]]:
        """Yield the first word, the word behind the last, and the number of each term in some words, overlapping."""
        keys, numbers = self._keys[language]
        sums = np.zeros(len(words) + 1, dtype=np.uint64)
        np.cumsum(np.array([digest(word.folded) for word in words], dtype=np.uint64), out=sums[1:])
        for length in range(1, min(MOST_WORDS, len(words)) + 1):
            wanted = sums[length:] - sums[:-length]  # modulo 2^64, as keys are
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            for first in np.flatnonzero(keys[at] == wanted):
                yield int(first), int(first) + length, int(numbers[at[first]])


def _stands_for_it(written: str, asked: bool) -> bool:
    """Return whether letters of an abbreviation mean it; in a query small ones do too, from three letters on."""
    if len(written) < LEAST_CLEAR:
        return asked and written.isupper()
    return asked or written == written.upper()
