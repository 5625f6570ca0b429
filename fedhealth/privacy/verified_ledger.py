"""What an intact ledger says: who signs it, what it allows, what was spent; and what it holds for those who look on.

All of it is public to whoever may read the ledger, and independent of patients: no journal, no salt, no payload. It is
read off an account; whether account, head and receipt may be believed is left to those who checked them (`verify` for
a file, `compliance.bundle` for an exported bundle).
"""

from dataclasses import dataclass

from fedhealth.privacy.checkpoint import Checkpoint
from fedhealth.privacy.currency import total_of
from fedhealth.privacy.entries import Account, WitnessPolicy
from fedhealth.privacy.release import Cohort


@dataclass(frozen=True)
class Spending:
    """What one side of a data set has used; `epsilon` is for all releases together, at the budget's delta."""

    data_set: str
    cohort: Cohort
    epsilon_spent: float
    epsilon_cap: float
    delta: float
    share_spent: float
    share_set_aside: float


@dataclass(frozen=True)
class VerifiedLedger:
    """What an intact ledger says.

    Attributes:
        head: its signed head.
        ledger_key: the key that signs it, 64 hexadecimal digits; compare it with the certified one.
        first_ledger_key: the key that it began with; another one if it was rotated since.
        ledger_keys: all keys that were ever in force, oldest first.
        witness_key: the coordinator's, that its first entry names, 64 hexadecimal digits.
        policy_sha256: of the bytes of the policy in force, None if none was recorded.
        paused: the whole site is.
        unsafe_test_site: the site uses known noise and protects nobody.
        simulation: there is no such site; it was made up of some rows of a table.
        releases: releases charged.
        witness: the witness policy in force at its end.
        recovered: entries that the coordinator gave back after an older copy of the ledger was found in its place;
            what the local journal said before them cannot be verified any more.
        recoveries: how often an administrator recovered it from an older copy.
        given_up: sizes of later heads that it once had, and nobody has the last entries of.
        closed: releases of which nobody knows any more whether they left; they stay charged.
        unwitnessed: releases that left without the coordinator's signature on their charge, as that policy allowed.
        anchored: an anchor stands beside it, and it has all that the anchor says it had.
        witnessed: size of the last head that the coordinator has countersigned, 0 if none.
        spending: per data set and side.
    """

    head: Checkpoint
    ledger_key: str
    first_ledger_key: str
    ledger_keys: tuple[str, ...]
    witness_key: str
    policy_sha256: str | None
    paused: bool
    unsafe_test_site: bool
    simulation: bool
    releases: int
    witness: WitnessPolicy
    unwitnessed: int
    recovered: int
    recoveries: int
    given_up: tuple[int, ...]
    closed: int
    anchored: bool
    witnessed: int
    spending: tuple[Spending, ...]


@dataclass(frozen=True)
class LedgerContents:
    """What an intact ledger holds that is independent of patients: no journal, no salt, no payload.

    Attributes:
        verified: what it says.
        account: the account that its entries add up to.
        entries: their canonical bytes, in order.
        head: the signed note of its head.
        receipt: canonical bytes of the coordinator's last receipt, None before the first.
    """

    verified: VerifiedLedger
    account: Account
    entries: tuple[bytes, ...]
    head: str
    receipt: bytes | None


def describe(account: Account, head: Checkpoint, witnessed: int, anchored: bool = False) -> VerifiedLedger:
    """Return what a ledger says whose head and receipt were checked."""
    assert account.created is not None  # noqa: S101 - a head stands over one entry at least
    return VerifiedLedger(
        head=head,
        ledger_key=account.acts.ledger_key,
        first_ledger_key=account.created.ledger_key,
        ledger_keys=(account.created.ledger_key, *(each.ledger_key for each in account.acts.rotations)),
        witness_key=account.created.witness_key,
        policy_sha256=account.acts.policy_sha256,
        paused=account.acts.paused,
        unsafe_test_site=account.created.unsafe_test_site,
        simulation=account.created.simulation,
        releases=len(account.reserved),
        witness=account.witness,
        unwitnessed=len(account.unwitnessed),
        recovered=account.given_back,
        recoveries=len(account.recovered),
        given_up=tuple(entry.given_up.size for entry in account.recovered if entry.given_up),
        closed=len(account.closed),
        anchored=anchored,
        witnessed=witnessed,
        spending=tuple(spending_of(account)),
    )


def spending_of(account: Account) -> list[Spending]:
    """Return what each side of each data set has spent and set aside."""
    lines = []
    assert account.created is not None  # noqa: S101 - checked by the caller
    for data_set, budget in account.created.budgets.items():
        for cohort in ("training", "held-out"):
            spent = (
                account.spent(study, cohort)
                for study, approval in account.approved.items()
                if approval.data_set == data_set
            )
            total = total_of(each for each in spent if each is not None)
            aside = account.committed(data_set, cohort)
            lines.append(
                Spending(
                    data_set=data_set,
                    cohort=cohort,
                    epsilon_spent=budget.epsilon_of(total) if total else 0.0,
                    epsilon_cap=budget.epsilon,
                    delta=budget.delta,
                    share_spent=budget.share(total) if total else 0.0,
                    share_set_aside=budget.share(aside) if aside else 0.0,
                )
            )
    return lines
