"""The index of a site: documents go in, passages are found, and a patient's are gone when that is asked for.

A document is found by its words when `add` returns, by its meaning when `fill_vectors` has come to it, and always as a
whole: the numbers of its passages mean nothing to a reader before the store has them, and nothing any more once it has
not.

| promise | by |
|---|---|
| two writers never at once | `held_lock` for each batch, waited for |
| readers beside a writer | SQLite's snapshots, tantivy's commits, files of vectors that never change |
| a reader sees a commit at its next question | `data_version` of the store, and the name of the generation |
| an erased patient is in no file | a new generation from what is kept; the former is removed as a whole |
| an erasure that was cut off is ended | a fact in the store, looked at before each write and shown by `status` |

Leaves to others: reading texts (`reading`), asking good questions (`answering`), who may open the folder (the site).
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedhealth.errors import DataUnusable
from fedhealth.search import generations
from fedhealth.search.documents import EVERY_DOCUMENT, Document, DocumentFilter, ReadDocument
from fedhealth.search.index_files import DIMENSIONS, ERASING, IndexFiles
from fedhealth.search.lexical import Clause, ScoredPassage
from fedhealth.search.stored_rows import Ancestors, StoredPassage, filter_condition

Read = Callable[[Document], ReadDocument]
OnProgress = Callable[[int], None]
"""Told how many documents or passages are done so far."""

ENCODER = "encoder"
FILL_LOCK = "fill.lock"
BATCH_DOCUMENTS = 64
BATCH_CHARACTERS = 1_000_000
FILL_PASSAGES = 128
PLACE_EVERY = 2_048
"""Vectors wait in the store for their graph until so many are new: writing a file takes as long as encoding a few."""
WIDENINGS = (4, 16)
"""A filtered question asks the graph for so many times the passages wanted, then looks at all that pass the filter."""


class PassageEncoder(Protocol):
    """What makes vectors of passages.

    Attributes:
        name: of model and version; vectors of two names are never compared.
        dimensions: of a vector.
    """

    name: str
    dimensions: int

    def passages(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one vector of length 1 for each text."""
        ...


@dataclass(frozen=True)
class Added:
    """What became of documents: how many were new, took the place of former content, or were there already."""

    added: int
    replaced: int
    unchanged: int


@dataclass(frozen=True)
class Removed:
    """What was taken out, and out of every file."""

    documents: int
    passages: int


@dataclass(frozen=True)
class IndexStatus:
    """How an index stands.

    Args:
        documents: of each source, how many.
        passages: of all documents.
        without_vector: passages that are found by their words only, so far.
        waiting_for_words: passages of a writer at work, or of one that was killed; the next write puts them in.
        encoder: that made the vectors, or None.
        erasure_unfinished: an erasure is under way or was cut off; the next write, or `resume`, ends it.
        bytes: on disk.
    """

    documents: dict[str, int]
    passages: int
    without_vector: int
    waiting_for_words: int
    encoder: str | None
    erasure_unfinished: bool
    bytes: int


class SearchIndex:
    """An index opened for questions and changes; any number of processes may have it open.

    Args:
        folder: of the index, which must exist; `open` makes one.

    Raises:
        DataUnusable: there is none, or it is damaged or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self._files = IndexFiles(folder)
        self._counted: tuple[object, IndexStatus] | None = None

    @classmethod
    def open(cls, folder: Path, create: bool = False) -> "SearchIndex":
        """Open an index, or make an empty one if that is wanted and there is none."""
        if create and not generations.exists(folder):
            IndexFiles.create(folder)
        return cls(folder)

    def __enter__(self) -> "SearchIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all files."""
        self._files.close()

    def add(
        self,
        documents: Iterable[Document],
        read: Read,
        ancestors: Ancestors = lambda concept: (),
        on_progress: OnProgress = lambda done: None,
    ) -> Added:
        """Add documents; each is found by its words when its batch is in, at the latest when this returns.

        Args:
            documents: to add; one whose source and key are known takes the place of the former content.
            read: takes a document apart; runs outside the lock.
            ancestors: of a concept, all above it: a question for these finds it.
            on_progress: told after each batch.

        Raises:
            DataUnusable: another process did not let go of the lock in time.
        """
        added = replaced = unchanged = 0
        for batch in _batches(documents):
            parts = [(each, read(each)) for each in batch if not self._files.store.holds(each)]
            unchanged += len(batch) - len(parts)
            with self._files.writing():
                with self._files.store.transaction():
                    for document, found in parts:
                        known = self._files.store.holds(document) is not None
                        self._files.store.put(document, found, ancestors)
                        replaced, added = replaced + known, added + (not known)
                self._files.settle_words()
            on_progress(added + replaced + unchanged)
        return Added(added, replaced, unchanged)

    def remove(self, source: str, keys: Iterable[str]) -> int:
        """Take documents out that are gone from their source, and return how many; for erasure see `remove_patient`."""
        with self._files.writing():
            with self._files.store.transaction():
                gone = sum(self._files.store.drop(source, key) for key in keys)
            self._files.settle_words()
        return gone

    def remove_patient(self, patient: str) -> Removed:
        """Erase one patient; see `remove_patients`."""
        return self.remove_patients([patient])

    def remove_patients(self, patients: Iterable[str]) -> Removed:
        """Erase patients from every file, bytes included; they are found no more from the first moment on.

        What is kept is written anew and the former files are removed, which takes a time that grows with the index. A
        process that has the index open lets go of the former files at its next question or when it ends.

        Raises:
            DataUnusable: another process did not let go of the lock in time.
        """
        with self._files.writing():
            documents = passages = 0
            with self._files.store.transaction():
                for patient in patients:
                    former = self._files.store.is_former(patient)
                    found = self._files.store.drop_patient(patient)
                    documents, passages = documents + found[0], passages + found[1]
                    if former or found[0]:
                        self._files.store.set_fact(ERASING, "yes")
            self._files.finish_erasure()
        return Removed(documents, passages)

    def resume(self) -> bool:
        """Do what a killed process left undone, and return whether an erasure was among it."""
        with self._files.writing() as erased:
            return erased

    def fill_vectors(self, encoder: PassageEncoder, on_progress: OnProgress = lambda done: None) -> int:
        """Make the vectors that are missing, and return how many; the lock is held only to write each batch down.

        Raises:
            DataUnusable: the index holds vectors of another encoder, or another process fills it already.
        """
        made = unplaced = last = 0
        with generations.held_lock(self._files.folder, FILL_LOCK, wait_seconds=0.0):
            with self._files.writing():
                self._agree_on(encoder)
            while waiting := self._without_vector(last):
                stored = self._files.store.passages(waiting)
                texts = [f"{each.document.title} {each.passage.text}".strip() for each in stored]
                found = encoder.passages(texts)
                with self._files.writing(), self._files.store.transaction():
                    self._files.store.put_vectors([each.id for each in stored], found)
                last, made, unplaced = waiting[-1], made + len(stored), unplaced + len(stored)
                if unplaced >= PLACE_EVERY:
                    self._place()
                    unplaced = 0
                on_progress(made)
            self._place()
        return made

    def matching(
        self, clauses: Sequence[Clause], only: DocumentFilter = EVERY_DOCUMENT, limit: int = 100
    ) -> list[ScoredPassage]:
        """Return the passages whose words meet the clauses best, best first."""
        self._files.refresh()
        within = None if only.patient is None else self._passing(only)
        return self._still_there(self._files.lexical.search(clauses, only, limit, within))

    def nearest(
        self, vector: npt.NDArray[np.float32], only: DocumentFilter = EVERY_DOCUMENT, limit: int = 100
    ) -> list[ScoredPassage]:
        """Return the passages whose vectors are nearest to one of length 1, by cosine, best first."""
        self._files.refresh()
        if only.keeps_all():
            return self._still_there(self._files.vectors.nearest(vector, limit))
        if only.patient is None:
            for widening in WIDENINGS:
                found = self._files.vectors.nearest(vector, limit * widening)
                passing = set(self._passing(only, [each.passage for each in found]))
                kept = [each for each in found if each.passage in passing]
                if len(kept) >= limit or len(found) < limit * widening:
                    return kept[:limit]
        return self._files.vectors.nearest_of(vector, self._passing(only), limit)

    def passages(self, ids: Collection[int]) -> list[StoredPassage]:
        """Return passages in the order asked for; those that went meanwhile are left out."""
        return self._files.store.passages(ids)

    def document(self, source: str, key: str) -> Document | None:
        """Return a document as it was added, or None if there is none."""
        return self._files.store.document(source, key)

    def vectors_of(self, ids: Sequence[int]) -> tuple[list[int], npt.NDArray[np.float32]]:
        """Return which of these passages have a vector, and the vectors, one a row."""
        found, rows = self._files.store.vectors(ids)
        return found, rows.astype(np.float32)

    def frequency(self, word: str, clause: Clause) -> int:
        """Return in how many passages a word is found as the clause would find it; the best field counts."""
        self._files.refresh()
        return max(
            (
                self._files.lexical.frequency(word, place, name)
                for place in clause.standings
                for name in clause.analyses
            ),
            default=0,
        )

    def keys(self, source: str) -> frozenset[str]:
        """Return the keys of all documents of a source."""
        self._files.refresh()
        rows = self._files.store.rows("SELECT key FROM documents WHERE source = ?", (source,))
        return frozenset(str(row[0]) for row in rows)

    def patients(self, source: str | None = None) -> frozenset[str]:
        """Return the keys of all patients of whom there is a document, or words of a former one in some file.

        Args:
            source: of this source alone, and only those of whom it has a document now.
        """
        self._files.refresh()
        if source is not None:
            query = "SELECT DISTINCT patient FROM documents WHERE source = ? AND patient IS NOT NULL"
            return frozenset(str(row[0]) for row in self._files.store.rows(query, (source,)))
        query = "SELECT patient FROM documents WHERE patient IS NOT NULL UNION SELECT patient FROM former_patients"
        return frozenset(str(row[0]) for row in self._files.store.rows(query))

    def status(self) -> IndexStatus:
        """Return how the index stands; counted again only after a change, so that it costs a question nothing."""
        state = self._files.refresh()
        if self._counted is None or self._counted[0] != state:
            self._counted = state, self._count()
        return replace(self._counted[1], erasure_unfinished=self._files.erasure_unfinished())

    def _count(self) -> IndexStatus:
        store = self._files.store
        passages, vectors, waiting = (
            store.numbers(f"SELECT count(*) FROM {table}")[0]  # noqa: S608 - names of ours
            for table in ("passages", "vectors", "lexical_work")
        )
        return IndexStatus(
            documents=dict(store.rows("SELECT source, count(*) FROM documents GROUP BY source")),
            passages=passages,
            without_vector=passages - vectors,
            waiting_for_words=waiting,
            encoder=store.fact(ENCODER),
            erasure_unfinished=False,
            bytes=sum(path.stat().st_size for path in self._files.generation.rglob("*") if path.is_file()),
        )

    def _agree_on(self, encoder: PassageEncoder) -> None:
        known = self._files.store.fact(ENCODER)
        if known is None:
            with self._files.store.transaction():
                self._files.store.set_fact(ENCODER, encoder.name)
                self._files.store.set_fact(DIMENSIONS, str(encoder.dimensions))
            self._files.place_vectors()
        elif known != encoder.name:
            raise DataUnusable(
                f"the vectors of the index at {self._files.folder} are of another encoder",
                got=f"'{known}' in the index",
                wanted=f"'{encoder.name}'",
                next_step="Make them anew: fedhealth site index rebuild --vectors",
            )

    def _place(self) -> None:
        with self._files.writing():
            self._files.place_vectors()

    def _without_vector(self, after: int) -> list[int]:
        self._files.refresh()
        return self._files.store.numbers(
            "SELECT id FROM passages WHERE id > ? AND NOT EXISTS (SELECT 1 FROM vectors WHERE passage = id) "
            "ORDER BY id LIMIT ?",
            (after, FILL_PASSAGES),
        )

    def _passing(self, only: DocumentFilter, among: Collection[int] | None = None) -> list[int]:
        """Return the passages, of all or of some, whose documents pass a filter."""
        condition, values = filter_condition(only)
        passing = f"(SELECT id FROM documents WHERE {condition})"  # noqa: S608 - names of columns; values are bound
        if among is None:
            query = f"SELECT id FROM passages WHERE document IN {passing} ORDER BY id"  # noqa: S608
            return self._files.store.numbers(query, values)
        named = "SELECT id FROM passages WHERE id IN (SELECT value FROM json_each(?)) AND EXISTS"
        passes = f"(SELECT 1 FROM documents WHERE documents.id = passages.document AND {condition})"  # noqa: S608
        return self._files.store.numbers(f"{named} {passes}", [json.dumps(list(among)), *values])

    def _still_there(self, found: Sequence[ScoredPassage]) -> list[ScoredPassage]:
        """Leave out passages whose document was replaced or erased, and not yet taken out of this structure."""
        there = set(self._passing(EVERY_DOCUMENT, [each.passage for each in found]))
        return [each for each in found if each.passage in there]


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yield documents in batches of a size that one commit pays for and nobody waits long for."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
