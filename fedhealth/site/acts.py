"""What an administrator does to the whole site: a policy comes into force, it is paused, its ledger key is changed.

Each is an entry of the ledger, by the Unix user of the process, so that nobody can say later that it was otherwise.
For all of them the gate must not be running; it says itself which policy is in force, once the coordinator has told
it that its ledger is no older copy.

A rotation is made crash-safe by its order: the new key is on disk, then the ledger says that it signs from here on
(the head over that entry is its first), then its file takes the place of the old one. Between the last two,
`SiteState.open_ledger` finishes what was begun; before, nothing has happened yet.
"""

import time
from pathlib import Path

from fedhealth.errors import ConfigInvalid
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.acts import KeyRotated, Paused, PolicyChanged, Unpaused
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest
from fedhealth.privacy.rotation import KeyStatement, sign_rotation
from fedhealth.secret_file import sync_folder
from fedhealth.signing import create_signing_key, load_signing_key
from fedhealth.site.state import SiteState, local_user


def record_policy(ledger: Ledger, policy_sha256: Digest, at: int) -> None:
    """Write into the ledger which policy is in force, where it is not the one before.

    Args:
        ledger: the site's.
        policy_sha256: of the bytes of `policy.toml`, as `load_policy` gives it.
        at: now, in Unix milliseconds.
    """
    if ledger.account.acts.policy_sha256 != policy_sha256:
        ledger.append(PolicyChanged(policy_sha256=policy_sha256, by=local_user(), at=at))


def pause_site(folder: Path, state: SiteState) -> None:
    """Let the site answer `busy` to every study until `unpause_site`; the gate must not be running.

    Raises:
        ConfigInvalid: the site is paused already.
        LedgerDamaged: the gate is running, or the ledger cannot be written.
    """
    with state.opened_ledger(load_site_file(folder).id) as ledger:
        if ledger.account.acts.paused:
            raise ConfigInvalid("the site is paused already", next_step="Nothing to do.")
        ledger.append(Paused(by=local_user(), at=_now()))


def unpause_site(folder: Path, state: SiteState) -> None:
    """Let the site go on; the gate must not be running.

    Raises:
        ConfigInvalid: the site is not paused.
        LedgerDamaged: the gate is running, or the ledger cannot be written.
    """
    with state.opened_ledger(load_site_file(folder).id) as ledger:
        if not ledger.account.acts.paused:
            raise ConfigInvalid("the site is not paused", next_step="Nothing to do; or start the gate.")
        ledger.append(Unpaused(by=local_user(), at=_now()))


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
