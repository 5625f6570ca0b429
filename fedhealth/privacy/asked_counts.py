"""Who caused which counts: the shares of a search study that one asker, and one hospital's askers together, may use.

Part of a ledger's account: the live ledger and the offline audit fold the same charges through here. A share is of one
quarter. A count is charged to whoever asks first; whoever asks the same again causes none.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fedhealth.errors import BudgetExhausted
from fedhealth.privacy.release import Digest, SiteId

Quarter = Annotated[str, StringConstraints(pattern=r"^20[0-9]{2}-Q[1-4]$")]
"""A calendar quarter in UTC, such as "2026-Q4"."""
Share = Annotated[int, Field(ge=1, le=10**6)]
"""So many new counts in a quarter."""


class Asker(BaseModel):
    """Who caused a count, and the quarter it is of.

    Attributes:
        key: the public key under which they ask.
        quarter: of the count.
        site: the hospital that vouches for them; None only in ledgers from before hospitals had shares.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: Digest
    quarter: Quarter
    site: Annotated[SiteId | None, Field(exclude_if=lambda site: site is None)] = None


@dataclass(frozen=True)
class Shares:
    """What an approval lets be caused in a quarter.

    Attributes:
        of_an_asker: by one key; None where the study counts nothing.
        of_a_hospital: by all keys of one hospital together; None for as many as the study has.
    """

    of_an_asker: int | None
    of_a_hospital: int | None


NO_SHARES = Shares(None, None)
"""Of a study that counts nothing."""


@dataclass(frozen=True)
class Asked:
    """How many counts of a study one asker caused in a quarter."""

    site: SiteId | None
    key: Digest
    quarter: str
    counts: int


class AskedCounts:
    """How many counts each asker caused, by study."""

    def __init__(self) -> None:
        self._counts: dict[Digest, Counter[Asker]] = {}

    def of(self, study: Digest) -> tuple[Asked, ...]:
        """Return who caused counts of a study: quarter by quarter, hospitals and keys in order."""
        caused = self._counts.get(study, Counter[Asker]())
        found = (Asked(asker.site, asker.key, asker.quarter, counts) for asker, counts in caused.items())
        return tuple(sorted(found, key=lambda each: (each.quarter, each.site or "", each.key)))

    def of_asker(self, study: Digest, asker: Asker) -> int:
        """Return how many counts a key caused in a quarter, whichever hospital vouched for it."""
        caused = self._counts.get(study, {}).items()
        return sum(counts for who, counts in caused if (who.key, who.quarter) == (asker.key, asker.quarter))

    def of_hospital(self, study: Digest, asker: Asker) -> int:
        """Return how many counts the hospital of an asker caused in a quarter, all its askers together."""
        caused = self._counts.get(study, {}).items()
        return sum(counts for who, counts in caused if (who.site, who.quarter) == (asker.site, asker.quarter))

    def check(self, study: Digest, asker: Asker, shares: Shares) -> None:
        """Return if an asker may cause one more count.

        Raises:
            BudgetExhausted: the asker's share of the quarter is spent, or that of the hospital.
        """
        caused, wanted = self.of_asker(study, asker), shares.of_an_asker or 0
        if caused >= wanted:
            raise _spent(f"an asker of study {study[:12]}", f"key {asker.key[:12]}", asker.quarter, caused, wanted)
        if shares.of_a_hospital is None:
            return
        caused = self.of_hospital(study, asker)
        if asker.site is None or caused >= shares.of_a_hospital:
            whose = f"site '{asker.site}'"
            raise _spent(
                f"a hospital whose people ask under study {study[:12]}",
                whose,
                asker.quarter,
                caused,
                shares.of_a_hospital,
            )

    def add(self, study: Digest, asker: Asker) -> None:
        """Take one more count into account."""
        self._counts.setdefault(study, Counter())[asker] += 1


def _spent(who: str, named: str, quarter: str, caused: int, most: int) -> BudgetExhausted:
    return BudgetExhausted(
        f"{who} has spent what one may cause in {quarter}",
        got=f"{caused} counts for {named}",
        wanted=f"at most {most}",
        next_step="What was counted already is still answered; new counts wait for the next quarter.",
    )
