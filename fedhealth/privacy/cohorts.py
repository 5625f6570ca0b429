"""Which patients a charge falls on: cohorts, their patients, and what each patient has spent.

A release charges a **cohort**; a patient has spent the sum of what the cohorts that contain the patient were charged.
Patients in exactly the same cohorts have spent the same, so they share one **cell** and are added up once: a charge
is a sum over cells, and looking a patient up is one index. With c cohorts there are at most min(2**c, patients)
cells, and a handful in practice.

Individual accounting (Feldman and Zrnic 2021, Section 4) is why a patient whose budget is used up may be left out
while the others go on: whether a patient is left out follows from that patient's own cohorts and public charges,
never from other patients. Who is left out, and how many, must not cross the border.

Whether a charge is refused depends on patients, so a refusal must not cross either: a release leaves out those that
`eligible` does not name, makes the others its cohort, and charges that.

Invariants: amounts are positive integers; a charge that would take any patient of the cohort past the cap is refused
and changes nothing; `Cohorts` are frozen, `Spending` owns what changes.

Leaves to others: how a cohort is defined, and the ledger, from which spending is folded again after a restart.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import BudgetExhausted

MAX_AMOUNT = 2**53 - 1
"""The most a charge or a cap may be in one part: what canonical JSON can hold, far below 2**63 when added up once."""


@dataclass(frozen=True, eq=False)
class Cohorts:
    """Which patients are in which cohorts.

    Attributes:
        names: the cohorts, in the order they were added.
        cell_of: each patient's cell, shape (patients,).
        contains: whether a cohort contains a cell's patients, shape (cohorts, cells): each column is the bitset of
            cohorts that all the cell's patients have in common.
    """

    names: tuple[str, ...]
    cell_of: NDArray[np.int32]
    contains: NDArray[np.bool_]

    @staticmethod
    def of_patients(patients: int) -> "Cohorts":
        """Return no cohorts, over so many patients (0 to 2**31 - 1)."""
        if not 0 <= patients < 2**31:
            raise ValueError(f"patients must be in [0, 2**31), got {patients}")
        return Cohorts((), np.zeros(patients, dtype=np.int32), np.zeros((0, min(1, patients)), dtype=np.bool_))

    def with_cohort(self, name: str, members: NDArray[np.bool_]) -> "Cohorts":
        """Return these cohorts and one more.

        Args:
            name: not yet taken.
            members: whether each patient is in it, shape (patients,).

        Raises:
            ValueError: the name is taken, or the members have another shape or type.
        """
        if name in self.names:
            raise ValueError(f"cohort '{name}' exists already")
        if members.shape != self.cell_of.shape or members.dtype != np.bool_:
            raise ValueError(f"got {members.dtype} of shape {members.shape}, wanted bool {self.cell_of.shape}")
        # Each cell splits into those outside and those inside; cells without patients are dropped.
        split = 2 * self.cell_of.astype(np.int64) + members
        used = np.flatnonzero(np.bincount(split, minlength=2 * self.contains.shape[1]))
        renumbered = np.zeros(2 * self.contains.shape[1], dtype=np.int32)
        renumbered[used] = np.arange(len(used), dtype=np.int32)
        contains = np.vstack([self.contains[:, used // 2], (used % 2 == 1)[None, :]])
        return Cohorts((*self.names, name), renumbered[split], contains)

    def members(self, name: str) -> NDArray[np.bool_]:
        """Return whether each patient is in a cohort, shape (patients,).

        Raises:
            ValueError: there is no such cohort.
        """
        inside: NDArray[np.bool_] = self.cells_of(name)[self.cell_of]
        return inside

    def cells_of(self, name: str) -> NDArray[np.bool_]:
        """Return whether each cell is in a cohort, shape (cells,).

        Raises:
            ValueError: there is no such cohort.
        """
        if name not in self.names:
            raise ValueError(f"there is no cohort '{name}', only {', '.join(self.names) or 'none'}")
        inside: NDArray[np.bool_] = self.contains[self.names.index(name)]
        return inside


@dataclass(eq=False)
class Spending:
    """What each patient has spent in one part of a budget's currency; owns the amounts.

    Attributes:
        cohorts: who is where.
        cap: the most a patient may spend, a positive integer, rounded down where it comes from.
    """

    cohorts: Cohorts
    cap: int
    _spent: NDArray[np.int64] = field(init=False)
    _spare: NDArray[np.int64] = field(init=False)
    """Where the next charge is added up: fresh memory for each would take as long as the sum itself."""

    def __post_init__(self) -> None:
        _check_amount(self.cap)
        self._spent = np.zeros(self.cohorts.contains.shape[1], dtype=np.int64)
        self._spare = np.zeros_like(self._spent)

    def charge(self, cohort: str, amount: int) -> None:
        """Charge every patient of a cohort, or nobody.

        Args:
            cohort: its name; without patients the charge is checked and changes nothing.
            amount: a positive integer, rounded up where it comes from.

        Raises:
            ValueError: the amount is not a positive integer, or there is no such cohort.
            BudgetExhausted: some patient of the cohort would pass the cap.
        """
        _check_amount(amount)
        cells = self.cohorts.cells_of(cohort)
        after = np.multiply(cells, amount, out=self._spare)
        after += self._spent
        # Cells outside the cohort are at most at the cap, so the largest of all is past it only inside.
        if amount > self.cap or int(after.max(initial=0)) > self.cap:
            raise BudgetExhausted(
                f"a release on cohort '{cohort}' does not fit the privacy budget of every patient in it",
                next_step="Leave out the patients whose budget is used up, or ask the data-protection officer.",
            )
        self._spent, self._spare = after, self._spent

    def spent(self) -> NDArray[np.int64]:
        """Return what each patient has spent, shape (patients,); never let it leave the site."""
        each: NDArray[np.int64] = self._spent[self.cohorts.cell_of]
        return each

    def eligible(self, cohort: str, amount: int) -> NDArray[np.bool_]:
        """Return which patients of a cohort can still pay an amount, shape (patients,); never let it leave the site.

        Raises:
            ValueError: the amount is not a positive integer, or there is no such cohort.
        """
        _check_amount(amount)
        # `cap - spent` instead of `spent + amount`: both lie in [0, 2**53), so nothing overflows.
        can_pay = self.cohorts.cells_of(cohort) & (self.cap - self._spent >= amount)
        mask: NDArray[np.bool_] = can_pay[self.cohorts.cell_of]
        return mask

    def with_cohort(self, name: str, members: NDArray[np.bool_]) -> "Spending":
        """Return the same spending with one more cohort, to which nothing was charged yet."""
        more = Spending(self.cohorts.with_cohort(name, members), self.cap)
        # Every new cell is a part of one old cell; any of its patients says which.
        some_patient = np.zeros(len(more._spent), dtype=np.int64)
        some_patient[more.cohorts.cell_of] = np.arange(len(members))
        more._spent = self._spent[self.cohorts.cell_of[some_patient]] if len(members) else more._spent
        return more


def _check_amount(amount: object) -> None:
    if type(amount) is not int or not 1 <= amount <= MAX_AMOUNT:
        raise ValueError(f"an amount is an integer in [1, 2**53), got {amount}")
