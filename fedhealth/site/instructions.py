"""What an administrator tells a site to do: a closed list of verbs, the same whether the gate runs or not.

| verb | from the next frame on |
|---|---|
| `pause` | the site answers `busy` to every study |
| `unpause` | it goes on |
| `withdraw` | it answers `not-approved` for the study; what the study had not spent is free again |
| `resume` | a study that a failure stopped here goes on |

Each is an entry of the ledger, or for `resume` a line of the journal, by whom and when, so that nobody can say later
that it was otherwise. They are independent of patients.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from fedhealth.errors import ApprovalMissing, ConfigInvalid
from fedhealth.privacy.acts import Paused, Unpaused
from fedhealth.privacy.entries import Withdrawn
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest, SiteId

Verb = Literal["pause", "unpause", "withdraw", "resume"]


class Instruction(BaseModel):
    """One instruction.

    Attributes:
        site: which site it is for.
        verb: what to do.
        study: of which study, for `withdraw` and `resume` alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    site: SiteId
    verb: Verb
    study: Digest | None = None

    @model_validator(mode="after")
    def _names_a_study_where_one_is_meant(self) -> Self:
        if (self.study is not None) != (self.verb in ("withdraw", "resume")):
            raise ValueError("`withdraw` and `resume` name a study, the others none")
        return self


def carry_out(instruction: Instruction, ledger: Ledger, by: str, at: int) -> None:
    """Write an instruction into the ledger; durable on return.

    Args:
        instruction: what to do.
        ledger: the site's, open for writing.
        by: the local user.
        at: now, in Unix milliseconds.

    Raises:
        ConfigInvalid: it is for another site, or the site is paused already, or is not paused.
        ApprovalMissing: the study is not approved here, or was withdrawn before.
        LedgerDamaged: it could not be written.
    """
    account, study = ledger.account, instruction.study
    if instruction.site != ledger.created.site:
        raise ConfigInvalid(
            f"this state is not of site '{instruction.site}'",
            got=f"the ledger of '{ledger.created.site}'",
            next_step="Give the site's folder and --state that belong together.",
        )
    if study is not None:
        if study not in account.approved or (instruction.verb == "withdraw" and study in account.withdrawn):
            raise not_approved(study)
        if instruction.verb == "withdraw":
            ledger.append(Withdrawn(study=study, by=by, at=at))
        else:
            ledger.resume(study, JournalNote(kind="resumed", text=study, at=at))
    elif instruction.verb == "pause":
        if account.acts.paused:
            raise ConfigInvalid("the site is paused already", next_step="Nothing to do.")
        ledger.append(Paused(by=by, at=at))
    else:
        if not account.acts.paused:
            raise ConfigInvalid("the site is not paused", next_step="Nothing to do; or start the gate.")
        ledger.append(Unpaused(by=by, at=at))


def not_approved(study: str) -> ApprovalMissing:
    """Return the error for a study that nobody approved here."""
    return ApprovalMissing(f"study {study[:12]} is not approved here", next_step="Check the digest.")
