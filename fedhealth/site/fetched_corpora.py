"""The node's part in open articles: it fetches what other sites publish, and hands out what this one does.

It fetches all there is at a fixed rhythm (`fedhealth.corpora.carrying`), so that nobody learns from it what is searched
here. What it keeps is public. It looks at no article; the gate's domain checks signatures and hashes again when it
reads them.

Invariants: what the gate's user has put into the published folder is not handed out, where that user is not the node's
own: a gate that was taken over has no second way out.
"""

import asyncio
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fedhealth.canonical import canonical_bytes
from fedhealth.corpora import carrying
from fedhealth.corpora.carrying import CorpusList, corpora_service, fetch, list_of
from fedhealth.corpora.store import CorpusStore
from fedhealth.errors import ConfigInvalid, LinkUnavailable
from fedhealth.link.client import SiteLink
from fedhealth.link.services import Service
from fedhealth.secret_file import PUBLIC_MODE, read_plain_file, replace_file
from fedhealth.site.article_folders import make_article_folders
from fedhealth.site.state import SiteState

_LOG = logging.getLogger(__name__)
_STATUS, _MAX_STATUS_BYTES = "status.json", 2**22


class CorpusProblem(BaseModel):
    """A corpus that was not taken in, or not to its end.

    Attributes:
        site: who publishes it.
        corpus: its name.
        why: in words, for the administrator.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    site: str
    corpus: str
    why: Annotated[str, Field(max_length=1000)]


class FetchStatus(BaseModel):
    """What came of the last fetch that the coordinator answered.

    Attributes:
        at: when that was, Unix time in seconds.
        heard: of each other site, when the coordinator last heard it, or None.
        problems: what was not taken in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    at: int
    heard: dict[str, int | None]
    problems: tuple[CorpusProblem, ...] = ()


def published_service(state: SiteState, unheard: int | None) -> Service:
    """Return what the coordinator may ask: what this site publishes.

    Args:
        state: the site's.
        unheard: the Unix user whose files are not handed out; None where gate and node are one user.
    """
    store = CorpusStore(state.published)

    def listed() -> CorpusList:
        # The link itself: behind one of the gate's user's may lie a folder of root's in which everybody writes.
        if unheard is not None and state.published.is_dir() and state.published.lstat().st_uid == unheard:
            _LOG.error("the folder of published articles belongs to the gate's user, so nothing of it is handed out")
            return CorpusList(corpora=(), heard={})
        return list_of(store, {})

    return corpora_service(listed, store)


class FetchedCorpora:
    """Fetches what other sites publish while the site is connected.

    Args:
        link: asks the coordinator.
        folder: where the corpora go.
        site: this site's id; its own corpora are not taken from elsewhere.
    """

    def __init__(self, link: SiteLink, folder: Path, site: str) -> None:
        self._link, self._folder, self._site = link, folder, site
        self._store = CorpusStore(folder)
        self._fetching: asyncio.Task[None] | None = None

    def connected(self) -> None:
        """Fetch now and until stopped; what an earlier connection began is left."""
        self.stop()
        self._fetching = asyncio.create_task(self._keep_fetching())

    def stop(self) -> None:
        """Stop fetching; what has come stays."""
        if self._fetching is not None:
            self._fetching.cancel()

    async def _keep_fetching(self) -> None:
        while True:
            try:
                listed, problems = await fetch(self._link.ask, self._store, lambda site: site != self._site)
                said = (
                    CorpusProblem(site=site, corpus=corpus, why=str(error)[:1000])
                    for (site, corpus), error in problems.items()
                )
                status = FetchStatus(at=int(time.time()), heard=listed.heard, problems=tuple(said))
                replace_file(self._folder / _STATUS, canonical_bytes(status), PUBLIC_MODE)
            except (LinkUnavailable, OSError) as error:
                _LOG.warning("articles of other sites are not fetched: %(error)s", {"error": error})
            await asyncio.sleep(carrying.EVERY_SECONDS)


def fetch_status(folder: Path) -> FetchStatus | None:
    """Return what came of the last fetch; None if there was none, or nobody can say."""
    with suppress(OSError, ValueError):
        return FetchStatus.model_validate_json(read_plain_file(folder / _STATUS, _MAX_STATUS_BYTES))
    return None


def believe_key(state: SiteState, site: str, key: str) -> None:
    """Believe another key of a site from now on; run by root, as the user whom the folder belongs to.

    Raises:
        ConfigInvalid: this user may not write there.
    """
    try:
        make_article_folders(state.root)
        owner = state.fetched.stat()
        if os.geteuid() == 0 != owner.st_uid:  # root follows no path that the node's user could lay out
            os.setgroups([])
            os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
            os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
        CorpusStore(state.fetched).trust(site, key)
    except PermissionError as error:
        raise ConfigInvalid(
            "this user may not say whose articles are believed",
            got=f"{error.strerror} at {error.filename}",
            next_step="Run it as root, or as the node's user.",
        ) from error
