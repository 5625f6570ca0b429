"""Translations of single words, learned from names that two classifications give one concept.

Source: Brown et al., "The mathematics of statistical machine translation", Computational Linguistics 19(2), 1993: model
1, in which each word of a name comes from any word of the other language's name, fitted by expectation-maximisation.
Names of diseases are short and parallel, so that ten thousand of them teach some thousand words of medicine.

Invariants: words are folded (`words`); what they are translated into is written as labels write it most.
Leaves to others: which names belong together (`terminology`), what is asked with the translations (`expansion`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedhealth.search.words import FUNCTION_WORDS, words_of

ITERATIONS = 8
LEAST_PROBABILITY = 0.1
MOST_TRANSLATIONS = 3


class Translation(NamedTuple):
    """One translation of a folded word, and its probability (0 to 1) among all of that word."""

    word: str
    other: str
    probability: float


def learn_translations(names: Sequence[tuple[str, str]]) -> Iterator[Translation]:
    """Yield translations of the words on the left of pairs of names into words on the right.

    Args:
        names: of one concept each, in the language translated from and in the other.

    >>> names = [("rein", "kidney"), ("lésion du rein", "injury of kidney"), ("lésion du foie", "injury of liver")]
    >>> next(each.other for each in learn_translations(names) if each.word == "foie")
    'liver'
    """
    left, right = _Vocabulary(), _Vocabulary()
    links: list[tuple[int, int, int]] = []  # a word, a word of the other name, and which of those it is
    place = 0
    for name, other in names:
        words = left.numbers(name)
        for each in right.numbers(other):
            links += [(word, each, place) for word in words]
            place += 1
    if not links:
        return
    words_at, others_at, places = np.array(links, dtype=np.int64).T
    pairs, pair_at = np.unique(words_at * len(right) + others_at, return_inverse=True)
    word_of_pair = pairs // len(right)
    probability = _fit(pair_at, places, word_of_pair)
    found: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for pair in np.flatnonzero(probability >= LEAST_PROBABILITY):
        found[int(word_of_pair[pair])].append((float(probability[pair]), int(pairs[pair] % len(right))))
    for word, others in sorted(found.items()):
        for share, other_word in sorted(others, reverse=True)[:MOST_TRANSLATIONS]:
            yield Translation(left.folded[word], right.written(other_word), share)


def _fit(
    pair_at: npt.NDArray[np.int64], places: npt.NDArray[np.int64], word_of_pair: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return each pair's probability: of its second word, given its first."""
    probability = np.ones(len(word_of_pair))
    for _ in range(ITERATIONS):
        weight = probability[pair_at]
        weight /= np.bincount(places, weight)[places]
        expected = np.bincount(pair_at, weight, len(word_of_pair))
        probability = expected / np.bincount(word_of_pair, expected)[word_of_pair]
    return probability


class _Vocabulary:
    """The folded words of one side, numbered as they come, and how each is written."""

    def __init__(self) -> None:
        self.folded: list[str] = []
        self._numbers: dict[str, int] = {}
        self._written: list[Counter[str]] = []

    def __len__(self) -> int:
        return len(self.folded)

    def numbers(self, name: str) -> list[int]:
        """Return the numbers of a name's words, each once, function words left out."""
        found: dict[int, None] = {}
        for word in words_of(name):
            written = name[word.start : word.end].lower()
            if written in FUNCTION_WORDS:
                continue
            number = self._numbers.setdefault(word.folded, len(self.folded))
            if number == len(self.folded):
                self.folded.append(word.folded)
                self._written.append(Counter())
            self._written[number][written] += 1
            found[number] = None
        return list(found)

    def written(self, number: int) -> str:
        """Return how a word is written most."""
        return min(self._written[number].items(), key=lambda each: (-each[1], each[0]))[0]
