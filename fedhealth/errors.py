"""Every error a person can meet, in one tree named by what the reader must do, and the codes the border lets out.

A message says what, got, wanted and the next step. Messages are for people at the hospital or at their own
terminal; towards the other side of the border only a `RefusalCode` exists, and none of the codes depends on
patients (Rule 0). Each class carries the exit code of the command line, which is stable.
"""

from enum import StrEnum


class RefusalCode(StrEnum):
    """The closed list of answers a gate may give besides a release; all are independent of the data."""

    POLICY = "policy"
    BUDGET_SPENT = "budget-spent"
    NOT_APPROVED = "not-approved"
    BUSY = "busy"
    BAD_REQUEST = "bad-request"


class FedHealthError(Exception):
    """Something a person can act on; printed without a traceback.

    Args:
        what: what failed, with its name.
        got: what was found.
        wanted: what was expected.
        next_step: what the reader can do now.
    """

    exit_code = 1

    def __init__(self, what: str, *, got: str = "", wanted: str = "", next_step: str = "") -> None:
        self.what, self.got, self.wanted, self.next_step = what, got, wanted, next_step
        parts = [what]
        if got:
            parts.append(f"got {got}")
        if wanted:
            parts.append(f"wanted {wanted}")
        text = "; ".join(parts) + "."
        super().__init__(f"{text} {next_step}" if next_step else text)


class ConfigInvalid(FedHealthError):
    """A file that a person edits does not say what it must; correct the file."""

    exit_code = 3


class DataUnusable(FedHealthError):
    """A data set cannot be read as the protocol needs it; correct the data set or the protocol."""

    exit_code = 4


class BudgetExhausted(FedHealthError):
    """The privacy budget does not allow this; lower the cost or ask the data-protection officer."""

    exit_code = 5


class ApprovalMissing(FedHealthError):
    """Nobody approved this study here, or it was approved in another form."""

    exit_code = 6


class PolicyForbids(FedHealthError):
    """The site's policy does not allow this study."""

    exit_code = 6


class LedgerDamaged(FedHealthError):
    """A ledger is missing, altered, of another site, or cannot be written; do not continue."""

    exit_code = 7


class LedgerBehind(LedgerDamaged):
    """A ledger is an older copy of itself; get the missing entries back before anything else."""


class LedgerForked(LedgerDamaged):
    """A ledger and the signed word about it are of two histories; a person must find out why."""


class RunAltered(FedHealthError):
    """What a run published was altered, or does not belong together; ask the coordinator for it again."""

    exit_code = 7


class IdentityInvalid(FedHealthError):
    """A certificate, key or signature is expired, foreign or malformed."""

    exit_code = 8


class LinkUnavailable(FedHealthError):
    """A port, address or peer cannot be used."""

    exit_code = 9


class FederationFailed(FedHealthError):
    """A process of the federation ended, or a study could not be completed."""

    exit_code = 11


AUDIT_FAILED_EXIT_CODE = 12
"""`audit empirical`: a mechanism does not do what it claims."""

UNSAFE_TEST_SITE_EXIT_CODE = 10
"""`audit verify`: the ledger is intact and belongs to a site created with `--unsafe-test-site`."""

SIMULATION_EXIT_CODE = 13
"""`audit verify`: the ledger is intact and belongs to a simulation; there are no such sites."""

INTERRUPTED_EXIT_CODE = 130
"""The person pressed Ctrl-C."""
