"""One run of a study: from the sites' approvals, or from the last checkpoint, to the sealed evidence.

It can be killed at any moment and begun again: rounds go on from the checkpoint in the run's folder, the same questions
are asked to the byte, and what a site was not yet told that it may drop is acknowledged then. The order of what becomes
durable is: checkpoint of a round, receipts that name its releases, rows of the round (they follow beside the next round
and before any of its releases is handed on, so they are never more than a round behind); after the evaluation the
counts, then their receipts, then model, evidence, report and seal, then that the run is finished.

Source: DESIGN of a round in `ARCHITECTURE.md`, "The path of one release".
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fedhealth.coordinator.app_frames import (
    COUNTS,
    AskSite,
    Begin,
    Finished,
    Go,
    Halted,
    Nothing,
    Payload,
    Question,
    ReplyHeader,
    RoundDone,
    Start,
)
from fedhealth.coordinator.app_process import run_server_app
from fedhealth.coordinator.asking import AWAY, LEDGER_BEHIND, LEDGER_DAMAGED, UNWITNESSED, Asker, NoRelease, Shown
from fedhealth.coordinator.evidence import Evidence
from fedhealth.coordinator.participation import SLOW, CompletedRound, numbers_with, quorum_of, rounds_of
from fedhealth.coordinator.publishing import Publisher, published_evidence
from fedhealth.coordinator.round_checkpoint import CHECKPOINT_FILE, load_checkpoint
from fedhealth.coordinator.run_folder import PUBLISHED, SEAL
from fedhealth.coordinator.store.runs import WENT_BACK, KnownRun, Runs
from fedhealth.coordinator.store.studies import KnownStudy, Studies
from fedhealth.coordinator.store.tables import StudyState
from fedhealth.errors import ApprovalMissing, ConfigInvalid, FederationFailed, FedHealthError, RefusalCode
from fedhealth.learning.plan import plan_study
from fedhealth.link.frames import Accepted
from fedhealth.link.memory import Buffer
from fedhealth.link.server import LinkServer
from fedhealth.link.services import PeerAway
from fedhealth.privacy.pld import informative_epsilon
from fedhealth.privacy.release import ReleaseIdentity, input_digest
from fedhealth.study.signature import open_signed_study

_LOG = logging.getLogger(__name__)

UNSAFE_TEST_SITE = "unsafe-test-site"
_PASSING = (RefusalCode.BUSY.value, AWAY, UNWITNESSED)
_PAUSE_SECONDS = 0.2
"""Between two times that a site which is away or busy is asked; a link that is up again is found so soon."""
_LONGEST_REPLY_SECONDS = 3600.0
"""No site is waited for longer than this beyond the protocol's wait, whatever it announces."""
_MOST_DEATHS, _FIRST_BACK_OFF_SECONDS = 5, 0.25
"""How often in a row, without a round between, a ServerApp that ends early is started again, and after how long."""
_REFUSED_LEDGER = {
    LEDGER_BEHIND: "Its ledger is an older copy; the entries were given back. Ask its administrator to confirm them: "
    "fedhealth site recover-ledger.",
    LEDGER_DAMAGED: "Its ledger does not extend what this coordinator countersigned. Ask its administrator for the "
    "original ledger; nothing is countersigned until then.",
}
_Answer = TypeVar("_Answer")
OnEvent = Callable[[Mapping[str, Any]], None]


class QuorumMissing(FederationFailed):
    """Too few sites gave a release; the study waits and goes on when it is run again."""


class Hub(Protocol):
    """What a run works with; the coordinator's.

    Attributes:
        link: to the sites.
        asker: asks their gates.
        studies: the coordinator's studies.
        runs: and their runs.
        sites: the sites that joined.
        allow_unsafe_test_sites: take part with sites whose noise is known.
        on_event: told what happens.
    """

    link: LinkServer
    asker: Asker
    studies: Studies
    runs: Runs
    allow_unsafe_test_sites: bool
    on_event: OnEvent

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that joined."""
        ...

    def unix_ms(self) -> int:
        """Return the present, in milliseconds of Unix time."""
        ...


class StudyRun:
    """The run of one study.

    Args:
        hub: what it works with.
        known: the study.
        folder: where checkpoint, model and evidence go; made if it must be.
        publisher: makes evidence, report and seal of what happened.
        patience_seconds: how long sites are waited for; None for what the protocol says.
    """

    def __init__(
        self, hub: Hub, known: KnownStudy, folder: Path, publisher: Publisher, patience_seconds: float | None = None
    ) -> None:
        self._hub, self._known, self._folder, self._publisher = hub, known, folder, publisher
        self.study = open_signed_study(known.signed).study
        self._wait = self.study.sites.wait_seconds if patience_seconds is None else patience_seconds
        run = hub.runs.find(known.digest)
        self.sites = run.sites if run is not None else hub.sites
        self._quorum = quorum_of(self.study, self.sites)
        self.approved: dict[str, Accepted] = hub.studies.approvals(known.digest)
        self._rounds: list[CompletedRound] = []
        self._deadlines: dict[tuple[str, int], float] = {}
        self._keeping: asyncio.Task[None] | None = None
        self._headed, self._keeping_heads = set[str](), asyncio.Lock()
        self._halted: Halted | None = None
        self._finished = False

    async def run(self) -> Evidence:
        """Run the study to its end, or to where too few sites are left, and return its evidence.

        Raises:
            ApprovalMissing: too few sites have approved the study.
            QuorumMissing: too few gave a release; the study waits.
            ConfigInvalid: it was stopped, or its results are in another folder.
            FederationFailed: fewer sites have joined than it needs, or its ServerApp ended again and again.
            LinkUnavailable: too few sites are connected, or a site is away at the end.
        """
        run = self._check()
        if run is not None and run.finished_at is not None:
            return self._end()
        self._check_noise(begun=run is not None)
        if run is None:
            await self._meet()
        self._begin()
        try:
            run = self._hub.runs.find(self._known.digest)
            if run is None or run.counts is None:
                await self._train()
            await self._publish()
        except FedHealthError as error:
            self._hub.studies.move(self._known.digest, StudyState.WAITING, self._hub.unix_ms(), error.what)
            raise
        return self._end()

    def _check(self) -> KnownRun | None:
        run = self._hub.runs.find(self._known.digest)
        if self._known.state is StudyState.STOPPED:
            raise ConfigInvalid(
                f"study '{self._known.name}' was stopped by its researcher",
                next_step="A stop is final: another study needs another protocol.",
            )
        if run is not None and Path(run.folder) != self._folder:
            raise ConfigInvalid(
                f"study '{self._known.name}' was run before",
                got=f"--out {self._folder}",
                wanted=f"its folder {run.folder}",
                next_step="Go on there: its checkpoint or its results are in it.",
            )
        if run is None and not self._quorum.holds(self.sites):
            missing = sorted(self._quorum.required - set(self.sites))
            raise FederationFailed(
                f"study '{self.study.name}' needs more sites than have joined",
                got=str(len(self.sites)),
                wanted=f"at least {self._quorum.least}" + (f", {', '.join(missing)} among them" if missing else ""),
                next_step="Invite them: fedhealth coordinator invite --help",
            )
        if run is None and (found := [name for name in (*PUBLISHED, SEAL) if (self._folder / name).exists()]):
            raise ConfigInvalid(
                f"study '{self._known.name}' would be written over the results of another run",
                got=f"{self._folder} with {', '.join(found)}",
                wanted="a folder without results",
                next_step="Give each study a folder of its own: --out.",
            )
        return run

    def _check_noise(self, *, begun: bool) -> None:
        """Forget approvals of sites whose noise is known, given when they were wanted; refuse a run that has them."""
        known = sorted(site for site, accepted in self.approved.items() if accepted.unsafe_test_site)
        if self._hub.allow_unsafe_test_sites or not known:
            return
        if begun:
            raise _noise_known(known[0])
        for site in known:
            del self.approved[site]

    def _begin(self) -> None:
        """Take up the run: its rows follow the checkpoint; what was not acknowledged will be with the next receipts."""
        hub, digest, now = self._hub, self._known.digest, self._hub.unix_ms()
        self._folder.mkdir(parents=True, exist_ok=True)
        run = hub.runs.begin(digest, str(self._folder), self.sites, now)
        hub.studies.move(digest, StudyState.RUNNING, now)
        hub.runs.keep_shown(digest, hub.asker.take_shown())
        if run.counts is None:
            self._follow_checkpoint()
        else:
            self._rounds = hub.runs.rounds(digest)
        hub.asker.resume(hub.runs.unacknowledged())  # of earlier studies too: their sites may be back
        if run.starts > 1:
            self._tell({"event": "resumed", "round": len(self._rounds)})

    def _follow_checkpoint(self) -> None:
        """Bring the rows up to the checkpoint, or back to it: it is what the ServerApp goes on from."""
        hub, digest = self._hub, self._known.digest
        checkpoint = load_checkpoint(self._folder, digest)
        self._rounds = rounds_of(checkpoint.notes.rounds) if checkpoint else []
        hub.runs.rewind(digest, len(self._rounds), hub.unix_ms())
        if checkpoint is not None:
            shown = Shown(releases=checkpoint.notes.releases)
            hub.runs.keep_rounds(digest, self.sites, self._rounds, checkpoint.sha256, shown, None, hub.unix_ms())

    async def _meet(self) -> None:
        """Ask every site for its approval; enough must give it before anything is asked of their patients."""
        deadline = asyncio.get_running_loop().time() + self._wait
        away: PeerAway | None = None
        try:
            await self._hub.link.wait_connected(self.sites, self._wait)
        except PeerAway as error:
            away = error
            deadline += 1.0  # for those that are there
        refusals = await asyncio.gather(*(self._refusal_of(site, deadline) for site in self.sites))
        if self._quorum.holds(self.approved):
            return
        if away is not None:
            raise away
        site, code = next((site, code) for site, code in zip(self.sites, refusals, strict=True) if code is not None)
        if code in _REFUSED_LEDGER:
            raise FederationFailed(
                f"the ledger of site '{site}' cannot be countersigned", got=code, next_step=_REFUSED_LEDGER[code]
            )
        if code == UNSAFE_TEST_SITE:
            raise _noise_known(site)
        raise ApprovalMissing(
            f"site '{site}' does not take part in study '{self.study.name}'",
            got=f"the answer '{code}'",
            wanted="an approval of this exact study",
            next_step=f"Ask the administrator of '{site}' whether its gate runs."
            if code in (*_PASSING, SLOW)
            else f"Ask the administrator of '{site}' to approve digest {self.study.digest[:12]}.",
        )

    async def _refusal_of(self, site: str, deadline: float) -> str | None:
        try:
            await ask_until(deadline, lambda: self._approve(site))
        except NoRelease as refusal:
            return refusal.code
        return None

    async def _approve(self, site: str) -> None:
        """Have a site say that it approved the study."""
        accepted = await ask_approval(self._hub, self._known, site)
        self.approved[site] = accepted

    async def _train(self) -> None:
        deaths, delay = 0, _FIRST_BACK_OFF_SECONDS
        while True:
            before = len(self._rounds)
            self._deadlines.clear()
            try:
                status = await run_server_app(self._folder, self._answer_app)
            finally:
                await self._kept()
            if self._halted is not None:
                raise self._quorum_missing(self._halted)
            if self._finished:
                return
            deaths = 1 if len(self._rounds) > before else deaths + 1
            delay = _FIRST_BACK_OFF_SECONDS if deaths == 1 else 2 * delay
            if deaths > _MOST_DEATHS:
                raise FederationFailed(
                    "the study's ServerApp ended early",
                    got=f"exit status {status}, {deaths} times without a round between",
                    next_step="Read the coordinator's log; the study goes on from its checkpoint when it is run again.",
                )
            _LOG.warning("a ServerApp ended early and is started again")
            self._follow_checkpoint()  # it may have ended before it could say that a round is in it
            self._tell({"event": "app-restarted", "round": len(self._rounds)})
            await asyncio.sleep(delay)

    def _quorum_missing(self, halted: Halted) -> QuorumMissing:
        absent = ", ".join(f"{site} ({code})" for site, code in sorted(halted.absent.items()))
        required = sorted(self._quorum.required & set(halted.absent))
        place = f"round {halted.round}" if halted.round else "its evaluation"
        return QuorumMissing(
            f"study '{self.study.name}' stopped in {place}: no release from {absent}",
            wanted=f"one from {self._quorum.least} of {len(self.sites)} sites"
            + (f" and from {', '.join(required)}" if required else ""),
            next_step="Ask the administrator there, then run it again: it goes on there; nothing is charged twice.",
        )

    async def _answer_app(self, question: Question, body: Buffer) -> tuple[ReplyHeader, Buffer]:
        if isinstance(question, Begin):
            return Start(sites=self.sites), self._known.signed
        if isinstance(question, AskSite):
            try:
                payload = await self._release(question, body)
            except NoRelease as refusal:
                return Nothing(code=refusal.code), b""
            return Payload(declared_patients=self.approved[question.site].declared_patients), payload
        if isinstance(question, RoundDone):
            await self._kept()
            self._round_done(question)
        elif isinstance(question, Finished):
            await self._kept()
            shown = dataclasses.replace(self._hub.asker.take_shown(), releases=self._hub.asker.received())
            now = self._hub.unix_ms()
            counts = COUNTS.validate_json(bytes(body))
            await asyncio.to_thread(self._hub.runs.keep_counts, self._known.digest, counts, question.absent, shown, now)
            self._hub.asker.checkpointed()  # the counts are durable, so the sites may drop them
            self._finished = True
            self._hub.on_event({"event": "evaluated", "absent": question.absent})
        else:
            self._halted = question
        return Go(), b""

    def _round_done(self, done: RoundDone) -> None:
        """The round is in the checkpoint: let the sites know with the next receipts, and write the rows beside them."""
        hub = self._hub
        shown = dataclasses.replace(hub.asker.take_shown(), releases=hub.asker.received())
        hub.asker.checkpointed()
        self._rounds.append(CompletedRound(done.round, done.number, done.absent))
        self._keeping = asyncio.create_task(self._keep(done, shown, hub.unix_ms()))

    async def _keep(self, done: RoundDone, shown: Shown, now: int) -> None:
        """Write the rows of a round, and tell of it."""
        self._hub.on_event(await asyncio.to_thread(self._write_round, done, shown, now))

    def _write_round(self, done: RoundDone, shown: Shown, now: int) -> Mapping[str, Any]:
        so_far = plan_study(self.study)["train"].plan(done.number)
        event = {
            "event": "round",
            "round": done.round,
            "of": self.study.rounds,
            "seconds": done.seconds,
            "sites": len(self.sites) - len(done.absent),
            "absent": done.absent,
            "epsilon": informative_epsilon(so_far, self.study.privacy.delta).epsilon,
        }
        completed = CompletedRound(done.round, done.number, done.absent)
        self._hub.runs.keep_rounds(
            self._known.digest, self.sites, [completed], done.checkpoint_sha256, shown, event, now
        )
        return event

    async def _kept(self) -> None:
        """Wait until the rows of the last round are written, whoever gives up waiting for it."""
        if self._keeping is not None:
            await asyncio.shield(self._keeping)

    async def _release(self, question: AskSite, data: Buffer) -> Buffer:
        site, loop = question.site, asyncio.get_running_loop()
        place = question.step, question.round
        public = max((max(each.reply_after_ms.values()) / 1000 for each in self.approved.values()), default=0.0)
        wait = self._wait + min(public, _LONGEST_REPLY_SECONDS)
        deadline = self._deadlines.setdefault(place, loop.time() + wait)
        if site not in self.approved:
            await ask_until(deadline, lambda: self._approve(site))
        identity = ReleaseIdentity(
            site=site,
            study=self.study.digest,
            step=question.step,
            round=question.round,
            input_digest=input_digest(data),
        )
        payload = await ask_until(deadline, lambda: self._hub.asker.ask(identity, data))
        await self._kept()
        if site not in self._headed:
            await self._keep_head(site)
        return payload

    async def _keep_head(self, site: str) -> None:
        """Write down a head of a site before its first release is handed on: it may never show another."""
        async with self._keeping_heads:
            shown = self._hub.asker.take_shown()
            await asyncio.to_thread(self._hub.runs.keep_shown, self._known.digest, shown)
            self._headed.add(site)

    async def _publish(self) -> None:
        """Have the sites show their ledgers' heads and take their last receipts; then write what is published."""
        hub, digest = self._hub, self._known.digest
        deadline = asyncio.get_running_loop().time() + self._wait
        run = hub.runs.find(digest)
        assert run is not None  # noqa: S101 - `_begin` made it
        shown = hub.runs.heads(digest)
        given = {site for site in self.sites if site in (run.counts or {}) or numbers_with(site, self._rounds)}
        await asyncio.gather(*(self._last_head(site, deadline) for site in sorted({*shown, *given})))
        last = hub.asker.take_shown()
        await asyncio.to_thread(
            self._publisher.publish,
            self._known,
            run,
            self._rounds,
            self.approved,
            {**shown, **{site: note for site, note in last.heads.items() if site in self.sites}},
            any(event.body["event"] == WENT_BACK for event in hub.studies.events(digest)),
        )
        hub.runs.finish(digest, last, hub.unix_ms())

    async def _last_head(self, site: str, deadline: float) -> None:
        # A site that is away keeps a payload longer, and the last head that it showed is published.
        with contextlib.suppress(NoRelease):
            await ask_until(deadline, lambda: self._hub.asker.head(site))

    def _end(self) -> Evidence:
        hub, digest = self._hub, self._known.digest
        known = hub.studies.find(digest)
        if known is not None and known.state is not StudyState.DONE:
            if known.state is not StudyState.RUNNING:
                hub.studies.move(digest, StudyState.RUNNING, hub.unix_ms())
            hub.studies.move(digest, StudyState.DONE, hub.unix_ms())
        (self._folder / CHECKPOINT_FILE).unlink(missing_ok=True)
        evidence = published_evidence(self._folder)
        hub.on_event({"event": "done", "partial": evidence.partial})
        return evidence

    def _tell(self, event: Mapping[str, Any]) -> None:
        self._hub.studies.tell(self._known.digest, event, self._hub.unix_ms())
        self._hub.on_event(event)


def _noise_known(site: str) -> FederationFailed:
    return FederationFailed(
        f"site '{site}' is a test site with known noise; nothing it releases is private",
        next_step="Use a real site, or start the coordinator for tests: --allow-unsafe-test-sites.",
    )


async def ask_approval(hub: Hub, known: KnownStudy, site: str) -> Accepted:
    """Ask a site whether it approved a study, and write down what it says.

    Raises:
        NoRelease: it has not, or it is away, or its noise is known and that is not wanted here.
    """
    try:
        await hub.asker.head(site)  # before anything is charged: a ledger that is behind must not grow
        accepted = await hub.asker.put_study(site, known.signed)
        if accepted.unsafe_test_site and not hub.allow_unsafe_test_sites:
            raise NoRelease(UNSAFE_TEST_SITE)
    except NoRelease as refusal:
        if refusal.code not in _PASSING:
            hub.studies.answered(known.digest, site, refusal.code, hub.unix_ms())
        raise
    hub.studies.answered(known.digest, site, accepted, hub.unix_ms())
    return accepted


async def ask_until(deadline: float, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Ask, and ask again while the site is away or busy, until a second of the loop's clock.

    Raises:
        NoRelease: the site refused for good, or the time is over: with its last code, or `slow` where it was being
            waited for.
    """
    code = SLOW
    try:
        async with asyncio.timeout_at(deadline):
            while True:
                code = SLOW
                try:
                    return await ask()
                except NoRelease as refusal:
                    if refusal.code not in _PASSING:
                        raise
                    code = refusal.code
                await asyncio.sleep(_PAUSE_SECONDS)
    except TimeoutError:
        _LOG.warning("no answer: %(code)s", {"code": code})
        raise NoRelease(code) from None
