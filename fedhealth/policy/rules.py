"""`policy.toml`: what a hospital allows, as typed rules. An empty list allows nothing.

The policy is looked at when a study is approved and again when the gate starts, the year at approval, the hour for each
release. What it does not allow is refused with the code `policy`, which says nothing about patients.
"""

import hashlib
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from fedhealth.config import parse_toml, read_config
from fedhealth.errors import PolicyForbids
from fedhealth.policy.site_file import Name
from fedhealth.privacy.currency import Budget, Cost, total_of
from fedhealth.privacy.entries import Account, Approved, WitnessPolicy, WitnessWait
from fedhealth.privacy.mu_squared import MU_SQUARED_UNITS, geometric_cost, mu_of
from fedhealth.privacy.release import Cohort, Digest
from fedhealth.study.head import PurposeClass
from fedhealth.study.protocol import Study, Task
from fedhealth.study.search_study import SearchStudy
from fedhealth.study.signature import AnySigned


class ExpectedWork(BaseModel):
    """The kind of rounds that a site expects on a data set; decides what its budget is counted in, and nothing else.

    Attributes:
        sampling_rate: probability with which a patient takes part in a round; 1 is full batch.
        rounds: how many, in the life of the data, all studies together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    sampling_rate: Annotated[float, Field(ge=1e-4, le=1)] = 1.0
    rounds: Annotated[int, Field(ge=1, le=10**6)] = 1


class DataSetBudget(BaseModel):
    """The most that all studies together may ever cost a patient of the data set; nothing refills it.

    Read once, at `site init`, into the ledger; changing it later changes nothing.

    Attributes:
        epsilon: the cap.
        delta: the cap; keep it below one over the number of patients.
        expected_work: with full batch (the default) the budget is counted in mu squared, without loss, and admits
            full-batch rounds only. With less it is counted in Renyi divergence of the order that keeps the most such
            rounds, and admits all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    epsilon: Annotated[float, Field(gt=0, le=50, allow_inf_nan=False)]
    delta: Annotated[float, Field(ge=1e-12, le=0.01)]
    expected_work: ExpectedWork = ExpectedWork()


class Policy(BaseModel):
    """The whole of `policy.toml`.

    Attributes:
        tasks: kinds of study that may be asked; "search" lets other hospitals have patients counted.
        purposes: classes of purpose for which it may be asked.
        hours: hours of the day, 0 to 23 in `time_zone`, in which releases may be computed; all of them if not said.
        time_zone: of the hospital, as in "Europe/Paris"; decides hours and years.
        min_declared_patients: a study must ask of every site that it declares so many patients.
        max_epsilon_a_year: the most that all studies approved in one calendar year may cost a patient together, as
            an epsilon at the budget's delta; no other limit than the cap if not said. Of a study that was withdrawn
            what it spent counts.
        researchers: names of the pinned researchers' keys that may ask; see `site init --trust`.
        min_patients_a_side: a study for which fewer patients than this stand on either side of the split cannot
            be approved. Looked at once, at approval, because it depends on patients.
        max_epsilon_a_study: the most one study may ask, training and evaluation each, at the budget's delta; a study
            with a larger delta of its own is converted, and so may ask less. Of a search study all counts together.
        approvals_needed: how many people must approve a study; with 2 they must be different Unix users.
        witness: whether a release may leave without the coordinator's signature on the head that holds its charge:
            "required" never; "best-effort" once the wait has passed and the release is asked for again, and the
            ledger then says so. Even then a gate that has just started waits for its first signature, because only
            that tells that its ledger is no older copy.
        witness_wait_seconds: how long a charged release waits for that signature, in seconds; a later one is `busy`.
        budget: the cap of each data set, by its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    tasks: tuple[Task | Literal["search"], ...]
    purposes: tuple[PurposeClass, ...]
    hours: tuple[Annotated[int, Field(ge=0, le=23)], ...] = tuple(range(24))
    time_zone: str = "UTC"
    min_declared_patients: Annotated[int, Field(ge=1, le=10**9)] = 1
    max_epsilon_a_year: Annotated[float, Field(gt=0, le=50, allow_inf_nan=False)] | None = None
    researchers: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")], ...]
    min_patients_a_side: Annotated[int, Field(ge=1, le=10**6)]
    max_epsilon_a_study: Annotated[float, Field(gt=0, le=20, allow_inf_nan=False)]
    approvals_needed: Literal[1, 2] = 1
    witness: WitnessPolicy = "required"
    witness_wait_seconds: WitnessWait = 30
    budget: dict[Name, DataSetBudget]

    @field_validator("time_zone")
    @classmethod
    def _time_zone_exists(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"time_zone is '{name}', wanted a name such as 'Europe/Paris'") from error
        return name

    def allows_now(self, at: int) -> bool:
        """Say whether releases may be computed at a time, in Unix milliseconds; it tells nothing about patients."""
        return self._local(at).hour in self.hours

    def year_of(self, at: int) -> int:
        """Return the hospital's calendar year of a time in Unix milliseconds."""
        return self._local(at).year

    def _local(self, at: int) -> datetime:
        return datetime.fromtimestamp(at / 1000, ZoneInfo(self.time_zone))


def load_policy(folder: Path) -> tuple[Policy, Digest]:
    """Read `policy.toml` in a site's folder.

    Returns:
        The policy, and the SHA-256 of the very bytes that say so, as the ledger records it.

    Raises:
        ConfigInvalid: missing or wrong.
    """
    path = folder / "policy.toml"
    raw = read_config(path, "policy file")
    return parse_toml(raw, path, Policy, "policy file"), hashlib.sha256(raw).hexdigest()


def check_policy(policy: Policy, signed: AnySigned, pinned: Mapping[str, str]) -> None:
    """Check a study against the policy.

    Args:
        policy: the site's rules.
        signed: a study whose signature holds.
        pinned: researchers' public keys that the site trusts, by name.

    Raises:
        PolicyForbids: names the rule, for the administrator.
    """
    study = signed.study
    allowed = {pinned[name] for name in policy.researchers if name in pinned}
    rules: tuple[tuple[bool, str, str, str], ...] = (
        (study.task in policy.tasks, "tasks", f"task '{study.task}'", f"one of {list(policy.tasks)}"),
        (
            study.purpose_class in policy.purposes,
            "purposes",
            f"a study for '{study.purpose_class}'",
            f"one of {list(policy.purposes)}",
        ),
        (
            signed.researcher in allowed,
            "researchers",
            f"a study signed by key {signed.researcher[:12]}",
            f"a key pinned here as one of {list(policy.researchers)}",
        ),
        (
            study.min_declared_patients >= policy.min_declared_patients,
            "min_declared_patients",
            f"a study that asks {study.min_declared_patients} declared patients of each site",
            f"at least {policy.min_declared_patients}",
        ),
        (
            study.data_set in policy.budget,
            "budget",
            f"data set '{study.data_set}'",
            f"one of {sorted(policy.budget)}",
        ),
    )
    if study.data_set in policy.budget:
        delta, allowed_epsilon = policy.budget[study.data_set].delta, policy.max_epsilon_a_study
        mu, asked = _asked_of_a_patient(study)
        rules += (
            (
                mu <= mu_of(allowed_epsilon, delta),
                "max_epsilon_a_study",
                asked,
                f"at most what epsilon {allowed_epsilon} at delta {delta:g} costs",
            ),
        )
    for holds, rule, got, wanted in rules:
        if not holds:
            raise PolicyForbids(
                f"the policy of this site does not allow study '{study.name}' (rule '{rule}')",
                got=got,
                wanted=wanted,
                next_step="Change the study, or policy.toml if the hospital wants this.",
            )


def _asked_of_a_patient(study: Study | SearchStudy) -> tuple[float, str]:
    """Return the most that a study asks of a patient, as mu of Gaussian differential privacy, and in words."""
    if isinstance(study, SearchStudy):
        counts = study.counts
        mu = math.sqrt(geometric_cost(counts.epsilon).times(counts.most).mu_squared / MU_SQUARED_UNITS)
        return mu, f"{counts.most} counts of epsilon {counts.epsilon:g} each"
    most, delta = max(study.privacy.training_epsilon or 0.0, study.privacy.evaluation_epsilon), study.privacy.delta
    return mu_of(most, delta), f"epsilon {most} at delta {delta:g}"


def cost_of_year(policy: Policy, account: Account, data_set: Name, cohort: Cohort, year: int) -> Cost | None:
    """Return what the studies approved in a calendar year may cost a patient of one side together; None if nothing.

    Of a withdrawn study, what it has cost.

    Args:
        policy: the site's rules, which say in whose time zone a year begins.
        account: what its ledger adds up to.
        data_set: the studies'.
        cohort: the side.
        year: of the approvals.
    """
    held = (
        account.spent(each.study, cohort) if each.study in account.withdrawn else each.envelope.get(cohort)
        for each in account.approved.values()
        if each.data_set == data_set and policy.year_of(each.at) == year
    )
    return total_of(each for each in held if each is not None)


def check_year(policy: Policy, account: Account, approval: Approved, budget: Budget) -> None:
    """Check that what was approved this year leaves room for one more approval.

    Args:
        policy: the site's rules.
        account: what its ledger adds up to.
        approval: what would be approved.
        budget: of its data set, as the ledger has it.

    Raises:
        PolicyForbids: the studies of this calendar year would cost a patient more together than the policy allows.
    """
    most = policy.max_epsilon_a_year
    if most is None:
        return
    year = policy.year_of(approval.at)
    for cohort, envelope in approval.envelope.items():
        held = cost_of_year(policy, account, approval.data_set, cohort, year)
        epsilon = budget.epsilon_of(envelope if held is None else held + envelope)
        if epsilon > most:
            raise PolicyForbids(
                f"the policy of this site does not allow study {approval.study[:12]} this year "
                "(rule 'max_epsilon_a_year')",
                got=f"epsilon {epsilon:.3f} for the {cohort} patients, with what was approved in {year}",
                wanted=f"at most epsilon {most}, at the budget's delta",
                next_step="Approve it next year, withdraw another study, or change policy.toml if the hospital wants "
                "this.",
            )
