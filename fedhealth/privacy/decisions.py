"""Decisions about a study that open nothing: a first approval where two people must approve, and a rejection.

Both are entries of the ledger, by whom and when, and independent of patients. An approval that opens a study is
`entries.Approved`; it settles whatever stood before it.

| before | what may follow |
|---|---|
| nothing | a first approval, a rejection, an approval |
| a first approval | an approval by another person, a rejection |
| a rejection | an approval, or a first one, as a new decision |
| an approval | neither of these |

Invariant: a study that one person approved first is opened by another or not at all. Whether a site asks for two is
left to its policy.
"""

from collections.abc import Container
from typing import Literal

from fedhealth.privacy.acts import LedgerEntry, Milliseconds, misplaced
from fedhealth.privacy.release import Digest

RejectionReason = Literal["purpose", "legal-basis", "cost", "researcher", "other"]
"""A word of a closed list: a sentence could tell of patients, and the ledger is exported."""


class FirstApproval(LedgerEntry):
    """The first of two people approved a study; another must, before anything may leave for it.

    Attributes:
        study: digest of the signed study.
        researcher: public key that signed it.
        by: the local user who approved.
        at: Unix time in milliseconds.
    """

    kind: Literal["first-approval"] = "first-approval"
    study: Digest
    researcher: Digest
    by: str
    at: Milliseconds


class Rejected(LedgerEntry):
    """A local user decided that a study shall not run here.

    Attributes:
        study: digest of the signed study.
        reason: why, if it was said.
        by: the local user who rejected.
        at: Unix time in milliseconds.
    """

    kind: Literal["rejected"] = "rejected"
    study: Digest
    reason: RejectionReason | None
    by: str
    at: Milliseconds


Decision = FirstApproval | Rejected


class Decisions:
    """The decisions that stand; `apply` checks everything, then changes state.

    Attributes:
        first: studies that wait for a second person.
        rejected: studies that were rejected and not approved since.
    """

    def __init__(self) -> None:
        self.first: dict[Digest, FirstApproval] = {}
        self.rejected: dict[Digest, Rejected] = {}

    def apply(self, decision: Decision, approved: Container[Digest]) -> None:
        """Take one more decision into account.

        Args:
            decision: the entry.
            approved: studies that were approved, withdrawn since or not.

        Raises:
            LedgerDamaged: it cannot follow the entries before it.
        """
        study = decision.study
        if study in approved:
            raise misplaced(f"study {study[:12]} was approved, and {decision.kind} cannot follow")
        if isinstance(decision, Rejected):
            if study in self.rejected:
                raise misplaced(f"study {study[:12]} is rejected twice")
            self.rejected[study] = decision
            self.first.pop(study, None)
        else:
            if study in self.first:
                raise misplaced(f"study {study[:12]} has a first approval already")
            self.first[study] = decision
            self.rejected.pop(study, None)

    def check_approval(self, study: Digest, by: str) -> None:
        """Return if this person may open a study.

        Raises:
            LedgerDamaged: the same person approved it first.
        """
        first = self.first.get(study)
        if first is not None and first.by == by:
            raise misplaced(f"study {study[:12]} is approved twice by the same person")

    def settle(self, study: Digest) -> None:
        """The study was approved: nothing that was decided before stands."""
        self.first.pop(study, None)
        self.rejected.pop(study, None)
