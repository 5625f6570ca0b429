"""What the checks of a run found, each with a name, an outcome and a sentence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from fedhealth.errors import FedHealthError, IdentityInvalid, RunAltered

Outcome = Literal["ok", "failed", "not checked"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        outcome: "failed" where something is wrong; "not checked" where something needed is not at hand.
        detail: what was found.
        exit_code: of the command line, if this is the worst that failed; 0 unless it did.
    """

    name: str
    outcome: Outcome
    detail: str
    exit_code: int = 0


@dataclass(frozen=True)
class CheckedRun:
    """What was found.

    Attributes:
        checks: in the order in which they were made.
        keys: whose names the folder gives to which public keys; to be compared with those certified.
        unsafe_test_sites: sites whose noise is known.
        simulation: no hospital took part.
    """

    checks: tuple[Check, ...]
    keys: Mapping[str, str]
    unsafe_test_sites: tuple[str, ...]
    simulation: bool = False

    @property
    def passed(self) -> bool:
        """Nothing that was checked is wrong."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """8 if a signature or key is wrong, else 7 if anything else is; 0 if no check failed."""
        return max((check.exit_code for check in self.checks), default=0)


class NotAtHand(Exception):
    """Something that a check needs is not there; the text says what."""


def made(name: str, step: Callable[[], str]) -> Check:
    """Make one check.

    Args:
        name: what is looked at.
        step: returns what was found good; raises `NotAtHand`, or an error for what is wrong.
    """
    try:
        return Check(name, "ok", step())
    except NotAtHand as error:
        return Check(name, "not checked", str(error))
    except FedHealthError as error:
        return check_failed(name, error)
    except OSError as error:
        return check_failed(name, RunAltered("it cannot be read", got=error.strerror or type(error).__name__))


def check_failed(name: str, error: FedHealthError) -> Check:
    """Return the check that ended with an error: exit code 8 for a signature or key, 7 for anything else."""
    detail = "; ".join(part for part in (error.what, error.got and f"got {error.got}") if part)
    code = IdentityInvalid.exit_code if isinstance(error, IdentityInvalid) else RunAltered.exit_code
    return Check(name, "failed", detail, code)
