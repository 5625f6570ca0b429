"""Words of French and English medical text, folded so that writings of one word are equal.

Folding takes off accents, case, plural endings and the spellings in which the two languages, or British and American
English, write one Greek or Latin word ("œdème" and "edema", "haemorrhage" and "hemorrhage", "pneumonie" and
"pneumonies"). It is for recognising terms and cognates, not a stemmer for prose: inflected words stay apart.

Leaves to others: what words mean (`concepts`), sentences and language (`passages`, `language`).
"""

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

WORD = re.compile(r"[^\W_]+")
ONE_EDIT_LETTERS = 4
"""A word of so many letters may have one letter wrong, missing, added or swapped with its neighbour ..."""
TWO_EDITS_LETTERS = 8
"""... and one of so many two."""
SHORTEST_INFLECTED = 4
"""Letters of the shortest word whose ending is taken off: "os", "pus" and "gaz" keep theirs."""

FUNCTION_WORDS = frozenset(
    """
    le la les l un une des du de d a à au aux en par pour sur dans ce cet cette ces se s son sa ses est sont avoir ayant
    qui que qu il elle on ne n y j je leur leurs chez lors
    a an the of in on to for by at as is are was were be been its it this that these those from his her their which who
    does do did has have had can i my what how
    """.split()  # noqa: SIM905  # a list of a word a line hides which are missing
)
"""Words that a term may have or lack without becoming another; "sans", "no", "with" and "and" are not among them."""


class Word(NamedTuple):
    """A word of a text: offsets in it, and its folded form."""

    start: int
    end: int
    folded: str


def words_of(text: str) -> Iterator[Word]:
    """Yield each word of a text in order, folded."""
    for match in WORD.finditer(text):
        yield Word(match.start(), match.end(), fold(match.group()))


@functools.lru_cache(maxsize=1 << 17)
def fold(word: str) -> str:
    """Return one word without what writings of it differ in.

    >>> fold("Œdèmes"), fold("oedema"), fold("Pneumonies"), fold("haemorrhages")
    ('edem', 'edema', 'pneumoni', 'hemorrhag')
    """
    folded = plain(word).replace("oe", "e").replace("ae", "e")
    if len(folded) < SHORTEST_INFLECTED or not folded.isalpha():
        return folded
    if folded.endswith("aux"):
        folded = folded[:-2] + "l"
    if folded.endswith(("s", "x")) and not folded.endswith(("ss", "us", "is")):
        folded = folded[:-1]
    if folded.endswith("our"):
        folded = folded[:-3] + "or"
    if len(folded) > SHORTEST_INFLECTED and folded.endswith("e"):
        folded = folded[:-1]
    return folded[:-1] + "i" if folded.endswith("y") else folded


def edits(one: str, other: str) -> int:
    """Return how many letters differ: wrong, missing, added, or two neighbours swapped.

    >>> edits("myocrade", "myocarde"), edits("troponne", "troponine")
    (1, 1)
    """
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, letter in enumerate(one, start=1):
        line = [row]
        for column, against in enumerate(other, start=1):
            least = min(last[column] + 1, line[-1] + 1, last[column - 1] + (letter != against))
            if before and column > 1 and letter == other[column - 2] and one[row - 2] == against:
                least = min(least, before[column - 2] + 1)
            line.append(least)
        before, last = last, line
    return last[-1]


def plain(text: str) -> str:
    """Return a text in lower case and without accents, ligatures spelled out.

    >>> plain("Cœur À l'arrêt")
    "coeur a l'arret"
    """
    lowered = text.lower().replace("œ", "oe").replace("æ", "ae")
    if lowered.isascii():
        return lowered
    return "".join(each for each in unicodedata.normalize("NFKD", lowered) if not unicodedata.combining(each))
