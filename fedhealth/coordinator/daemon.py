"""`coordinator serve`: sites join and connect, researchers submit, and studies are run one at a time, the oldest first.

A study is offered to the sites until all of them approved it, or its quorum did and the others had their time; then it
runs. Where too few sites are left it waits, others go first, and it is tried again when a site connects or its wait is
over. Whatever was running when this process ended, however it ended, goes on when it starts again. What a protocol
says is kept no longer is removed.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedhealth.coordinator.asking import NoRelease
from fedhealth.coordinator.home import CoordinatorHome
from fedhealth.coordinator.participation import quorum_of
from fedhealth.coordinator.research_desk import ResearchDesk
from fedhealth.coordinator.research_port import ResearchPort
from fedhealth.coordinator.retention import remove_expired
from fedhealth.coordinator.service import Coordinator, OnEvent, Ports
from fedhealth.coordinator.store.studies import KnownStudy
from fedhealth.coordinator.store.tables import StudyState
from fedhealth.coordinator.study_run import ask_approval
from fedhealth.errors import FedHealthError
from fedhealth.link.engine import Engine
from fedhealth.study.signature import open_signed_study

_LOG = logging.getLogger(__name__)
_ASK_SECONDS = 5.0
"""How often a site that has not approved a study is asked whether it has."""
_ANSWER_SECONDS = 10.0
_RETENTION_SECONDS = 3600.0
"""How often it looks for results to be removed."""


class Daemon:
    """A coordinator that serves; all methods belong to one event loop.

    Args:
        home: its state; runs have their folders in it.
        database: as `Coordinator` has it.
        allow_unsafe_test_sites: the same.
        group: the Unix group whose members are researchers; None for the coordinator's own user.
        on_event: told what happens, as JSON-ready mappings.
        engine: as `Coordinator` has it.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        database: str | None,
        allow_unsafe_test_sites: bool,
        group: str | None,
        on_event: OnEvent,
        engine: Engine = Engine.LINK,
    ) -> None:
        self._home, self._tell = home, on_event
        self.coordinator = Coordinator(home, database, allow_unsafe_test_sites, self._on_event, engine)
        desk = ResearchDesk(self.coordinator, self._end_run, self._wake)
        self._port = ResearchPort(home.root, group, desk.answer, desk.follow, self._asked)
        self._changed, self._to_ask = asyncio.Event(), asyncio.Event()
        self._running: tuple[str, asyncio.Task[object]] | None = None
        self._not_before: dict[str, float] = {}
        self._others_until: dict[str, float] = {}

    async def serve(self, ports: Ports) -> None:
        """Serve until this is cancelled.

        Raises:
            LinkUnavailable: a port or the socket cannot be used.
            ConfigInvalid: the group of researchers cannot be used.
        """
        beside: list[asyncio.Task[None]] = []
        try:
            port = await self.coordinator.start(ports)
            socket = await self._port.start()
            self._tell({"event": "listening", "port": port, "research": str(socket)})
            beside = [asyncio.create_task(each) for each in (self._ask_for_approvals(), self._keep_retention())]
            while True:
                for task in beside:
                    if task.done():
                        task.result()  # a defect there is one of the whole: whoever keeps this running starts it again
                self._changed.clear()
                known = self._next()
                if known is not None:
                    await self._run(known)
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._changed.wait()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await self._port.stop()
            await self.coordinator.close()

    def _next(self) -> KnownStudy | None:
        """Return the study that runs next: one that was cut off, or the oldest that may."""
        studies, now = self.coordinator.studies, asyncio.get_running_loop().time()
        ready = [
            known
            for known in studies.all((StudyState.RUNNING, StudyState.WAITING, StudyState.OFFERED))
            if now >= self._not_before.get(known.digest, 0.0)
            and (known.state is not StudyState.OFFERED or self._is_approved(known, now))
        ]
        return min(ready, key=lambda known: known.state is not StudyState.RUNNING, default=None)

    def _is_approved(self, known: KnownStudy, now: float) -> bool:
        """Say whether a study may begin: all sites approved it, or its quorum did and the others had their time."""
        study, sites = open_signed_study(known.signed).study, self.coordinator.sites
        approved = self.coordinator.studies.approvals(known.digest).keys() & set(sites)
        if not sites or not quorum_of(study, sites).holds(approved):
            return False
        if set(sites) <= approved:
            return True
        begins = self._others_until.setdefault(known.digest, now + study.sites.wait_seconds)
        return now >= begins

    async def _run(self, known: KnownStudy) -> None:
        folder = self._home.runs / known.digest
        before = self.coordinator.runs.find(known.digest)
        if before is not None:
            folder = Path(before.folder)
        task = asyncio.create_task(self.coordinator.run(known, folder))
        self._running = known.digest, task
        try:
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                self._put_off(known, error)
        finally:
            self._running = None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _put_off(self, known: KnownStudy, error: BaseException) -> None:
        """Let a study wait that could not go on now."""
        if not isinstance(error, FedHealthError):
            _LOG.error("a run failed: %(defect)s", {"defect": type(error).__name__})
            now = self.coordinator.studies.find(known.digest)
            if now is not None and now.state is StudyState.RUNNING:
                reason, at = "a defect in the coordinator", self.coordinator.unix_ms()
                self.coordinator.studies.move(known.digest, StudyState.WAITING, at, reason)
        wait = open_signed_study(known.signed).study.sites.wait_seconds
        self._not_before[known.digest] = asyncio.get_running_loop().time() + wait
        self._tell({"event": "put-off", "study": known.digest, "reason": getattr(error, "what", "a defect")})

    async def _end_run(self, digest: str) -> None:
        """End the run of a study, if it is the one that runs."""
        if self._running is not None and self._running[0] == digest:
            task = self._running[1]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _asked(self, user: int, what: str) -> None:
        self._tell({"event": "asked", "user": user, "what": what})

    async def _ask_for_approvals(self) -> None:
        while True:
            self._to_ask.clear()
            self.coordinator.look_for_sites()
            for known in self.coordinator.studies.all((StudyState.OFFERED,)):
                approved = self.coordinator.studies.approvals(known.digest)
                wanted = self.coordinator.link.connected() & set(self.coordinator.sites) - approved.keys()
                if any(await asyncio.gather(*(self._has_approved(known, site) for site in sorted(wanted)))):
                    self._changed.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ASK_SECONDS):
                    await self._to_ask.wait()

    async def _has_approved(self, known: KnownStudy, site: str) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await ask_approval(self.coordinator, known, site)
        except (NoRelease, TimeoutError):
            return False  # it is asked again soon
        return True

    async def _keep_retention(self) -> None:
        while True:
            now = self.coordinator.unix_ms()
            for digest in remove_expired(self.coordinator.studies, self.coordinator.runs, now):
                self._tell({"event": "results-removed", "study": digest})
            await asyncio.sleep(_RETENTION_SECONDS)

    def _wake(self) -> None:
        """A study or a site is new, or a site has approved: look again at once."""
        self._changed.set()
        self._to_ask.set()

    def _on_event(self, event: Mapping[str, Any]) -> None:
        running = {"study": self._running[0]} if self._running is not None and event["event"] != "site" else {}
        if event["event"] == "site" and event["connected"]:
            waiting = self.coordinator.studies.all((StudyState.WAITING,))
            for known in waiting:  # what it waited for may be this site
                self._not_before.pop(known.digest, None)
            self._wake()
        self._tell({**event, **running})
