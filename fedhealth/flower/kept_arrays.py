"""The form in which a strategy's arrays are kept between two processes; knows nothing of Flower itself."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Arrays = dict[str, NDArray[np.generic]]
"""Arrays by "ATTRIBUTE/PLACE"."""


class Shape(BaseModel):
    """How the arrays of one attribute belong together.

    Attributes:
        kind: what the attribute is.
        keys: of a dict or record, in order; of a list, its places; of one array, one empty key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["array", "list", "dict", "record"]
    keys: Annotated[tuple[str, ...], Field(max_length=100_000)]
