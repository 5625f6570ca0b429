"""What a cue is, how the cues of a language are written as tables, and how they are found in a sentence.

A cue is words that say how a sentence speaks of the words near them ("pas de", "suspected"). Tables hold regular
expressions over folded text, one a line; all of a language's become one expression, grouped by first letter, so that
looking for some hundreds costs little more than looking for one.

Leaves to others: what is in the tables (`french_cues`, `english_cues`, `other_cues`), and how far a cue
reaches (`assertions`).
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from fedhealth.search.documents import Assertion

Direction = Literal["behind", "before", "around", "either", "adjective", "none"]
"""Where the words are that a cue speaks of. `either`: before it, or behind it where nothing is before; `adjective`:
behind it, or before it where its clause ends; `none`: it looks like a cue and is none ("sans doute")."""

PREFIX_CHARACTERS = 3
WORD_ENDS = r"(?!(?<=\w)\w)"

_APART = re.compile(r"\s*\n\s*|\s{2,}")
_WORD_START = re.compile(r"(?<!\w)\w")
_LITERAL = re.compile("[a-z0-9' ]+")
_SIGN = re.compile(r"[^\w\s,.;']|[0ø]")
_CLAUSE_START = r"(?:^|(?<=^ )|(?<=[,;:.(>*•+-] )|(?<=[(>*•-])|(?<=[,;:.]  ))"


@dataclass(frozen=True)
class Cue:
    """A kind of cue: all that holds for a table of patterns.

    Args:
        patterns: regular expressions over folded text, without groups that capture; the first character is literal.
        assertion: what they say of the words they speak of; None for those that say nothing.
        direction: where these words are.
        lists: over which commas the scope goes on: those that the grammar takes for a list's, also those between few
            words ("nie fievre, toux, frissons"), or every one ("antecedents: ...").
        reach: words the scope has at most.
        is_mark: the patterns may begin with a sign, and end inside a word.
        opens_clause: they count only where a clause begins, behind a sign or nothing.
    """

    patterns: tuple[str, ...]
    assertion: Assertion | None
    direction: Direction
    lists: Literal["of the grammar", "of few words", "all"] = "of the grammar"
    reach: int = 14
    is_mark: bool = False
    opens_clause: bool = False


class CueFound(NamedTuple):
    """A cue in a sentence: its offsets there, and its kind."""

    start: int
    end: int
    cue: Cue


class Grammar:
    """How a language's sentences are read; all but the cues and the last are regular expressions over folded text.

    Args:
        cues: tables; where patterns of two begin at one place, the earlier table's counts.
        barriers: words at which a clause ends, by the assertion whose scopes end there; "every" is for all.
        conjunction: "et".
        member: what stands behind a comma or conjunction if a list goes on there.
        clause: what stands there if something new begins.
        alternative: members of a list whose last stands behind "ou" or "ni".
        complement: what follows an adjective that speaks of the words before it ("possible chez ...").
        lists_by_commas: whether a scope goes on over a comma unless something new begins, as in English.
    """

    def __init__(
        self,
        cues: Sequence[Cue],
        *,
        barriers: Mapping[Assertion | Literal["every"], str],
        conjunction: str,
        member: str,
        clause: str,
        alternative: str,
        complement: str,
        lists_by_commas: bool,
    ) -> None:
        every = barriers["every"]
        self.finder = CueFinder(cues)
        self.barriers: dict[Assertion, re.Pattern[str]] = {
            kind: re.compile(f"{every}|{barriers[kind]}") for kind in ("negated", "hypothesis", "family", "history")
        }
        self.barriers_before = re.compile(rf"{every}|[,:?()]|(?<!\w)-(?!\w)")
        self.joints = re.compile(f",|{conjunction}")
        self.conjunction = re.compile(conjunction)
        self.member = re.compile(member)
        self.clause = re.compile(clause)
        self.alternative = re.compile(alternative)
        self.complement = re.compile(complement)
        self.lists_by_commas = lists_by_commas


def table(lines: str) -> tuple[str, ...]:
    """Return the patterns of a table, one a line; a line that begins with "|" goes on with the one above."""
    return tuple("\n".join(line.strip() for line in lines.strip().splitlines()).replace("\n|", "|").splitlines())


def any_of(lines: str) -> str:
    """Return one expression for patterns that stand in lines or two blanks apart; words are whole.

    >>> bool(re.search(any_of("mais  =>"), "jamais")), bool(re.search(any_of("mais  =>"), "a=>b"))
    (False, True)
    """
    patterns = _APART.split(lines.strip())
    words = "|".join(each for each in patterns if each[0].isalnum())
    signs = [f"(?:{each}){WORD_ENDS}" for each in patterns if not each[0].isalnum()]
    return "|".join([rf"(?<!\w)(?:{words}){WORD_ENDS}", *signs] if words else signs)


class CueFinder:
    """Finds all cues of a language, at a cost that hardly grows with their number.

    At each word the patterns that can begin with its first three characters are tried, as one expression; for most
    words there is none. Patterns that begin with a sign are looked for apart.

    Args:
        cues: in order of preference.
    """

    def __init__(self, cues: Sequence[Cue]) -> None:
        self._cues: dict[str, Cue] = {}
        self._of_words: dict[str, list[tuple[int, str]]] = {}
        of_signs = []
        for number, cue in enumerate(cues):
            for place, pattern in enumerate(each for whole in cue.patterns for each in _spelled(whole)):
                name = f"c{number}_{place}"
                self._cues[name] = cue
                if pattern[0].isalnum():
                    ending = "" if cue.is_mark else WORD_ENDS
                    beginning = _CLAUSE_START if cue.opens_clause else ""
                    numbered = (len(self._cues), f"{beginning}(?P<{name}>{pattern}){ending}")
                    self._of_words.setdefault(_literal_prefix(pattern), []).append(numbered)
                else:
                    of_signs.append(f"(?P<{name}>{pattern})")
        self._of_signs = re.compile("|".join(of_signs)) if of_signs else None
        self._beginning_with = functools.lru_cache(maxsize=1 << 16)(self._compile)

    def find(self, sentence: str) -> list[CueFound]:
        """Return the cues of a folded sentence in order, not overlapping."""
        found = []
        behind = 0
        for word in _WORD_START.finditer(sentence):
            at = word.start()
            if at < behind:
                continue
            expression = self._beginning_with(sentence[at : at + PREFIX_CHARACTERS])
            match = expression.match(sentence, at) if expression else None
            if match:
                behind = match.end()
                found.append(CueFound(at, behind, self._cues[match.lastgroup or ""]))
        if self._of_signs is None or not _SIGN.search(sentence):
            return found
        for match in self._of_signs.finditer(sentence):
            found.append(CueFound(match.start(), match.end(), self._cues[match.lastgroup or ""]))
        behind = 0
        apart = []
        for each in sorted(found, key=lambda cue: (cue.start, -cue.end)):
            if each.start >= behind:
                apart.append(each)
                behind = each.end
        return apart

    def _compile(self, beginning: str) -> re.Pattern[str] | None:
        """Return the patterns that a text with this beginning may match, in order of preference."""
        prefixes = (beginning[:length] for length in range(1, PREFIX_CHARACTERS + 1))
        numbered = sorted({each for prefix in prefixes for each in self._of_words.get(prefix, ())})
        return _alternatives(tuple(pattern for _, pattern in numbered))


@functools.cache
def _alternatives(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile("|".join(patterns)) if patterns else None


def _literal_prefix(pattern: str) -> str:
    """Return the first characters that a pattern matches as they stand, at most three."""
    literal = _LITERAL.match(pattern)
    prefix = literal.group() if literal else ""
    if pattern[len(prefix) : len(prefix) + 1] in {"?", "*", "{"}:
        prefix = prefix[:-1]
    return prefix[:PREFIX_CHARACTERS]


def _spelled(pattern: str) -> Iterator[str]:
    """Yield patterns that begin with a letter each, and together match what one that begins with a group does."""
    if not pattern.startswith("(?:"):
        yield pattern
        return
    depth, begin, members = 1, 3, []
    for at in range(3, len(pattern)):
        sign = pattern[at]
        if sign == "|" and depth == 1:
            members.append(pattern[begin:at])
            begin = at + 1
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            members.append(pattern[begin:at])
            rest = pattern[at + 1 :]
            if rest.startswith("?"):
                rest = rest[1:]
                members.append("")
            for member in members:
                yield from _spelled(member + rest)
            return
