"""The mark beside a ledger that is held: the coordinator's signature on a head that this ledger does not have.

It lies where the site keeps its ledger, so that neither a restart nor an audit overlooks what the coordinator said.
When it is set and lifted is for the site to say.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fedhealth.errors import LedgerDamaged
from fedhealth.privacy.acts import Milliseconds
from fedhealth.privacy.checkpoint import SignedReceipt


class Mark(BaseModel):
    """Why a ledger is held.

    Attributes:
        kind: "behind" when the coordinator has signed for entries that it lacks; "forked" when it has others.
        receipt: the coordinator's signature that shows it.
        at: when it came, Unix time in milliseconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["behind", "forked"]
    receipt: SignedReceipt
    at: Milliseconds


def read_mark(path: Path) -> Mark | None:
    """Return the mark in a file, if there is one.

    Raises:
        LedgerDamaged: there is one and it cannot be read.
    """
    if not path.exists():
        return None
    try:
        return Mark.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise LedgerDamaged(
            f"the mark {path} cannot be read",
            next_step="Move it away and start the gate: the coordinator says it again before anything is charged.",
        ) from error
