"""A site's index as its administrator has it: brought up to date from the sources, without who withdrew the consent.

The sources are the truth and `search.toml` says which they are. Bringing the index up to date reads all of them and
changes what differs: what is new or other is added, what is no longer there is taken out, and a source that cannot be
read keeps what it has. It can be stopped or killed between any two documents and begun again.

Invariants: nothing is added but under the lock by which a removal waits for a batch, and a batch for a removal.

Leaves to others: what is a document (`fedhealth.search.readers`), how it is kept and found (`fedhealth.search`), and
as whom and with what rights this runs (`fedhealth.site.search_domain`, `fedhealth.site.confinement`).
"""

import shutil
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fedhealth.corpora.store import LEAST_FREE_BYTES
from fedhealth.search.concepts import Terminology
from fedhealth.search.documents import Document
from fedhealth.search.index import SearchIndex
from fedhealth.search.readers.corpora import read_corpus, source_of
from fedhealth.search.readers.people import read_people
from fedhealth.search.readers.problem import Found, Problem
from fedhealth.search.readers.sources import read_documents
from fedhealth.search.reading import read_document
from fedhealth.search.rebuilding import rebuild_index
from fedhealth.search.search_file import load_search_file
from fedhealth.site.fetched_corpora import FetchStatus
from fedhealth.site.indexed_corpora import FoundCorpus, indexed, keep_indexed, text_digest
from fedhealth.site.search_accesses import forget_in_accesses, keep_settings
from fedhealth.site.search_consent import Consent, held_consent, keep_consent, kept_consent

_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 64, 10**6
_MOST_NAMED = 10_000


@dataclass
class SourceCount:
    """What came of one source.

    Attributes:
        source: its name.
        read: documents read so far.
        added: documents that are new in the index.
        replaced: that were there with other content.
        unchanged: that were there as they are.
        removed: that are no longer in the source.
        withheld: of patients who withdrew their consent.
        elsewhere: articles that another source has with the same text; they are shown as that one's.
        problems: what cannot be read, and what is to be said of how something was; of each level the first 10,000.
        unnamed: how many problems there are beyond these.
    """

    source: str
    read: int = 0
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0
    withheld: int = 0
    elsewhere: int = 0
    problems: list[Problem] = field(default_factory=list)
    unnamed: int = 0

    def note(self, problem: Problem) -> None:
        """Add a problem; of a file of a hundred million broken lines, not each."""
        named = self._named.get(problem.level, 0)
        if named < _MOST_NAMED:
            self._named[problem.level] = named + 1
            self.problems.append(problem)
        else:
            self.unnamed += 1

    def __post_init__(self) -> None:
        """Count what is named, by level."""
        self._named: dict[str, int] = {}


Told = Callable[[SourceCount, int], None]
"""Told of a source as it is read: its counts so far, and how many documents were read."""


def open_index(folder: Path, consent: Consent, *, create: bool = False) -> tuple[SearchIndex, int]:
    """Open an index, and take out who withdrew the consent since it was opened last.

    Args:
        folder: the index's.
        consent: as the journal has it.
        create: make it where there is none.

    Returns:
        The index, and how many documents were taken out.

    Raises:
        DataUnusable: there is none, or it is of another version, or cannot be read.
    """
    kept = kept_consent(folder)
    if kept is not None and kept == consent.updated(kept).kept(removed=True):
        index, removed = SearchIndex.open(folder, create=create), 0  # a search waits for no batch of what fills
    else:
        with held_consent(folder) as kept:
            index, removed = _without_forgotten(folder, consent.updated(kept), create)
    if index.status().erasure_unfinished:
        index.resume()
    return index, removed


def _without_forgotten(folder: Path, consent: Consent, create: bool) -> tuple[SearchIndex, int]:
    index = SearchIndex.open(folder, create=create)
    try:
        keep_consent(folder, consent.kept(removed=False))
        gone = [patient for patient in index.patients() if consent.excludes(patient)]
        forget_in_accesses(folder, consent.forgotten, gone)  # first: later nobody knows their names
        removed = index.remove_patients(gone).documents if gone else 0
        keep_consent(folder, consent.kept(removed=True))
    except BaseException:
        index.close()
        raise
    return index, removed


class Filling:
    """Brings an index up to date, source by source.

    Args:
        folder: the index's.
        index: it.
        consent: as the journal had it when this began.
        told: is told of a source's counts after each batch, and at its end.
    """

    def __init__(self, folder: Path, index: SearchIndex, consent: Consent, told: Callable[[SourceCount], None]) -> None:
        self._folder, self._index, self._consent, self._told = folder, index, consent, told
        self._terms = Terminology.load(folder)
        self._articles: dict[bytes, tuple[str, str]] = {}
        """By its text, where an article was met first."""
        self._publishers: dict[tuple[str, str], list[str]] = {}

    def bring_up_to_date(
        self, site_folder: Path, corpora: Sequence[FoundCorpus] = (), status: FetchStatus | None = None
    ) -> None:
        """Read every source and every corpus and change in the index what differs.

        Args:
            site_folder: the site's folder.
            corpora: open articles, of this site and others.
            status: what came of the last fetch of these.

        Raises:
            ConfigInvalid: the search file is missing or wrong.
        """
        file = load_search_file(site_folder)
        keep_settings(self._folder, file.access_log)
        people = read_people(file.people, site_folder) if file.people else {}
        for source in file.sources:
            count = SourceCount(source.name)
            if isinstance(people, Problem):
                count.note(people)
                people = {}
            self._bring(count, read_documents(source, site_folder, people))
        for store, held in corpora:
            found = _while_there_is_room(read_corpus(store, held), self._folder, source_of(held.manifest))
            self._bring(SourceCount(source_of(held.manifest)), found, held.manifest.site)
        named = {source.name for source in file.sources} | {source_of(held.manifest) for _, held in corpora}
        for name in sorted(set(self._index.status().documents) - named):
            self._remove(SourceCount(name), set())
        keep_indexed(self._folder, indexed(corpora, status, self._publishers))

    def _bring(self, count: SourceCount, found: Found, publisher: str | None = None) -> None:
        seen, batch, size = set[str](), list[Document](), 0
        for each in found:
            if isinstance(each, Problem):
                count.note(each)
                continue
            if each.kind == "article" and self._is_elsewhere(each, publisher):
                count.elsewhere += 1
                continue
            seen.add(each.key)
            batch.append(each)
            size += len(each.text)
            if len(batch) >= _BATCH_DOCUMENTS or size >= _BATCH_CHARACTERS:
                self._add(count, batch)
                batch, size = [], 0
        self._add(count, batch)
        if any(problem.level == "source" for problem in count.problems):
            return
        if not seen and (kept := len(self._index.keys(count.source))):  # a disk that is not there is an empty folder
            what = f"it holds no document any more; the index keeps the {kept:,} that it had. Should they go, take the"
            count.note(Problem(count.source, "", f"{what} source out of search.toml", "source"))
            self._told(count)
            return
        self._remove(count, seen)

    def _is_elsewhere(self, article: Document, publisher: str | None) -> bool:
        """Say whether an open article was met before, and keep who published it too."""
        place = article.source, article.key
        first = self._articles.setdefault(text_digest(article), place)
        if publisher is None or first == place:
            return False
        self._publishers.setdefault(first, []).append(publisher)
        return True

    def _add(self, count: SourceCount, batch: Sequence[Document]) -> None:
        """Add a batch, but for the patients who have withdrawn the consent by now."""
        with held_consent(self._folder) as kept:
            consent = self._consent.updated(kept)
            allowed = [document for document in batch if not consent.excludes(document.patient)]
            added = self._index.add(allowed, partial(read_document, terms=self._terms), self._terms.ancestors)
        count.read += len(batch)
        count.withheld += len(batch) - len(allowed)
        count.added += added.added
        count.replaced += added.replaced
        count.unchanged += added.unchanged
        self._told(count)

    def _remove(self, count: SourceCount, seen: Set[str]) -> None:
        """Take out what is no longer in a source."""
        with held_consent(self._folder):
            if gone := set(self._index.keys(count.source)) - seen:
                count.removed = self._index.remove(count.source, gone)
        self._told(count)


def _while_there_is_room(found: Found, folder: Path, source: str) -> Found:
    """Yield other hospitals' articles as long as they leave the disk enough for what is the hospital's own."""
    for number, each in enumerate(found):
        if number % _BATCH_DOCUMENTS == 0 and shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
            yield Problem(source, "", "the disk is too full for more articles", "source")
            return
        yield each


def fill_index(index: SearchIndex, progress: Callable[[int, int], None]) -> int:
    """Make the vectors that are missing; return how many were made.

    Args:
        index: it.
        progress: is told how many are made, and of how many.

    Raises:
        DataUnusable: another process fills it already, or its vectors are of another encoder.
    """
    missing = index.status().without_vector
    if not missing:
        return 0
    from fedhealth.search.encoder import Encoder  # seconds, and hundreds of megabytes: only where something is missing

    return index.fill_vectors(Encoder(), lambda done: progress(done, max(missing, done)))


def rebuild(folder: Path, progress: Callable[[int], None], *, keep_vectors: bool) -> int:
    """Read the documents of an index again and write its files anew; return how many documents that were.

    Args:
        folder: the index's.
        progress: is told how many are read.
        keep_vectors: where a passage is the same; else `fill_index` makes all of them anew.

    Raises:
        DataUnusable: there is no index, or its documents cannot be read.
    """
    terms = Terminology.load(folder)
    with held_consent(folder):
        return rebuild_index(
            folder,
            partial(read_document, terms=terms),
            terms.ancestors,
            keep_vectors=keep_vectors,
            on_progress=progress,
        )
