"""Read a question: its language, its words and how it speaks of them, the codes and identifiers in it.

A question is read by the same rules as a report, so that "douleur thoracique sans troponine" asks for chest pain and
for no troponin, and "antécédents familiaux de cancer" asks about the family. A question in a sentence ("Does aspirin
not help?") is about everything it names. One that negates all it names ("pas de fièvre") asks for what is negated.

Invariants: a question is never kept and never in an error or a log. Nothing here depends on what is indexed.
Leaves to others: what the words are expanded to (`expansion`), filters by period, kind, age, sex and code
(`documents.DocumentFilter`).
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fedhealth.errors import ConfigInvalid
from fedhealth.search.assertions import asserted_spans, assertion_of
from fedhealth.search.assertions import fold as fold_in_place
from fedhealth.search.concepts import TermFound, Terminology
from fedhealth.search.documents import EVERY_DOCUMENT, AssertedSpan, Assertion, DocumentFilter
from fedhealth.search.language import detect
from fedhealth.search.words import FUNCTION_WORDS, fold, words_of

_TERMINAL_ORDER = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
MAX_QUERY_CHARACTERS = 20_000
"""Of a question: several pages pasted whole. A longer one is a document."""
MAX_HITS = 1_000
ICD10 = re.compile(r"\b([A-Z][0-9][0-9A-Z])\.?([0-9]{1,3})?(?![.]?\w)", re.IGNORECASE)
ATC = re.compile(r"\b[A-Z][0-9]{2}[A-Z]([A-Z]([0-9]{2})?)?\b", re.IGNORECASE)
IDENTIFIER = re.compile(r"(?<![\w/.-])(?=[\w/.-]*[0-9])[^\W_](?:[\w/.-]*[^\W_])?(?![\w/-])")
CATEGORY = len("I21")
LEAST_DIGITS = 3
"""An identifier has so many digits and a letter or a sign, or is a number as long as `LEAST_PLAIN_DIGITS`."""
LEAST_PLAIN_DIGITS = 5
LONGEST_CODE = len("N04BA02")
"""Of a question that is a code: it may be in small letters."""
CODE_ALONE = re.compile(
    r"(?:(?:code\s*)?(?:cim|icd|atc)?[\s-]*(?:10)?[\s:]+)?([a-z]\s?[0-9][\s0-9a-z]{1,8}(?:[.,-]\s?[0-9]{0,3})?)[x.*-]*",
    re.IGNORECASE,
)
"""A question that is a code and nothing else, in whatever writing: "I 21.9", "i21-9", "CIM-10 : I21,9", "I21.-"."""
SENTENCE = re.compile(
    r"\?\s*$|^\s*(what|which|who|when|where|why|how|is|are|does|do|did|can|could|should|will|quel(le)?s?|que|qui|quand|"
    r"où|pourquoi|comment|est-ce|combien)\b",
    re.IGNORECASE,
)

JOINING_WORDS = frozenset(
    map(fold, "sans pas non ni aucun aucune sauf hormis et ou avec no not without nor never and or with".split())  # noqa: SIM905
)
"""Words that say how others belong together, and nothing by themselves."""

UNSAID = re.compile(r"\b(sans (autre )?precision|non[ -]\w+|not (otherwise |elsewhere )?(specified|classified))\b")
"""What a classification says of what is not said (folded): it denies nothing, and
neither does an adjective with "non"."""


class AskedWord(NamedTuple):
    """A word of a question.

    Args:
        start: offset in `Question.text`.
        end: offset behind it.
        written: as the question has it.
        folded: as `words.fold` has it.
        assertion: how the question speaks of it.
    """

    start: int
    end: int
    written: str
    folded: str
    assertion: Assertion


class AskedConcept(NamedTuple):
    """A concept that a question names by a term or a code, and how it speaks of it."""

    found: TermFound
    assertion: Assertion


@dataclass(frozen=True)
class SearchRequest:
    """What a person asks of an index.

    Args:
        query: words, a sentence, codes, identifiers; French, English or another language.
        only: which documents it is about.
        include_negated: also what the text denies, supposes or says of the family.
        limit: most documents to answer with, 1 to `MAX_HITS`.

    Raises:
        ConfigInvalid: no words in the question, too long a question, or a limit out of range.
    """

    query: str = field(repr=False)
    only: DocumentFilter = EVERY_DOCUMENT
    include_negated: bool = False
    limit: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot be answered."""
        if len(self.query) > MAX_QUERY_CHARACTERS:
            raise ConfigInvalid(
                "the question is too long",
                got=f"{len(self.query):,} characters",
                wanted=f"at most {MAX_QUERY_CHARACTERS:,}",
                next_step="Ask with the words that matter.",
            )
        if not any(each.isalnum() for each in clean(self.query)):
            raise ConfigInvalid(
                "the question has no words", wanted="words, a code or an identifier", next_step="Ask with some words."
            )
        if not 1 <= self.limit <= MAX_HITS:
            raise ConfigInvalid("the number of hits cannot be used", got=str(self.limit), wanted=f"1 to {MAX_HITS}")


@dataclass(frozen=True)
class Question:
    """A question as it was understood.

    Args:
        text: cleaned of control characters.
        language: its ISO 639-1 code.
        words: what it names, function words left out.
        concepts: of the terms in it, and of codes that it denies.
        codes: concepts named by their code and wanted, such as "icd10:I50.1".
        identifiers: numbers of patients, samples and the like, to be found exactly.
        negates_all: it asks for what is negated.
    """

    text: str
    language: str
    words: tuple[AskedWord, ...]
    concepts: tuple[AskedConcept, ...]
    codes: tuple[str, ...]
    identifiers: tuple[str, ...]
    negates_all: bool

    @property
    def has_meaning(self) -> bool:
        """Whether a vector can stand for it: codes and identifiers mean nothing to one, and it takes no for yes."""
        return bool(self.words) and not self.negates_all

    @property
    def denies(self) -> bool:
        """Whether it says of something that it shall not be."""
        return "negated" in {word.assertion for word in self.words} | {each.assertion for each in self.concepts}

    @property
    def wanted(self) -> str:
        """The question without what it says shall not be: what a hit should resemble."""
        if self.negates_all or not any(word.assertion == "negated" for word in self.words):
            return self.text
        return " ".join(word.written for word in self.words if word.assertion != "negated")


def clean(text: str) -> str:
    r"""Return a text in composed letters, with one space for each run of spaces and control characters.

    What a terminal takes for an order, such as a colour pasted with a word, is left out whole.

    >>> clean("chest\x00\tpain \x1b[31m")
    'chest pain'
    """
    composed = unicodedata.normalize("NFC", _TERMINAL_ORDER.sub("", text))
    readable = "".join(" " if unicodedata.category(each).startswith("C") else each for each in composed)
    return " ".join(readable.split())


def read_question(query: str, terminology: Terminology) -> Question:
    """Return what a question asks.

    Args:
        query: of a `SearchRequest`.
        terminology: whose terms and codes are recognised.
    """
    text = clean(query)
    language = detect(text)
    terms = terminology.find_mentions(text, None, asked=True)
    spans = _spans(text, language, terms)
    taken = bytearray(len(text))
    codes = list(_codes(text, terminology))
    for start, end, *_ in codes:
        taken[start:end] = bytes([True]) * (end - start)
    identifiers = [
        match
        for match in IDENTIFIER.finditer(text)
        if _is_identifier(match.group()) and not any(taken[match.start() : match.end()])
    ]
    for match in identifiers:
        taken[match.start() : match.end()] = bytes([True]) * len(match.group())
    words = tuple(
        AskedWord(word.start, word.end, text[word.start : word.end], word.folded, assertion_of(spans, *word[:2]))
        for word in words_of(text)
        if text[word.start : word.end].lower() not in FUNCTION_WORDS
        and word.folded not in JOINING_WORDS
        and not any(taken[word.start : word.end])
    )
    named = [term for term in terms if not any(taken[term.start : term.end])]
    concepts = [AskedConcept(term, assertion_of(spans, term.start, term.end)) for term in (*named, *codes)]
    coded = concepts[len(named) :]
    asserted = {each.assertion for each in words} | {each.assertion for each in concepts}
    return Question(
        text,
        language,
        words,
        (*concepts[: len(named)], *(each for each in coded if each.assertion == "negated")),
        tuple(dict.fromkeys(each.found.concept for each in coded if each.assertion != "negated")),
        tuple(dict.fromkeys(match.group() for match in identifiers)),
        negates_all=asserted == {"negated"} and not identifiers,
    )


def respelled(question: Question, spelled: Mapping[AskedWord, str], terminology: Terminology) -> Question:
    """Return a question with some words replaced.

    Args:
        question: as it was read.
        spelled: what words of it are meant.
        terminology: as for `read_question`.
    """
    text, at = "", 0
    for word, meant in sorted(spelled.items()):
        text, at = text + question.text[at : word.start] + meant, word.end
    return read_question(text + question.text[at:], terminology)


def _spans(text: str, language: str, terms: Sequence[TermFound]) -> Sequence[AssertedSpan]:
    """Return what in a question is denied, supposed, or of the family."""
    if SENTENCE.search(text):
        return []
    folded = fold_in_place(text)
    for start, end, *_ in terms:  # a term is whole: "diabète sans complication" denies nothing
        if any(word.folded in JOINING_WORDS for word in words_of(text[start:end])):
            folded = folded[:start] + " " * (end - start) + folded[end:]
    return asserted_spans(UNSAID.sub(lambda match: " " * len(match.group()), folded), 0, len(folded), language)


def _codes(text: str, terminology: Terminology) -> Iterator[TermFound]:
    """Yield the codes in a question that a classification has; ICD-10 may stand without its dot."""
    if (alone := CODE_ALONE.fullmatch(text)) and (concept := _code_written(alone[1], terminology)):
        yield TermFound(0, len(text), concept, alone[1], ())
        return
    for system, form in (("atc", ATC), ("icd10", ICD10)):
        for match in form.finditer(text):
            written = match.group()
            if written != written.upper() and "." not in written and len(text) > LONGEST_CODE:
                continue  # "the c34 study"
            concept = f"{system}:" + (written.upper() if system == "atc" else _dotted(match))
            if terminology.knows(concept):
                yield TermFound(match.start(), match.end(), concept, written, ())


def _code_written(written: str, terminology: Terminology) -> str | None:
    """Return the concept of a code in whatever writing, None where no classification has it."""
    value = "".join(each for each in written.upper() if each.isalnum())
    icd10 = f"{value[:3]}.{value[3:]}" if len(value) > CATEGORY else value
    return next((each for each in (f"icd10:{icd10}", f"atc:{value}") if terminology.knows(each)), None)


def _dotted(match: re.Match[str]) -> str:
    return ".".join(part.upper() for part in match.groups() if part)


def _is_identifier(written: str) -> bool:
    digits = sum(each.isdigit() for each in written)
    if digits == len(written):
        return digits >= LEAST_PLAIN_DIGITS
    return digits >= LEAST_DIGITS
