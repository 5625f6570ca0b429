"""Join what words find with what vectors find into one order of documents.

Source: a convex combination of scores, each scaled to its own range, loses less than a fusion of ranks, which forgets
by how much the first is better than the second (Bruch, Gai & Ingber, "An analysis of fusion functions for hybrid
retrieval", ACM Trans. Inf. Syst. 42(1), 2023). Words are scaled by the best score, or by what all words asked would
give if that is much more, similarities between the best and the last that was looked at; a document has the best of its
passages in each.

Invariants: who asks for codes or identifiers has all that have them before all others, and vectors do not count in
their order; a passage that only denies what is asked does not count as similar to it.
Leaves to others: searching (`index`), what a passage says of the words asked (`explanation`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

CANDIDATES = 200
"""Passages looked at from each side."""
SIMILARITY_WEIGHT = 1.0
"""Of the similarity, words having 1. Chosen, as the next, on development halves alone, for all of them together: of
PubMedQA, of MedQuAD's questions, and of French names of codes with and without a dictionary (`benchmarks/search.py`).
At 0.7 names without a dictionary are 0.017 worse, at 1.2 MedQuAD's questions 0.007."""
LEAST_COVERED = 0.75
"""Of the score of all words. Less is scaled as less, so that the one word that a question shares with texts of another
language does not outweigh its meaning: without it, what both find together is worse for such questions than what
vectors find alone (R@1 0.77 for 0.88, names without a dictionary). Flat between 0.6 and 0.9."""
LEAST_SPREAD = 0.07
"""Cosine between the best and the last candidate below which their order says little: flat from 0.05 to 0.08 but for
MedQuAD's questions, which are 0.02 better here than at 0.05; above, names without a dictionary are worse."""
EXACT_BONUS = 3.0
"""More than words and similarity can give together."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for a passage.

    Args:
        document: its document, by any number.
        words: BM25, 0 if its words do not match.
        cosine: of question and passage, None without a vector.
        affirmed: share (0 to 1) of the words asked, of those that it has, of which it speaks as asked.
        is_exact: it has all codes and identifiers asked for.
    """

    document: int
    words: float
    cosine: float | None
    affirmed: float = 1.0
    is_exact: bool = False


@dataclass(frozen=True)
class Ranked:
    """A document's place: its best passage and its score (0 to 1 + `SIMILARITY_WEIGHT` + `EXACT_BONUS`)."""

    document: int
    passage: int
    score: float


def rank(evidence: Mapping[int, Evidence], floor: float, all_words: float = 0.0) -> list[Ranked]:
    """Return documents, best first; equal ones in the order of their numbers.

    Args:
        evidence: of each passage that words or vectors found.
        floor: cosine of the last passage that was looked at for its vector; as near as that counts nothing.
        all_words: BM25 of a passage that has all words asked for: scores far below it say little, even the best.
    """
    best_words = max((each.words for each in evidence.values()), default=0.0)
    most_words = max(best_words, LEAST_COVERED * all_words) or 1.0
    nearest = max((each.cosine for each in evidence.values() if each.cosine is not None), default=floor)
    spread = max(nearest - floor, LEAST_SPREAD)
    words: dict[int, float] = {}
    similar: dict[int, float] = {}
    exact: dict[int, float] = {}
    best: dict[int, tuple[float, int]] = {}
    for number, each in evidence.items():
        by_words = each.words / most_words
        by_vector = 0.0 if each.cosine is None else each.affirmed * max(each.cosine - floor, 0.0) / spread
        bonus = EXACT_BONUS * each.is_exact
        words[each.document] = max(words.get(each.document, 0.0), by_words)
        similar[each.document] = max(similar.get(each.document, 0.0), by_vector)
        exact[each.document] = max(exact.get(each.document, 0.0), bonus)
        score = by_words + SIMILARITY_WEIGHT * by_vector + bonus
        best[each.document] = max(best.get(each.document, (0.0, 0)), (score, -number))
    ranked = [
        Ranked(document, -best[document][1], words[document] + SIMILARITY_WEIGHT * similar[document] + exact[document])
        for document in words
    ]
    return sorted((each for each in ranked if each.score > 0), key=lambda each: (-each.score, each.document))
