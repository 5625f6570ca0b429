"""The profiles of a federation's certificates: key types, lifetimes, path lengths, usages; read from `profiles.toml`.

The file lies beside this module, so that an installed program finds it; `certs/profiles.toml` is a link to it.

Invariants: the program refuses to start with a profile that is weaker than what is written here: other curves, a
leaf that lives longer than a week, an authority that could certify another authority below it.

Leaves to others: making certificates (`root`, `authority`) and checking them (`leaf`).
"""

from datetime import timedelta
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedhealth.config import read_toml

CURVES: dict[str, type[ec.EllipticCurve]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}
_USAGES = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}


class Role(StrEnum):
    """What a leaf certificate is good for: a site's link, the coordinator's port, or a site's `Renew` only."""

    SITE = "site"
    COORDINATOR = "coordinator"
    RENEWAL = "renewal"


class _Profile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AuthorityProfile(_Profile):
    """A certificate that certifies others.

    Attributes:
        key: the curve of its key.
        lifetime_days: days from its making to its end.
        path_length: how many authorities may stand between it and a leaf.
    """

    key: Literal["P-256", "P-384"]
    lifetime_days: Annotated[int, Field(ge=1, le=3653)]
    path_length: Literal[0, 1]

    @property
    def lifetime(self) -> timedelta:
        """From its making to its end."""
        return timedelta(days=self.lifetime_days)


class LeafProfile(_Profile):
    """A certificate that one party shows.

    Attributes:
        key: the curve of its key.
        lifetime_hours: from its making to its end.
        renew_after_hours: age at which its holder asks for the next one, with a new key.
        extended_key_usage: the only one it has: a site can never pose as the server, nor the other way round.
    """

    key: Literal["P-256"]
    lifetime_hours: Annotated[int, Field(ge=1, le=2160)]
    renew_after_hours: Annotated[int, Field(ge=1)]
    extended_key_usage: Literal["client", "server"]

    @property
    def lifetime(self) -> timedelta:
        """From its making to its end."""
        return timedelta(hours=self.lifetime_hours)

    @property
    def renew_after(self) -> timedelta:
        """The age at which the next one is asked for."""
        return timedelta(hours=self.renew_after_hours)

    @property
    def usage(self) -> x509.ObjectIdentifier:
        """The object identifier of the extended key usage."""
        return _USAGES[self.extended_key_usage]

    @model_validator(mode="after")
    def _leaves_time_to_renew(self) -> "LeafProfile":
        if 2 * self.renew_after_hours > self.lifetime_hours:
            raise ValueError("a leaf must be renewed before half of its life is over")
        return self


class Profiles(_Profile):
    """The whole of `profiles.toml`.

    Attributes:
        back_date_minutes: how far `notBefore` lies before the making.
        root: the federation's root.
        issuing: the authority on the coordinator's machine.
        coordinator: the leaf that the coordinator serves with.
        site: the leaf that a site connects with.
        renewal: the leaf that renews a site's, and opens nothing else.
    """

    back_date_minutes: Annotated[int, Field(ge=0, le=10)]
    root: AuthorityProfile
    issuing: AuthorityProfile
    coordinator: LeafProfile
    site: LeafProfile
    renewal: LeafProfile

    @property
    def back_date(self) -> timedelta:
        """How far `notBefore` lies before the making."""
        return timedelta(minutes=self.back_date_minutes)

    def of(self, role: Role) -> LeafProfile:
        """Return the profile of a leaf of this role."""
        return {Role.SITE: self.site, Role.COORDINATOR: self.coordinator, Role.RENEWAL: self.renewal}[role]

    @model_validator(mode="after")
    def _is_no_weaker(self) -> "Profiles":
        if (self.root.path_length, self.issuing.path_length) != (1, 0):
            raise ValueError("the root's path length is 1 and the issuing authority's is 0")
        if max(self.site.lifetime_hours, self.coordinator.lifetime_hours) > 7 * 24:
            raise ValueError("a leaf that opens the link lives for a week at most")
        usages = self.coordinator.extended_key_usage, self.site.extended_key_usage, self.renewal.extended_key_usage
        if usages != ("server", "client", "client"):
            raise ValueError("the coordinator is the server, and a site the client")
        return self


@cache
def profiles() -> Profiles:
    """Return the profiles of this version of the program.

    Raises:
        ConfigInvalid: the file is missing, altered into something weaker, or not TOML.
    """
    return load_profiles(Path(__file__).with_name("profiles.toml"))


def load_profiles(path: Path) -> Profiles:
    """Read profiles from a file, as `profiles` does from the program's own."""
    return read_toml(path, Profiles, "certificate profiles")
