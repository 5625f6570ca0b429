"""What an administrator tells a site to do: a closed list of verbs, the same whether the gate runs or not.

| verb | from the next frame on |
|---|---|
| `pause` | the site answers `busy` to every study |
| `resume` | the paused site goes on |
| `resume` a study | a study that a failure stopped here goes on |
| `withdraw` a study | it answers `not-approved` for the study; what the study had not spent is free again |
| `approve` a study | it serves the study, out of an envelope that is set aside from then on |
| `forget`, `unforget` a patient | what it computes is without the patient, or with the patient again |

Each is an entry of the ledger, or for `resume` of a study and for consent a line of the journal, by whom and when, so
that nobody can say later that it was otherwise. Entries are independent of patients.

Leaves to others: what `approve` (`fedhealth.site.approval`), `forget` and `unforget` (`fedhealth.site.consent`) do.
"""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Base64UrlBytes, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from fedhealth.errors import ApprovalMissing, ConfigInvalid
from fedhealth.privacy.acts import Paused, Unpaused
from fedhealth.privacy.entries import Name, ReplyAfter, Withdrawn
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest, SiteId

StudyPrefix = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
"""The first digits of a study's digest, or all of them."""


class _ForSite(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    site: SiteId


class Pause(_ForSite):
    """Pause the whole site."""

    verb: Literal["pause"] = "pause"


class Resume(_ForSite):
    """Let the paused site go on, or where a study is named, that one."""

    verb: Literal["resume"] = "resume"
    study: StudyPrefix | None = None


class Withdraw(_ForSite):
    """Withdraw the approval of a study."""

    verb: Literal["withdraw"] = "withdraw"
    study: StudyPrefix


class Approve(_ForSite):
    """Approve a study that the administrator has looked at.

    Attributes:
        signed_study: its signed bytes.
        reply_after_ms: the public duration of each step's reply, as measured when it was looked at.
    """

    verb: Literal["approve"] = "approve"
    signed_study: Base64UrlBytes
    reply_after_ms: ReplyAfter


class ChangeConsent(_ForSite):
    """Keep a patient out of everything computed, or let the patient back in.

    Attributes:
        data_set: whose patient.
        scheme: of the mark.
        mark: the patient's keyed mark; the name stays with who typed it.
    """

    verb: Literal["forget", "unforget"]
    data_set: Name
    scheme: Digest
    mark: Digest


LedgerInstruction = Pause | Resume | Withdraw
"""What the ledger alone is enough for."""
Instruction = LedgerInstruction | Approve | ChangeConsent
INSTRUCTION = TypeAdapter[Instruction](Annotated[Instruction, Field(discriminator="verb")])


def carry_out(instruction: LedgerInstruction, ledger: Ledger, by: str, at: int) -> Digest | None:
    """Write an instruction into the ledger; durable on return.

    Args:
        instruction: what to do.
        ledger: the site's, open for writing.
        by: the local user.
        at: now, in Unix milliseconds.

    Returns:
        The digest of the study that it was about; None where it was about the whole site.

    Raises:
        ConfigInvalid: it is for another site, or the site is paused already, or is not paused, or several studies
            begin as the one that is named.
        ApprovalMissing: the study is not approved here, or was withdrawn before.
        LedgerDamaged: it could not be written.
    """
    account = ledger.account
    check_site(instruction, ledger)
    if isinstance(instruction, Withdraw):
        study = study_named(instruction.study, account.approved.keys() - account.withdrawn)
        ledger.append(Withdrawn(study=study, by=by, at=at))
        return study
    if isinstance(instruction, Resume) and instruction.study is not None:
        study = study_named(instruction.study, account.approved)
        ledger.resume(study, JournalNote(kind="resumed", text=study, at=at))
        return study
    pauses = isinstance(instruction, Pause)
    if pauses == account.acts.paused:
        raise ConfigInvalid(
            "the site is paused already" if pauses else "the site is not paused",
            next_step="Nothing to do." if pauses else "Nothing to do; to resume a stopped study, name it.",
        )
    ledger.append(Paused(by=by, at=at) if pauses else Unpaused(by=by, at=at))
    return None


def check_site(instruction: Instruction, ledger: Ledger) -> None:
    """Return if an instruction is for the site whose ledger this is.

    Raises:
        ConfigInvalid: it is for another.
    """
    if instruction.site != ledger.created.site:
        raise ConfigInvalid(
            f"this state is not of site '{instruction.site}'",
            got=f"the ledger of '{ledger.created.site}'",
            next_step="Give the site's folder and --state that belong together.",
        )


def study_named(prefix: str, studies: Collection[Digest]) -> Digest:
    """Return the one study whose digest begins so.

    Raises:
        ApprovalMissing: there is none.
        ConfigInvalid: there are several.
    """
    found = [study for study in studies if study.startswith(prefix)]
    if not found:
        raise not_approved(prefix)
    if len(found) > 1:
        raise ConfigInvalid(
            f"{len(found)} studies have a digest that begins with {prefix}",
            got=", ".join(sorted(each[: len(prefix) + 4] for each in found)),
            next_step="Give more digits.",
        )
    return found[0]


def not_approved(study: str) -> ApprovalMissing:
    """Return the error for a study that nobody approved here."""
    return ApprovalMissing(
        f"study {study[:12]} is not approved here",
        next_step="Check the digest: at least its first 8 hexadecimal digits, in lower case.",
    )
