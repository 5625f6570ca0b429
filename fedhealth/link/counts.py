"""Counts over the link: a site asks the coordinator, which asks the other sites' gates, and says who answered what.

The question is a signed query (`fedhealth.study.count_query`); the answer is one JSON document. Both ends live by this
file. Every count in an answer was noised and charged by its own site; a site that gave none is named with its code.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import LinkUnavailable
from fedhealth.link.memory import Buffer

COUNTS = "counts"
"""Name of the service at the coordinator."""
MAX_ANSWER_BYTES = 2**17
ANSWER_SECONDS = 15.0
"""How long a site waits for the coordinator's answer; the coordinator waits less for each of the others."""

_Code = Annotated[str, StringConstraints(pattern=r"^[a-z-]{1,40}$")]
_Site = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class CountAnswer(BaseModel):
    """What the other sites said.

    Attributes:
        counts: noisy counts by site; None for one below the study's threshold.
        absent: of each site that gave none, why: a code of its gate, or "away".
        refused: why nobody was asked; empty where the others were.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    counts: dict[_Site, Annotated[int, Field(ge=1, le=2**53 - 1)] | None] = Field(default_factory=dict)
    absent: dict[_Site, _Code] = Field(default_factory=dict)
    refused: str = ""


def pack_answer(answer: CountAnswer) -> bytes:
    """Return an answer's bytes."""
    return canonical_bytes(answer)


def read_answer(data: Buffer) -> CountAnswer:
    """Return an answer.

    Raises:
        LinkUnavailable: it is none.
    """
    try:
        return CountAnswer.model_validate_json(bytes(data))
    except ValidationError as error:
        raise LinkUnavailable(
            "the coordinator's answer to a query is none",
            next_step="Use the same version of fedhealth as the coordinator.",
        ) from error
