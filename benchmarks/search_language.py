"""How well documents are read for the search at home, and how fast: beside EDS-NLP's own pipes, in the same run.

Assertions are counted on sentences that were labelled before the rules existed (`tests/search/assertions.jsonl`); the
half whose SHA-256 begins with an even byte was for tuning, the other half is what is reported. Of sentences labelled
later, before any rule had been run on them, the same. A finding counts for an assertion if that is what is said of it;
EDS-NLP may say two at once, and each of its qualifiers is scored alone.

Speed is that of text, assertions and codes: EDS-NLP with its normalizer, sentences and the four qualifiers, and a
matcher of the very terms that ours finds in these texts (its matcher of all of CIM-10 takes 92 s to build). The texts
are the French sentences, gathered to letters in changing orders, and transcribed English reports, if they are there: in
those EDS-NLP's French qualifiers find little to do. Times are of the processor; the first texts that a process reads
are timed apart from the pass over all that follows. Starting time is that of a new process.

Run: .venv/bin/python benchmarks/search_language.py
"""

import csv
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import edsnlp
import edsnlp.pipes as eds

from fedhealth.search.assertions import asserted_spans, assertion_of, fold
from fedhealth.search.concepts import Terminology
from fedhealth.search.documents import Document
from fedhealth.search.reading import read_document

FOLDER = Path(__file__).parents[1] / "tests" / "search"
LABELLED = {"before the rules": "assertions.jsonl", "later": "assertions_later.jsonl"}
REPORTS = Path(__file__).parents[2] / "shared" / "data" / "mtsamples_operative_321.csv"
ASSERTIONS = {"negated": "negation", "hypothesis": "hypothesis", "family": "family", "history": "history"}
PUBLISHED = {"negated": 0.89, "hypothesis": 0.57}
TARGETS = {"negated": 0.93, "hypothesis": 0.75}
TARGET_SHARE_OF_SPEED = 0.8
LETTERS, SENTENCES_OF_A_LETTER = 200, 25
FIRST = 80
START_OURS = "from fedhealth.search.reading import read_document"
START_EDS = """
import edsnlp, edsnlp.pipes as eds
pipeline = edsnlp.blank("eds")
for pipe in (eds.normalizer, eds.sentences, eds.negation, eds.hypothesis, eds.family, eds.history):
    pipeline.add_pipe(pipe())
"""


def main() -> None:
    """Print the figures and whether the targets are met."""
    labelled = {
        when: [json.loads(line) for line in (FOLDER / name).read_text().splitlines()] for when, name in LABELLED.items()
    }
    for when, sentences in labelled.items():
        for language in ("fr", "en"):
            print(f"{language}, labelled {when}")
            report_assertions(language, [each for each in sentences if each["language"] == language])
    with tempfile.TemporaryDirectory(prefix="fedhealth-bench-") as folder:
        terms = Terminology.load(Path(folder))
        report_speed("French letters", letters(labelled["before the rules"]), terms)
        if REPORTS.exists():
            with REPORTS.open() as file:
                report_speed("English reports", [row["transcription"] for row in csv.DictReader(file)], terms)
        else:
            print("English reports: not there, not timed")
    for name, script in (("ours", START_OURS), ("EDS-NLP", START_EDS)):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
        print(f"a new process, ready to read, {name}: {time.perf_counter() - start:.1f} s")


def report_assertions(language: str, sentences: Sequence[dict]) -> None:
    """Print the F1 of each assertion, ours and EDS-NLP's, on the reporting half and on all sentences."""
    reporting = [each for each in sentences if hashlib.sha256(each["sentence"].encode()).digest()[0] % 2]
    pipeline = qualifiers()
    for name, some in (("reporting half", reporting), ("all", sentences)):
        ours = f1(some, lambda each: our_assertions(each, language))
        theirs = f1(some, lambda each: their_assertions(each, pipeline)) if language == "fr" else {}
        for kind, (score, count) in ours.items():
            line = f"{language}, {name} ({len(some)} sentences), {kind}, {count} findings: F1 {score:.3f}"
            if theirs:
                line += f"; EDS-NLP {theirs[kind][0]:.3f}"
            if kind in TARGETS and language == "fr":
                line += f"; published (Doc'EDS) {PUBLISHED[kind]}; target {TARGETS[kind]}: "
                line += "met" if score >= TARGETS[kind] else "MISSED"
            print(line)


def f1(sentences: Iterable[dict], said: Callable[[dict], list[set[str]]]) -> dict[str, tuple[float, int]]:
    """Return F1 and the number of labelled findings by assertion; `said` gives what is said of each finding."""
    right, found, labelled = Counter(), Counter(), Counter()
    for each in sentences:
        for target, kinds in zip(each["targets"], said(each), strict=True):
            labelled[target["assertion"]] += 1
            found.update(kinds)
            right[target["assertion"]] += target["assertion"] in kinds
    return {kind: (2 * right[kind] / (found[kind] + labelled[kind]), labelled[kind]) for kind in ASSERTIONS}


def our_assertions(sentence: dict, language: str) -> list[set[str]]:
    """Return what our rules say of each finding."""
    text = sentence["sentence"]
    spans = asserted_spans(fold(text), 0, len(text), language)
    return [{assertion_of(spans, target["start"], target["end"])} for target in sentence["targets"]]


def their_assertions(sentence: dict, pipeline: edsnlp.Pipeline) -> list[set[str]]:
    """Return what EDS-NLP's qualifiers say of each finding."""
    doc = pipeline.make_doc(sentence["sentence"])
    doc.ents = [
        doc.char_span(each["start"], each["end"], label="finding", alignment_mode="expand")
        for each in sentence["targets"]
    ]
    doc = pipeline(doc)
    return [{kind for kind, name in ASSERTIONS.items() if getattr(ent._, name)} for ent in doc.ents]


def qualifiers(terms: dict[str, list[str]] | None = None) -> edsnlp.Pipeline:
    """Return EDS-NLP's pipes, with a matcher of some terms if any are given."""
    pipeline = edsnlp.blank("eds")
    pipeline.add_pipe(eds.normalizer())
    pipeline.add_pipe(eds.sentences())
    if terms:
        pipeline.add_pipe(eds.matcher(terms=terms, attr="NORM"))
    for pipe in (eds.negation, eds.hypothesis, eds.family, eds.history):
        pipeline.add_pipe(pipe(**({"use_sections": False} if pipe is eds.family else {})))
    return pipeline


def letters(sentences: Sequence[dict]) -> list[str]:
    """Return letters of French sentences in changing orders."""
    french = [each["sentence"] for each in sentences if each["language"] == "fr"]
    choice = random.Random(9)  # noqa: S311  # an order of sentences, no secret
    return [" ".join(choice.sample(french, SENTENCES_OF_A_LETTER)) for _ in range(LETTERS)]


def report_speed(name: str, texts: Sequence[str], terms: Terminology) -> None:
    """Print characters a second of processor, ours and EDS-NLP's with a matcher of the terms that ours finds."""
    documents = [Document(str(number), "p", "report", "", text) for number, text in enumerate(texts)]
    characters = sum(map(len, texts))
    start = time.process_time()
    for document in documents[:FIRST]:
        read_document(document, terms)
    first = time.process_time() - start
    start = time.process_time()
    read = [read_document(document, terms) for document in documents]
    ours = characters / (time.process_time() - start)
    found: dict[str, set[str]] = {}
    for document, each in zip(documents, read, strict=True):
        for mention in each.mentions:
            found.setdefault(mention.term, set()).add(document.text[mention.start : mention.end])
    pipeline = qualifiers({term: sorted(written) for term, written in found.items()})
    start = time.process_time()
    for text in texts[:FIRST]:
        pipeline(text)
    share_of_first = (time.process_time() - start) / first
    start = time.process_time()
    matched = sum(len(pipeline(text).ents) for text in texts)
    theirs = characters / (time.process_time() - start)
    mentions = sum(len(each.mentions) for each in read)
    print(f"{name}, {len(texts)} of {characters / len(texts):,.0f} characters: {ours:,.0f} characters/s, ", end="")
    print(f"{mentions:,} mentions; EDS-NLP {theirs:,.0f}, {matched:,}: {ours / theirs:.0%} of it; ", end="")
    print(f"target {TARGET_SHARE_OF_SPEED:.0%}: ", end="")
    print("met" if ours >= TARGET_SHARE_OF_SPEED * theirs else "MISSED")
    print(
        f"{name}, the first {FIRST} that the process reads: {share_of_first:.0%} of EDS-NLP's speed on the same; ",
        end="",
    )
    print("met" if share_of_first >= TARGET_SHARE_OF_SPEED else "MISSED")


if __name__ == "__main__":
    main()
