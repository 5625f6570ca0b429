"""What every protocol says of itself, for those who decide on it, and the digest that names it."""

from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field

from fedhealth.canonical import canonical_bytes, digest_of
from fedhealth.study.part import Part, StudyName, Text

PurposeClass = Literal["scientific-research", "quality-of-care", "public-health", "service-planning"]
"""Why health data may be used a second time, in classes that a policy can refer to."""


class StudyHead(Part):
    """What every protocol says of itself, for those who decide on it.

    Attributes:
        format: version of this format.
        name: a short name in lower case.
        title: one line for people.
        purpose: why patients' data may be used for this, in words.
        purpose_class: the same as one of a closed list that policies refer to.
        legal_basis: on what legal ground.
        data_set: which data set of each site is asked for.
        min_declared_patients: a site that declares fewer cannot approve it.
        retention_days: how long the coordinator keeps the results after the end.
    """

    format: Literal[1]
    name: StudyName
    title: Text
    purpose: Text
    purpose_class: PurposeClass = "scientific-research"
    legal_basis: Text
    data_set: StudyName
    min_declared_patients: Annotated[int, Field(ge=1, le=10**9)] = 1
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 3650


@lru_cache(maxsize=64)
def digest_of_study(study: StudyHead) -> str:
    """Return the name of a study to every machine; equal studies have equal bytes, and each release asks for it."""
    return digest_of("study", canonical_bytes(study))
