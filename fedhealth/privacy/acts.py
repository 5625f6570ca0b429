"""What people did to a site, as entries of its ledger, and the state that these entries add up to.

A policy came into force, the whole site was paused or went on, the ledger key was changed, a researcher's key was
pinned or let go: by whom and when. They are independent of patients. What a patient caused (a withdrawal of consent) is
no entry; it stands in the journal.

Invariant: a head is signed by the key in force at its size; the entry of a rotation is the first under the new key.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fedhealth.errors import IdentityInvalid, LedgerDamaged
from fedhealth.privacy.release import Digest, SiteId
from fedhealth.privacy.rotation import Rotation, check_rotation

Milliseconds = Annotated[int, Field(ge=0, le=2**53 - 1)]


class LedgerEntry(BaseModel):
    """What every entry has."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    journal: Digest = "0" * 64
    """Salted commitment to the local journal; filled in when the entry is written."""


class PolicyChanged(LedgerEntry):
    """A policy came into force that is not the one before it.

    Attributes:
        policy_sha256: SHA-256 of the bytes of `policy.toml`, as `sha256sum` prints it.
        by: the local user whose gate or command first met it.
        at: Unix time in milliseconds.
    """

    kind: Literal["policy-changed"] = "policy-changed"
    policy_sha256: Digest
    by: str
    at: Milliseconds


class Paused(LedgerEntry):
    """A local user paused the whole site: it answers `busy` and computes nothing."""

    kind: Literal["paused"] = "paused"
    by: str
    at: Milliseconds


class Unpaused(LedgerEntry):
    """A local user let the site go on."""

    kind: Literal["unpaused"] = "unpaused"
    by: str
    at: Milliseconds


class KeyRotated(LedgerEntry):
    """From this entry on another key signs the ledger."""

    kind: Literal["key-rotated"] = "key-rotated"
    rotation: Rotation
    by: str
    at: Milliseconds


class ResearcherTrusted(LedgerEntry):
    """A local user pinned a researcher's public key under a name that policies use.

    Attributes:
        name: the name; another key under it must be let go first.
        key: raw Ed25519 public key, hexadecimal.
        by: the local user.
        at: Unix time in milliseconds.
    """

    kind: Literal["researcher-trusted"] = "researcher-trusted"
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    key: Digest
    by: str
    at: Milliseconds


class ResearcherDistrusted(LedgerEntry):
    """A local user let a researcher's key go: no study that it signed is served any more."""

    kind: Literal["researcher-distrusted"] = "researcher-distrusted"
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    by: str
    at: Milliseconds


Act = PolicyChanged | Paused | Unpaused | KeyRotated | ResearcherTrusted | ResearcherDistrusted


class Acts:
    """What people's acts add up to; `apply` checks everything, then changes state.

    Attributes:
        policy_sha256: of the policy in force, None before the first one is recorded.
        paused: the whole site is.
        rotations: of the ledger key, oldest first.
        researchers: pinned public keys by name.
    """

    def __init__(self, site: SiteId, ledger_key: Digest, researchers: Mapping[str, Digest]) -> None:
        self.policy_sha256: Digest | None = None
        self.paused = False
        self.rotations: list[Rotation] = []
        self.researchers = dict(researchers)
        self._site = site
        self._keys: list[tuple[int, Digest]] = [(1, ledger_key)]

    @property
    def ledger_key(self) -> Digest:
        """The key that signs the ledger now."""
        return self._keys[-1][1]

    def key_at(self, size: int) -> Digest:
        """Return the key that signs the head of so many entries (at least 1)."""
        return next(key for since, key in reversed(self._keys) if since <= size)

    def apply(self, act: Act, position: int) -> None:
        """Take one more act into account.

        Args:
            act: the entry.
            position: its place in the ledger, from 0.

        Raises:
            LedgerDamaged: it cannot follow the acts before it.
        """
        if isinstance(act, PolicyChanged):
            if act.policy_sha256 == self.policy_sha256:
                raise misplaced(f"policy {act.policy_sha256[:12]} is in force already")
            self.policy_sha256 = act.policy_sha256
        elif isinstance(act, KeyRotated):
            self._rotate(act.rotation, position)
        elif isinstance(act, ResearcherTrusted):
            self._trust(act)
        elif isinstance(act, ResearcherDistrusted):
            if act.name not in self.researchers:
                raise misplaced(f"no key of researcher '{act.name}' is pinned")
            del self.researchers[act.name]
        else:
            pauses = isinstance(act, Paused)
            if pauses == self.paused:
                raise misplaced(f"the site is {'paused already' if pauses else 'not paused'}")
            self.paused = pauses

    def _trust(self, act: ResearcherTrusted) -> None:
        if act.name in self.researchers:
            raise misplaced(f"a key of researcher '{act.name}' is pinned already")
        if act.key in self.researchers.values():
            raise misplaced(f"key {act.key[:12]} is pinned already, under another name")
        self.researchers[act.name] = act.key

    def _rotate(self, rotation: Rotation, position: int) -> None:
        if rotation.site != self._site or rotation.former_key != self.ledger_key:
            raise misplaced("a ledger key gives way that is not the one in force")
        if any(rotation.ledger_key == key for _, key in self._keys):
            raise misplaced(f"ledger key {rotation.ledger_key[:12]} was in force before")
        try:
            check_rotation(rotation)
        except IdentityInvalid as error:
            raise misplaced("a rotation of the ledger key is not signed by both keys") from error
        self.rotations.append(rotation)
        self._keys.append((position + 1, rotation.ledger_key))


def misplaced(what: str) -> LedgerDamaged:
    """Return the error of an entry that cannot stand where it stands."""
    return LedgerDamaged(what, next_step="Do not continue with this ledger; ask for an audit.")
