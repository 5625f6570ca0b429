"""Publishing articles: what an administrator chooses is made into a signed corpus, for everybody to read.

This is the one way on which documents leave a hospital, so it is an act of a person and of nothing else: what is
published is a file that lies outside the site's folder and state, where no record of a patient is kept; it is shown
before; and it is refused where it names a patient (`named_patients`). The corpus is made of that file alone, before
anybody looks for patients in it, and the key that signs it lies beside the gate's folder and not in it, as the asking
key does: a gate that was taken over can neither sign a corpus nor write one.

Invariants: a line that cannot be published refuses the whole; nothing is changed before all was checked; parts are
durable before the manifest that names them.

Leaves to others: carrying (`fedhealth.corpora`), and whether a text is fit to be published: the person's word.
"""

import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from fedhealth.corpora.corpus import (
    MAX_ARTICLE_BYTES,
    MAX_ARTICLES,
    MAX_CORPUS_BYTES,
    Article,
    Manifest,
    line_of,
    part_named,
    parts_of,
    sign_manifest,
)
from fedhealth.corpora.store import Address, CorpusStore
from fedhealth.errors import ConfigInvalid, DataUnusable
from fedhealth.policy.site_file import SiteFile
from fedhealth.search.documents import Document
from fedhealth.search.readers.articles import json_object, lines_of, read_article
from fedhealth.search.readers.problem import Problem, files_below
from fedhealth.search.search_file import Articles
from fedhealth.secret_file import locked_folder
from fedhealth.signing import create_signing_key, load_signing_key, public_key_hex
from fedhealth.site.article_folders import make_article_folders
from fedhealth.site.named_patients import NamedPatients, find_named
from fedhealth.site.state import SiteState

_MOST_PLACES = 5
_OF_A_PATIENT = re.compile(
    "patient|mrn|nip|ipp|(patient|subject|person|encounter|admission|hadm|stay)[ _.-]?(id|key|number|no|nr|name)"
)
"""Names of fields that say whose a record is, or of which stay."""
_KEYS = frozenset({"pmid", "_id", "id"})
"""Fields that name an article, whatever the site's data set calls its patients."""


@dataclass(frozen=True)
class Draft:
    """A corpus that is not published yet.

    Attributes:
        name: of the corpus.
        licence: under which it is published.
        articles: in the order of their keys.
        parts: the bytes that everybody will have.
    """

    name: str
    licence: str
    articles: tuple[Article, ...]
    parts: tuple[bytes, ...]

    @property
    def bytes(self) -> int:
        """The size of all parts."""
        return sum(map(len, self.parts))


def draft_corpus(path: Path, source: Articles, licence: str, site: SiteFile, private: Collection[Path]) -> Draft:
    """Make a corpus of a file, or of all `.jsonl` files of a folder; nothing is written.

    Args:
        path: where the articles are.
        source: how they are read; its name is that of the corpus.
        licence: under which they are published.
        site: whose patient column no article may have.
        private: folders in which nothing may be published.

    Raises:
        ConfigInvalid: there is no such file, it lies in a private folder, or there is no licence.
        DataUnusable: an article cannot be published; the message names some places.
    """
    if not path.exists():
        raise ConfigInvalid(f"there is no {path}", wanted="a .jsonl file, or a folder of them")
    if not licence.strip() or not licence.isprintable() or len(licence) > 200:
        raise ConfigInvalid(
            "nothing is published without a licence",
            got=f"{licence[:80]!r}",
            wanted="one line, such as CC-BY-4.0",
            next_step="Say under which licence everybody may read and index these articles: --licence",
        )
    articles, problems, size = dict[str, Article](), list[str](), 0
    for found in _articles(path, source, site, private):
        if isinstance(found, Problem):
            problems.append(f"{found.place}: {found.what}")
        elif found.key in articles:
            problems.append(f"two articles are called {found.key}")
        else:
            articles[found.key] = found
            size += len(line_of(found))
        if len(articles) > MAX_ARTICLES or size > MAX_CORPUS_BYTES:
            raise _too_many(source.name, f"more than {MAX_ARTICLES:,} articles or {MAX_CORPUS_BYTES // 2**20} MiB")
        if len(problems) > _MOST_PLACES:
            break
    if problems:
        more = " and more" if len(problems) > _MOST_PLACES else ""
        raise DataUnusable(
            f"these articles cannot be published as '{source.name}'",
            got="; ".join(problems[:_MOST_PLACES]) + more,
            wanted="one JSON object a line in UTF-8, each with a key of its own and a text, none about a patient",
            next_step="Correct the file; nothing was published.",
        )
    if not articles:
        raise _too_many(source.name, "none")
    ordered = tuple(articles[key] for key in sorted(articles))
    return Draft(source.name, licence.strip(), ordered, tuple(parts_of(map(line_of, ordered))))


def _too_many(name: str, got: str) -> DataUnusable:
    return DataUnusable(
        f"these articles are no corpus that can be published as '{name}'",
        got=got,
        wanted=f"1 to {MAX_ARTICLES:,} articles, at most {MAX_CORPUS_BYTES // 2**20} MiB",
        next_step="Publish a selection, or several corpora.",
    )


def patients_named(draft: Draft, folder: Path, state: SiteState, allowed: Collection[str]) -> NamedPatients:
    """Look whether a draft names a patient of this site.

    Args:
        draft: what is to be published.
        folder: the site's folder.
        state: its state.
        allowed: keys of articles that a person has looked at: what they hold names no patient.

    Raises:
        DataUnusable: it does, or nobody can say.
    """
    found = find_named(folder, state.root, draft.articles)
    if named := [key for key in found.named if key not in allowed]:
        raise DataUnusable(
            f"{len(named):,} of {len(draft.articles):,} articles hold an identifier of a patient of this site",
            got=f"articles {', '.join(named[:_MOST_PLACES])}{' and more' if len(named) > _MOST_PLACES else ''}",
            next_step="Look at each. One about a patient is not published. A number that is a patient's by chance "
            "alone: --allow KEY, so that what is public does not depend on who your patients are.",
        )
    return found


def articles_key_of(state: SiteState) -> Ed25519PrivateKey:
    """Return the key that signs the site's corpora; made if there is none."""
    path = state.root / "articles.key"
    if not path.exists():
        create_signing_key(path)
    return load_signing_key(path)


def publish(draft: Draft, site: str, state: SiteState, now_ms: int | None = None) -> Manifest:
    """Publish a draft; the former version of the corpus is replaced. The same articles again change nothing.

    Args:
        draft: what to publish.
        site: this site's id.
        state: its state.
        now_ms: the present, Unix time in milliseconds; by the clock if None.

    Raises:
        CorpusRefused: the site publishes too much, or the disk is full.
    """
    named = tuple(part_named(part) for part in draft.parts)
    address = (site, draft.name)
    with _own(state) as store:
        before = store.held().get(address)
        if before and (before.manifest.parts, before.manifest.licence) == (named, draft.licence):
            return before.manifest
        manifest = Manifest(
            site=site,
            corpus=draft.name,
            licence=draft.licence,
            version=_version(store, address, now_ms),
            articles=len(draft.articles),
            parts=named,
            key=public_key_hex(articles_key_of(state).public_key()),
        )
        store.accept(sign_manifest(manifest, articles_key_of(state)), address)
        content = {part.sha256: data for part, data in zip(named, draft.parts, strict=True)}
        for part in store.missing(address):
            store.put(address, part, content[part.sha256])
    return manifest


def withdraw_corpus(name: str, site: str, state: SiteState, now_ms: int | None = None) -> Manifest:
    """Withdraw a corpus: the other sites drop it at their next fetch. It may be published again.

    Args:
        name: of the corpus.
        site: this site's id.
        state: its state.
        now_ms: as in `publish`.

    Raises:
        ConfigInvalid: it is not published.
    """
    address = (site, name)
    with _own(state) as store:
        before = store.held().get(address)
        if before is None or before.manifest.withdrawn:
            raise ConfigInvalid(
                f"this site publishes no corpus '{name}'",
                next_step="fedhealth site articles list says what it publishes.",
            )
        manifest = Manifest(
            site=site,
            corpus=name,
            licence="",
            version=_version(store, address, now_ms),
            articles=0,
            parts=(),
            key=public_key_hex(articles_key_of(state).public_key()),
        )
        store.accept(sign_manifest(manifest, articles_key_of(state)), address)
    return manifest


def _articles(path: Path, source: Articles, site: SiteFile, private: Collection[Path]) -> Iterator[Article | Problem]:
    """Yield what is to be published of a file or a folder, and what cannot be."""
    of_patient = {site.data_set.patient_column.casefold()} - _KEYS
    for file, name in files_below(path, (".jsonl", ".ndjson")):
        if any(file.resolve().is_relative_to(each.resolve()) for each in private):
            raise ConfigInvalid(
                f"nothing of {file} is published",
                got="a place where records of patients are kept",
                wanted="a file outside the site's folder and state",
                next_step="Copy the articles that shall be public to a place of their own.",
            )
        for place, line in lines_of(file, name):
            found = json_object(line)
            fields = {field.casefold() for field in found} if not isinstance(found, str) else set()
            whose = sorted(each for each in fields if _OF_A_PATIENT.fullmatch(each) or each in of_patient)
            if whose:
                yield Problem(source.name, place, f"it has a patient: field '{whose[0]}'")
            else:
                yield _published(read_article(source, found, place), source, place)


def _published(found: Document | Problem, source: Articles, place: str) -> Article | Problem:
    if isinstance(found, Problem):
        return found
    try:
        article = Article(key=found.key, title=found.title, text=found.text, date=found.date, language=found.language)
        line_of(article)
    except (ValidationError, DataUnusable):
        return Problem(source.name, place, f"longer than {MAX_ARTICLE_BYTES // 1024} KiB, or its name is too long")
    return article


def _version(store: CorpusStore, address: Address, now_ms: int | None) -> int:
    """Return a version that counts after all former ones, also where the clock was put back."""
    return max(time.time_ns() // 10**6 if now_ms is None else now_ms, store.newest(address) + 1)


@contextmanager
def _own(state: SiteState) -> Iterator[CorpusStore]:
    """Open the folder of what this site publishes, for one command at a time.

    Raises:
        ConfigInvalid: this user may not write there.
    """
    try:
        make_article_folders(state.root)
        with locked_folder(state.published):
            yield CorpusStore(state.published, follows_keys=True)
    except PermissionError as error:
        raise ConfigInvalid(
            "this user may not publish for this site",
            got=f"{error.strerror} at {error.filename}",
            next_step="Publish as root: sudo fedhealth site articles ... (docs/articles.md)",
        ) from error
