"""The coordinator's main process: holds the link, witnesses ledgers, runs one study's ServerApp, writes the evidence.

A site that is away or busy is asked again, with the same question, until the patience is over; every other refusal is
final. The study ends with evidence only if every site gave every release; otherwise it says which site did not, and
why, and publishes nothing.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import fedhealth
from fedhealth.coordinator.app_frames import (
    AskSite,
    Begin,
    Failed,
    Finished,
    Go,
    Nothing,
    Payload,
    Question,
    ReplyHeader,
    RoundDone,
    Start,
)
from fedhealth.coordinator.app_process import run_server_app
from fedhealth.coordinator.asking import AWAY, LEDGER_BEHIND, LEDGER_DAMAGED, UNWITNESSED, Asker, NoRelease
from fedhealth.coordinator.border import Border
from fedhealth.coordinator.evidence import (
    Evidence,
    LedgerHead,
    Participation,
    RunResult,
    SiteResult,
    Span,
    evidence_bytes,
    evidence_of,
)
from fedhealth.coordinator.home import CoordinatorHome
from fedhealth.coordinator.run_folder import EVIDENCE, MODEL, SIGNED_STUDY
from fedhealth.coordinator.witness import Witness
from fedhealth.errors import ApprovalMissing, FederationFailed, RefusalCode
from fedhealth.learning.plan import plan_study
from fedhealth.link.catalogue import CATALOGUE, catalogue_service
from fedhealth.link.frames import MAX_HEADER_BYTES, Accepted, Head
from fedhealth.link.memory import Buffer
from fedhealth.privacy.checkpoint import open_checkpoint
from fedhealth.privacy.copies import PAGE_BYTES
from fedhealth.privacy.pld import informative_epsilon
from fedhealth.privacy.release import ReleaseIdentity, input_digest
from fedhealth.secret_file import replace_file
from fedhealth.signing import load_public_key
from fedhealth.study.protocol import Study
from fedhealth.study.signature import open_signed_study

_LOG = logging.getLogger(__name__)

OnEvent = Callable[[Mapping[str, Any]], None]
_ASK_SECONDS = 60.0
"""How long an answer may take beyond the site's own public `reply_after`."""
_LONGEST_REPLY_SECONDS = 3600.0
"""No site is waited for longer than this for one answer, whatever it announces."""
_PASSING = (RefusalCode.BUSY.value, AWAY, UNWITNESSED)
_REFUSED_LEDGER = {
    LEDGER_BEHIND: "Its ledger is an older copy; the entries were given back. Ask its administrator to confirm them: "
    "fedhealth site recover-ledger.",
    LEDGER_DAMAGED: "Its ledger does not extend what this coordinator countersigned. Ask its administrator for the "
    "original ledger; nothing is countersigned until then.",
}
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class RunOptions:
    """How a study is run.

    Attributes:
        address: host and port to listen at; port 0 takes a free one.
        output: folder for model, evidence and report; must exist.
        patience_seconds: how long a site that is away or busy is waited for, at a time.
        allow_unsafe_test_sites: take part with sites whose noise is known; for tests.
        enrolment: host and port that sites join at while one is invited; None to let nobody join.
    """

    address: str
    output: Path
    patience_seconds: float = 60.0
    allow_unsafe_test_sites: bool = False
    enrolment: str | None = None


@dataclass
class _Progress:
    """What has happened in a run; owned by `StudyRun`."""

    started: str
    rounds: dict[str, list[int]] = field(default_factory=dict)
    evaluated: dict[str, int] = field(default_factory=dict)
    completed: int = 0
    counts: dict[str, dict[str, float]] | None = None
    failed: Failed | None = None


class StudyRun:
    """One study from the first connection to the evidence.

    Args:
        home: the coordinator's state.
        signed_study: canonical bytes of the signed study.
        options: how to run it.
        on_event: told what happens, as JSON-ready mappings.
    """

    def __init__(self, home: CoordinatorHome, signed_study: bytes, options: RunOptions, on_event: OnEvent) -> None:
        self._signed_bytes, self._options, self._on_event = signed_study, options, on_event
        self._signed = open_signed_study(signed_study)
        self._study = self._signed.study
        self._plan = plan_study(self._study)
        self._longest_answer = longest_answer(self._study)
        self._federation = home.federation()
        self._pinned = home.pinned_sites()
        witness_key = home.witness_key()
        self._held = home.hold()
        waiting = {CATALOGUE: catalogue_service([signed_study])}  # of one study, which waits at every pinned site
        self._border = Border(home, self._on_link, lambda site: waiting if site in self._pinned else {})
        self._link = self._border.link
        self._asker = Asker(self._carry, Witness(home.witnessed, self._pinned, witness_key))
        self._accepted: dict[str, Accepted] = {}
        self._progress = _Progress(started=_now())

    async def run(self) -> Evidence:
        """Run the study and return its evidence, which is also in the output folder with model and signed study.

        Raises:
            ApprovalMissing: a site has not approved the study.
            FederationFailed: a site gave no release, or a process ended.
            LinkUnavailable: the port is in use, or a site did not connect in time.
        """
        port = await self._border.start(self._options.address, self._options.enrolment)
        self._on_event({"event": "listening", "port": port, "sites": sorted(self._pinned)})
        try:
            await self._link.wait_connected(self._pinned, self._options.patience_seconds)
            for site in sorted(self._pinned):
                self._accepted[site] = await self._accept(site)
            await self._run_server_app()
            heads = {site: await self._head(site) for site in sorted(self._pinned)}
            evidence = self._evidence(heads)
            replace_file(self._options.output / SIGNED_STUDY, self._signed_bytes)
            replace_file(self._options.output / EVIDENCE, evidence_bytes(evidence))
            self._asker.checkpointed()  # the counts are in the evidence now, so the sites may drop them
            for site in sorted(self._pinned):
                with contextlib.suppress(FederationFailed):  # a site that is away keeps a payload longer, no more
                    await self._head(site)
        finally:
            await self._border.stop()
        self._on_event({"event": "done"})
        return evidence

    async def _accept(self, site: str) -> Accepted:
        async def meet() -> Accepted:
            await self._asker.head(site)  # before anything is charged: a ledger that is behind must not grow
            return await self._asker.put_study(site, self._signed_bytes)

        try:
            accepted = await self._patiently(meet)
        except NoRelease as refusal:
            if refusal.code in _REFUSED_LEDGER:
                raise FederationFailed(
                    f"the ledger of site '{site}' cannot be countersigned",
                    got=refusal.code,
                    next_step=_REFUSED_LEDGER[refusal.code],
                ) from refusal
            raise ApprovalMissing(
                f"site '{site}' does not take part in study '{self._study.name}'",
                got=f"the answer '{refusal.code}'",
                wanted="an approval of this exact study",
                next_step=f"Ask the administrator of '{site}' whether its gate runs."
                if refusal.code in _PASSING
                else f"Ask the administrator of '{site}' to approve digest {self._study.digest[:12]}.",
            ) from refusal
        if accepted.unsafe_test_site and not self._options.allow_unsafe_test_sites:
            raise FederationFailed(
                f"site '{site}' is a test site with known noise; nothing it releases is private",
                next_step="Use a real site, or start the coordinator for tests: --allow-unsafe-test-sites.",
            )
        return accepted

    async def _run_server_app(self) -> None:
        status = await run_server_app(self._options.output, self._answer_app)
        if self._progress.failed is not None:
            absent = ", ".join(f"{site} ({code})" for site, code in sorted(self._progress.failed.absent.items()))
            raise FederationFailed(
                f"study '{self._study.name}' stopped in round {self._progress.failed.round}",
                got=f"no release from {absent}",
                wanted="a release from every site",
                next_step="Ask the administrator there; nothing was published and nothing is charged twice.",
            )
        if self._progress.counts is None:
            raise FederationFailed(
                "the study's ServerApp ended early",
                got=f"exit status {status}",
                next_step="Read the coordinator's log.",
            )

    async def _answer_app(self, question: Question, body: Buffer) -> tuple[ReplyHeader, Buffer]:
        if isinstance(question, Begin):
            declared = {site: accepted.declared_patients for site, accepted in self._accepted.items()}
            return Start(declared_patients=declared), self._signed_bytes
        if isinstance(question, AskSite):
            try:
                return Payload(), await self._release(question, body)
            except NoRelease as refusal:
                return Nothing(code=refusal.code), b""
        if isinstance(question, RoundDone):
            self._asker.checkpointed()
            self._progress.completed = question.round
            so_far = self._plan["train"].plan(question.round)
            self._on_event(
                {
                    "event": "round",
                    "round": question.round,
                    "of": self._study.training.rounds,
                    "seconds": question.seconds,
                    "sites": len(self._pinned),
                    "epsilon": informative_epsilon(so_far, self._study.privacy.delta).epsilon,
                }
            )
        elif isinstance(question, Finished):
            self._progress.counts = question.counts
            self._on_event({"event": "evaluated"})
        else:
            self._progress.failed = question
        return Go(), b""

    async def _release(self, question: AskSite, data: Buffer) -> Buffer:
        identity = ReleaseIdentity(
            site=question.site,
            study=self._study.digest,
            step=question.step,
            round=question.round,
            input_digest=input_digest(data),
        )
        payload = await self._patiently(lambda: self._asker.ask(identity, data))
        if question.step == "train":
            self._progress.rounds.setdefault(question.site, []).append(question.round)
        else:
            self._progress.evaluated[question.site] = self._progress.evaluated.get(question.site, 0) + 1
        return payload

    async def _patiently(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Ask, and ask again while the site is away or busy and the patience lasts."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.patience_seconds
        while True:
            try:
                return await ask()
            except NoRelease as refusal:
                if refusal.code not in _PASSING or loop.time() >= deadline:
                    _LOG.warning("no answer: %(code)s", {"code": refusal.code})
                    raise
                await asyncio.sleep(min(0.5, max(0.0, deadline - loop.time())))

    async def _carry(self, site: str, frame: bytes) -> Buffer:
        accepted = self._accepted.get(site)
        public = max(accepted.reply_after_ms.values()) / 1000 if accepted else 0.0
        seconds = _ASK_SECONDS + min(public, _LONGEST_REPLY_SECONDS)
        return await self._link.ask(site, "gate", frame, seconds, self._longest_answer)

    async def _head(self, site: str) -> Head:
        try:
            return await self._asker.head(site)
        except NoRelease as refusal:
            raise FederationFailed(
                f"site '{site}' did not show the head of its ledger after the study", got=refusal.code
            ) from refusal

    def _on_link(self, site: str, connected: bool) -> None:
        self._on_event({"event": "site", "site": site, "connected": connected})

    def _evidence(self, heads: Mapping[str, Head]) -> Evidence:
        assert self._progress.counts is not None  # noqa: S101 - `_run_server_app` checked it
        sites = {}
        for site in self._pinned:
            ledger_key = self._pinned[site].ledger_key
            head = open_checkpoint(heads[site].note, site, load_public_key(ledger_key))
            sites[site] = SiteResult(
                declared_patients=self._accepted[site].declared_patients,
                rounds=tuple(self._progress.rounds[site]),
                evaluations=self._progress.evaluated[site],
                noisy_counts=self._progress.counts[site],
                ledger=LedgerHead(size=head.size, root=head.root, note=heads[site].note, ledger_key=ledger_key),
            )
        result = RunResult(
            software=f"fedhealth {fedhealth.__version__}",
            federation=self._federation,
            started=self._progress.started,
            finished=_now(),
            rounds_completed=self._progress.completed,
            participation=Participation(
                sites=tuple(sorted(sites)),  # all of them: a round counts only with every site
                rounds=(Span(first=1, last=self._progress.completed),),
            ),
            sites=sites,
            model_sha256=hashlib.sha256((self._options.output / MODEL).read_bytes()).hexdigest(),
            unsafe_test_sites=tuple(site for site, answer in self._accepted.items() if answer.unsafe_test_site),
        )
        return evidence_of(self._signed, result)


def longest_answer(study: Study) -> int:
    """Return how many bytes a gate's answer may have while a study runs: its longest release, or a page of entries."""
    longest_payload = 8 * max(step.mechanism.dimension for step in plan_study(study).values())
    return 4 + MAX_HEADER_BYTES + max(longest_payload, 2 * PAGE_BYTES)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
