"""What an administrator does to a site: pauses it, rejects or ends studies, pins keys, changes its own.

Each is written into the ledger with the Unix user who did it, so that nobody can say later that it was otherwise. A
running gate does what it can itself, told over the administrators' socket; else it is done here, on the same ledger.
For a change of the ledger's key the gate must not be running. It says itself which policy is in force, once the
coordinator has told it that its ledger is no older copy.

A rotation is made crash-safe by its order: the new key is on disk, then the ledger says that it signs from here on
(the head over that entry is its first), then its file takes the place of the old one. Between the last two,
`SiteState.open_ledger` finishes what was begun; before, nothing has happened yet.
"""

import time
from pathlib import Path

from pydantic import ValidationError

from fedhealth.errors import ConfigInvalid
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.acts import KeyRotated, PolicyChanged
from fedhealth.privacy.decisions import RejectionReason
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest
from fedhealth.privacy.rotation import KeyStatement, sign_rotation
from fedhealth.secret_file import sync_folder
from fedhealth.signing import create_signing_key, load_signing_key
from fedhealth.site.administration import tell_gate
from fedhealth.site.instructions import (
    Distrust,
    LedgerInstruction,
    Pause,
    Reject,
    Resume,
    Trust,
    Withdraw,
    carry_out,
    not_approved,
)
from fedhealth.site.state import SiteState, local_user


def record_policy(ledger: Ledger, policy_sha256: Digest, by: str, at: int) -> None:
    """Write into the ledger which policy is in force, where it is not the one before.

    Args:
        ledger: the site's.
        policy_sha256: of the bytes of `policy.toml`, as `load_policy` gives it.
        by: the local user who met it.
        at: now, in Unix milliseconds.
    """
    if ledger.account.acts.policy_sha256 != policy_sha256:
        ledger.append(PolicyChanged(policy_sha256=policy_sha256, by=by, at=at))


def pause_site(folder: Path, state: SiteState) -> bool:
    """Let the site answer `busy` to every study until `resume_site`.

    Returns:
        Whether a running gate did it, so that it holds already.

    Raises:
        ConfigInvalid: the site is paused already, or this user may not tell the gate.
        LedgerDamaged: the ledger is held, or cannot be written.
        LinkUnavailable: the gate does not answer.
    """
    return _instruct(state, Pause(site=load_site_file(folder).id))


def resume_site(folder: Path, state: SiteState) -> bool:
    """Let the site go on; returns as `pause_site`.

    Raises:
        ConfigInvalid: the site is not paused, or this user may not tell the gate.
        LedgerDamaged, LinkUnavailable: as `pause_site`.
    """
    return _instruct(state, Resume(site=load_site_file(folder).id))


def withdraw_study(folder: Path, state: SiteState, study: str) -> bool:
    """Withdraw an approval: nothing more leaves for the study, and what it had not spent is free again.

    Args:
        folder: the site's folder.
        state: its state.
        study: its digest, or the first 8 digits of it or more.

    Returns as `pause_site`.

    Raises:
        ApprovalMissing: the study is not approved here, or was withdrawn before.
        ConfigInvalid, LedgerDamaged, LinkUnavailable: as `pause_site`.
    """
    site = load_site_file(folder).id
    try:
        return _instruct(state, Withdraw(site=site, study=study))
    except ValidationError as error:
        raise not_approved(study) from error


def resume_study(folder: Path, state: SiteState, study: str) -> bool:
    """Let a study that a failure stopped here go on; arguments as `withdraw_study`, returns as `pause_site`.

    Raises:
        ApprovalMissing: the study is not approved here.
        ConfigInvalid, LedgerDamaged, LinkUnavailable: as `pause_site`.
    """
    site = load_site_file(folder).id
    try:
        return _instruct(state, Resume(site=site, study=study))
    except ValidationError as error:
        raise not_approved(study) from error


def reject_study(folder: Path, state: SiteState, study: Digest, reason: RejectionReason | None) -> bool:
    """Write down that a study shall not run here; returns as `pause_site`.

    Args:
        folder: the site's folder.
        state: its state.
        study: its whole digest.
        reason: why, if it is to be said.

    Raises:
        ConfigInvalid: it was approved, or rejected before.
        LedgerDamaged, LinkUnavailable: as `pause_site`.
    """
    return _instruct(state, Reject(site=load_site_file(folder).id, study=study, reason=reason))


def trust_researcher(folder: Path, state: SiteState, name: str, key: str) -> bool:
    """Pin a researcher's public key under a name; returns as `pause_site`.

    Raises:
        ConfigInvalid: name or key has another form, or is pinned already.
        IdentityInvalid: it is no key.
        LedgerDamaged, LinkUnavailable: as `pause_site`.
    """
    site = load_site_file(folder).id
    try:
        return _instruct(state, Trust(site=site, name=name, key=key))
    except ValidationError as error:
        raise ConfigInvalid(
            "a researcher cannot be pinned so",
            got=f"name '{name[:80]}', key '{key[:80]}'",
            wanted="a name in lower case, and the key's 64 hexadecimal digits",
            next_step="Ask the researcher for the public key, by a way that you trust.",
        ) from error


def distrust_researcher(folder: Path, state: SiteState, name: str) -> bool:
    """Let a researcher's key go: its studies are refused from now on; returns as `pause_site`.

    Raises:
        ConfigInvalid: no key is pinned under this name.
        LedgerDamaged, LinkUnavailable: as `pause_site`.
    """
    site = load_site_file(folder).id
    try:
        return _instruct(state, Distrust(site=site, name=name))
    except ValidationError as error:
        raise ConfigInvalid(
            f"no researcher can have the name '{name[:80]}'", next_step="Check it: fedhealth site trust list"
        ) from error


def pinned_researchers(folder: Path, state: SiteState) -> dict[str, Digest]:
    """Return the pinned researchers' public keys by name; the gate may be running."""
    with state.copied_ledger(load_site_file(folder).id) as ledger:
        return dict(sorted(ledger.account.acts.researchers.items()))


def _instruct(state: SiteState, instruction: LedgerInstruction) -> bool:
    if tell_gate(state.administrators_socket, instruction):
        return True
    with state.opened_ledger(instruction.site) as ledger:
        carry_out(instruction, ledger, local_user(), _now())
    return False


def rotate_key(folder: Path, state: SiteState) -> Digest:
    """Change the key that signs the ledger; the gate must not be running.

    The old private key is overwritten, so a copy of the ledger from before can be neither opened nor recovered. Nothing
    is accepted from this site until the coordinator has followed the statement of `key_statement`.

    Returns:
        The new public key, 64 hexadecimal digits.

    Raises:
        LedgerDamaged: the gate is running, or the ledger cannot be written.
    """
    site = load_site_file(folder).id
    with state.opened_ledger(site) as ledger:
        state.next_ledger_key.unlink(missing_ok=True)  # of a rotation that a crash ended before the ledger knew of it
        create_signing_key(state.next_ledger_key)
        sync_folder(state.gate)
        key = load_signing_key(state.next_ledger_key)
        rotation = sign_rotation(site, state.ledger_key(), key)
        ledger.rotate(KeyRotated(rotation=rotation, by=local_user(), at=_now()), key)
    state.take_next_ledger_key()
    return rotation.ledger_key


def key_statement(folder: Path, state: SiteState) -> KeyStatement:
    """Return the file that lets the coordinator follow the site's ledger key; the gate must not be running."""
    site = load_site_file(folder).id
    with state.opened_ledger(site) as ledger:
        return KeyStatement(site=site, rotations=tuple(ledger.account.acts.rotations))


def _now() -> int:
    return time.time_ns() // 10**6
