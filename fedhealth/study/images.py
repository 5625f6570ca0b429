"""A feature read from an image file: its pixels, its scattering coefficients, or numbers that describe it.

A cell names a file, or a folder with the files of one DICOM series, below the folder that the table's file lies in. A
blank cell is missing. An image that cannot be read, or that is not as the protocol says, counts as unreadable, as text
in a column of numbers does.

Axes are (rows, columns), or (slices, rows, columns) from the feet upwards, with rows from front to back and columns
from the patient's right to the left, where the file says how the patient lay.

How inputs are computed is in `fedhealth.records.images` and `fedhealth.records.image_inputs`.

Sources: Mallat, "Group invariant scattering", Commun. Pure Appl. Math. 2012, as Kymatio computes it.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedhealth.study.part import NARROWEST_RANGE, Column, Part, Real

MAX_PIXELS = 2**18
"""Pixels of an image that are inputs of a model, 64 x 64 x 64 or 512 x 512."""

_Sigma = Annotated[float, Field(ge=0.5, le=32)]


class Pixels(Part):
    """Each pixel is an input, in the order of the axes, the last the fastest."""

    kind: Literal["pixels"]

    def width(self, shape: tuple[int, ...]) -> int:
        """Return the number of inputs of an image of this shape."""
        return math.prod(shape)

    def names(self, shape: tuple[int, ...]) -> Iterator[str]:
        """Yield what each input is called."""
        return (f"pixel {number}" for number in range(1, self.width(shape) + 1))


class Scattering(Part):
    """How much there is of each size and direction: wavelet coefficients without phase, averaged over the image.

    Nothing of it is learnt. A coefficient c of order n becomes min(c / largest[n], 1), in [0, 1]. Those of a volume are
    of its slices, averaged.

    Attributes:
        scales: number of sizes, each twice the last one; 2 to this power is at most the length of an axis.
        angles: number of directions.
        order: 2 also tells of sizes within sizes.
        largest: for each order from 0 on, the coefficient that becomes 1; of an image that fills its window, the mean
            is 1 at most, and coefficients of higher orders are smaller.
    """

    kind: Literal["scattering"]
    scales: Annotated[int, Field(ge=1, le=6)] = 3
    angles: Annotated[int, Field(ge=1, le=16)] = 8
    order: Annotated[int, Field(ge=1, le=2)] = 2
    largest: Annotated[tuple[Annotated[float, Field(ge=1e-6, le=1)], ...], Field(min_length=2, max_length=3)]

    @model_validator(mode="after")
    def _each_order_has_its_largest(self) -> Self:
        if len(self.largest) != self.order + 1:
            raise ValueError(
                f"largest has {len(self.largest)} numbers, wanted {self.order + 1}: of orders 0 to `order`"
            )
        return self

    def width(self, shape: tuple[int, ...]) -> int:
        """Return the number of inputs of an image of this shape."""
        pairs = self.scales * (self.scales - 1) // 2 if self.order == 2 else 0
        return 1 + self.angles * self.scales + self.angles**2 * pairs

    def names(self, shape: tuple[int, ...]) -> Iterator[str]:
        """Yield what each input is called."""
        return (f"scattering {number}" for number in range(1, self.width(shape) + 1))


class _Ranged(Part):
    """A number, scaled linearly from a public range to [-1, 1] and clamped there."""

    range: tuple[Real, Real]

    @model_validator(mode="after")
    def _range_runs_upwards(self) -> Self:
        low, high = self.range
        if not NARROWEST_RANGE <= high - low < math.inf:
            raise ValueError(f"range is [{low}, {high}], wanted the lower value first, and a width that can be scaled")
        return self


class PlainDescriptor(_Ranged):
    """A number of the foreground: its mean and standard deviation in the unit of the window, its share of the image.

    `gradient` is the mean length of the difference between neighbours, in the unit of the window a pixel.
    """

    name: Literal["mean", "deviation", "foreground", "gradient"]

    @property
    def title(self) -> str:
        """What the input is called."""
        return self.name


class QuantileDescriptor(_Ranged):
    """A quantile of the foreground, in the unit of the window.

    Attributes:
        quantile: 0.5 is the median.
    """

    name: Literal["quantile"]
    quantile: Annotated[float, Field(ge=0, le=1)]

    @property
    def title(self) -> str:
        """What the input is called."""
        return f"quantile {self.quantile:g}"


class ShareDescriptor(_Ranged):
    """The share of the foreground that lies above a level, 0 to 1.

    Attributes:
        level: in the unit of the window.
    """

    name: Literal["share-above"]
    level: Real

    @property
    def title(self) -> str:
        """What the input is called."""
        return f"share above {self.level:g}"


class BlurredDescriptor(_Ranged):
    """A number of the image blurred with a Gaussian: what stands out over a larger place.

    - `asymmetry`: the 95 % quantile of the difference between the sides of the foreground, mirrored at its centre along
      the columns, well inside of it, in the unit of the window;
    - `blob`: how far the brightest place lies above the foreground's mean, in its standard deviations;
    - `blob-over-median`: how far it lies above the median, in the unit of the window.

    Attributes:
        blur: standard deviation of the Gaussian, in pixels.
    """

    name: Literal["asymmetry", "blob", "blob-over-median"]
    blur: _Sigma

    @property
    def title(self) -> str:
        """What the input is called."""
        return f"{self.name}, blur {self.blur:g}"


ImageDescriptor = Annotated[
    PlainDescriptor | QuantileDescriptor | ShareDescriptor | BlurredDescriptor, Field(discriminator="name")
]


class Descriptors(Part):
    """Numbers that describe the image, each with a public range.

    Attributes:
        foreground: pixels above this level are the foreground, in the unit of the window.
        descriptors: each different. Of an image without foreground, all are 0 before they are scaled.
    """

    kind: Literal["descriptors"]
    foreground: Real
    descriptors: Annotated[tuple[ImageDescriptor, ...], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _descriptors_differ(self) -> Self:
        titles = [each.title for each in self.descriptors]
        if repeated := sorted({title for title in titles if titles.count(title) > 1}):
            raise ValueError(f"descriptors repeat one: {', '.join(repeated)}")
        return self

    def width(self, shape: tuple[int, ...]) -> int:
        """Return the number of inputs of an image of this shape."""
        return len(self.descriptors)

    def names(self, shape: tuple[int, ...]) -> Iterator[str]:
        """Yield what each input is called."""
        return (each.title for each in self.descriptors)


ImageInputs = Annotated[Pixels | Scattering | Descriptors, Field(discriminator="kind")]


class ImageFeature(Part):
    """What a model is given of the image that a cell names.

    Attributes:
        column: name of the column in the data set; a cell is a path below the folder of the table's file.
        shape: (rows, columns), or (slices, rows, columns).
        window: lowest and highest intensity that count; scaled linearly to [-1, 1] and clamped.
        spacing: millimetres from one pixel to the next along each axis; None asks nothing of it. Where it is given, an
            image that does not say its own is unreadable.
        fit: an image of another shape or spacing is unreadable ("exact"), or is resampled ("resample"): onto a grid of
            this spacing around its centre, cut or filled up with the window's low end; without a spacing, stretched.
        inputs: what is computed of it.
        missing: what becomes of a record whose cell is blank: all inputs are 0 ("zeros"), or the record is not in the
            study ("exclude").
        missing_indicator: add a feature that is 1 where the cell is blank, else 0.
    """

    kind: Literal["image"]
    column: Column
    shape: Annotated[tuple[Annotated[int, Field(ge=8, le=512)], ...], Field(min_length=2, max_length=3)]
    window: tuple[Real, Real]
    spacing: (
        Annotated[tuple[Annotated[float, Field(ge=0.01, le=100)], ...], Field(min_length=2, max_length=3)] | None
    ) = None
    fit: Literal["exact", "resample"] = "exact"
    inputs: ImageInputs
    missing: Literal["zeros", "exclude"] = "zeros"
    missing_indicator: bool = False

    @model_validator(mode="after")
    def _window_runs_upwards(self) -> Self:
        low, high = self.window
        if not NARROWEST_RANGE <= high - low < math.inf:
            raise ValueError(
                f"window of '{self.column}' is [{low}, {high}], wanted the lower value first, and a width that can be "
                "scaled"
            )
        if isinstance(self.inputs, Descriptors) and not low <= self.inputs.foreground < high:
            raise ValueError(
                f"foreground of '{self.column}' starts at {self.inputs.foreground}, wanted a level in [{low}, {high})"
            )
        return self

    @model_validator(mode="after")
    def _axes_agree(self) -> Self:
        if self.spacing is not None and len(self.spacing) != len(self.shape):
            raise ValueError(f"spacing of '{self.column}' has {len(self.spacing)} axes, its shape {len(self.shape)}")
        if isinstance(self.inputs, Pixels) and math.prod(self.shape) > MAX_PIXELS:
            raise ValueError(f"'{self.column}' has {math.prod(self.shape)} pixels, wanted at most {MAX_PIXELS}")
        if isinstance(self.inputs, Scattering) and 2**self.inputs.scales > min(self.shape[-2:]):
            raise ValueError(f"scattering of '{self.column}' looks for sizes larger than its image: lower scales")
        return self

    @model_validator(mode="after")
    def _missing_has_one_rule(self) -> Self:
        if self.missing == "exclude" and self.missing_indicator:
            raise ValueError(f"'{self.column}' excludes records without an image, wanted no indicator")
        return self

    @property
    def width(self) -> int:
        """Number of model inputs this feature becomes."""
        return self.inputs.width(self.shape) + self.missing_indicator
