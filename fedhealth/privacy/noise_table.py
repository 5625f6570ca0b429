"""Gaussian noise in whole steps, read from tables of thresholds with a keyed stream, to a proven distance from exact.

Two widths are enough. Both functions cut a Gaussian variable to an integer, so adding them to an integer is
post-processing of adding the Gaussian itself (s + round(G) = round(s + G), and the same with rounding down).

1. `rounded_gaussian`: round(G), G of standard deviation `COARSE_NOISE_STEPS`. The magnitude is looked up in thresholds
   P(|round(G)| <= m) to 127 binary places, with a uniform number of 63 bits; only where those meet a threshold's first
   63 bits are 64 more drawn. The sign is one more bit. Rounding a threshold to a multiple of 2**-127 changes the
   probability of each magnitude by at most 2**-127, so the distance is at most 2**-128 times the table's length, plus
   the tail beyond the table.
2. `floored_gaussian`: floor(G), G of standard deviation `FINE_NOISE_STEPS`. floor(G) and -1 - floor(G) are equally
   likely, so a sign and y >= 0 with q(y) = 2 P(y <= G < y + 1), which falls with y. Cut y into cells of 2**16. Below
   the graph of q lies a rectangle over each cell, as high as q at the cell's last y; its mass and so its choice come
   from thresholds as above, to 191 places, and the place in the cell is 16 uniform bits: exact. What lies above the
   rectangles, 0.16 % of all, is drawn by choosing the cell by its mass there (thresholds again), the place as the
   smaller of two different uniform ones, and accepting with the ratio of what is wanted to what that gives. The ratio
   is computed in doubles, with an error below 2**-46; a uniform number within 2**-40 of it is drawn on to 191 bits and
   compared with a ratio of 260 bits. So the distance is at most 2 * 2**-192 times the length of both tables, plus the
   tail: less than that of the first.

`TOTAL_VARIATION_PER_COORDINATE` bounds both; distances of independent coordinates add up. For 2**24 coordinates that
is 6.6e-28, far below the 1e-12 that a release may be off by.

Sources: Devroye, "Non-Uniform Random Variate Generation", 1986, II.2 (inversion), II.3 (rejection), II.4
(decomposition of a density into rectangles and a rest).
"""

import bisect
import math
from functools import lru_cache
from typing import NamedTuple, Protocol

import mpmath
import numpy as np
from numpy.typing import NDArray

COARSE_NOISE_STEPS = 2**10
"""Standard deviation of `rounded_gaussian` before rounding."""

FINE_NOISE_STEPS = 2**24
"""Standard deviation of `floored_gaussian` before rounding down."""

_REACH = 13
"""Standard deviations that the tables cover; P(|G| > 13 standard deviations) = 1.22e-38."""

TOTAL_VARIATION_PER_COORDINATE = _REACH * COARSE_NOISE_STEPS * 2.0**-128 + 1.3e-38

_CELL = 2**16
_CELLS = _REACH * FINE_NOISE_STEPS // _CELL
_LOOKUP_BITS = 18
_AT_ONCE = 2**16
_UNDECIDED = 2.0**-40
_PLACES = 640


class WordStream(Protocol):
    """Uniform random words, such as `fedhealth.privacy.stream.KeyedStream`; owns its position."""

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return the next `count` words, uniform on [0, 2**64)."""
        ...


class Thresholds(NamedTuple):
    """Where one outcome ends and the next begins; the outcome of u is how many thresholds are at or below u.

    Attributes:
        exact: floor(2**(63 + 64 * more_words) * probability of the outcomes up to m), for m = 0, 1, ...
        more_words: words that are drawn where the first 63 bits do not decide.
        leading: the first 63 bits of each.
        by_lookup: for each value of the first `_LOOKUP_BITS` bits of u, the outcome, or -1 where a threshold lies
            within and more bits must be looked at.
    """

    exact: list[int]
    more_words: int
    leading: NDArray[np.uint64]
    by_lookup: NDArray[np.int16]

    def outcomes(self, uniform: NDArray[np.uint64], stream: WordStream) -> NDArray[np.int64]:
        """Return the outcome of each uniform number of 63 bits."""
        found: NDArray[np.int64] = self.by_lookup[uniform >> np.uint64(63 - _LOOKUP_BITS)].astype(np.int64)
        shared = np.flatnonzero(found < 0)
        found[shared] = np.searchsorted(self.leading, uniform[shared], side="left")
        met = self.leading[np.minimum(found[shared], len(self.exact) - 1)] == uniform[shared]
        for place in shared[met]:
            found[place] = bisect.bisect_right(self.exact, _longer(int(uniform[place]), self.more_words, stream))
        return found


def rounded_gaussian(count: int, stream: WordStream) -> NDArray[np.int64]:
    """Return `count` independent samples of round(G), G normal with standard deviation `COARSE_NOISE_STEPS`.

    Draws `count` words of the stream, 63 bits for the magnitude and one for the sign, and one word more for each
    sample whose word meets the leading bits of a threshold (about one in 10**15).
    """
    samples = np.empty(count, dtype=np.int64)
    for start in range(0, count, _AT_ONCE):  # in parts that stay in the cache
        words = stream.words(min(_AT_ONCE, count - start))
        magnitude = coarse_thresholds().outcomes(words >> np.uint64(1), stream)
        samples[start : start + len(words)] = np.where(words & np.uint64(1), magnitude, -magnitude)
    return samples


def floored_gaussian(count: int, stream: WordStream) -> NDArray[np.int64]:
    """Return `count` independent samples of floor(G), G normal with standard deviation `FINE_NOISE_STEPS`.

    Draws a word and a quarter for each sample, and a few more for one in 600.
    """
    samples = np.empty(count, dtype=np.int64)
    for start in range(0, count, _AT_ONCE):
        words = stream.words(min(_AT_ONCE, count - start))
        cells = fine_thresholds().outcomes(words >> np.uint64(1), stream)
        places = stream.words(-(-len(words) // 4)).view("<u2")[: len(words)]
        found = cells * _CELL + places
        above = np.flatnonzero(cells >= _CELLS)
        found[above] = _above_rectangles(len(above), stream)
        samples[start : start + len(words)] = np.where(words & np.uint64(1), found, -1 - found)
    return samples


def _above_rectangles(count: int, stream: WordStream) -> NDArray[np.int64]:
    """Return so many y of what lies above the rectangles."""
    found = np.empty(count, dtype=np.int64)
    cells = rest_thresholds().outcomes(stream.words(count) >> np.uint64(1), stream)
    waiting = np.arange(count)
    while len(waiting):
        cell = np.minimum(cells[waiting], _CELLS - 1)
        pairs = stream.words(-(-len(waiting) // 2)).view("<u2").reshape(-1, 2)[: len(waiting)].astype(np.int64)
        place, uniform = pairs.min(axis=1), stream.words(len(waiting)) >> np.uint64(1)
        ratio = _acceptance(cell, place)
        apart = uniform * 2.0**-63 - ratio
        accepted = (apart < 0) & (pairs[:, 0] != pairs[:, 1])
        for i in np.flatnonzero((np.abs(apart) < _UNDECIDED) & (pairs[:, 0] != pairs[:, 1])):
            fine = _longer(int(uniform[i]), 2, stream)
            accepted[i] = fine < exact_acceptance(int(cell[i]), int(place[i]))
        found[waiting[accepted]] = cell[accepted] * _CELL + place[accepted]
        waiting = waiting[~accepted]
    return found


def _acceptance(cell: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (q(y) - q(last of the cell)) / (places left in the cell), over the most that may be in the cell.

    q(y) is 2 / S * phi(z) * (1 + (z**2 - 1) / (24 S**2) + ...) at z = (y + 1/2) / S, S the standard deviation, so
    q(y) / q(last) - 1 = expm1((e**2 - c**2) / (2 S**2)) with c = y + 1/2 and e the same of the last, to a relative
    2**-48; e - c and e + c are exact. Slopes in a cell rise to that between its last two in the first cell, where q is
    concave, and fall after; both ends are computed, and the greater taken, times 1 + 2**-40.
    """
    last = (cell + 1) * _CELL - 1
    slopes = _slope(cell * _CELL + place, last)
    return slopes / (np.maximum(_slope(cell * _CELL, last), _slope(last - 1, last)) * (1 + _UNDECIDED))


def _slope(y: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.float64]:
    left = (last - y).astype(np.float64)
    with np.errstate(invalid="ignore"):  # 0 / 0 for the last place itself, which is not accepted
        return np.expm1(left * (last + y + 1) / (2.0 * FINE_NOISE_STEPS**2)) / left


def exact_acceptance(cell: int, place: int) -> int:
    """Return the same ratio times 2**191, rounded down, computed to 260 bits."""
    with mpmath.workprec(260):
        last = (cell + 1) * _CELL - 1
        slope = {
            y: (_mass(y, y + 1) - _mass(last, last + 1)) / (last - y) for y in (cell * _CELL, cell * _CELL + place)
        }
        slope[last - 1] = _mass(last - 1, last) - _mass(last, last + 1)
        most = max(slope[cell * _CELL], slope[last - 1]) * (1 + mpmath.mpf(_UNDECIDED))
        return int(mpmath.floor(slope[cell * _CELL + place] / most * mpmath.mpf(2) ** 191))


def _longer(uniform: int, more_words: int, stream: WordStream) -> int:
    for word in stream.words(more_words):
        uniform = uniform << 64 | int(word)
    return uniform


def _mass(start: int, stop: int) -> "mpmath.mpf":
    """Return P(start <= |G| < stop) for standard deviation `FINE_NOISE_STEPS`."""
    scale = mpmath.sqrt(2) * FINE_NOISE_STEPS
    return mpmath.erfc(start / scale) - mpmath.erfc(stop / scale)


@lru_cache(maxsize=1)
def coarse_thresholds() -> Thresholds:
    """Return those of |round(G)|.

    The mass between k - 1/2 and k + 1/2 is the density f(k) times the sum over even n of
    He_n(k / S) / ((n + 1)! (2 S)**n), S the standard deviation, because exp(z t - t**2 / 2) is the sum of
    He_n(z) t**n / n! (Abramowitz and Stegun, 22.9.17). H_n = S**n He_n(k / S) is a whole number. What is left out, from
    n = 18 on, is by Cramer's bound below 2**-228 for each k, below 2**-214 for all; f is carried on from k to k + 1 at
    640 places, whose rounding is far less. These are the thresholds of `erfc`, which takes twenty times as long.
    """
    square, exact, within = COARSE_NOISE_STEPS**2, [], 0
    with mpmath.workprec(_PLACES + 64):
        one = mpmath.mpf(2) ** _PLACES
        density = int(one * mpmath.sqrt(2 / mpmath.pi) / COARSE_NOISE_STEPS)  # of |G|, at k
        ratio = int(one * mpmath.exp(mpmath.mpf(-1) / (2 * square)))  # f(k + 1) / f(k)
        fall = int(one * mpmath.exp(mpmath.mpf(-1) / square))  # of the ratio
    weights = [2**_PLACES // (math.factorial(n + 1) * (2 * square) ** n) for n in range(0, 18, 2)]
    for k in range(_REACH * COARSE_NOISE_STEPS):
        even, odd, series = 1, k, weights[0]  # H_n and H_(n + 1)
        for n, weight in zip(range(2, 18, 2), weights[1:], strict=True):
            even = k * odd - (n - 1) * square * even
            odd = k * even - n * square * odd
            series += weight * even
        mass = density * series >> _PLACES
        within += mass if k else mass >> 1  # 0 is no other's mirror image
        exact.append(within >> (_PLACES - 127))
        density, ratio = density * ratio >> _PLACES, ratio * fall >> _PLACES
    return _thresholds(exact, 1)


@lru_cache(maxsize=1)
def fine_thresholds() -> Thresholds:
    """Return those of the rectangles; the outcome after the last stands for what lies above them."""
    return _cumulative(_rectangles())


@lru_cache(maxsize=1)
def rest_thresholds() -> Thresholds:
    """Return those of the cells, for what lies above the rectangles."""
    with mpmath.workprec(260):
        above = [_mass(cell * _CELL, (cell + 1) * _CELL) - rectangle for cell, rectangle in enumerate(_rectangles())]
        total = mpmath.fsum(above)
        return _cumulative([each / total for each in above])


@lru_cache(maxsize=1)
def _rectangles() -> list["mpmath.mpf"]:
    with mpmath.workprec(260):
        ends = [(cell + 1) * _CELL for cell in range(_CELLS)]
        return [_CELL * _mass(end - 1, end) for end in ends]


def _cumulative(masses: list["mpmath.mpf"]) -> Thresholds:
    with mpmath.workprec(260):
        total, unit, exact = mpmath.mpf(0), mpmath.mpf(2) ** 191, []
        for mass in masses:
            total += mass
            exact.append(min(int(mpmath.floor(total * unit)), 2**191))
        return _thresholds(exact, 2)


def _thresholds(exact: list[int], more_words: int) -> Thresholds:
    leading = np.array([value >> (64 * more_words) for value in exact], dtype=np.uint64)
    edges = np.arange(2**_LOOKUP_BITS + 1, dtype=np.uint64) << np.uint64(63 - _LOOKUP_BITS)
    below = np.searchsorted(leading, edges, side="left")
    by_lookup = np.where(below[:-1] == below[1:], below[:-1], -1).astype(np.int16)
    return Thresholds(exact, more_words, leading, by_lookup)
