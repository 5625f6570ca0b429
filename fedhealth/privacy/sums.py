"""Noisy sums of bounded values, and histograms with Gaussian noise: bounds turned into a `GridGaussian`.

A patient contributes one row. Each of its values is clipped into the public bounds of its column, a value that is not
a number counts as zero (as its whole row does, see `gaussian`), and the row's L2 norm is then at most that of the
largest absolute bounds, which is the clip that `GridGaussian` applies once more. So the sensitivity of adding or
removing a patient follows from the bounds, and whoever states bounds that are too narrow loses accuracy, not privacy.

A sum's noise grows with the bounds' distance from **zero**: shift values to their middle first where that is public.

Source: Dwork and Roth, "The Algorithmic Foundations of Differential Privacy", 2014, Section 3 and Appendix A.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhealth.privacy.events import GaussianEvent
from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.privacy.stream import KeyedStream


@dataclass(frozen=True)
class BoundedSum:
    """One release of sums over patients, one a column.

    Attributes:
        noise_multiplier: standard deviation of the noise over the L2 sensitivity, in [0.01, 1e6].
        lower: the least a patient may give, one bound a column, in the column's unit.
        upper: the most; finite, >= lower. At least one bound is not zero.
    """

    noise_multiplier: float
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.lower) != len(self.upper) or not self.lower:
            raise ValueError(f"got {len(self.lower)} lower and {len(self.upper)} upper bounds, wanted one a column")
        for low, high in zip(self.lower, self.upper, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"bounds must be finite and in order, got {low} to {high}")
        self.mechanism  # noqa: B018 - refuses what it has no proof for

    @property
    def mechanism(self) -> GridGaussian:
        """The mechanism, its clip the largest norm that the bounds leave a row."""
        reach = math.hypot(*(max(abs(low), abs(high)) for low, high in zip(self.lower, self.upper, strict=True)))
        return GridGaussian(self.noise_multiplier, l2_clip_norm=reach, dimension=len(self.lower))

    @property
    def event(self) -> GaussianEvent:
        """What the release costs each patient."""
        return self.mechanism.event()

    def release(self, values: NDArray[np.float64], stream: KeyedStream) -> NDArray[np.float64]:
        """Return noisy sums in the columns' units.

        Args:
            values: one row per patient, shape (patients, columns).
            stream: of this release and purpose, from its first bit.
        """
        mechanism = self.mechanism
        total, _ = mechanism.clip_and_sum(np.clip(values, np.array(self.lower), np.array(self.upper)))
        return np.multiply(mechanism.add_noise(total, stream), mechanism.grid, dtype=np.float64)


@dataclass(frozen=True)
class GaussianHistogram:
    """One release of counts with Gaussian noise: less noise than `GeometricHistogram` where a patient is in many cells.

    Attributes:
        noise_multiplier: standard deviation of the noise over the L2 sensitivity, in [0.01, 1e6].
        cells: how many counts the release has.
        cells_per_patient: how many of them one patient may change, in [1, cells]; the sensitivity is its root.
    """

    noise_multiplier: float
    cells: int
    cells_per_patient: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.cells_per_patient <= self.cells:
            raise ValueError(f"cells_per_patient must be in [1, {self.cells}], got {self.cells_per_patient}")
        self.mechanism  # noqa: B018 - refuses what it has no proof for

    @property
    def mechanism(self) -> GridGaussian:
        """The mechanism, its clip the norm of a row with `cells_per_patient` ones."""
        return GridGaussian(self.noise_multiplier, math.sqrt(self.cells_per_patient), self.cells)

    @property
    def event(self) -> GaussianEvent:
        """What the release costs each patient."""
        return self.mechanism.event()

    def release(self, falls_in: NDArray[np.bool_], stream: KeyedStream) -> NDArray[np.float64]:
        """Return noisy counts.

        Args:
            falls_in: one row per patient, shape (patients, cells); the first `cells_per_patient` cells count.
            stream: of this release and purpose, from its first bit.
        """
        kept = falls_in & (np.cumsum(falls_in, axis=1) <= self.cells_per_patient)
        mechanism = self.mechanism
        total, _ = mechanism.clip_and_sum(kept.astype(np.float64))
        return np.multiply(mechanism.add_noise(total, stream), mechanism.grid, dtype=np.float64)
