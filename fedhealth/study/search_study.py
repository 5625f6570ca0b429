"""The protocol of a search study: a standing permission to count patients, each count with noise of its own.

It is not run once like other studies. It stands for some quarters, and whoever a hospital of it vouches for may ask:
each new query is one count of all patients of the data set, charged to everybody once, and then answered with the same
number for the rest of its quarter, to whoever asks.

What may be asked, and by whom, is in `fedhealth.study.count_query`; what it costs, in `fedhealth.learning.plan`.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedhealth.config import parse_toml, read_config
from fedhealth.study.count_query import Quarter, Role
from fedhealth.study.head import StudyHead, digest_of_study
from fedhealth.study.part import Part, StudyName
from fedhealth.study.protocol import Study


class AskingSite(Part):
    """A hospital whose people may ask.

    Attributes:
        site: its id.
        key: the public key with which it vouches for them, 64 hexadecimal digits.
    """

    site: StudyName
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Counts(Part):
    """How many counts there are, and what one of them is.

    Attributes:
        epsilon: of one count: its noise k has a probability proportional to exp(-epsilon |k|).
        most: how many different queries are ever answered; with them the study is spent.
        most_of_an_asker: how many of them one asker may cause in a quarter.
        most_of_a_hospital: how many of them all askers of one hospital may cause in a quarter together, because a
            hospital can vouch for as many keys as it likes; None for `most`. A study's digest knows nothing of it then.
        least_shown: a noisy count below this is answered as "fewer", so that small counts are no news.
        most_codes_of_a_patient: of each patient so many codes are looked at, in their order. The public duration of a
            reply is measured with so many for every patient, so that nobody's decide it.
    """

    epsilon: Annotated[float, Field(ge=2.0**-10, le=2, allow_inf_nan=False)]
    most: Annotated[int, Field(ge=1, le=100_000)]
    most_of_an_asker: Annotated[int, Field(ge=1, le=10_000)]
    most_of_a_hospital: Annotated[int | None, Field(ge=1, le=100_000, exclude_if=lambda most: most is None)] = None
    least_shown: Annotated[int, Field(ge=1, le=1000)] = 10
    most_codes_of_a_patient: Annotated[int, Field(ge=1, le=1000)] = 100

    @model_validator(mode="after")
    def _a_hospital_has_an_askers_share(self) -> Self:
        if self.most_of_a_hospital is not None and self.most_of_a_hospital < self.most_of_an_asker:
            raise ValueError(
                f"most_of_a_hospital is {self.most_of_a_hospital}, wanted at least most_of_an_asker, "
                f"which is {self.most_of_an_asker}"
            )
        return self

    @property
    def shares(self) -> str:
        """What one asker and one hospital may cause, for people."""
        hospital = self.most if self.most_of_a_hospital is None else self.most_of_a_hospital
        return f"each key {self.most_of_an_asker} new counts a quarter, each hospital {hospital}"


class SearchStudy(StudyHead):
    """A whole search study.

    Attributes:
        task: "search".
        first_quarter: from when it may be asked.
        last_quarter: until when.
        roles: of those who may ask.
        asking_sites: hospitals that vouch for them.
        counts: how many, and with what noise.
        delta: at which the epsilon of all counts together is stated.
    """

    task: Literal["search"]
    first_quarter: Quarter
    last_quarter: Quarter
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    asking_sites: Annotated[tuple[AskingSite, ...], Field(min_length=1, max_length=1000)]
    counts: Counts
    delta: Annotated[float, Field(ge=1e-12, le=0.01)]

    @model_validator(mode="after")
    def _stands_for_some_quarters(self) -> Self:
        if self.last_quarter < self.first_quarter:
            raise ValueError(f"it stands from {self.first_quarter} to {self.last_quarter}, wanted the earlier first")
        return self

    @model_validator(mode="after")
    def _asking_sites_differ(self) -> Self:
        names = [each.site for each in self.asking_sites]
        if len(set(names)) != len(names) or len(set(self.roles)) != len(self.roles):
            raise ValueError("asking_sites or roles repeat one")
        return self

    def asking_key(self, site: str) -> str | None:
        """Return the key with which a site vouches for its people; None if nobody of it may ask."""
        return next((each.key for each in self.asking_sites if each.site == site), None)

    @property
    def who_asks(self) -> str:
        """Who may ask, for people."""
        return f"{' or '.join(self.roles)} of {', '.join(each.site for each in self.asking_sites)}"

    @property
    def digest(self) -> str:
        """The study's name to every machine: digest of its canonical bytes."""
        return digest_of_study(self)


def load_protocol(path: Path) -> Study | SearchStudy:
    """Read a protocol file of either kind, which its `task` tells.

    Raises:
        ConfigInvalid: missing, not TOML, or not a protocol; says where and what was wanted.
    """
    raw = read_config(path, "study protocol")
    try:
        task = tomllib.loads(raw.decode("utf-8")).get("task")
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        task = None  # said below
    if task == "search":
        return parse_toml(raw, path, SearchStudy, "study protocol")
    return parse_toml(raw, path, Study, "study protocol")
