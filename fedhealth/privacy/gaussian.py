"""The Gaussian mechanism on an integer grid: clip each patient, sum exactly, add integer noise.

The release is a vector of integers, in grid steps. Three things make it what the accountant assumes:

1. *Sensitivity.* Each patient's vector is clipped to `l2_clip_norm` and rounded to a grid F times finer than the
   release's; the fine sum is an integer sum, exact, and only the sum is rounded to the release's grid, so that many
   small contributions are not lost. One patient changes the rounded sum by at most
   `l2_clip_norm * (1 + slack) + sqrt(d) * grid * (1 + 1 / (2 F))` in L2 norm: the slack covers the rounding of the norm
   and of the product in double precision, 1 / (2 F) the rounding of each coordinate to the fine grid, and rounding two
   sums moves their difference by at most one step a coordinate. A computed sum of d squares is off by at most
   (d + 1) * 2**-53 relative, in any order, its root by (d / 2 + 2) * 2**-53, and scale, division and product by 2**-51
   together: below 2**-33 for d < 2**20, and below 2**-29 for d < 2**24. What squares below the number range lose is
   nothing beside the largest entry, which is one.
   A vector that is not finite, before or after the clip, counts as zero.
2. *Noise.* Cutting the Gaussian to integers commutes with adding an integer: s + round(G) = round(s + G), and the same
   with rounding down. So the release is a function of the exact Gaussian mechanism and costs the same. There is no
   floating-point noise whose low bits could tell the sum (Mironov, "On significance of the least significant bits for
   differential privacy", CCS 2012).
3. *Sampling.* The noise is 1,024 steps wide before rounding, or 2**24 where the rounding of the sum, sqrt(d) steps,
   would take more than a quarter of the 1,024 (`NoiseScale`); the grid is scaled to fit. The sampler's distance from
   exact is proven in `noise_table.py` and paid for in delta.

Sensitivity always follows from the clip this module applied; it is never an argument.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedhealth.privacy.events import GaussianEvent
from fedhealth.privacy.noise_table import (
    COARSE_NOISE_STEPS,
    FINE_NOISE_STEPS,
    TOTAL_VARIATION_PER_COORDINATE,
    WordStream,
    floored_gaussian,
    rounded_gaussian,
)

MAX_PATIENTS = 2**24
"""So many clipped vectors, at the smallest noise multiplier, cannot overflow a 64-bit sum."""

_TAIL = 10.0
"""Standard deviations by which noise may be longer than the root of its dimension: e^-50 of releases are."""


@dataclass(frozen=True)
class NoiseScale:
    """How finely a release is cut into steps.

    Attributes:
        noise_steps: standard deviation of the noise before rounding, in grid steps.
        fine_steps: F, steps of the grid on which patients are summed in one step of the release's grid. The product
            of both is 2**30, so that sums of `MAX_PATIENTS` fit into 64 bits with either.
        clip_slack: bound on the relative rounding error of a clip, for all dimensions below `max_dimension`.
        max_dimension: the first that is too long.
        sample: draws the noise.
    """

    noise_steps: int
    fine_steps: int
    clip_slack: float
    max_dimension: int
    sample: Callable[[int, WordStream], NDArray[np.int64]]

    def room(self, noise_multiplier: float, dimension: int) -> float:
        """Return steps of noise that are left for the clip once rounding has its share."""
        return self.noise_steps - noise_multiplier * math.sqrt(dimension) * (1 + 0.5 / self.fine_steps)


COARSE = NoiseScale(COARSE_NOISE_STEPS, 2**20, 2.0**-30, 2**20, rounded_gaussian)
FINE = NoiseScale(FINE_NOISE_STEPS, 2**6, 2.0**-29, 2**24, floored_gaussian)


@dataclass(frozen=True)
class GridGaussian:
    """One release's mechanism: how patients are clipped, and how much noise is added.

    Attributes:
        noise_multiplier: standard deviation of the noise over the L2 sensitivity, in [0.01, 1e6].
        l2_clip_norm: the most one patient's vector may measure, in [1e-6, 1e6], in the vector's own unit.
        dimension: length of the vector, in [1, 2**24).
    """

    noise_multiplier: float
    l2_clip_norm: float
    dimension: int

    def __post_init__(self) -> None:
        for name, lowest in (("noise_multiplier", 1e-2), ("l2_clip_norm", 1e-6)):
            value = getattr(self, name)
            if not (math.isfinite(value) and lowest <= value <= 1e6):
                raise ValueError(f"{name} must be in [{lowest:g}, 1e6], got {value}")
        if not 1 <= self.dimension < FINE.max_dimension:
            raise ValueError(f"dimension must be in [1, 2**24), got {self.dimension}")
        if self.scale.room(self.noise_multiplier, self.dimension) <= self.scale.noise_steps / 2:
            raise ValueError(
                f"noise multiplier {self.noise_multiplier} over {self.dimension} coordinates needs a finer grid "
                f"than {self.scale.noise_steps} steps; take less noise, or fewer weights"
            )

    @cached_property
    def scale(self) -> NoiseScale:
        """The coarse scale where three quarters of its noise are left for the clip, else the fine one."""
        room = COARSE.room(self.noise_multiplier, self.dimension)
        return COARSE if self.dimension < COARSE.max_dimension and room >= 0.75 * COARSE.noise_steps else FINE

    @property
    def grid(self) -> float:
        """One grid step in the vector's own unit.

        Solves noise_steps * grid = noise_multiplier * sensitivity with
        sensitivity = l2_clip_norm * (1 + slack) + sqrt(d) * grid * (1 + 1 / (2 F)).
        """
        room = self.scale.room(self.noise_multiplier, self.dimension)
        return self.noise_multiplier * self.l2_clip_norm * (1 + self.scale.clip_slack) / room

    def event(self, sampling_rate: float = 1.0) -> GaussianEvent:
        """Return what one release did, as far as its price goes.

        Args:
            sampling_rate: the probability with which each patient, alone and by secret coins, was in the sum; 1 is all.

        Raises:
            ValueError: the rate is not in [1e-6, 1].
        """
        return GaussianEvent(
            noise_multiplier=float(self.noise_multiplier),
            sampling_rate=float(sampling_rate),
            total_variation=self.dimension * TOTAL_VARIATION_PER_COORDINATE,
        )

    @property
    def standard_deviation(self) -> float:
        """Standard deviation of the noise on each coordinate, in the vector's own unit."""
        return self.scale.noise_steps * self.grid

    def longest_release(self, patients: int) -> float:
        """Return the L2 norm, in grid steps, above which no release over so many patients is believed.

        A clipped patient measures at most l2_clip_norm * (1 + slack) / grid + sqrt(d) / (2 F) steps. Rounding the sum
        adds at most sqrt(d) / 2, cutting the noise to integers at most sqrt(d). The noise before is `noise_steps` times
        a standard normal vector, whose norm is above sqrt(d) + t with probability at most exp(-t^2 / 2). With t = 10 an
        honest release is longer with probability at most e^-50 < 2^-72, and d times the sampler's distance from exact.

        Args:
            patients: the most that may be in the sum, at least 1.

        Source: Boucheron, Lugosi and Massart, "Concentration Inequalities" (2013), Theorem 5.6; the norm is
        1-Lipschitz, and its mean at most sqrt(d).
        """
        root = math.sqrt(self.dimension)
        patient = self.l2_clip_norm * (1 + self.scale.clip_slack) / self.grid + root / (2 * self.scale.fine_steps)
        return patients * patient + 1.5 * root + self.scale.noise_steps * (root + _TAIL)

    def clip_and_sum(self, vectors: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
        """Clip each patient's vector, sum exactly on the fine grid, and round the sum to the grid.

        Args:
            vectors: one row per patient, shape (patients, dimension); from 0 to `MAX_PATIENTS` patients.

        Returns:
            The sum in grid steps, shape (dimension,), and how many patients counted as zero because their vector was
            not finite. The second is for the local journal only; it must not cross.

        Raises:
            ValueError: another shape, or too many patients.
        """
        fine, zeroed = self.fine_sum(vectors)
        return self.rounded(fine), zeroed

    def rounded(self, fine: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a sum in steps of the fine grid, rounded to the release's grid."""
        return (fine + self.scale.fine_steps // 2) // self.scale.fine_steps

    def fine_sum(self, vectors: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
        """Return the same in steps of the fine grid: exact, so that sums over parts of the patients add up."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension or len(vectors) > MAX_PATIENTS:
            raise ValueError(f"vectors have shape {vectors.shape}, wanted (patients, {self.dimension})")
        with np.errstate(all="ignore"):
            # Scaling by the largest entry first keeps the norm from overflowing where the clip is still defined.
            largest = np.max(np.abs(vectors), axis=1, initial=0.0)
            usable = np.isfinite(largest)
            scale = np.where(usable & (largest > 0), largest, 1.0)
            unit = np.where(usable[:, None], vectors, 0.0) / scale[:, None]
            # Each row is added up by itself, so that its bits are the same in any company; einsum does not keep that.
            squares = np.square(unit)
            norms = np.sqrt(np.add.reduce(squares, axis=1))
            # min(1, clip / (norm * scale)) * vector, written so that nothing overflows on the way.
            reach = np.where(norms > 0, np.minimum(scale, self.l2_clip_norm / np.where(norms > 0, norms, 1.0)), 0.0)
            clipped = np.multiply(unit, reach[:, None], out=squares)
        steps = np.rint(clipped / (self.grid / self.scale.fine_steps)).astype(np.int64)
        return steps.sum(axis=0, dtype=np.int64), int(np.count_nonzero(~usable))

    def add_noise(self, total: NDArray[np.int64], stream: WordStream) -> NDArray[np.int64]:
        """Return the sum plus rounded Gaussian noise, in grid steps: the only thing that may leave."""
        if total.shape != (self.dimension,):
            raise ValueError(f"the sum has shape {total.shape}, wanted ({self.dimension},)")
        return total + self.scale.sample(self.dimension, stream)
