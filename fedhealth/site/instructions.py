"""What an administrator tells a site to do: a closed list of verbs, the same whether the gate runs or not.

| verb | from the next frame on |
|---|---|
| `pause` | the site answers `busy` to every study |
| `resume` | the paused site goes on |
| `resume` a study | a study that a failure stopped here goes on |
| `withdraw` a study | it answers `not-approved` for the study; what the study had not spent is free again |
| `reject` a study | as before: it answers `not-approved` |
| `trust`, `distrust` a researcher | it serves studies that this key signed, or does not |
| `approve` a study | it serves the study, out of an envelope that is set aside from then on |
| `forget`, `unforget` a patient | what it computes is without the patient, or with the patient again |

Each is an entry of the ledger, or for `resume` of a study and for consent a line of the journal, by whom and when, so
that nobody can say later that it was otherwise. Entries are independent of patients.

Leaves to others: what `approve` (`fedhealth.site.approval`), `forget` and `unforget` (`fedhealth.site.consent`) do.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import Base64UrlBytes, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from fedhealth.errors import ApprovalMissing, ConfigInvalid
from fedhealth.privacy.acts import Paused, ResearcherDistrusted, ResearcherTrusted, Unpaused
from fedhealth.privacy.decisions import Rejected, RejectionReason
from fedhealth.privacy.entries import Account, Name, ReplyAfter, Withdrawn
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest, SiteId
from fedhealth.signing import load_public_key

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


class Reject(_ForSite):
    """Say that a study shall not run here.

    Attributes:
        study: its whole digest, because nothing else at the gate knows of it.
        reason: why.
    """

    verb: Literal["reject"] = "reject"
    study: Digest
    reason: RejectionReason | None = None


class Trust(_ForSite):
    """Pin a researcher's public key under a name."""

    verb: Literal["trust"] = "trust"
    name: Name
    key: Digest


class Distrust(_ForSite):
    """Let the key of a researcher go."""

    verb: Literal["distrust"] = "distrust"
    name: Name


class Approve(_ForSite):
    """Approve a study that the administrator has looked at.

    Attributes:
        although_rejected: approve a study that was rejected here.
        signed_study: its signed bytes.
        reply_after_ms: the public duration of each step's reply, as measured when it was looked at.
    """

    verb: Literal["approve"] = "approve"
    although_rejected: bool = False
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


LedgerInstruction = Pause | Resume | Withdraw | Reject | Trust | Distrust
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
        ConfigInvalid: it is for another site, or it is so already, or several studies begin as the one that is named.
        ApprovalMissing: the study is not approved here, or was withdrawn before.
        IdentityInvalid: what shall be pinned is no key.
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
    if isinstance(instruction, Reject):
        _check_rejectable(instruction.study, account)
        ledger.append(Rejected(study=instruction.study, reason=instruction.reason, by=by, at=at))
        return instruction.study
    if isinstance(instruction, Trust):
        _check_pinnable(instruction, account.acts.researchers)
        ledger.append(ResearcherTrusted(name=instruction.name, key=instruction.key, by=by, at=at))
        return None
    if isinstance(instruction, Distrust):
        if instruction.name not in account.acts.researchers:
            raise ConfigInvalid(
                f"no key of a researcher '{instruction.name}' is pinned here",
                got=f"keys of {', '.join(sorted(account.acts.researchers)) or 'nobody'}",
                next_step="Check the name: fedhealth site trust list",
            )
        ledger.append(ResearcherDistrusted(name=instruction.name, by=by, at=at))
        return None
    pauses = isinstance(instruction, Pause)
    if pauses == account.acts.paused:
        raise ConfigInvalid(
            "the site is paused already" if pauses else "the site is not paused",
            next_step="Nothing to do." if pauses else "Nothing to do; to resume a stopped study, name it.",
        )
    ledger.append(Paused(by=by, at=at) if pauses else Unpaused(by=by, at=at))
    return None


def _check_rejectable(study: Digest, account: Account) -> None:
    if study in account.approved:
        withdrawn = study in account.withdrawn
        raise ConfigInvalid(
            f"study {study[:12]} was approved here and cannot be rejected",
            got="an approval that was withdrawn since" if withdrawn else "an approval that is in force",
            next_step="Nothing to do." if withdrawn else "Withdraw it: fedhealth site withdraw --help",
        )
    if study in account.decisions.rejected:
        raise ConfigInvalid(
            f"study {study[:12]} was rejected here before, by {account.decisions.rejected[study].by}",
            next_step="Nothing to do.",
        )


def _check_pinnable(instruction: Trust, pinned: Mapping[str, Digest]) -> None:
    load_public_key(instruction.key)
    if instruction.name in pinned:
        raise ConfigInvalid(
            f"a key of a researcher '{instruction.name}' is pinned here already",
            got=pinned[instruction.name],
            next_step="Nothing to do."
            if pinned[instruction.name] == instruction.key
            else "To pin another in its place, let this one go first: fedhealth site distrust --help",
        )
    for name, key in pinned.items():
        if key == instruction.key:
            raise ConfigInvalid(
                f"this key is pinned here already, under the name '{name}'",
                next_step="Use that name; or let it go first: fedhealth site distrust --help",
            )


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
