"""Made-up letters, a reader of them that knows nothing of language, and an encoder that knows nothing of meaning."""

import hashlib
import re

import numpy as np

from fedhealth.search.documents import AssertedSpan, Code, Document, Mention, Passage, ReadDocument

SENTENCE = re.compile(r"[^.]+\.\s*")
NEGATED = re.compile(r"pas d[^.]*")
INFARCTION = Code("icd10", "I21.9")


def letter(key, text, patient="p-1", **stated):
    return Document(key, patient, "letter", stated.pop("title", ""), text, source="letters", **stated)


def read(document):
    """Every sentence is a passage; what follows "pas d" is negated; "infarctus" is a concept."""
    passages, mentions = [], []
    for number, found in enumerate(SENTENCE.finditer(document.text)):
        text, start = found.group(), found.start()
        negated = tuple(AssertedSpan(start + at.start(), start + at.end(), "negated") for at in NEGATED.finditer(text))
        passages.append(Passage(document.key, number, "", start, found.end(), text, negated))
        for at in re.finditer("infarctus", text):
            inside = any(first <= start + at.start() < behind for first, behind, _ in negated)
            assertion = "negated" if inside else "affirmed"
            mentions.append(Mention(start + at.start(), start + at.end(), INFARCTION, "infarctus", assertion))
    return ReadDocument(document.language or "fr", (), tuple(passages), tuple(mentions))


def ancestors(concept):
    return {"icd10:I21.9": ["icd10:I21", "icd10:I20-I25"]}.get(concept, [])


class HashEncoder:
    """Vectors that follow from the text alone; near only to themselves."""

    name, dimensions = "hash 1", 16

    def passages(self, texts):
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
        rows = np.array([np.random.default_rng(seed).normal(size=16) for seed in seeds], np.float32).reshape(-1, 16)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def query(self, text):
        return self.passages([text])[0]
