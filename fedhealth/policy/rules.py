"""`policy.toml`: what a hospital allows, as typed rules. An empty list allows nothing.

The policy is looked at when a study is approved and again when the gate starts; a study it does not allow is refused
with the code `policy`, which says nothing about patients.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fedhealth.config import parse_toml, read_config
from fedhealth.errors import PolicyForbids
from fedhealth.policy.site_file import Name
from fedhealth.privacy.entries import WitnessPolicy, WitnessWait
from fedhealth.privacy.mu_squared import mu_of
from fedhealth.privacy.release import Digest
from fedhealth.study.signature import SignedStudy


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
        tasks: kinds of study that may be asked.
        researchers: names of the pinned researchers' keys that may ask; see `site init --trust`.
        min_patients_a_side: a study for which fewer patients than this stand on either side of the split cannot
            be approved. Looked at once, at approval, because it depends on patients.
        max_epsilon_a_study: the most one study may ask, training and evaluation each, at the budget's delta; a study
            with a larger delta of its own is converted, and so may ask less.
        approvals_needed: how many people must approve a study; with 2 they must be different Unix users.
        witness: whether a release may leave without the coordinator's signature on the head that holds its charge:
            "required" never; "best-effort" once the wait has passed and the release is asked for again, and the
            ledger then says so. Even then a gate that has just started waits for its first signature, because only
            that tells that its ledger is no older copy.
        witness_wait_seconds: how long a charged release waits for that signature, in seconds; a later one is `busy`.
        budget: the cap of each data set, by its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    tasks: tuple[Literal["diagnosis"], ...]
    researchers: tuple[Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")], ...]
    min_patients_a_side: Annotated[int, Field(ge=1, le=10**6)]
    max_epsilon_a_study: Annotated[float, Field(gt=0, le=20, allow_inf_nan=False)]
    approvals_needed: Literal[1, 2] = 1
    witness: WitnessPolicy = "required"
    witness_wait_seconds: WitnessWait = 30
    budget: dict[Name, DataSetBudget]


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


def check_policy(policy: Policy, signed: SignedStudy, pinned: Mapping[str, str]) -> None:
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
    most = max(study.privacy.training_epsilon, study.privacy.evaluation_epsilon)
    rules: tuple[tuple[bool, str, str, str], ...] = (
        (study.task in policy.tasks, "tasks", f"task '{study.task}'", f"one of {list(policy.tasks)}"),
        (
            signed.researcher in allowed,
            "researchers",
            f"a study signed by key {signed.researcher[:12]}",
            f"a key pinned here as one of {list(policy.researchers)}",
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
        rules += (
            (
                mu_of(most, study.privacy.delta) <= mu_of(allowed_epsilon, delta),
                "max_epsilon_a_study",
                f"epsilon {most} at delta {study.privacy.delta:g}",
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
