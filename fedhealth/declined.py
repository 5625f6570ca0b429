"""What one process says to another on this machine that did not do what it was asked: an error, for a person to read.

Nothing of it crosses the border; there, a refusal is one code.
"""

from collections.abc import Collection
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from fedhealth.errors import FedHealthError


class Declined(BaseModel):
    """It was not done, and why, for the terminal of whoever asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["declined"] = "declined"
    error: str
    what: str
    got: str
    wanted: str
    next_step: str

    @classmethod
    def of(cls, error: FedHealthError) -> Self:
        """Return the reply that carries an error."""
        return cls(
            error=type(error).__name__, what=error.what, got=error.got, wanted=error.wanted, next_step=error.next_step
        )

    def carried(self, among: Collection[type[FedHealthError]], otherwise: type[FedHealthError]) -> FedHealthError:
        """Return the error again.

        Args:
            among: the kinds that may have been said.
            otherwise: what any other kind becomes.
        """
        kind = {each.__name__: each for each in among}.get(self.error, otherwise)
        return kind(self.what, got=self.got, wanted=self.wanted, next_step=self.next_step)
