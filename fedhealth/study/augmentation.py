"""Further images of each image, made by moving its pixels: a public list, the same for every record."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from fedhealth.study.part import Part

MAX_TRANSFORMS = 31
"""With the image itself, 32 of each record."""

_Shift = Annotated[int, Field(ge=-256, le=256)]


class Transform(Part):
    """One further image: mirrored, moved, or both. Pixels are moved and nothing is computed of them.

    Attributes:
        mirror: turn the last axis around: left is right.
        shift: how many pixels along each axis; what leaves the image at one side enters it at the other.
    """

    mirror: bool = False
    shift: Annotated[tuple[_Shift, ...], Field(max_length=3)] = ()

    @model_validator(mode="after")
    def _is_another_image(self) -> Self:
        if not self.mirror and not any(self.shift):
            raise ValueError("a transform neither mirrors nor shifts: wanted another image than the one there is")
        return self
