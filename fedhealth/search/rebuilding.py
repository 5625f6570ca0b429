"""Making an index anew from the documents in it: after other rules of reading, another format, or damage.

Invariants: the former generation is current until the new one is whole; a vector is taken over only for the very text
it was made of, and only of the encoder named; a killed rebuild leaves the former index as it was.

Leaves to others: documents that are no longer what their source holds (add them again), reading (`reading`).
"""

from collections.abc import Iterator
from pathlib import Path

import apsw

from fedhealth.errors import DataUnusable
from fedhealth.search import generations, vectors
from fedhealth.search.documents import Document
from fedhealth.search.index import BATCH_DOCUMENTS, ENCODER, OnProgress, Read
from fedhealth.search.index_files import DIMENSIONS, write_words
from fedhealth.search.store import FILE, FORMAT, Store
from fedhealth.search.stored_rows import Ancestors


def rebuild_index(
    folder: Path,
    read: Read,
    ancestors: Ancestors = lambda concept: (),
    *,
    keep_vectors: bool = True,
    on_progress: OnProgress = lambda done: None,
) -> int:
    """Read all documents of an index again, write it anew, and return how many documents that were.

    Args:
        folder: of the index.
        read: takes a document apart.
        ancestors: of a concept, all above it.
        keep_vectors: take over vectors of passages whose text is the same; else `fill_vectors` makes all anew.
        on_progress: told how many documents are read so far.

    Raises:
        DataUnusable: there is no index, its documents cannot be read, or another process did not let go of the lock.
    """
    with generations.held_lock(folder):
        generation = generations.current_generation(folder)
        former = Store(generation / FILE, any_format=True)
        try:
            following = generations.next_generation(folder)
            done = _read_again(former, following, read, ancestors, keep_vectors, on_progress)
        except apsw.Error as error:
            raise DataUnusable(
                f"the documents of the index at {folder} cannot be read",
                got=type(error).__name__,
                next_step="Remove the folder and add the documents from their sources: fedhealth site index add --help",
            ) from error
        finally:
            former.close()
        generations.switch(folder, following)
    return done


def _read_again(
    former: Store, following: Path, read: Read, ancestors: Ancestors, keep_vectors: bool, on_progress: OnProgress
) -> int:
    done = 0
    store = Store.create(following / FILE, first_passage=former.last_passage() + 1)
    try:
        keep_vectors = keep_vectors and former.format == FORMAT and former.fact(ENCODER) is not None
        for batch in _batches(former.documents()):
            found = [(number, document, read(document)) for number, document in batch]
            with store.transaction():
                for number, document, parts in found:
                    ids = store.put(document, parts, ancestors)
                    if keep_vectors:
                        known = former.vectors_by_text(number)
                        texts = [each.text for each in parts.passages]
                        store.copy_vectors(
                            (i, known[text]) for i, text in zip(ids, texts, strict=True) if text in known
                        )
            done += len(batch)
            on_progress(done)
        if keep_vectors:
            with store.transaction():
                for fact in (ENCODER, DIMENSIONS):
                    store.set_fact(fact, former.fact(fact))
        write_words(store, following)
        vectors.write_anew(store, following / "vectors", int(store.fact(DIMENSIONS) or 1))
    finally:
        store.close()
    return done


def _batches(documents: Iterator[tuple[int, Document]]) -> Iterator[list[tuple[int, Document]]]:
    batch = []
    for each in documents:
        batch.append(each)
        if len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch = []
    if batch:
        yield batch
