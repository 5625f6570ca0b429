"""Which published corpora the index holds, how old they are, which sites are missing, and who published a text too.

Written beside the index when it is brought up to date, read with every answer: a process that searches can read the
index alone.
"""

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.corpora.store import CorpusStore, Held
from fedhealth.search.answering import SearchedCorpus
from fedhealth.search.documents import Document
from fedhealth.secret_file import SECRET_MODE, read_plain_file, replace_file
from fedhealth.site.fetched_corpora import FetchStatus, fetch_status
from fedhealth.site.state import SiteState

_FILE, _MAX_BYTES = "corpora.json", 2**28
_AWAY_AFTER_SECONDS = 86_400

FoundCorpus = tuple[CorpusStore, Held]


class IndexedCorpora(BaseModel):
    """What the index holds of published corpora.

    Attributes:
        corpora: each of them, as its publisher states it.
        missing: other sites whose newest articles are not here, and why.
        heard: when the node last heard from the coordinator, Unix time in seconds; None if it never did.
        publishers: of a document's source and key, who else published the same text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    corpora: tuple[SearchedCorpus, ...] = ()
    missing: dict[str, str] = {}
    heard: int | None = None
    publishers: dict[str, dict[str, tuple[str, ...]]] = {}

    def publishers_of(self, document: Document) -> tuple[str, ...]:
        """Return the sites that published a document's text; none for what is the hospital's own alone."""
        _, _, first = document.source.partition("@")
        others = self.publishers.get(document.source, {}).get(document.key, ())
        return tuple(dict.fromkeys([*([first] if first else []), *others]))

    def heard_at(self) -> datetime.datetime | None:
        """Return when the node last heard from the coordinator."""
        return None if self.heard is None else datetime.datetime.fromtimestamp(self.heard, datetime.UTC)


def corpora_here(state: SiteState) -> tuple[list[FoundCorpus], FetchStatus | None]:
    """Return the corpora that are whole and not withdrawn, the own ones first, and what came of the last fetch."""
    stores = [CorpusStore(folder) for folder in (state.published, state.fetched)]
    found = [(store, held) for store in stores for held in store.held().values() if not held.manifest.withdrawn]
    return found, fetch_status(state.fetched)


def text_digest(document: Document) -> bytes:
    """Return what two articles have in common that are the same text, whatever their keys and the spaces in them."""
    return hashlib.blake2b(" ".join(f"{document.title}\n{document.text}".split()).encode(), digest_size=16).digest()


def indexed(
    found: Sequence[FoundCorpus], status: FetchStatus | None, publishers: Mapping[tuple[str, str], Sequence[str]]
) -> IndexedCorpora:
    """Return what is to be said of corpora that were indexed just now.

    Args:
        found: they.
        status: what came of the last fetch.
        publishers: of source and key of a document, who else published its text.
    """
    by_source: dict[str, dict[str, tuple[str, ...]]] = {}
    for (source, key), others in publishers.items():
        by_source.setdefault(source, {})[key] = tuple(dict.fromkeys(others))
    return IndexedCorpora(
        corpora=tuple(
            SearchedCorpus(
                held.manifest.site,
                held.manifest.corpus,
                held.manifest.licence,
                held.manifest.published.date(),
                held.manifest.articles,
            )
            for _, held in found
        ),
        missing={} if status is None else _missing(status),
        heard=None if status is None else status.at,
        publishers=by_source,
    )


def _missing(status: FetchStatus) -> dict[str, str]:
    missing: dict[str, str] = {}
    for site, heard in status.heard.items():
        if heard is None:
            missing[site] = "away since the coordinator was started"
        elif status.at - heard > _AWAY_AFTER_SECONDS:
            missing[site] = f"away since {datetime.datetime.fromtimestamp(heard, datetime.UTC):%Y-%m-%d}"
    for problem in status.problems:
        missing[problem.site] = f"'{problem.corpus}' is not here in its newest version"
    return missing


def keep_indexed(index: Path, corpora: IndexedCorpora) -> None:
    """Write what the index in a folder holds."""
    replace_file(index / _FILE, canonical_bytes(corpora), SECRET_MODE)


class KeptCorpora:
    """What the index in a folder holds, read again only after a change.

    Args:
        index: the folder.
    """

    def __init__(self, index: Path) -> None:
        self._path, self._read = index / _FILE, (0, 0, IndexedCorpora())

    def now(self) -> IndexedCorpora:
        """Return it; nothing where nothing was ever written or it cannot be read."""
        try:
            status = self._path.stat()
            stamp = status.st_ino, status.st_mtime_ns  # every change is another file
            if self._read[:2] != stamp:
                found = IndexedCorpora.model_validate_json(read_plain_file(self._path, _MAX_BYTES))
                self._read = (*stamp, found)
        except (OSError, ValidationError):
            return IndexedCorpora()
        return self._read[2]
