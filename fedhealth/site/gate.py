"""The gate: the only thing at a hospital that touches patients and answers strangers.

It understands four frames (`fedhealth.link.frames`) and answers each with a release or one code of a closed list.
For a release it checks everything, charges the ledger durably, waits for the coordinator's signature on the new
head, draws the noise, stores the payload durably, and only then lets it go, at the public time. The same question
has the same answer for ever, and costs once. It never blocks: who does not come with the signature in time is `busy`,
and finds the same charge when asking again.

While a gate runs nobody can put an older copy of its ledger in its place; before it started, somebody could have. So
whatever the policy, a gate charges and computes nothing until the coordinator has signed for the head it started with.

Rule 0: nothing that depends on patients leaves unless it is noised and charged; not in codes, sizes or times either.
A patient whose records cannot be computed counts as zero and the release goes on; any other failure after the charge
stops the study here, and the other side learns `busy`.

Frames in, frames out: no socket, no clock and no file of its own; they are arguments. Who may connect is the
process's business (`fedhealth.site.gate_process`); what is computed, that of `fedhealth.learning`.
"""

import hashlib
import hmac
import logging
import math
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from fedhealth.errors import (
    ApprovalMissing,
    BudgetExhausted,
    ConfigInvalid,
    IdentityInvalid,
    LedgerDamaged,
    PolicyForbids,
    RefusalCode,
)
from fedhealth.learning.plan import Step, decode_weights, holds_weights, plan_study
from fedhealth.link.frames import (
    Accepted,
    Answer,
    AskHead,
    FrameInvalid,
    Outgoing,
    PutStudy,
    Refused,
    ReleaseReply,
    StoredPayload,
    Witnessed,
    pack,
    pack_start,
    release_statement,
    unpack_request,
)
from fedhealth.link.memory import Buffer
from fedhealth.policy.rules import Policy, check_policy
from fedhealth.policy.site_file import SiteFile
from fedhealth.privacy.acts import PolicyChanged
from fedhealth.privacy.anchor import forked
from fedhealth.privacy.checkpoint import open_receipt
from fedhealth.privacy.copies import EntrySeal
from fedhealth.privacy.entries import Approved, Reserved, Unwitnessed, WitnessRule
from fedhealth.privacy.journal import DataNote, JournalNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Cohort, Digest, ReleaseIdentity, StepName, input_digest, noise_key
from fedhealth.privacy.release_rows import ReleaseRow
from fedhealth.privacy.stream import SECRET_BYTES, NoiseSecret, SiteNoiseSecret, UnsafeFixedNoiseSecret
from fedhealth.records.marks import PatientMarks, without_patients
from fedhealth.records.members import MemberHistory
from fedhealth.records.split import sides_of
from fedhealth.records.table import Records, Table, made_up_records, prepare_records
from fedhealth.site.consent import forgotten_patients
from fedhealth.site.held_gate import HeldGate, LedgerHeads, mark_for
from fedhealth.site.hold import LedgerHold, Mark, behind
from fedhealth.study.protocol import Study
from fedhealth.study.signature import SignedStudy, open_signed_study

_LOG = logging.getLogger(__name__)

Compute = Mapping[StepName, Callable[..., tuple[bytes, int]]]
"""The step functions of `fedhealth.learning.diagnosis.STEPS`; an argument, so that this module loads no torch."""


@dataclass(frozen=True)
class Clock:
    """Time as the gate sees it.

    Attributes:
        monotonic: seconds, never backwards; decides when a reply leaves.
        unix_ms: milliseconds since 1970; written into the ledger.
    """

    monotonic: Callable[[], float]
    unix_ms: Callable[[], int]


@dataclass(frozen=True)
class GateInputs:
    """What a gate is given, all of it by its own administrator.

    Attributes:
        site: `site.toml`.
        policy: `policy.toml`.
        policy_change: what the ledger shall say of it, unless it says so already; None where nobody edits a policy.
        table: the data set as read.
        split_key: key of the held-out split.
        naming_secret: key of the content's fingerprint and of the patients' marks; both stay inside.
        members: who was in the data at each version; owns a file.
        copies_secret: seals the copies of the ledger's entries that the coordinator keeps.
        hold: the mark of a ledger that is behind or of another history; owns its files.
        noise_secret: opens the noise streams.
        witness_key: the coordinator's key.
        researchers: pinned keys by name.
    """

    site: SiteFile
    policy: Policy
    policy_change: PolicyChanged | None
    table: Table
    split_key: bytes
    naming_secret: bytes
    members: MemberHistory
    copies_secret: bytes
    hold: LedgerHold
    noise_secret: NoiseSecret
    witness_key: Ed25519PublicKey
    researchers: Mapping[str, str]


@dataclass(frozen=True)
class _Pending:
    """A release that waits for the coordinator's signature, until this monotonic second."""

    identity: ReleaseIdentity
    step: Step
    data: Buffer
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
        self._created = ledger.created
        if isinstance(inputs.noise_secret, UnsafeFixedNoiseSecret) and not ledger.created.unsafe_test_site:
            raise ConfigInvalid(
                f"the gate of '{inputs.site.id}' was given known noise, and its ledger does not say so",
                next_step="Use the site's own noise secret; known noise is for sites made with --unsafe-test-site.",
            )
        self._studies: dict[Digest, SignedStudy] = {}
        self._records: dict[Digest, dict[Cohort, Records]] = {}
        self._pending: dict[Digest, _Pending] = {}
        self._heads = LedgerHeads(ledger, EntrySeal(inputs.copies_secret, inputs.site.id))
        self._started_with, self._confirmed = ledger.size, False
        self._held: HeldGate | None = None
        self._forbidden: set[Digest] = set()
        self._stopped = stopped_studies(ledger)
        data_set = inputs.site.data_set
        marks = PatientMarks.under(inputs.naming_secret, data_set.name, data_set.patient_column)
        forgotten = forgotten_patients(ledger, data_set.name, marks)
        self._table, members = without_patients(inputs.table, marks, forgotten)
        self._data_version = self._note_data_version(members)

    def longest_body(self, start: Buffer) -> int:
        """Return how many bytes a frame that starts like this may bring here: what its study's step takes.

        Args:
            start: a frame up to its body; anything at all.
        """
        try:
            request, _ = unpack_request(start)
        except FrameInvalid:
            return 0
        if not isinstance(request, Answer) or request.study not in self._studies:
            return 0
        return 8 * plan_study(self._studies[request.study].study)[request.step].input_length

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

    def prepare(self, data: bytes) -> Study:
        """Take in an approved study ahead of its first round, so that no round pays for reading records.

        Args:
            data: a signed study.

        Raises:
            FedHealthError: for the administrator; the study or the data set is not as approved.
        """
        signed = open_signed_study(data)
        digest = signed.study.digest
        try:
            check_policy(self._inputs.policy, signed, self._inputs.researchers)
        except PolicyForbids:
            self._forbidden.add(digest)
            raise
        if signed.study.data_set != self._inputs.site.data_set.name:
            raise ApprovalMissing(
                f"study '{signed.study.name}' was approved for data set '{signed.study.data_set}', which pays for it",
                got=f"data set '{self._inputs.site.data_set.name}' in site.toml",
                next_step="Correct site.toml, or withdraw the study.",
            )
        approval, inputs = self._ledger.account.approved.get(digest), self._inputs
        column, fraction = inputs.site.data_set.patient_column, signed.study.evaluation.held_out_fraction
        if approval is None:
            raise ApprovalMissing(f"study '{signed.study.name}' is not approved here", next_step="Approve it first.")
        if approval.sides != sides_of(inputs.split_key, column, fraction):
            raise ApprovalMissing(
                f"study '{signed.study.name}' was approved with other patients on its two sides",
                got="another split key or patient column than at approval",
                next_step="Put split_key and patient_column in site.toml back as they were.",
            )
        self._studies[digest] = signed
        training, held_out = prepare_records(
            self._table,
            signed.study,
            self._inputs.site.data_set.patient_column,
            self._inputs.split_key,
            strict=False,
        )
        self._records[digest] = {"training": training, "held-out": held_out}
        self._warm_up(signed.study)
        return signed.study

    def _warm_up(self, study: Study) -> None:
        """Compute each step once on made-up records, so that no first reply is late."""
        records = made_up_records(study, self._inputs.site.data_set.declared_patients)
        streams = partial(SiteNoiseSecret(secrets.token_bytes(SECRET_BYTES)).stream, "warm-up")
        for name, step in plan_study(study).items():
            self._compute[name](step, np.zeros(step.input_length), records, streams)

    def _put_study(self, data: Buffer) -> bytes:
        self._check_not_paused()
        try:
            signed = open_signed_study(bytes(data))
            check_policy(self._inputs.policy, signed, self._inputs.researchers)
        except IdentityInvalid as error:
            raise _Refusal(RefusalCode.BAD_REQUEST) from error
        except PolicyForbids as error:
            _LOG.warning("a study was refused: %(error)s", {"error": error})
            raise _Refusal(RefusalCode.POLICY) from error
        approval = self._approval(signed.study.digest)
        accepted = Accepted(
            study=approval.study,
            declared_patients=approval.declared_patients,
            reply_after_ms=approval.reply_after_ms,
            unsafe_test_site=self._created.unsafe_test_site,
            signature="0" * 128,
        )
        signature = self._ledger.sign("accepted", accepted.statement())
        return pack(accepted.model_copy(update={"signature": signature}))

    def _answer(self, request: Answer, data: Buffer, digest: Digest, arrived: float) -> Outgoing:
        self._check_not_paused()
        approval = self._approval(request.study)
        if request.study in self._forbidden:
            raise _Refusal(RefusalCode.POLICY)
        if request.study in self._stopped:
            raise _Refusal(RefusalCode.BUSY)
        signed = self._studies.get(request.study)
        if signed is None or request.study not in self._records:
            # Approved, and not prepared: the administrator has been told why.
            raise _Refusal(RefusalCode.BUSY)
        step = plan_study(signed.study)[request.step]
        if request.round > step.rounds or not holds_weights(data, step.input_length):
            raise _Refusal(RefusalCode.BAD_REQUEST)
        identity = ReleaseIdentity(
            site=self._inputs.site.id,
            study=request.study,
            step=request.step,
            round=request.round,
            input_digest=digest,
        )
        before = self._pending.get(request.study)
        same = before is not None and before.identity == identity
        waited = same and before is not None and arrived > before.deadline
        if not same or waited:
            deadline = arrived + self._inputs.policy.witness_wait_seconds
            self._pending[request.study] = _Pending(identity, step, data, deadline)
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
            return self._at_public_time(self._reply(name, payload), approval, step, arrived)
        if not self._confirmed:
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
        try:
            return self._ledger.reserve(
                Reserved(
                    release=pending.identity.digest,
                    study=approval.study,
                    step=pending.step.name,
                    round=pending.identity.round,
                    cohort=pending.step.cohort,
                    cost=self._ledger.created.budgets[approval.data_set].cost_of(pending.step.event),
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
        newest = receipt.challenge == self._heads.challenge and receipt.size >= self._started_with
        pending = self._pending.get(request.study) if request.study else None
        late = pending is not None and arrived > pending.deadline
        goes_on = pending is not None and not late and (newest or self._confirmed)
        begun = self._ledger.witness(request.receipt, pending.identity.digest if pending and goes_on else None)
        if newest:
            self._confirm()
        if request.study is None:
            return Outgoing(self._heads.head(AskHead(since=receipt.size)), arrived)
        self._check_not_paused()
        approval = self._approval(request.study)
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

    def _confirm(self) -> None:
        """The coordinator knows no newer head: from here on the ledger may grow."""
        if self._confirmed:
            return
        policy, change, account = self._inputs.policy, self._inputs.policy_change, self._ledger.account
        if change is not None and change.policy_sha256 != account.acts.policy_sha256:
            self._ledger.append(change)
        stated = (account.witness, account.witness_wait or policy.witness_wait_seconds)
        if (policy.witness, policy.witness_wait_seconds) != stated:
            self._ledger.append(
                WitnessRule(witness=policy.witness, wait_seconds=policy.witness_wait_seconds, at=self._clock.unix_ms())
            )
        self._confirmed = True

    def _release(self, study: Digest, approval: Approved, arrived: float, *, begun: bool) -> Outgoing:
        """Compute, store and let go the pending release of a study; it is charged, witnessed and counted as begun."""
        pending = self._pending.pop(study)
        name = pending.identity.digest
        try:
            if not begun:
                raise _GateEndedTwice
            weights = decode_weights(pending.data, pending.step.input_length)
            key = noise_key(name, self._data_version, pending.step.cohort)
            streams = partial(self._inputs.noise_secret.stream, key)
            payload, zeroed = self._compute[pending.step.name](
                pending.step, weights, self._records[study][pending.step.cohort], streams
            )
            notes = [self._alert(pending.step.name)] if zeroed else []
            self._ledger.store(name, payload, notes)
        except Exception as error:
            self._stop(study, error)
            reply = Outgoing(pack(Refused(code=RefusalCode.BUSY)), arrived)
        else:
            reply = self._reply(name, payload)
        return self._at_public_time(reply, approval, pending.step.name, arrived)

    def _reply(self, release: Digest, payload: Buffer | StoredPayload) -> Outgoing:
        # The ledger has the digest since the payload was stored; were the payload damaged since, nobody would take it.
        digest = self._ledger.account.stored[release].payload_sha256
        signature = self._ledger.sign("release-reply", release_statement(release, digest))
        start = pack_start(ReleaseReply(release=release, signature=signature), len(payload))
        return Outgoing(start, self._clock.monotonic(), payload, digest)

    def _stop(self, study: Digest, error: Exception) -> None:
        """Stop a study here until its administrator resumes it."""
        self._stopped.add(study)
        # The kind of error alone: its text may hold what a record held.
        _LOG.error(
            "study %(study)s is stopped here, after the charge: %(defect)s",
            {"study": study, "defect": type(error).__name__},
        )
        with suppress(LedgerDamaged):  # then the whole gate answers `busy`
            self._ledger.note(JournalNote(kind="failure", text=study, at=self._clock.unix_ms()))

    def _at_public_time(self, reply: Outgoing, approval: Approved, step: StepName, arrived: float) -> Outgoing:
        """Let a reply go at arrival plus the public duration; after an overrun, at the next multiple."""
        duration = approval.reply_after_ms[step] / 1000
        multiples = max(1, math.ceil((self._clock.monotonic() - arrived) / duration))
        if multiples > 1:
            _LOG.warning("a reply took too long and leaves at %(multiple)d times reply_after", {"multiple": multiples})
        return replace(reply, leaves_at=arrived + multiples * duration)

    def _check_not_paused(self) -> None:
        if self._ledger.account.acts.paused:
            raise _Refusal(RefusalCode.BUSY)

    def _approval(self, study: Digest) -> Approved:
        account = self._ledger.account
        approval = account.approved.get(study)
        if approval is None or study in account.withdrawn:
            raise _Refusal(RefusalCode.NOT_APPROVED)
        return approval

    def _alert(self, step: StepName) -> JournalNote:
        _LOG.warning("step %(step)s: patients counted as zero", {"step": step})
        return JournalNote(kind="alert", text=f"{step}: patients counted as zero", at=self._clock.unix_ms())

    def _note_data_version(self, members: NDArray[np.uint64]) -> str:
        """Return the data set's version, counter and keyed fingerprint, and journal it when it is new.

        It covers whatever at this site decides a sum beside study and input: the table without the patients who
        withdrew their consent, which column names the patient, and the split.
        """
        inputs, data_set = self._inputs, self._inputs.site.data_set
        content = (data_set.name, self._table.columns, self._table.rows, data_set.patient_column, inputs.split_key)
        mark = hmac.new(inputs.naming_secret, repr(content).encode(), hashlib.sha256).hexdigest()
        versions = [note for note in self._ledger.journal() if note.kind == "data"]
        if not versions or versions[-1].content != mark:
            version = len(versions) + 1
            digest = inputs.members.record(version, members)
            versions.append(DataNote(version=version, content=mark, members=digest, at=self._clock.unix_ms()))
            self._ledger.note(versions[-1])
        return f"{versions[-1].version} {mark}"


def stopped_studies(ledger: Ledger) -> set[Digest]:
    """Return the studies that a failure stopped here and that no administrator has resumed."""
    stopped: set[Digest] = set()
    for note in ledger.journal():
        if note.kind == "failure":
            stopped.add(note.text)
        elif note.kind == "resumed":
            stopped.discard(note.text)
    return stopped
