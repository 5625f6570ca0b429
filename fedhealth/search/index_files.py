"""The files of one index as one process has them open: what is current, what is owed, and who may write.

The store is changed first, with a list of what the other structures owe it; what is owed is then done, and struck off.
A process that is killed in between leaves the list, and the next one that writes begins with it.

Invariants: changes are made in a `writing` block; an erasure is over when no file of the former generation is left; a
reader sees another process's commits from its next `refresh` on.

Leaves to others: what to write, what to ask (`index`); the structures themselves (`store`, `lexical`, `vectors`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from fedhealth.errors import DataUnusable
from fedhealth.search import generations, vectors
from fedhealth.search.lexical import Lexical
from fedhealth.search.store import FILE, Store

DIMENSIONS, ERASING = "dimensions", "erasing"


class IndexFiles:
    """An index's files, opened.

    Args:
        folder: of the index, which must exist.

    Raises:
        DataUnusable: there is no index, or it is damaged or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open_generation()

    @staticmethod
    def create(folder: Path) -> None:
        """Make an empty index, unless there is one already."""
        generations.create_folder(folder)
        with generations.held_lock(folder):
            if not generations.exists(folder):
                first = generations.next_generation(folder)
                Store.create(first / FILE).close()
                Lexical(first / "lexical")
                generations.switch(folder, first)

    def close(self) -> None:
        """Let go of all files."""
        self.store.close()

    def _open_generation(self) -> None:
        """Open what is current; where it was switched in between, open what is current then."""
        while True:
            generation = generations.current_generation(self.folder)
            try:
                self.store = Store(generation / FILE)
                try:
                    self.lexical = Lexical(generation / "lexical")
                    self.generation = generation
                    self._seen = self.store.changes_seen()
                    self._open_vectors()
                except BaseException:
                    self.store.close()
                    raise
                return
            except DataUnusable:
                if generations.current_generation(self.folder) == generation:
                    raise
            except (OSError, ValueError, RuntimeError) as error:  # what the two libraries raise
                if generations.current_generation(self.folder) == generation:
                    raise DataUnusable(
                        f"the index at {self.folder} is damaged",
                        got=type(error).__name__,
                        next_step="Make it anew from the documents in it: fedhealth site index rebuild",
                    ) from error

    def _open_vectors(self) -> None:
        """Open the graphs that count; where a writer replaced one in between, those that count then."""
        folder = self.generation / "vectors"
        while True:
            versions = vectors.part_versions(self.store)
            try:
                self.vectors = vectors.VectorParts(folder, versions, self.dimensions())
            except (OSError, RuntimeError):
                if vectors.part_versions(self.store) == versions:
                    raise
            else:
                self._versions = versions
                return

    def refresh(self) -> object:
        """See what was changed since the last question, and return what is the same as long as nothing is."""
        if generations.current_generation(self.folder) != self.generation:
            self.close()
            self._open_generation()
        elif (seen := self.store.changes_seen()) != self._seen:
            self.lexical.reload()
            if vectors.part_versions(self.store) != self._versions:
                self._open_vectors()
            self._seen = seen
        return self.generation, self._seen

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Hold the lock, do first what a killed process left undone, and tell whether that was an erasure.

        Raises:
            DataUnusable: the lock was not let go in time, or the files cannot be written.
        """
        with generations.held_lock(self.folder):
            try:
                self.refresh()
                unfinished = self.erasure_unfinished()
                self.finish_erasure()
                self.settle_words()
                yield unfinished
            except (apsw.Error, OSError, ValueError, RuntimeError) as error:  # a full disk, in four libraries' words
                raise DataUnusable(
                    f"the index at {self.folder} cannot be written",
                    got=type(error).__name__,
                    next_step="Check the disk's space and the folder's owner, then try again; it goes on from here.",
                ) from error

    def settle_words(self) -> None:
        """Put into, and take out of, the lexical index what the store says it is owed."""
        owed = self.store.numbers("SELECT passage FROM lexical_work ORDER BY passage")
        if owed:
            self.lexical.put(owed, self.store.indexable(owed))
            with self.store.transaction():
                self.store.change("DELETE FROM lexical_work WHERE passage = ?", ((each,) for each in owed))

    def finish_erasure(self) -> None:
        """Write what is kept into a new generation, if an erasure asks for it, and remove the former."""
        if self.store.fact(ERASING) is None:
            if generations.has_former(self.folder):
                generations.sweep(self.folder)
            return
        following = generations.next_generation(self.folder)
        write_kept(self.store, self.generation, following, self.dimensions())
        generations.switch(self.folder, following)
        self.close()
        self._open_generation()

    def erasure_unfinished(self) -> bool:
        """Return whether files may still hold what was erased, or what was there before a rebuild."""
        return self.store.fact(ERASING) is not None or generations.has_former(self.folder)

    def place_vectors(self) -> None:
        """Bring the graphs up to the store's vectors; within `writing`."""
        vectors.place(self.store, self.generation / "vectors", self.dimensions())
        self._open_vectors()

    def dimensions(self) -> int:
        """Return the dimensions of the index's vectors; 1 as long as there are none."""
        return int(self.store.fact(DIMENSIONS) or 1)


def write_kept(store: Store, former: Path, following: Path, dimensions: int) -> None:
    """Write a generation from what a store keeps: nothing of the former one's other files but vectors nobody left."""
    store.copy_to(following / FILE)
    kept = Store(following / FILE)
    try:
        with kept.transaction():
            kept.change("DELETE FROM former_patients", [()])
            kept.set_fact(ERASING, None)
        write_words(kept, following)
        vectors.write_anew(kept, following / "vectors", dimensions, former / "vectors")
    finally:
        kept.close()


def write_words(store: Store, generation: Path) -> None:
    """Write the lexical index of a new generation from its store."""
    Lexical(generation / "lexical").put((), store.indexable(None))
    with store.transaction():
        store.change("DELETE FROM lexical_work", [()])
