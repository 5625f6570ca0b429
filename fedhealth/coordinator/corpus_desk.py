"""Where the coordinator takes the corpora that sites publish, and hands them on to all other sites.

It asks each site that is connected, and lists what it holds of those that joined. It can read what is public and change
none of it: sites believe publishers' signatures. What it can do is keep corpora back; its operator does so by removing
one, until the removal is taken back.

Invariants: a site's corpora come from its own link alone; nothing about who asks for what is kept.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from fedhealth.corpora import carrying
from fedhealth.corpora.carrying import Ask, CorpusList, corpora_service, fetch, list_of
from fedhealth.corpora.store import Address, CorpusStore, Held
from fedhealth.errors import ConfigInvalid, FedHealthError
from fedhealth.link.services import Service
from fedhealth.secret_file import PUBLIC_MODE, replace_file

_LOG = logging.getLogger(__name__)
_REMOVED = "removed.json"

AskSite = Callable[[str], Ask]


class CorpusDesk:
    """Takes and hands on; all methods belong to one event loop.

    Args:
        folder: where the corpora are.
        sites: returns the sites that joined.
        ask_site: returns what asks a site.
    """

    def __init__(self, folder: Path, sites: Callable[[], tuple[str, ...]], ask_site: AskSite) -> None:
        self._folder, self._sites, self._ask_site = folder, sites, ask_site
        self._store = CorpusStore(folder, follows_keys=True)  # a site is proven by TLS, whatever key it signs with
        self._heard: dict[str, int] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    def service_for(self, site: str) -> Service:
        """Return what a site may ask: the corpora of all others."""

        def listed() -> CorpusList:
            removed, others = removed_corpora(self._folder), {each for each in self._sites() if each != site}
            return list_of(
                self._store,
                {each: self._heard.get(each) for each in sorted(others)},
                lambda address: address[0] not in others or address in removed,
            )

        return corpora_service(listed, self._store)

    def linked(self, site: str, connected: bool) -> None:
        """Ask a site for what it publishes, from now on and for as long as it is connected."""
        if (task := self._asking.pop(site, None)) is not None:
            task.cancel()
        if connected:
            self._asking[site] = asyncio.get_running_loop().create_task(self._keep_asking(site))

    def stop(self) -> None:
        """Ask nobody any more."""
        for site in list(self._asking):
            self.linked(site, connected=False)

    async def _keep_asking(self, site: str) -> None:
        while True:
            try:
                removed = removed_corpora(self._folder)
                _, problems = await fetch(self._ask_site(site), self._store, lambda each: each == site, removed)
                self._heard[site] = int(time.time())
                for problem in problems.values():
                    _LOG.warning("not taken from site '%(site)s': %(error)s", {"site": site, "error": problem})
            except (FedHealthError, OSError) as error:
                _LOG.warning("what site '%(site)s' publishes is not known: %(error)s", {"site": site, "error": error})
            await asyncio.sleep(carrying.EVERY_SECONDS)


def held_corpora(folder: Path) -> dict[Address, Held]:
    """Return the corpora that a coordinator holds whole, those withdrawn among them, and none that was removed."""
    return CorpusStore(folder).held()


def removed_corpora(folder: Path) -> frozenset[Address]:
    """Return the corpora that the operator removed."""
    try:
        return frozenset((site, corpus) for site, corpus in json.loads((folder / _REMOVED).read_text()))
    except FileNotFoundError:
        return frozenset()


def remove_corpus(folder: Path, address: Address, *, removed: bool) -> None:
    """Delete a corpus and keep it back from all sites from now on, or fetch it again and hand it on.

    The coordinator may be running.

    Raises:
        ConfigInvalid: there is no such corpus.
    """
    before = removed_corpora(folder)
    if address not in before | held_corpora(folder).keys():
        raise ConfigInvalid(
            f"there is no corpus '{address[1]}' of site '{address[0]}' here",
            next_step="fedhealth coordinator articles list says which there are.",
        )
    after = before | {address} if removed else before - {address}
    replace_file(folder / _REMOVED, json.dumps(sorted(after)).encode(), PUBLIC_MODE)
    if removed:
        CorpusStore(folder).drop(address)
