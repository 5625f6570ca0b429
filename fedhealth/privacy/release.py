"""The identity of a release: it alone decides look-up and charge.

A release is named by site, study, step, round and input, never by a run or message of the transport, so that a
restarted coordinator asks for the same release and gets the same bytes. The **noise key** adds the version of the
data set and the cohort; it decides the noise and never crosses the border.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fedhealth.canonical import canonical_bytes, digest_of

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SiteId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
StepName = Literal["train", "evaluate", "count"]
Cohort = Literal["training", "held-out"]
"""The two disjoint sides of a data set; each has the whole budget, because no patient is on both."""

Everybody = Literal["everybody"]
"""All patients of a data set, whichever side they stand on."""


def paying_sides(patients: Cohort | Everybody) -> tuple[Cohort, ...]:
    """Return the sides of a data set on which these patients stand: each of them pays the whole price of a release."""
    return ("training", "held-out") if patients == "everybody" else (patients,)


INPUT_DOMAIN = "input"
"""Domain of the digest of a step's input."""


class ReleaseIdentity(BaseModel):
    """What a release is an answer to.

    Attributes:
        site: the site that answers.
        study: digest of the signed study.
        step: which step of the study.
        round: 1, 2, ...; at most 2**31; always 1 of a count.
        input_digest: digest of the input bytes; of a count, of its query alone, whoever asks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    site: SiteId
    study: Digest
    step: StepName
    round: Annotated[int, Field(ge=1, le=2**31)]
    input_digest: Digest

    @property
    def digest(self) -> Digest:
        """The release's name, 64 hexadecimal digits."""
        return digest_of("release", canonical_bytes(self))


def input_digest(data: bytes | memoryview) -> Digest:
    """Return the digest of a step's input."""
    return digest_of(INPUT_DOMAIN, data)


def noise_key(release: Digest, data_version: str, cohort: Cohort | Everybody) -> str:
    """Return the key of a release's noise; never let it leave the gate.

    Args:
        release: the release's digest.
        data_version: the keyed fingerprints of the data set's content and of the study's records, and a counter.
        cohort: the patients the release is computed on.
    """
    return digest_of("noise-key", canonical_bytes([release, data_version, cohort]))
