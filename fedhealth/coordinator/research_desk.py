"""What researchers may ask of a coordinator: take in a study, list, follow, stop, hand out what was published.

Whether a study's signature is a trusted researcher's is for each site to say: the coordinator takes in whatever is well
signed, and a site that does not know the key answers `policy`. A stop is an act of the researcher who signed the study,
or of the operator, who is the coordinator's own Unix user: a study that no site will approve takes a place of all.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from fedhealth.coordinator.research_frames import (
    Fetch,
    File,
    Files,
    Happened,
    ListResults,
    ListStudies,
    Over,
    Question,
    Reply,
    Stop,
    Studies,
    Submit,
    Summary,
    Watch,
    pack_summaries,
)
from fedhealth.coordinator.run_folder import PUBLISHED, SEAL
from fedhealth.coordinator.service import WAITING_STATES, Coordinator
from fedhealth.coordinator.store.studies import KnownStudy
from fedhealth.coordinator.store.tables import StudyState
from fedhealth.errors import ConfigInvalid, IdentityInvalid
from fedhealth.learning.plan import plan_study
from fedhealth.link.catalogue import MAX_STUDIES
from fedhealth.study.signature import check_stop, open_signed_study

_LOOK_SECONDS = 0.25
"""How often whoever follows a study is told what is new."""
FINAL = (StudyState.DONE, StudyState.STOPPED)
_MOST_OF_A_USER = MAX_STUDIES // 4
"""How many of the places for studies that wait one Unix user may take; the coordinator's own may take all."""
_FETCHED = (*PUBLISHED, SEAL)


class ResearchDesk:
    """Answers researchers.

    Args:
        coordinator: whose studies.
        stop: ends the run of a study, if it runs, before it is stopped.
        on_change: told when there may be something new to run.
    """

    def __init__(
        self, coordinator: Coordinator, stop: Callable[[str], Awaitable[None]], on_change: Callable[[], None]
    ) -> None:
        self._coordinator, self._stop, self._on_change = coordinator, stop, on_change
        self._working_out, self._listing = asyncio.Lock(), asyncio.Lock()

    async def answer(self, question: Question, body: bytes, user: int) -> tuple[Reply, bytes]:
        """Answer any question but `Watch`.

        Args:
            question: what is asked.
            body: its body.
            user: the Unix user who asks.

        Raises:
            FedHealthError: for the researcher; nothing was done.
        """
        if isinstance(question, Submit):
            return Studies(), pack_summaries([self._summary(await self._submit(body, user))])
        if isinstance(question, ListStudies):
            async with self._listing:  # long lists in one thread, beside what runs
                return Studies(), await asyncio.to_thread(self._list)
        if isinstance(question, Stop):
            return Studies(), pack_summaries([self._summary(await self._stopped(question, user))])
        if isinstance(question, ListResults):
            folder = self._published(question.study)
            return Files(files={name: (folder / name).stat().st_size for name in _names_in(folder)}), b""
        if isinstance(question, Fetch):
            folder = self._published(question.study)
            if question.name not in _names_in(folder):
                raise ConfigInvalid(
                    f"there is no published file '{question.name}'", wanted=", ".join(_names_in(folder))
                )
            return File(), await asyncio.to_thread((folder / question.name).read_bytes)
        raise ConfigInvalid(f"'{question.kind}' is not answered so")

    async def follow(self, question: Watch, tell: Callable[[Reply], Awaitable[None]]) -> Reply:
        """Tell the events of a study until it is over."""
        digest, after = self._named(question.study).digest, question.after
        while True:
            known = self._coordinator.studies.find(digest) or self._named(digest)
            for event in self._coordinator.studies.events(digest, after):
                await tell(Happened(number=event.number, at=event.at, body=dict(event.body)))
                after = event.number
            if known.state in FINAL:
                return Over(state=known.state)
            await asyncio.sleep(_LOOK_SECONDS)

    def _list(self) -> bytes:
        return pack_summaries(map(self._summary, self._coordinator.studies.all()))

    async def _submit(self, data: bytes, user: int) -> KnownStudy:
        signed = open_signed_study(data)
        async with self._working_out:  # it may take long, as its author likes: one at a time, beside what runs
            await asyncio.to_thread(plan_study, signed.study)
        studies = self._coordinator.studies
        waiting = studies.all(WAITING_STATES)
        if signed.study.digest not in {each.digest for each in waiting} and len(waiting) >= MAX_STUDIES:
            raise ConfigInvalid(
                "too many studies wait at this coordinator",
                got=f"{len(waiting)} that are not over",
                wanted=f"fewer than {MAX_STUDIES}",
                next_step="Stop one that no site approves, or wait: fedhealth study list --help.",
            )
        is_operator = user == os.geteuid()
        if studies.find(signed.study.digest) is None and not is_operator:
            mine = studies.handed_in_by(user, WAITING_STATES)
            if mine >= _MOST_OF_A_USER:
                raise ConfigInvalid(
                    "too many of your studies wait at this coordinator",
                    got=f"{mine} that are not over, handed in by this Unix user",
                    wanted=f"fewer than {_MOST_OF_A_USER}, so that others find a place",
                    next_step="Stop one, or wait: fedhealth study list --help.",
                )
        known = self._coordinator.submit(data, None if is_operator else user)
        self._on_change()
        return known

    async def _stopped(self, question: Stop, user: int) -> KnownStudy:
        known, studies = self._named(question.study), self._coordinator.studies
        signed = open_signed_study(known.signed)
        if question.signature is not None:
            check_stop(signed, question.signature)
        elif user != os.geteuid():
            raise IdentityInvalid(
                f"study '{known.name}' is stopped by whoever signed it, or by the coordinator's operator",
                got=f"no signature, and Unix user {user}",
                next_step="Give the key that signed it: fedhealth study stop --help.",
            )
        await self._stop(known.digest)
        now = self._coordinator.unix_ms()
        if question.signature is None:
            studies.move(known.digest, StudyState.STOPPED, now, "the coordinator's operator stopped it")
        else:
            studies.stop(known.digest, signed.researcher, question.signature, now)
        return self._named(known.digest)

    def _named(self, prefix: str) -> KnownStudy:
        found = self._coordinator.studies.named(prefix)
        if len(found) != 1:
            raise ConfigInvalid(
                f"{len(found) or 'no'} studies here have a digest that begins with {prefix}",
                next_step="Name one: fedhealth study list --help.",
            )
        return found[0]

    def _published(self, prefix: str) -> Path:
        """Return the folder of a study that is done and whose results are still kept."""
        known = self._named(prefix)
        if known.removed_at is not None:
            day = datetime.fromtimestamp(known.removed_at / 1000, UTC)
            raise ConfigInvalid(
                f"the results of study '{known.name}' were removed on {day:%Y-%m-%d}",
                got=f"a protocol that keeps them {known.retention_days} days",
                next_step="Use the copy that you fetched.",
            )
        run = self._coordinator.runs.find(known.digest)
        if run is None or known.state is not StudyState.DONE:
            raise ConfigInvalid(
                f"study '{known.name}' has no results",
                got=f"a study that is {known.state}" + (f": {known.reason}" if known.reason else ""),
                wanted="one that is done",
                next_step="Follow it: fedhealth study watch --help.",
            )
        return Path(run.folder)

    def _summary(self, known: KnownStudy) -> Summary:
        studies = self._coordinator.studies
        return Summary(
            study=known.digest,
            name=known.name,
            researcher=open_signed_study(known.signed).researcher,
            state=known.state,
            reason=known.reason,
            approved=tuple(studies.approvals(known.digest)),
            refused=studies.refusals(known.digest),
            rounds=len(self._coordinator.runs.rounds(known.digest)),
            removed=known.removed_at is not None,
        )


def _names_in(folder: Path) -> tuple[str, ...]:
    return tuple(name for name in _FETCHED if (folder / name).is_file())
