"""The Gaussian mechanism on an integer grid: clip each patient, sum exactly, add integer noise.

The release is a vector of integers, in grid steps. Three things make it what the accountant assumes:

1. *Sensitivity.* Each patient's vector is clipped to `l2_clip_norm` and rounded to a grid 2**20 times finer than the
   release's; the fine sum is an integer sum, exact, and only the sum is rounded to the release's grid, so that many
   small contributions are not lost. One patient changes the rounded sum by at most
   `l2_clip_norm * (1 + 2**-30) + sqrt(d) * grid * (1 + 2**-21)` in L2 norm: 2**-30 covers the rounding of the norm and
   of the product in double precision (at most (d + 4) * 2**-53 relative, d < 2**20), 2**-21 the rounding of each
   coordinate to the fine grid, and rounding two sums moves their difference by at most one step a coordinate.
   A vector that is not finite, before or after the clip, counts as zero.
2. *Noise.* Rounding the Gaussian to integers commutes with adding an integer: s + round(G) = round(s + G).
   So the release is a function of the exact Gaussian mechanism and costs the same. There is no floating-point
   noise whose low bits could tell the sum (Mironov, "On significance of the least significant bits for
   differential privacy", CCS 2012).
3. *Sampling.* round(G) has a standard deviation of 1024 steps before rounding, always; the grid is scaled
   to fit. Its magnitude is read from a table of thresholds, P(|round(G)| <= m) to 127 binary places, against a
   uniform number of 63 bits; only where those meet a threshold's first 63 bits are 64 more drawn. Its sign is one
   more bit. Rounding a threshold to a multiple of 2**-127 changes the probability of each magnitude by at most
   2**-127, so the distance is at most 2**-128 times the table's length, plus the tail beyond the table:
   `TOTAL_VARIATION_PER_COORDINATE`. Distances of independent coordinates add up.

Sensitivity always follows from the clip this module applied; it is never an argument.
"""

import bisect
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import mpmath
import numpy as np
from numpy.typing import NDArray

from fedhealth.privacy.events import GaussianEvent
from fedhealth.privacy.stream import KeyedStream

NOISE_STEPS = 1024
"""Standard deviation of the noise before rounding, in grid steps."""

_TABLE_LENGTH = 13 * NOISE_STEPS
_TAIL_BEYOND_TABLE = 1.3e-38
"""Above P(|G| > 13 standard deviations) = 1.22e-38."""

TOTAL_VARIATION_PER_COORDINATE = _TABLE_LENGTH * 2.0**-128 + _TAIL_BEYOND_TABLE

FINE_STEPS = 2**20
"""Steps of the fine grid, on which patients are summed, in one step of the release's grid."""

MAX_PATIENTS = 2**24
"""So many clipped vectors, at the smallest noise multiplier, cannot overflow a 64-bit sum."""

_CELL_BITS = 18
_CLIP_SLACK = 2.0**-30
_FINE_SLACK = 2.0**-21


@dataclass(frozen=True)
class GridGaussian:
    """One release's mechanism: how patients are clipped, and how much noise is added.

    Attributes:
        noise_multiplier: standard deviation of the noise over the L2 sensitivity, in [0.01, 1e6].
        l2_clip_norm: the most one patient's vector may measure, in [1e-6, 1e6], in the vector's own unit.
        dimension: length of the vector, in [1, 2**20).
    """

    noise_multiplier: float
    l2_clip_norm: float
    dimension: int

    def __post_init__(self) -> None:
        for name, lowest in (("noise_multiplier", 1e-2), ("l2_clip_norm", 1e-6)):
            value = getattr(self, name)
            if not (math.isfinite(value) and lowest <= value <= 1e6):
                raise ValueError(f"{name} must be in [{lowest:g}, 1e6], got {value}")
        if not 1 <= self.dimension < 2**20:
            raise ValueError(f"dimension must be in [1, 2**20), got {self.dimension}")
        if self._room <= 0:
            raise ValueError(
                f"noise multiplier {self.noise_multiplier} over {self.dimension} coordinates needs a finer grid "
                f"than {NOISE_STEPS} steps"
            )

    @property
    def _room(self) -> float:
        """Steps of noise that are left for the clip once rounding has its share."""
        return NOISE_STEPS - self.noise_multiplier * math.sqrt(self.dimension) * (1 + _FINE_SLACK)

    @property
    def grid(self) -> float:
        """One grid step in the vector's own unit.

        Solves NOISE_STEPS * grid = noise_multiplier * sensitivity with
        sensitivity = l2_clip_norm * (1 + 2**-30) + sqrt(d) * grid * (1 + 2**-21).
        """
        return self.noise_multiplier * self.l2_clip_norm * (1 + _CLIP_SLACK) / self._room

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
        return NOISE_STEPS * self.grid

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
        return (fine + FINE_STEPS // 2) // FINE_STEPS, zeroed

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
            norms = np.sqrt(np.einsum("ij,ij->i", unit, unit))
            # min(1, clip / (norm * scale)) * vector, written so that nothing overflows on the way.
            reach = np.where(norms > 0, np.minimum(scale, self.l2_clip_norm / np.where(norms > 0, norms, 1.0)), 0.0)
            clipped = unit * reach[:, None]
        steps = np.rint(clipped / (self.grid / FINE_STEPS)).astype(np.int64)
        return steps.sum(axis=0, dtype=np.int64), int(np.count_nonzero(~usable))

    def add_noise(self, total: NDArray[np.int64], stream: KeyedStream) -> NDArray[np.int64]:
        """Return the sum plus rounded Gaussian noise, in grid steps: the only thing that may leave."""
        if total.shape != (self.dimension,):
            raise ValueError(f"the sum has shape {total.shape}, wanted ({self.dimension},)")
        return total + rounded_gaussian(self.dimension, stream)


def rounded_gaussian(count: int, stream: KeyedStream) -> NDArray[np.int64]:
    """Return `count` independent samples of round(G), G normal with standard deviation `NOISE_STEPS`.

    Draws `count` words of the stream, 63 bits for the magnitude and one for the sign, and one word more for each
    sample whose word meets the leading bits of a threshold (about one in 10**15).
    """
    table = _thresholds()
    words = stream.words(count)
    uniform = words >> np.uint64(1)
    magnitude = table.by_cell[uniform >> np.uint64(63 - _CELL_BITS)]
    shared = np.flatnonzero(magnitude < 0)
    magnitude[shared] = np.searchsorted(table.leading, uniform[shared], side="left")
    met = table.leading[np.minimum(magnitude[shared], _TABLE_LENGTH - 1)] == uniform[shared]
    for place in shared[met]:
        fine = (int(uniform[place]) << 64) | int(stream.words(1)[0])
        magnitude[place] = bisect.bisect_right(table.exact, fine)
    samples: NDArray[np.int64] = np.where(words & np.uint64(1), magnitude, -magnitude)
    return samples


class _Thresholds(NamedTuple):
    """Where one magnitude ends and the next begins.

    Attributes:
        exact: floor(2**127 * P(|round(G)| <= m)) for m = 0 .. table length - 1.
        leading: the first 63 bits of each.
        by_cell: for each value of the first `_CELL_BITS` bits of a uniform number, the magnitude, or -1 where a
            threshold lies within and more bits must be looked at.
    """

    exact: list[int]
    leading: NDArray[np.uint64]
    by_cell: NDArray[np.int64]


@lru_cache(maxsize=1)
def _thresholds() -> _Thresholds:
    with mpmath.workprec(180):
        scale = mpmath.sqrt(2) * NOISE_STEPS
        half, unit = mpmath.mpf(1) / 2, mpmath.mpf(2) ** 127
        exact = [int(mpmath.floor(unit - unit * mpmath.erfc((m + half) / scale))) for m in range(_TABLE_LENGTH)]
    leading = np.array([value >> 64 for value in exact], dtype=np.uint64)
    edges = np.arange(2**_CELL_BITS + 1, dtype=np.uint64) << np.uint64(63 - _CELL_BITS)
    below = np.searchsorted(leading, edges, side="left")
    return _Thresholds(exact, leading, np.where(below[:-1] == below[1:], below[:-1], -1))
