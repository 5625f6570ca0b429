"""The head that a gate started with, until the coordinator has signed for it.

While a gate runs nobody can put an older copy of its ledger in its place; before it started, somebody could have. So
whatever the policy, a gate charges and computes nothing until the coordinator has signed, for this very process, that
it knows no newer head. Only then is the policy of this start written into the ledger.
"""

from fedhealth.privacy.checkpoint import Receipt
from fedhealth.privacy.entries import WitnessRule
from fedhealth.privacy.ledger import Ledger
from fedhealth.site.gate_inputs import Clock, GateInputs


class StartingHead:
    """Whether the coordinator has signed for the head that a gate started with.

    Args:
        inputs: of the gate.
        ledger: as it was opened.
        challenge: of this process, which the coordinator's receipt must repeat.
        clock: of the gate.
    """

    def __init__(self, inputs: GateInputs, ledger: Ledger, challenge: str, clock: Clock) -> None:
        self._inputs, self._ledger, self._challenge, self._clock = inputs, ledger, challenge, clock
        self._size, self.confirmed = ledger.size, False

    def is_under(self, receipt: Receipt) -> bool:
        """Say whether a receipt of the coordinator is for this process and covers this head."""
        return receipt.challenge == self._challenge and receipt.size >= self._size

    def confirm(self) -> None:
        """The coordinator knows no newer head: from here on the ledger may grow."""
        if not self.confirmed:
            self._state_policy()
            self.confirmed = True

    def renew(self, inputs: GateInputs) -> None:
        """Take another policy, which the ledger says at once if the coordinator has signed for this process."""
        self._inputs = inputs
        if self.confirmed:
            self._state_policy()

    def _state_policy(self) -> None:
        policy, change, account = self._inputs.policy, self._inputs.policy_change, self._ledger.account
        if change is not None and change.policy_sha256 != account.acts.policy_sha256:
            self._ledger.append(change)
        stated = (account.witness, account.witness_wait or policy.witness_wait_seconds)
        if (policy.witness, policy.witness_wait_seconds) != stated:
            self._ledger.append(
                WitnessRule(witness=policy.witness, wait_seconds=policy.witness_wait_seconds, at=self._clock.unix_ms())
            )
