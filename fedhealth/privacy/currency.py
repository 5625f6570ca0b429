"""What all currencies have in common: amounts that add up, caps that are never passed, budgets that price events.

A **currency** is a way to count privacy loss in which costs of releases add up although each release was chosen after
seeing the earlier ones; that is what makes "stop before the sum passes the cap" a valid filter. `mu_squared` and
`renyi` are the two. A budget has one currency for ever, and amounts of different currencies never meet.

Invariants: amounts are integers, costs rounded up and caps rounded down; zero, negative and non-finite amounts do not
exist. Beside its amount every cost has the distance of the sampled noise from the exact, which is charged to delta.

Leaves to others: which currencies there are (`accountant`), who must be asked (`ledger`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from fedhealth.privacy.events import Event

TOTAL_VARIATION_UNITS = 2**128
"""Units of `Cost.total_variation` in a distance of 1.0."""

SAMPLING_SHARE_OF_DELTA = 2.0**-10
"""The part of a budget's delta that is kept for the distance between sampled and exact noise."""

MAX_AMOUNT = 2**53 - 1
"""The largest integer that canonical JSON can hold exactly."""

Amount = Annotated[int, Field(gt=0, le=MAX_AMOUNT)]


class Cost(BaseModel, ABC):
    """What a release, or a sum of releases, costs each patient it used.

    Attributes:
        total_variation: distance of the sampled noise from the exact, in units of 2**-128, rounded up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    total_variation: Annotated[int, Field(ge=0, le=MAX_AMOUNT)]

    @property
    @abstractmethod
    def currency(self) -> str:
        """What the amount is counted in; only costs of one currency add up or compare."""

    @property
    @abstractmethod
    def amount(self) -> int:
        """The privacy loss, in the currency's units."""

    @abstractmethod
    def _of(self, amount: int, total_variation: int) -> Self:
        """Return another cost in the same currency."""

    def __add__(self, other: "Cost") -> Self:
        """Costs of two releases on the same patients add up.

        Raises:
            ValueError: another currency, or more than can be written down.
        """
        self._meets(other)
        return self._of(self.amount + other.amount, self.total_variation + other.total_variation)

    def times(self, releases: int) -> Self:
        """Return the cost of `releases` (at least 1) releases of this cost."""
        return self._of(self.amount * releases, self.total_variation * releases)

    def fits(self, cap: "Cost", held: "Cost | None" = None) -> bool:
        """Say whether this cost, on top of what is held already, stays within `cap` in both parts.

        Raises:
            ValueError: another currency.
        """
        amount, total_variation = self.amount, self.total_variation
        self._meets(cap)
        if held is not None:
            self._meets(held)
            amount, total_variation = amount + held.amount, total_variation + held.total_variation
        return amount <= cap.amount and total_variation <= cap.total_variation

    def _meets(self, other: "Cost") -> None:
        if self.currency != other.currency:
            raise ValueError(f"costs in {self.currency} and in {other.currency} do not meet")


AnySum = TypeVar("AnySum", bound=Cost)


def total_of(costs: Iterable[AnySum]) -> AnySum | None:
    """Return the sum of costs on the same patients; None if there are none.

    Raises:
        ValueError: the costs are of different currencies.
    """
    total: AnySum | None = None
    for each in costs:
        total = each if total is None else total + each
    return total


class Budget(BaseModel, ABC):
    """The most that all studies together may ever cost one patient of a data set; nothing refills it.

    Attributes:
        epsilon: the cap for the life of the data.
        delta: the cap for the life of the data; keep it below one over the number of patients.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    epsilon: Annotated[float, Field(gt=0, le=50, allow_inf_nan=False)]
    delta: Annotated[float, Field(ge=1e-12, le=0.01, allow_inf_nan=False)]

    @abstractmethod
    def cap(self) -> Cost:
        """Return the largest cost that keeps (epsilon, delta), rounded down."""

    @abstractmethod
    def cost_of(self, event: Event) -> Cost:
        """Return the price of an event, rounded up.

        Raises:
            ValueError: the event is unknown, out of its ranges, or has no price in this currency.
        """

    @abstractmethod
    def epsilon_of(self, cost: Cost) -> float:
        """Return the epsilon (rounded up) that a sum of costs guarantees at this budget's delta, for people to read."""

    def share(self, cost: Cost) -> float:
        """Return the part of the cap that a cost uses, in [0, 1] when it fits; this number binds.

        Raises:
            ValueError: another currency.
        """
        cap = self.cap()
        cost.fits(cap)  # refuses another currency
        return max(cost.amount / cap.amount, cost.total_variation / cap.total_variation)
