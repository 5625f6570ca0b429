"""The signed replies of a gate about a study, and the public time at which a reply leaves.

Invariant: what a reply says, how long it is and when it leaves follow from the approval, the ledger and a payload that
is noised and charged already. Whether there is such a reply at all is left to the gate.
"""

import logging
import math
from dataclasses import replace

from fedhealth.link.frames import Accepted, Outgoing, ReleaseReply, StoredPayload, pack, pack_start, release_statement
from fedhealth.link.memory import Buffer
from fedhealth.privacy.entries import Approved
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest, StepName
from fedhealth.site.gate_inputs import Clock

_LOG = logging.getLogger(__name__)


class Replies:
    """Makes the replies of one gate, signed with its ledger's key."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger, self._clock = ledger, clock

    def accepted(self, approval: Approved) -> bytes:
        """Return the reply to a study that is approved: what its researcher may know in advance."""
        accepted = Accepted(
            study=approval.study,
            declared_patients=approval.declared_patients,
            reply_after_ms=approval.reply_after_ms,
            unsafe_test_site=self._ledger.created.unsafe_test_site,
            signature="0" * 128,
        )
        signature = self._ledger.sign("accepted", accepted.statement())
        return pack(accepted.model_copy(update={"signature": signature}))

    def release(self, release: Digest, payload: Buffer | StoredPayload) -> Outgoing:
        """Return the reply that carries the payload of a stored release."""
        # The ledger has the digest since the payload was stored; were the payload damaged since, nobody would take it.
        digest = self._ledger.account.stored[release].payload_sha256
        signature = self._ledger.sign("release-reply", release_statement(release, digest))
        start = pack_start(ReleaseReply(release=release, signature=signature), len(payload))
        return Outgoing(start, self._clock.monotonic(), payload, digest)

    def at_public_time(self, reply: Outgoing, approval: Approved, step: StepName, arrived: float) -> Outgoing:
        """Let a reply go at arrival plus the public duration; after an overrun, at the next multiple."""
        duration = approval.reply_after_ms[step] / 1000
        multiples = max(1, math.ceil((self._clock.monotonic() - arrived) / duration))
        if multiples > 1:
            _LOG.warning("a reply took too long and leaves at %(multiple)d times reply_after", {"multiple": multiples})
        return replace(reply, leaves_at=arrived + multiples * duration)
