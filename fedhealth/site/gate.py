"""The gate: the only thing at a hospital that touches patients and answers strangers.

It understands four frames (`fedhealth.link.frames`) and answers each with a release or one code of a closed list.
For a release it checks everything, charges the ledger durably, waits for the coordinator's signature on the new
head, draws the noise, stores the payload durably, and only then lets it go, at the public time. The same question
has the same answer for ever, and costs once. It never blocks: who does not come with the signature in time is `busy`,
and finds the same charge when asking again.

Whatever the policy, it charges and computes nothing until the coordinator has signed for the head it started with.

Rule 0: nothing that depends on patients leaves unless it is noised and charged; not in codes, sizes or times either.
A patient whose records cannot be computed counts as zero and the release goes on; any other failure after the charge
stops the study here, and the other side learns `busy`.

Frames in, frames out: no socket, no clock and no file of its own; they are arguments. Who may connect is the
process's business (`fedhealth.site.gate_process`); what is computed, that of `fedhealth.learning`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fedhealth.errors import (
    BudgetExhausted,
    ConfigInvalid,
    IdentityInvalid,
    LedgerDamaged,
    PolicyForbids,
    RefusalCode,
)
from fedhealth.learning.plan import decode_weights, holds_weights
from fedhealth.link.frames import (
    Answer,
    AskHead,
    FrameInvalid,
    Outgoing,
    PutStudy,
    Refused,
    StoredPayload,
    Witnessed,
    pack,
    unpack_request,
)
from fedhealth.link.memory import Buffer
from fedhealth.policy.rules import check_policy
from fedhealth.privacy.anchor import forked
from fedhealth.privacy.checkpoint import open_receipt
from fedhealth.privacy.copies import EntrySeal
from fedhealth.privacy.entries import Approved, Reserved, Unwitnessed
from fedhealth.privacy.hold_mark import Mark
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest, ReleaseIdentity, StepName, input_digest, noise_key
from fedhealth.privacy.release_rows import ReleaseRow
from fedhealth.privacy.stream import KeyedStream, UnsafeFixedNoiseSecret
from fedhealth.search.counting import CountStep, count
from fedhealth.site.count_questions import CountQuestion, open_question
from fedhealth.site.gate_inputs import Clock, Compute, GateInputs
from fedhealth.site.held_gate import HeldGate, LedgerHeads, mark_for
from fedhealth.site.hold import behind
from fedhealth.site.instructions import LedgerInstruction, Resume, Withdraw, carry_out
from fedhealth.site.prepared_studies import PreparedStudies
from fedhealth.site.replies import Replies
from fedhealth.site.starting_head import StartingHead
from fedhealth.site.stopped_studies import StoppedStudies
from fedhealth.site.study_steps import AnyStep, steps_of
from fedhealth.study.count_query import MAX_SIGNED_QUERY_BYTES, quarter_of
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy
from fedhealth.study.signature import open_signed

_LOG = logging.getLogger(__name__)

_MOST_TOLD = 100
"""So many refused studies are told to the administrator, each once: a coordinator must not fill the log."""


@dataclass(frozen=True)
class _Pending:
    """A release that waits for the coordinator's signature, until this monotonic second."""

    identity: ReleaseIdentity
    step: AnyStep
    data: Buffer
    question: CountQuestion | None
    deadline: float


class _Refusal(Exception):
    def __init__(self, code: RefusalCode) -> None:
        self.code = code


class _GateEndedTwice(Exception):
    """The gate ended twice while it computed this release, for example for want of memory."""


class Gate:
    """One site's gate; owns its ledger and the prepared records. Call `handle` from one thread at a time."""

    def __init__(self, inputs: GateInputs, ledger: Ledger, compute: Compute, clock: Clock) -> None:
        self._inputs, self._ledger, self._compute, self._clock = inputs, ledger, compute, clock
        if isinstance(inputs.noise_secret, UnsafeFixedNoiseSecret) and not ledger.created.unsafe_test_site:
            raise ConfigInvalid(
                f"the gate of '{inputs.site.id}' was given known noise, and its ledger does not say so",
                next_step="Use the site's own noise secret; known noise is for sites made with --unsafe-test-site.",
            )
        self._pending: dict[Digest, _Pending] = {}
        self._told: set[Digest] = set()
        self._heads = LedgerHeads(ledger, EntrySeal(inputs.copies_secret, inputs.site.id))
        self._start = StartingHead(inputs, ledger, self._heads.challenge, clock)
        self._held: HeldGate | None = None
        self._stopped = StoppedStudies(ledger, clock)
        self._replies = Replies(ledger, clock)
        self._prepared = PreparedStudies(inputs, ledger, compute, clock)

    def longest_body(self, start: Buffer) -> int:
        """Return how many bytes a frame that starts like this may bring here: what its study's step takes.

        Args:
            start: a frame up to its body; anything at all.
        """
        try:
            request, _ = unpack_request(start)
        except FrameInvalid:
            return 0
        if not isinstance(request, Answer) or request.study not in self._prepared.signed:
            return 0
        step = steps_of(self._prepared.signed[request.study].study).get(request.step)
        if isinstance(step, CountStep):
            return MAX_SIGNED_QUERY_BYTES
        return 0 if step is None else 8 * step.input_length

    def handle(self, frame: Buffer, digest: Digest | None = None) -> Outgoing:
        """Answer one frame.

        Args:
            frame: bytes from the node; anything at all.
            digest: of its body as a step's input, if whoever received it has computed that meanwhile.

        Returns:
            The reply, never an exception's text.
        """
        if self._held is not None:
            return self._held.handle(frame, digest)
        arrived = self._clock.monotonic()
        try:
            request, body = unpack_request(frame)
            if isinstance(request, PutStudy):
                return Outgoing(self._put_study(body), arrived)
            if isinstance(request, Answer):
                return self._answer(request, body, digest or input_digest(body), arrived)
            if isinstance(request, Witnessed):
                return self._witnessed(request, body, arrived)
            return Outgoing(self._heads.head(request), arrived)
        except _Refusal as refusal:
            return Outgoing(pack(Refused(code=refusal.code)), arrived)
        except FrameInvalid:
            return Outgoing(pack(Refused(code=RefusalCode.BAD_REQUEST)), arrived)
        except LedgerDamaged as error:
            _LOG.error("the ledger cannot be used: %(error)s", {"error": error})
            return Outgoing(pack(Refused(code=RefusalCode.BUSY)), arrived)
        except Exception as error:
            _LOG.error("a request failed: %(defect)s", {"defect": type(error).__name__})
            return Outgoing(pack(Refused(code=RefusalCode.BUSY)), arrived)

    @property
    def inputs(self) -> GateInputs:
        """What it was given last."""
        return self._inputs

    def check_not_held(self) -> None:
        """Return if the ledger may be written to.

        Raises:
            LedgerBehind, LedgerForked: it is held.
        """
        if self._held is not None:
            self._held.check()

    def renew(self, inputs: GateInputs) -> None:
        """Read the data set anew, without the patients who withdrew their consent; every study is to be prepared again.

        If this fails the gate is busy to every study. What it charged, and what waits for a signature, stays.
        """
        self._prepared.drop()
        self._inputs = inputs
        self._start.renew(inputs)
        self._prepared = PreparedStudies(inputs, self._ledger, self._compute, self._clock)

    def administer(self, instruction: LedgerInstruction, by: str) -> None:
        """Do what an administrator says, between two frames; it holds from the next frame on.

        Args:
            instruction: what to do.
            by: the local user who says so.

        Raises:
            FedHealthError: for the administrator; nothing was done.
        """
        self.check_not_held()
        study = carry_out(instruction, self._ledger, by, self._clock.unix_ms())
        if study is not None and isinstance(instruction, Withdraw):
            self._pending.pop(study, None)  # its input is needed no more
        elif study is not None and isinstance(instruction, Resume):
            self._stopped.resume(study)

    def prepare(self, data: bytes) -> Study | SearchStudy:
        """Take in an approved study ahead of its first round; argument and errors are those of `PreparedStudies`."""
        return self._prepared.prepare(data)

    def _put_study(self, data: Buffer) -> bytes:
        self._check_not_paused()
        try:
            signed = open_signed(bytes(data))
            check_policy(self._inputs.policy, signed, self._inputs.researchers)
        except IdentityInvalid as error:
            raise _Refusal(RefusalCode.BAD_REQUEST) from error
        except PolicyForbids as error:
            told = signed.study.digest in self._told or len(self._told) >= _MOST_TOLD
            if not told:  # the coordinator asks again and again
                self._told.add(signed.study.digest)
                _LOG.warning("a study was refused: %(error)s", {"error": error})
            raise _Refusal(RefusalCode.POLICY) from error
        approval = self._approval(signed.study.digest)
        return self._replies.accepted(approval)

    def _answer(self, request: Answer, data: Buffer, digest: Digest, arrived: float) -> Outgoing:
        self._check_not_paused()
        approval = self._approval(request.study)
        self._check_ready(request.study)
        step = steps_of(self._prepared.signed[request.study].study).get(request.step)
        if step is None or request.round > step.rounds:
            raise _Refusal(RefusalCode.BAD_REQUEST)
        question = _question_of(step, data)
        identity = ReleaseIdentity(
            site=self._inputs.site.id,
            study=request.study,
            step=request.step,
            round=request.round,
            input_digest=digest if question is None else question.digest,
        )
        before = self._pending.get(request.study)
        same = before is not None and before.identity == identity
        waited = same and before is not None and arrived > before.deadline
        if not same or waited:
            deadline = arrived + self._inputs.policy.witness_wait_seconds
            self._pending[request.study] = _Pending(identity, step, data, question, deadline)
        return self._advance(request.study, approval, arrived, waited, None)

    def _advance(self, study: Digest, approval: Approved, arrived: float, waited: bool, begun: bool | None) -> Outgoing:
        """Take the pending release of a study as far as it can go now.

        Args:
            study: the study.
            approval: of it.
            arrived: when the frame came.
            waited: the wait for the witness passed in vain.
            begun: as `Ledger.begin` returned, where it is counted already.
        """
        pending = self._pending[study]
        name, step = pending.identity.digest, pending.step.name
        row = self._ledger.row(name)
        if row is not None and row.state in ("sent", "closed"):
            del self._pending[study]
            raise _Refusal(RefusalCode.BAD_REQUEST)
        if row is not None and row.payload_bytes is not None:
            del self._pending[study]
            payload = StoredPayload(row.payload_bytes, partial(self._ledger.payload_parts, name))
            return self._replies.at_public_time(self._replies.release(name, payload), approval, step, arrived)
        if not self._start.confirmed:
            return Outgoing(self._heads.need_witness(), arrived)
        if row is None:
            row = self._reserve(approval, pending)
        if row.state == "reserved" and waited and self._inputs.policy.witness == "best-effort":
            row, begun = self._ledger.release_unwitnessed(Unwitnessed(release=name, at=self._clock.unix_ms())), True
        if row.state == "reserved":
            return Outgoing(self._heads.need_witness(), arrived)
        return self._release(study, approval, arrived, begun=self._ledger.begin(name) if begun is None else begun)

    def _reserve(self, approval: Approved, pending: _Pending) -> ReleaseRow:
        """Charge a release; its row is durable."""
        asker = None if pending.question is None else pending.question.asker
        if asker is not None and asker.quarter != quarter_of(self._clock.unix_ms()):
            del self._pending[approval.study]
            raise _Refusal(RefusalCode.BAD_REQUEST)  # of a quarter that is over only what was counted is answered
        try:
            return self._ledger.reserve(
                Reserved(
                    release=pending.identity.digest,
                    study=approval.study,
                    step=pending.step.name,
                    round=pending.identity.round,
                    cohort=pending.step.cohort,
                    cost=self._ledger.created.budgets[approval.data_set].cost_of(pending.step.event),
                    asker=asker,
                    at=self._clock.unix_ms(),
                )
            )
        except BudgetExhausted as error:
            del self._pending[approval.study]
            raise _Refusal(RefusalCode.BUDGET_SPENT) from error

    def _witnessed(self, request: Witnessed, body: Buffer, arrived: float) -> Outgoing:
        try:
            receipt = open_receipt(request.receipt, self._inputs.witness_key)
        except IdentityInvalid as error:
            raise _Refusal(RefusalCode.BAD_REQUEST) from error
        if receipt.site != self._inputs.site.id:
            raise _Refusal(RefusalCode.BAD_REQUEST)
        mark = mark_for(self._ledger, request.receipt, self._clock.unix_ms())
        if mark is not None:
            return Outgoing(self._hold(mark, request, bytes(body)), arrived)
        last = self._ledger.receipt()
        if last is not None and receipt.size < last.size:
            raise _Refusal(RefusalCode.BAD_REQUEST)
        newest = self._start.is_under(receipt)
        pending = self._pending.get(request.study) if request.study else None
        late = pending is not None and arrived > pending.deadline
        account = self._ledger.account
        # By an administrator, in mid-round, or by the hour.
        ended = account.acts.paused or request.study in account.withdrawn or self._not_ready(request.study) is not None
        # An attempt counts only where one is made: it must not be missing when the site goes on.
        goes_on = pending is not None and not late and not ended and (newest or self._start.confirmed)
        begun = self._ledger.witness(request.receipt, pending.identity.digest if pending and goes_on else None)
        if newest:
            self._start.confirm()
        if request.study is None:
            return Outgoing(self._heads.head(AskHead(since=receipt.size)), arrived)
        self._check_not_paused()
        approval = self._approval(request.study)
        self._check_ready(request.study)
        if pending is None:
            raise _Refusal(RefusalCode.BAD_REQUEST)
        if late:  # the signature holds, and whoever asks again finds it
            del self._pending[request.study]
            raise _Refusal(RefusalCode.BUSY)
        row = self._ledger.row(pending.identity.digest)
        if row is not None and row.state == "reserved":
            raise _Refusal(RefusalCode.BAD_REQUEST)
        return self._advance(request.study, approval, arrived, False, begun)

    def _hold(self, mark: Mark, request: Witnessed, body: bytes) -> bytes:
        """Stop serving: the coordinator's signature shows that this ledger is behind, or of another history."""
        if mark.receipt.receipt.challenge != self._heads.challenge:
            raise _Refusal(RefusalCode.BAD_REQUEST)  # somebody between shows an old one; the coordinator says it anew
        inputs, clock = self._inputs, self._clock
        self._held = HeldGate(
            self._heads, self._ledger, inputs.hold, inputs.witness_key, clock.monotonic, clock.unix_ms
        )
        error = forked(inputs.site.id) if mark.kind == "forked" else behind(inputs.site.id)
        _LOG.error("the ledger cannot be used: %(error)s", {"error": error})
        inputs.hold.set(mark)
        if mark.kind == "forked":
            raise _Refusal(RefusalCode.BUSY)
        return self._held.take(request, body)

    def _release(self, study: Digest, approval: Approved, arrived: float, *, begun: bool) -> Outgoing:
        """Compute, store and let go the pending release of a study; it is charged, witnessed and counted as begun."""
        pending = self._pending.pop(study)
        name = pending.identity.digest
        try:
            if not begun:
                raise _GateEndedTwice
            key = noise_key(name, self._prepared.versions[study], pending.step.cohort)
            payload, zeroed = self._computed(study, pending, partial(self._inputs.noise_secret.stream, key))
            notes = [self._alert(pending.step.name)] if zeroed else []
            self._ledger.store(name, payload, notes)
        except Exception as error:
            self._stopped.stop(study, error)
            reply = Outgoing(pack(Refused(code=RefusalCode.BUSY)), arrived)
        else:
            reply = self._replies.release(name, payload)
        return self._replies.at_public_time(reply, approval, pending.step.name, arrived)

    def _computed(self, study: Digest, pending: _Pending, streams: Callable[[str], KeyedStream]) -> tuple[bytes, int]:
        step = pending.step
        if isinstance(step, CountStep):
            assert pending.question is not None  # noqa: S101 - `_question_of` made it
            return count(step, pending.question.query, self._prepared.coded[study], streams("noise")), 0
        weights = decode_weights(pending.data, step.input_length)
        return self._compute[step.name](step, weights, self._prepared.records[study][step.cohort], streams)

    def _check_not_paused(self) -> None:
        if self._ledger.account.acts.paused:
            raise _Refusal(RefusalCode.BUSY)

    def _check_ready(self, study: Digest) -> None:
        code = self._not_ready(study)
        if code is not None:
            raise _Refusal(code)

    def _not_ready(self, study: Digest | None) -> RefusalCode | None:
        """Return why nothing is computed now for an approved study; None if nothing stands in the way."""
        prepared = self._prepared
        if study in prepared.forbidden or not self._inputs.policy.allows_now(self._clock.unix_ms()):
            return RefusalCode.POLICY
        if study in self._stopped or study not in prepared.signed or not prepared.is_ready(study):
            return RefusalCode.BUSY  # the administrator has been told why
        return None

    def _approval(self, study: Digest) -> Approved:
        account = self._ledger.account
        approval = account.approved.get(study)
        if approval is None or study in account.withdrawn:
            raise _Refusal(RefusalCode.NOT_APPROVED)
        return approval

    def _alert(self, step: StepName) -> JournalNote:
        _LOG.warning("step %(step)s: patients counted as zero", {"step": step})
        return JournalNote(kind="alert", text=f"{step}: patients counted as zero", at=self._clock.unix_ms())


def _question_of(step: AnyStep, data: Buffer) -> CountQuestion | None:
    """Return what a count is asked; None of a step that takes weights, if the body holds them.

    Raises:
        _Refusal: it is neither.
    """
    if not isinstance(step, CountStep):
        if not holds_weights(data, step.input_length):
            raise _Refusal(RefusalCode.BAD_REQUEST)
        return None
    try:
        return open_question(data, step.study)
    except IdentityInvalid as error:
        raise _Refusal(RefusalCode.BAD_REQUEST) from error
