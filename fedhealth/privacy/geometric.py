"""Counts and histograms of patients with exact two-sided geometric noise.

A release is a vector of integers: how many patients fall in each cell, plus noise. Three things make its event true:

1. *Sensitivity.* A patient is a row of yes and no, whatever number of records lies behind it; of the cells a patient
   falls in, the first `cells_per_patient` count and the others do not. So adding or removing one patient changes at
   most that many counts, each by one. The bound is applied here; it is never an argument about the data.
2. *Noise.* Noise k has the probability (1 - p) / (1 + p) * p**|k| with p = exp(-epsilon_per_cell), on all integers,
   independent in each cell. Shifting it by one changes every probability by a factor e^epsilon_per_cell at most.
3. *Sampling* is exact: integer arithmetic on the stream's words, no floating point, no table, no tail cut off, so the
   distance from the distribution above is zero. `epsilon_per_cell` is a double, hence a fraction t / s of
   whole numbers, and the sampler is Algorithm 2 of Canonne, Kamath and Steinke, "The Discrete Gaussian for
   Differential Privacy", 2020 (Proposition 24): Bernoulli(exp(-x)) from a product of fair comparisons (their
   Algorithm 1), a geometric number from those, a sign, and a second try where that would say minus zero.

How many words a draw takes depends on the noise, never on the data. The sum of a true cell over all integers cannot
overflow: counts are below 2**53, and so is the noise except with a probability below e**-(2**32).

Invariants: noisy counts may be negative, and stay so: rounding them up to zero would bias every sum of them.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fedhealth.privacy.events import GeometricEvent
from fedhealth.privacy.stream import KeyedStream

_WORDS_AT_ONCE = 64


@dataclass(frozen=True)
class GeometricHistogram:
    """One release of counts: what a patient may change, and how much noise is added. One cell is a plain count.

    Attributes:
        epsilon_per_cell: in [2**-20, 16]; a patient in k cells is protected by k times that.
        cells: how many counts the release has, in [1, 2**20].
        cells_per_patient: how many of them one patient may change, in [1, cells].
    """

    epsilon_per_cell: float
    cells: int = 1
    cells_per_patient: int = 1

    def __post_init__(self) -> None:
        if not 2.0**-20 <= self.epsilon_per_cell <= 16:  # not-a-number fails this too
            raise ValueError(f"epsilon_per_cell must be in [2**-20, 16], got {self.epsilon_per_cell}")
        if not 1 <= self.cells <= 2**20:
            raise ValueError(f"cells must be in [1, 2**20], got {self.cells}")
        if not 1 <= self.cells_per_patient <= self.cells:
            raise ValueError(f"cells_per_patient must be in [1, {self.cells}], got {self.cells_per_patient}")

    @property
    def event(self) -> GeometricEvent:
        """What the release costs each patient, from the bound applied."""
        return GeometricEvent(epsilon=float(self.epsilon_per_cell), cells=self.cells_per_patient)

    @property
    def standard_deviation(self) -> float:
        """Standard deviation of the noise on each cell, in patients: sqrt(2 p) / (1 - p)."""
        return math.sqrt(2 * math.exp(-self.epsilon_per_cell)) / -math.expm1(-self.epsilon_per_cell)

    def bound_and_count(self, falls_in: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Count each patient in the first `cells_per_patient` of the cells it falls in.

        Args:
            falls_in: one row per patient, shape (patients, cells).

        Returns:
            Exact counts, shape (cells,): for `add_noise` only.

        Raises:
            ValueError: another shape or type.
        """
        if falls_in.ndim != 2 or falls_in.shape[1] != self.cells or falls_in.dtype != np.bool_:
            raise ValueError(f"got {falls_in.dtype} of shape {falls_in.shape}, wanted bool (patients, {self.cells})")
        if self.cells_per_patient < self.cells:
            falls_in = falls_in & (np.cumsum(falls_in, axis=1) <= self.cells_per_patient)
        counts: NDArray[np.int64] = np.count_nonzero(falls_in, axis=0).astype(np.int64)
        return counts

    def add_noise(self, counts: NDArray[np.int64], stream: KeyedStream) -> NDArray[np.int64]:
        """Return the counts plus noise: the only thing that may leave."""
        if counts.shape != (self.cells,):
            raise ValueError(f"the counts have shape {counts.shape}, wanted ({self.cells},)")
        return counts + np.array(two_sided_geometric(self.cells, self.epsilon_per_cell, stream), dtype=np.int64)


def two_sided_geometric(count: int, epsilon: float, stream: KeyedStream) -> list[int]:
    """Return independent samples k with probability proportional to exp(-epsilon * |k|), exactly.

    Args:
        count: how many.
        epsilon: finite and > 0; its exact value as a fraction is used.
        stream: its position afterwards depends on the noise drawn; open one stream for one release.

    Raises:
        ValueError: epsilon is not finite and > 0.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be finite and > 0, got {epsilon}")
    coins, rate = _Coins(stream), Fraction(epsilon)
    return [_sample(rate, coins) for _ in range(count)]


def _sample(rate: Fraction, coins: "_Coins") -> int:
    """Canonne, Kamath and Steinke 2020, Algorithm 2, with t the denominator and s the numerator of the rate."""
    s, t = rate.numerator, rate.denominator
    while True:
        rest = coins.below(t)
        if not _survives(rest, t, coins):
            continue
        wholes = 0
        while _survives(1, 1, coins):
            wholes += 1
        # rest + t * wholes is geometric with exp(-1 / t); its s-fold quotient is geometric with exp(-s / t).
        magnitude = (rest + t * wholes) // s
        negative = coins.below(2) == 1
        if not (negative and magnitude == 0):
            return -magnitude if negative else magnitude


def _survives(numerator: int, denominator: int, coins: "_Coins") -> bool:
    """Say yes with probability exp(-numerator / denominator), which is in [0, 1] (their Algorithm 1)."""
    k = 1
    while coins.below(denominator * k) < numerator:
        k += 1
    return k % 2 == 1


class _Coins:
    """Uniform whole numbers from a stream's words; owns the words it has taken and not used.

    Args:
        stream: words uniform on [0, 2**64).
    """

    def __init__(self, stream: KeyedStream) -> None:
        self._stream = stream
        self._words: list[int] = []

    def below(self, limit: int) -> int:
        """Return a number uniform on [0, limit), by rejection."""
        bits = (limit - 1).bit_length()
        while True:
            number = 0
            for _ in range(-(-bits // 64)):
                number = (number << 64) | self._word()
            number >>= -bits % 64
            if number < limit:
                return number

    def _word(self) -> int:
        if not self._words:
            self._words = self._stream.words(_WORDS_AT_ONCE).tolist()[::-1]
        return self._words.pop()
