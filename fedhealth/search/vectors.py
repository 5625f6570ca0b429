"""The meaning of an index: vectors of its passages in usearch graphs, one file for each range of passage numbers.

Invariants: a file is never changed; the store's table `vector_parts` names the version that counts, after the file is
on disk, so that a crash leaves a file too many and never one too few; vectors are those of the store, at half
precision.

Source: Malkov & Yashunin 2020, "Efficient and robust approximate nearest neighbor search using hierarchical navigable
small world graphs"; usearch, https://unum-cloud.github.io/usearch/python.
Leaves to others: making vectors (`encoder`), keeping them (`store`), which passages a question is about (`index`).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from usearch.index import Index

from fedhealth.search.lexical import ScoredPassage
from fedhealth.search.store import Store

PART_PASSAGES = 32_768
"""Passage numbers to a file: what an erasure writes anew for each file that held a vector of the patient."""
CONNECTIVITY = 32
EXPANSION_ADD = 128
EXPANSION_SEARCH = 384
"""Of the graph: `benchmarks/search_scale.py` measures the recall that these give."""

Vectors = npt.NDArray[np.float16]


class VectorParts:
    """The graphs of one generation, opened for questions.

    Args:
        folder: of the files.
        versions: which version of which part counts, as `part_versions` says.
        dimensions: of a vector.
    """

    def __init__(self, folder: Path, versions: Mapping[int, int], dimensions: int) -> None:
        self._parts = {}
        for number, version in sorted(versions.items()):
            graph = _graph(dimensions)
            graph.view(str(part_path(folder, number, version)))
            self._parts[number] = graph

    def __len__(self) -> int:
        """Return how many vectors there are."""
        return sum(len(part) for part in self._parts.values())

    def nearest(self, vector: npt.NDArray[np.float32], limit: int) -> list[ScoredPassage]:
        """Return the passages nearest to a vector of length 1, by cosine, best first; approximately."""
        found: list[ScoredPassage] = []
        for part in self._parts.values():
            matches = part.search(vector.astype(np.float16), limit, threads=1)
            scores = (1.0 - np.asarray(matches.distances, dtype=np.float64)).tolist()
            keys = np.asarray(matches.keys).tolist()
            found += map(ScoredPassage, keys, scores)
        return sorted(found, key=lambda each: (-each.score, each.passage))[:limit]

    def nearest_of(self, vector: npt.NDArray[np.float32], ids: Sequence[int], limit: int) -> list[ScoredPassage]:
        """Return the nearest of the passages named, exactly; those without a vector are left out."""
        found: list[ScoredPassage] = []
        asked = np.asarray(ids, dtype=np.uint64)
        for number, part in self._parts.items():
            own = asked[asked // PART_PASSAGES == number]
            own = own[part.contains(own)] if len(own) else own
            if len(own):
                scores = np.asarray(part.get(own), dtype=np.float32) @ vector
                best = np.argsort(-scores, kind="stable")[:limit]
                found += map(ScoredPassage, own[best].tolist(), scores[best].tolist())
        return sorted(found, key=lambda each: (-each.score, each.passage))[:limit]


def part_versions(store: Store) -> dict[int, int]:
    """Return which version of which part counts."""
    return dict(store.rows("SELECT number, version FROM vector_parts"))


def part_path(folder: Path, number: int, version: int) -> Path:
    """Return the file of one version of a part."""
    return folder / f"{number:05d}-{version}.usearch"


def place(store: Store, folder: Path, dimensions: int) -> int:
    """Put waiting vectors into their graphs, take dropped ones out, and return how many parts that changed.

    The caller holds the lock.
    """
    remove_strays(store, folder)
    versions = part_versions(store)
    waiting = store.numbers("SELECT passage FROM vector_work ORDER BY passage")
    parts = sorted({each // PART_PASSAGES for each in waiting})
    for number in parts:
        own = [each for each in waiting if each // PART_PASSAGES == number]
        graph = _graph(dimensions)
        if number in versions:
            graph.load(str(part_path(folder, number, versions[number])))
        held = np.asarray(own, dtype=np.uint64)
        held = held[graph.contains(held)] if len(graph) else held[:0]
        if len(held):
            graph.remove(held, threads=1)
        ids, vectors = store.vectors(own)
        if ids:
            graph.add(np.asarray(ids, dtype=np.uint64), vectors, threads=1)
        version = versions.get(number, 0) + 1
        _save(graph, part_path(folder, number, version))
        with store.transaction():
            store.change(
                "INSERT INTO vector_parts VALUES (?1, ?2, ?3) "
                "ON CONFLICT (number) DO UPDATE SET version = ?2, dirty = max(dirty, ?3)",
                [(number, version, len(held) > 0)],
            )
            store.change("DELETE FROM vector_work WHERE passage = ?", ((each,) for each in own))
        remove_strays(store, folder)
    return len(parts)


def write_anew(store: Store, folder: Path, dimensions: int, former: Path | None = None) -> None:
    """Write all parts of a new generation; its store says so when all are on disk.

    Args:
        store: of the new generation.
        folder: for the files.
        dimensions: of a vector.
        former: the files of the former generation; a part that lost no vector since it was written is taken over.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    waiting = store.numbers("SELECT passage FROM vector_work")
    changed = {each // PART_PASSAGES for each in waiting}
    clean = dict(store.rows("SELECT number, version FROM vector_parts WHERE dirty = 0"))
    versions = {}
    for number in sorted(set(store.numbers(f"SELECT DISTINCT passage / {PART_PASSAGES} FROM vectors"))):  # noqa: S608
        if former is not None and number in clean and number not in changed:
            versions[number] = clean[number]
            kept = part_path(former, number, clean[number])
            os.link(kept, folder / kept.name)
            continue
        versions[number] = 1
        first = number * PART_PASSAGES
        ids = store.numbers(
            "SELECT passage FROM vectors WHERE passage >= ? AND passage < ? ORDER BY passage",
            (first, first + PART_PASSAGES),
        )
        graph = _graph(dimensions)
        held, vectors = store.vectors(ids)
        graph.add(np.asarray(held, dtype=np.uint64), vectors, threads=0)
        _save(graph, part_path(folder, number, 1))
    with store.transaction():
        store.change("DELETE FROM vector_parts", [()])
        store.change("DELETE FROM vector_work", [()])
        store.change("INSERT INTO vector_parts VALUES (?, ?, 0)", versions.items())


def remove_strays(store: Store, folder: Path) -> None:
    """Remove files that no part names: former versions, and what a crash left; the caller holds the lock."""
    folder.mkdir(mode=0o700, exist_ok=True)
    named = {part_path(folder, *part) for part in part_versions(store).items()}
    for path in sorted(set(folder.iterdir()) - named):
        path.unlink()


def _graph(dimensions: int) -> Index:
    return Index(
        ndim=dimensions,
        metric="ip",
        dtype="f16",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
        expansion_search=EXPANSION_SEARCH,
    )


def _save(graph: Index, path: Path) -> None:
    graph.save(str(path))
    path.chmod(0o600)
    with path.open("rb") as file:
        os.fsync(file.fileno())
