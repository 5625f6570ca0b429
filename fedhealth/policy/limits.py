"""What a site publishes of itself so that a researcher can plan: public figures and rules, nothing from the table.

Made from `site.toml` and `policy.toml` by `fedhealth site limits`; a researcher gives the files to `fedhealth study
check`. The policy itself decides at the gate; this only says beforehand what it would say.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedhealth.config import read_config
from fedhealth.errors import ConfigInvalid
from fedhealth.policy.rules import DataSetBudget, Policy, load_policy
from fedhealth.policy.site_file import Name, SiteFile, load_site_file

LIMITS_SUFFIX = ".limits.json"


class SiteLimits(BaseModel):
    """The whole of `SITE.limits.json`.

    Attributes:
        format: version of this file.
        site: the site's id.
        data_set: name of its data set.
        declared_patients: its public round figure.
        tasks: kinds of study that its policy allows.
        purposes: classes of purpose that its policy allows.
        max_epsilon_a_study: the most one study may ask, training and evaluation each, at the budget's delta.
        budget: the cap of the data set for the life of the data, as it was when the site was made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal["fedhealth/site-limits/1"] = "fedhealth/site-limits/1"
    site: Name
    data_set: Name
    declared_patients: Annotated[int, Field(ge=1, le=10**9)]
    tasks: tuple[str, ...]
    purposes: tuple[str, ...]
    max_epsilon_a_study: Annotated[float, Field(gt=0, le=20, allow_inf_nan=False)]
    budget: DataSetBudget


def limits_of(site: SiteFile, policy: Policy) -> SiteLimits:
    """Return what a site may publish.

    Raises:
        ConfigInvalid: the policy has no budget for the site's data set.
    """
    if site.data_set.name not in policy.budget:
        raise ConfigInvalid(
            f"site '{site.id}' has no budget for its data set '{site.data_set.name}'",
            got=f"budgets for {sorted(policy.budget)}",
            next_step=f"Add [budget.{site.data_set.name}] to policy.toml.",
        )
    return SiteLimits(
        site=site.id,
        data_set=site.data_set.name,
        declared_patients=site.data_set.declared_patients,
        tasks=policy.tasks,
        purposes=policy.purposes,
        max_epsilon_a_study=policy.max_epsilon_a_study,
        budget=policy.budget[site.data_set.name],
    )


def read_limits(paths: Iterable[Path]) -> tuple[SiteLimits, ...]:
    """Return the limits of sites, in the order of their ids.

    Args:
        paths: each a `SITE.limits.json`, a site's own folder, or a folder that holds some of either.

    Raises:
        ConfigInvalid: a path holds no limits, a file is wrong, or a site comes twice.
    """
    found = [limits for path in paths for limits in _limits_at(path)]
    names = [limits.site for limits in found]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigInvalid(
            "limits name a site twice", got=", ".join(repeated), next_step="Give the newer file of each site alone."
        )
    return tuple(sorted(found, key=lambda limits: limits.site))


def _limits_at(path: Path) -> list[SiteLimits]:
    if path.is_dir():
        if (path / "site.toml").exists():
            return [limits_of(load_site_file(path), load_policy(path)[0])]
        folders = sorted(each.parent for each in path.glob("*/site.toml"))
        inside = sorted(path.glob(f"*{LIMITS_SUFFIX}")) + folders
        if not inside:
            raise ConfigInvalid(
                f"there are no limits in {path}",
                wanted=f"files that end in {LIMITS_SUFFIX}, or folders with site.toml and policy.toml",
                next_step="Ask each site's administrator for the file: fedhealth site limits --help",
            )
        return [limits for each in inside for limits in _limits_at(each)]
    try:
        return [SiteLimits.model_validate_json(read_config(path, "limits file"))]
    except ValidationError as error:
        raise ConfigInvalid(
            f"{path} does not hold a site's limits",
            got=f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}",
            next_step="Ask the site's administrator for the file again: fedhealth site limits --help",
        ) from error
