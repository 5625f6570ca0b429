"""How the index of the search at home grows: questions, recall, memory, erasure and the filling of vectors.

    python benchmarks/search_scale.py --cache FOLDER [--sizes 50000,100000,200000]

Text is real and varied: sentences of operative reports, answers to patients and abstracts (`../shared`), drawn anew
into passages, so that words keep their frequencies. Vectors are real ones of such passages, mixed in pairs and
perturbed: the graph does not know, and encoding 200,000 passages would take a working day. Questions are the abstracts'
own, with real vectors. The index grows from one size to the next in FOLDER, and a second run goes on where the first
one stopped.

| figure | by | to reach at 200,000 |
|---|---|---|
| a question, p95, warm | 200 questions to the engine: read, expanded, words, meaning, ranked, explained | 100 ms |
| the same in time of the processor, which a busy machine does not lengthen | one thread | to inform |
| recall at 10 of the graph | exact products of the same vectors | 0.95 |
| resident memory of the process that asks | the kernel's high-water mark | 2 GiB |
| filling vectors | the bare encoder on the same passages | 0.9 of its speed |
"""

import argparse
import csv
import hashlib
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedhealth.search.answering import SearchEngine
from fedhealth.search.concepts import Terminology
from fedhealth.search.documents import Document, Passage, ReadDocument
from fedhealth.search.encoder import Encoder
from fedhealth.search.index import SearchIndex
from fedhealth.search.lexical import Clause
from fedhealth.search.query import SearchRequest

SHARED = Path(__file__).resolve().parents[2] / "shared"
Vectors = npt.NDArray[np.float32]
SEED = 9
PASSAGES = 5
QUESTIONS = 200
SEEDS_ENCODED = 600
FILLED = 200
TARGETS = {"question, p95 (ms)": 100.0, "recall at 10": 0.95, "resident (GiB)": 2.0, "filling over bare encoder": 0.9}


def sentences() -> list[str]:
    """Return real sentences of reports, answers and abstracts."""
    texts = [row["transcription"] for row in csv.DictReader((SHARED / "data/mtsamples_operative_321.csv").open())]
    for name in ("data/medquad_liveqa/corpus.jsonl", "search/pubmedqa_l/corpus.jsonl"):
        texts += [json.loads(line)["text"] for line in (SHARED / name).open()]
    found = (" ".join(each.split()) for text in texts for each in re.split(r"(?<=[.!?])[\s,]+", text))
    return [each for each in found if 20 < len(each) < 400]


def documents(first: int, count: int) -> Iterator[Document]:
    """Yield documents of five passages each, numbered from `first`, of a patient each for ten of them."""
    real = sentences()
    for number in range(first, first + count):
        draw = np.random.default_rng([SEED, number])
        passages = [" ".join(real[at] for at in draw.integers(0, len(real), 5)) for _ in range(PASSAGES)]
        yield Document(
            f"document-{number}",
            f"patient-{number // 10}",
            "report",
            real[int(draw.integers(0, len(real)))][:80],
            "\n".join(passages),
            date=date.fromordinal(736_000 + int(draw.integers(0, 3000))),
            age=int(draw.integers(0, 100)),
            sex=("female", "male")[int(draw.integers(0, 2))],
            language="en",
            source="benchmark",
        )


def read(document: Document) -> ReadDocument:
    """Take a document apart at its line breaks: what reading costs is another benchmark's figure."""
    passages, at = [], 0
    for number, text in enumerate(document.text.split("\n")):
        passages.append(Passage(document.key, number, "", at, at + len(text), text))
        at += len(text) + 1
    return ReadDocument("en", (), tuple(passages), ())


class PerturbedVectors:
    """Gives each passage a vector made of two real ones and noise, as its text decides."""

    def __init__(self, real: Vectors) -> None:
        self.real, self.dimensions, self.name = real, real.shape[1], "perturbed"
        self.noise = np.random.default_rng(SEED).normal(0, 0.015, (10_007, self.dimensions)).astype(np.float32)

    def passages(self, texts: Sequence[str]) -> Vectors:
        """Return one vector of length 1 for each text."""
        digests = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
        first, second, third, share = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 4).T
        weights = (0.2 + 0.7 * share / 2**64)[:, None]
        rows = self.real[first % len(self.real)] + weights * self.real[second % len(self.real)]
        rows = (rows + self.noise[third % len(self.noise)]).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def encoded(cache: Path) -> tuple[Vectors, Vectors]:
    """Return real vectors of passages and of questions, from the cache if they are there."""
    path = cache / "scale-vectors.npz"
    if not path.exists():
        encoder = Encoder()
        texts = [
            passage.text for each in documents(10_000_000, SEEDS_ENCODED // PASSAGES) for passage in read(each).passages
        ]
        np.savez(
            path, passages=encoder.passages(texts), questions=np.stack([encoder.query(each) for each in questions()])
        )
    with np.load(path) as kept:
        return kept["passages"], kept["questions"]


def questions() -> list[str]:
    """Return real questions."""
    lines = (SHARED / "search/pubmedqa_l/queries.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines[:QUESTIONS]]


def grow(folder: Path, size: int, real: Vectors) -> tuple[float, float]:
    """Bring the index to a size, and return passages a second of words and of placing vectors, if any were missing."""
    with SearchIndex.open(folder, create=True) as index:
        held = index.status().passages
        started = time.perf_counter()
        index.add(documents(held // PASSAGES, (size - held) // PASSAGES), read)
        worded = time.perf_counter()
        placed = index.fill_vectors(PerturbedVectors(real))
        ended = time.perf_counter()
    return (size - held) / (worded - started), placed / (ended - worded)


def ask(folder: Path, cache: Path) -> None:
    """Ask all questions twice in a process of its own, and print as JSON what the second time and the process cost."""
    encoder = Encoder()
    spans: dict[str, list[float]] = {}
    with SearchIndex.open(folder) as index:
        engine = SearchEngine(index, Terminology.load(cache), encoder)
        for warm in (False, True):
            for text in questions():
                vector = encoder.query(text)
                parts: list[tuple[str, Callable[[], object]]] = [
                    ("encode", partial(encoder.query, text)),
                    ("words", partial(index.matching, [Clause(text)])),
                    ("meaning", partial(index.nearest, vector)),
                    ("question", partial(engine.search, SearchRequest(text))),
                ]
                for name, part in parts:
                    begun = time.perf_counter(), time.process_time()
                    part()
                    if warm:
                        spans.setdefault(name, []).append(1000 * (time.perf_counter() - begun[0]))
                        spans.setdefault(f"{name}, processor", []).append(1000 * (time.process_time() - begun[1]))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"resident": resident, **{name: float(np.percentile(each, 95)) for name, each in spans.items()}}))


def recall(folder: Path, vectors: Vectors) -> float:
    """Return which share of the ten exactly nearest passages the graph finds, over all questions."""
    with SearchIndex.open(folder) as index:
        best: list[list[tuple[float, int]]] = [[] for _ in vectors]
        for first in range(1, index.status().passages + 1, 20_000):
            ids, rows = index.vectors_of(range(first, first + 20_000))
            for so_far, scores in zip(best, vectors @ rows.T, strict=True):
                top = np.argpartition(-scores, 10)[:10]
                so_far.extend(zip(scores[top].tolist(), [ids[at] for at in top], strict=True))
        exact = [{number for _, number in sorted(each, reverse=True)[:10]} for each in best]
        found = [{each.passage for each in index.nearest(vector, limit=10)} for vector in vectors]
    return float(np.mean([len(one & other) / 10 for one, other in zip(exact, found, strict=True)]))


def filling(folder: Path) -> float:
    """Return how fast vectors are filled, as a share of the bare encoder's speed on the same passages."""
    encoder = Encoder()
    given = list(documents(20_000_000, FILLED // PASSAGES))
    texts = [f"{each.title} {passage.text}" for each in given for passage in read(each).passages]
    with SearchIndex.open(folder / "filled", create=True) as index:
        index.add(given, read)
        begun = time.perf_counter()
        index.fill_vectors(encoder)
        filled = time.perf_counter() - begun
    begun = time.perf_counter()
    encoder.passages(texts)
    return (time.perf_counter() - begun) / filled


def erasing(folder: Path) -> float:
    """Return the seconds that it takes to erase one patient of ten documents."""
    with SearchIndex.open(folder) as index:
        patient = sorted(index.patients())[len(index.patients()) // 2]
        begun = time.perf_counter()
        index.remove_patient(patient)
        return time.perf_counter() - begun


def main() -> None:
    """Print each figure at each size, extrapolated to a million passages, beside its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for vectors and the index, kept between runs")
    parser.add_argument("--sizes", default="50000,100000,200000", help="passages, growing")
    parser.add_argument("--ask", action="store_true", help="only ask the index as it is, and print JSON")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    folder = given.cache / "scale-index"
    if given.ask:
        ask(folder, given.cache)
        return
    real, asked = encoded(given.cache)
    rows = []
    for size in map(int, given.sizes.split(",")):
        words, placed = grow(folder, size, real)
        command = [sys.executable, __file__, "--cache", str(given.cache), "--ask"]
        figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        figures |= {"recall": recall(folder, asked), "words/s": words, "placed/s": placed}
        rows.append((size, figures))
        print(
            f"{size:>9,} passages: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()), flush=True
        )
    for name in ("words, processor", "meaning, processor", "question, processor", "resident"):
        slope, level = np.polyfit([size for size, _ in rows], [figures[name] for _, figures in rows], 1)
        print(f"1,000,000 passages, on the line through these: {name} {slope * 1e6 + level:.3g}")
    print(f"erasing one patient of ten documents at {rows[-1][0]:,}: {erasing(folder):.1f} s")
    with tempfile.TemporaryDirectory(dir=given.cache) as scratch:
        share = filling(Path(scratch))
    last = rows[-1][1]
    reached = dict(zip(TARGETS, (last["question"], last["recall"], last["resident"], share), strict=True))
    for name, target in TARGETS.items():
        print(f"{name}: {reached[name]:.3g} (target {target:g})")


if __name__ == "__main__":
    main()
