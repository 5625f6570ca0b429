"""What all parts of a protocol are made of: the frozen base, and the kinds of text and number."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

StudyName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, strip_whitespace=True)]
Column = Annotated[str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True)]
Real = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0.01, le=1)]


NARROWEST_RANGE = 1e-300
"""Width of a public range: half of a smaller one may be 0, by which nobody can scale, where subnormals are flushed."""


class Part(BaseModel):
    """A part of a protocol: frozen, and without fields that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")
