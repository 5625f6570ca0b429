"""The coordinator's main process: holds the border, witnesses ledgers, keeps the store, runs studies one at a time.

`Coordinator` is that process in the middle: `coordinator run` gives it one study, `coordinator serve` those that
researchers submit (`fedhealth.coordinator.daemon`). Both go the same way, through the same store.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedhealth.coordinator.asking import Asker
from fedhealth.coordinator.border import Border
from fedhealth.coordinator.corpus_desk import CorpusDesk
from fedhealth.coordinator.count_desk import CountDesk, signed_searches
from fedhealth.coordinator.evidence import Evidence
from fedhealth.coordinator.home import CoordinatorHome
from fedhealth.coordinator.publishing import Publisher
from fedhealth.coordinator.store.database import open_database
from fedhealth.coordinator.store.runs import Runs
from fedhealth.coordinator.store.studies import KnownStudy, Studies
from fedhealth.coordinator.store.tables import StudyState
from fedhealth.coordinator.study_run import StudyRun
from fedhealth.coordinator.witness import PinnedSite, Witness
from fedhealth.corpora.carrying import CORPORA
from fedhealth.flower.version import check_flower
from fedhealth.learning.plan import plan_study
from fedhealth.link.catalogue import CATALOGUE, MAX_STUDIES, catalogue_service
from fedhealth.link.counts import COUNTS
from fedhealth.link.engine import Engine
from fedhealth.link.frames import MAX_HEADER_BYTES, Answer, Witnessed, unpack_request
from fedhealth.link.memory import Buffer
from fedhealth.link.quota import QUOTA_OF_FLOWER_SITE, QUOTA_OF_SITE
from fedhealth.link.services import Service
from fedhealth.privacy.copies import PAGE_BYTES
from fedhealth.signing import public_key_hex
from fedhealth.study.protocol import Study
from fedhealth.study.signature import open_signed_study

if TYPE_CHECKING:
    from fedhealth.coordinator.superlink_engine import SuperLinkEngine

_LOG = logging.getLogger(__name__)

OnEvent = Callable[[Mapping[str, Any]], None]
_ASK_SECONDS = 60.0
"""How long an answer may take beyond the site's own public `reply_after`."""
_LONGEST_REPLY_SECONDS = 3600.0
"""No site is waited for longer than this for one answer, whatever it announces."""
WAITING_STATES = (StudyState.OFFERED, StudyState.RUNNING, StudyState.WAITING)
"""Studies that sites are told of: they may still approve them, and take part."""


@dataclass(frozen=True)
class Ports:
    """How a coordinator is reached.

    Attributes:
        address: host and port of the link to listen at; port 0 takes a free one.
        enrolment: host and port that sites join at while one is invited; None to let nobody join.
    """

    address: str
    enrolment: str | None = None


class Coordinator:
    """A coordinator at work; holds its home until it is closed.

    Args:
        home: its state.
        database: URL of its PostgreSQL database; None for SQLite in its home.
        allow_unsafe_test_sites: take part with sites whose noise is known; for tests.
        on_event: told what happens, as JSON-ready mappings.
        engine: how sites are asked during a study's run; all else goes over the link.

    Raises:
        ConfigInvalid: the coordinator is running already, the database is another's, or the Flower that is installed
            is not one that this runs with.
        StoreUnavailable: the database cannot be used.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        database: str | None,
        allow_unsafe_test_sites: bool,
        on_event: OnEvent,
        engine: Engine = Engine.LINK,
    ) -> None:
        check_flower()
        self.home, self.allow_unsafe_test_sites, self.on_event = home, allow_unsafe_test_sites, on_event
        self._witness_key = home.witness_key()
        self._held = home.hold()
        store = open_database(home.root, database, public_key_hex(self._witness_key.public_key()))
        self.studies, self.runs = Studies(store), Runs(store)
        self._pinned: dict[str, PinnedSite] = {}
        self._joined: frozenset[str] = frozenset()
        self.look_for_sites()
        offered = {CATALOGUE: catalogue_service(_Offered(self.studies, home.searches))}
        quota = QUOTA_OF_FLOWER_SITE if engine is Engine.SUPERLINK else QUOTA_OF_SITE
        self._border = Border(home, self._on_link, lambda site: {**offered, **self._services(site)}, quota)
        self.link = self._border.link
        self._engine = engine
        self._superlink = _superlink_of(home, on_event) if engine is Engine.SUPERLINK else None
        self.asker = Asker(self._carry, Witness(home.witnessed, self._pinned, self._witness_key))
        self._counts = CountDesk(home.searches, self.asker, lambda: self.sites)
        self._corpora = CorpusDesk(home.corpora, lambda: self.sites, lambda site: partial(self.link.ask, site))
        self._running: StudyRun | None = None

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that joined and were not taken out, in alphabetical order."""
        return tuple(sorted(self._joined))

    def look_for_sites(self) -> None:
        """Learn which sites have joined since and which were taken out; what these did in a run stays checkable."""
        self._pinned |= self.home.known_sites()
        self._joined = self.home.joined_sites()

    async def start(self, ports: Ports) -> int:
        """Open the border and return the link's port; before that, start the SuperLink where there is to be one.

        Raises:
            LinkUnavailable: a port is in use, or the address is not this machine's.
            FedHealthError: the SuperLink cannot be started.
        """
        if self._superlink is not None:
            await self._superlink.start()
        return await self._border.start(ports.address, ports.enrolment)

    async def close(self) -> None:
        """Close the border, and let others have the home."""
        await self._border.stop()
        self._corpora.stop()
        if self._superlink is not None:
            await self._superlink.stop()
        self.studies.close()
        self._held.close()

    def submit(self, signed_study: bytes, user: int | None = None) -> KnownStudy:
        """Take in a signed study, once.

        Args:
            signed_study: its bytes.
            user: the Unix user who handed it in; None for the operator.

        Raises:
            IdentityInvalid: its signature does not hold.
            ConfigInvalid: another researcher submitted it, or no such mechanism exists.
        """
        signed = open_signed_study(signed_study)
        plan_study(signed.study)
        return self.studies.submit(signed, signed_study, signed.study.retention_days, self.unix_ms(), user)

    async def run(self, known: KnownStudy, folder: Path, patience_seconds: float | None = None) -> Evidence:
        """Run a study, or go on with it; arguments, result and errors are those of `StudyRun`."""
        publisher = Publisher(self.home.federation(), self._pinned, self._witness_key, self._engine)
        self._running = StudyRun(self, known, folder, publisher, patience_seconds)
        try:
            return await self._running.run()
        finally:
            self._running = None
            if self._superlink is not None:
                await self._superlink.end_run()

    @staticmethod
    def unix_ms() -> int:
        """Return the present in milliseconds of Unix time."""
        return time.time_ns() // 10**6

    async def _carry(self, site: str, frame: bytes) -> Buffer:
        seconds, longest = _ASK_SECONDS, longest_answer(None)
        if self._running is not None:
            longest = longest_answer(self._running.study)
            if (accepted := self._running.approved.get(site)) is not None:
                seconds += min(max(accepted.reply_after_ms.values()) / 1000, _LONGEST_REPLY_SECONDS)
        if self._superlink is not None and self._running is not None and _is_of_run(frame, self._running.study):
            return await self._superlink.carry(site, frame, seconds, longest)
        return await self.link.ask(site, "gate", frame, seconds, longest)

    def _on_link(self, site: str, connected: bool) -> None:
        if self._superlink is not None:
            self._superlink.linked(site, connected)
        self._corpora.linked(site, connected)
        self.on_event({"event": "site", "site": site, "connected": connected})

    def _services(self, site: str) -> Mapping[str, Service]:
        flower = {} if self._superlink is None else self._superlink.services(site)
        return {COUNTS: self._counts.service_for(site), CORPORA: self._corpora.service_for(site), **flower}


def _superlink_of(home: CoordinatorHome, on_event: OnEvent) -> "SuperLinkEngine":
    from fedhealth.coordinator.superlink_engine import SuperLinkEngine  # Flower takes a second to load

    return SuperLinkEngine(home.superlink, on_event)


def _is_of_run(frame: bytes, study: Study) -> bool:
    """Say whether a frame is of a study's run, or of none: a count that is asked meanwhile goes over the link."""
    request, _ = unpack_request(frame)
    return not isinstance(request, Answer | Witnessed) or request.study in (None, study.digest)


class _Offered:
    """The signed studies that wait, the oldest first, then the search studies that stand; read anew each time.

    Those that stand do so for years: they must not keep a study that waits from being seen.
    """

    def __init__(self, studies: Studies, searches: Path) -> None:
        self._studies, self._searches = studies, searches

    def __iter__(self) -> Iterator[bytes]:
        waiting = [study.signed for study in self._studies.all(WAITING_STATES)]
        return iter([*waiting, *signed_searches(self._searches)][:MAX_STUDIES])


def longest_answer(study: Study | None) -> int:
    """Return how many bytes a gate's answer may have: a page of entries, or a running study's release."""
    steps = [] if study is None else plan_study(study).values()
    longest_payload = max((8 * step.mechanism.dimension for step in steps), default=0)
    return 4 + MAX_HEADER_BYTES + max(longest_payload, 2 * PAGE_BYTES)
