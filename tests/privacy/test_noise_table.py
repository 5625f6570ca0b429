import bisect
import itertools
import math

import mpmath
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.privacy.noise_table import (
    COARSE_NOISE_STEPS,
    FINE_NOISE_STEPS,
    TOTAL_VARIATION_PER_COORDINATE,
    _acceptance,
    coarse_thresholds,
    exact_acceptance,
    fine_thresholds,
    floored_gaussian,
    rest_thresholds,
    rounded_gaussian,
)
from fedhealth.privacy.stream import SiteNoiseSecret

SECRET = SiteNoiseSecret(bytes(range(32)))


class Words:
    """A stream that says what it is told to."""

    def __init__(self, words):
        self._words = list(words)

    def words(self, count):
        said, self._words = self._words[:count], self._words[count:]
        return np.array(said, dtype=np.uint64)


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50),
    st.lists(st.integers(0, 2**64 - 1), min_size=50, max_size=50),
)
def test_a_sample_is_the_number_of_thresholds_at_or_below_its_uniform_number(words, more):
    exact, later = coarse_thresholds().exact, iter(more)
    expected = []
    for word in words:  # the definition, on whole numbers, without the table of cells
        low, high = (word >> 1) << 64, ((word >> 1) << 64) + 2**64 - 1
        if bisect.bisect_right(exact, low) != bisect.bisect_right(exact, high):
            low += next(later)
        magnitude = bisect.bisect_right(exact, low)
        expected.append(magnitude if word & 1 else -magnitude)
    assert rounded_gaussian(len(words), Words([*words, *more])).tolist() == expected


@pytest.mark.parametrize("magnitude", [0, 1, 700, 3000, 9000])
@pytest.mark.parametrize("step", [-1, 0, 1])
def test_a_word_that_meets_a_threshold_is_decided_by_the_next_word(magnitude, step):
    exact = coarse_thresholds().exact
    leading, rest = divmod(exact[magnitude], 2**64)
    if not 0 <= rest + step < 2**64:
        return
    # at the threshold or above it is the next magnitude's, below it is still this one's; unless others lie between
    expected = bisect.bisect_right(exact, exact[magnitude] + step)
    assert rounded_gaussian(1, Words([2 * leading + 1, rest + step])).tolist() == [expected]


@pytest.mark.parametrize(
    "edges",
    [
        np.arange(-60, 62),  # single integers, for the middle of the table
        np.arange(-4000, 4001, 50),  # the whole bell
        np.array([-(10**9), -4000, -3000, 3001, 4001, 10**9]),  # the tails
    ],
)
def test_noise_is_the_rounded_gaussian_in_a_chi_square_of_a_million(edges):
    samples = rounded_gaussian(10**6, SECRET.stream("0" * 64, "train"))
    edges = np.unique(np.concatenate([[-(10**9)], edges, [10**9]]))
    observed, _ = np.histogram(samples, bins=edges)
    # round(G) lies in [a, b) exactly where G lies in [a - 1/2, b - 1/2).
    expected = np.diff(scipy.stats.norm(scale=1024).cdf(edges - 0.5)) * 1e6
    statistic = float(((observed - expected) ** 2 / expected).sum())
    assert scipy.stats.chi2(len(expected) - 1).sf(statistic) > 1e-4


def test_noise_has_no_pattern_in_its_low_bits_or_its_neighbours():
    samples = rounded_gaussian(10**6, SECRET.stream("1" * 64, "train"))
    counts = np.bincount(samples % 64, minlength=64)  # nearly uniform: the bell is 1024 wide
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    # A correlation of independent samples has a standard deviation of 1e-3.
    assert abs(np.corrcoef(samples[:-1], samples[1:])[0, 1]) < 5e-3
    assert abs((samples > 0).sum() - (samples < 0).sum()) < 5000  # five standard deviations


def test_the_same_key_draws_the_same_noise_and_another_purpose_or_release_another():
    draws = {
        (release, purpose): tuple(rounded_gaussian(8, SECRET.stream(release, purpose)).tolist())
        for release in ("0" * 64, "1" * 64)
        for purpose in ("train", "evaluate")
    }
    assert len(set(draws.values())) == 4
    again = rounded_gaussian(8, SiteNoiseSecret(bytes(range(32))).stream("0" * 64, "train"))
    assert tuple(again.tolist()) == draws["0" * 64, "train"]
    one, other = (rounded_gaussian(10**5, SECRET.stream("0" * 64, purpose)) for purpose in ("train", "evaluate"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.016  # five standard deviations


def probability_within(magnitude):
    """P(|round(G)| <= magnitude), to 150 digits."""
    return 1 - mpmath.erfc((mpmath.mpf(magnitude) + mpmath.mpf(1) / 2) / (COARSE_NOISE_STEPS * mpmath.sqrt(2)))


@pytest.mark.parametrize("magnitude", [0, 1, 2, 100, 1023, 1024, 4000, 9000, 9215, 9216, 9300, 10000, 12000, 12800])
def test_each_magnitude_begins_where_its_probability_says_to_127_places(magnitude):
    with mpmath.workdps(150):
        threshold = int(mpmath.floor(probability_within(magnitude) * mpmath.mpf(2) ** 127))
    for uniform, wanted in ((threshold - 1, magnitude), (threshold, magnitude + 1)):
        leading, rest = uniform >> 64, uniform & (2**64 - 1)
        assert abs(rounded_gaussian(1, Words([leading << 1, rest]))[0]) == wanted
        assert rounded_gaussian(1, Words([leading << 1 | 1, rest]))[0] == wanted, "the last bit is the sign"


def test_every_threshold_is_that_of_the_error_function():
    # Computed by a series, from one to the next; here each by itself.
    with mpmath.workprec(180):
        unit = mpmath.mpf(2) ** 127
        wanted = [int(mpmath.floor(unit * probability_within(m))) for m in range(13 * COARSE_NOISE_STEPS)]
    assert coarse_thresholds().exact == wanted


def test_the_distance_from_exact_noise_is_below_the_stated_one():
    exact = coarse_thresholds().exact
    assert all(a <= b for a, b in itertools.pairwise(exact)) and exact[-1] <= 2**127
    with mpmath.workdps(150):
        unit = mpmath.mpf(2) ** 127
        worst = max(abs(exact[m] - unit * probability_within(m)) for m in range(0, len(exact), 37))
        assert worst < 1
        # Every P(|noise| <= m) is off by less than 2**-127, so each of the len(exact) magnitudes by as much, and the
        # distance, half the sum of what they are off, is below len(exact) / 2 * 2**-127, plus what is beyond.
        distance = len(exact) * mpmath.mpf(2) ** -128 + 1 - probability_within(len(exact))
        assert distance <= TOTAL_VARIATION_PER_COORDINATE


CELL = 2**16
CELLS = 13 * FINE_NOISE_STEPS // CELL


def mass(start, stop):
    """P(start <= |G| < stop) for the fine noise, to 150 digits, by the normal distribution function itself."""
    width = mpmath.mpf(FINE_NOISE_STEPS)
    return 2 * (mpmath.ncdf(stop / width) - mpmath.ncdf(start / width))


def share(thresholds, outcome):
    """The probability that the thresholds give an outcome."""
    edges = [0, *thresholds.exact[max(outcome - 1, 0) : outcome + 1]][-2:]
    return mpmath.mpf(edges[1] - edges[0]) / mpmath.mpf(2) ** 191


@pytest.mark.parametrize("cell", [0, 1, 7, 100, 255, 256, 257, 1000, 2500, CELLS - 1])
@pytest.mark.parametrize("place", [0, 1, 999, 32768, 65533, 65534, 65535])
def test_rectangles_and_the_rest_add_up_to_the_probability_of_each_number(cell, place):
    with mpmath.workdps(150):
        # The place of the rest is the smaller of two different uniform ones, so it is drawn in proportion to the places
        # after it, and kept with the probability of its acceptance; what is kept at all cancels out.
        places = np.arange(CELL - 1)
        drawn = (CELL - 1 - places) * _acceptance(np.full(CELL - 1, cell), places)
        in_rest = mpmath.mpf(drawn[place] / math.fsum(drawn)) if place < CELL - 1 else 0
        above = 1 - mpmath.mpf(fine_thresholds().exact[-1]) / mpmath.mpf(2) ** 191
        found = share(fine_thresholds(), cell) / CELL + above * share(rest_thresholds(), cell) * in_rest
        y = cell * CELL + place
        # Doubles add up 65,535 places here; what is drawn is decided to 191 places, which the next test looks at.
        assert abs(found / mass(y, y + 1) - 1) < 1e-15


@pytest.mark.parametrize("cell", [0, 3, 254, 255, 256, 900, CELLS - 1])
@pytest.mark.parametrize("place", [0, 5, 40000, 65533, 65534])
def test_acceptance_is_a_probability_and_its_double_is_close_enough_to_decide_by(cell, place):
    with mpmath.workdps(150):
        last, y = (cell + 1) * CELL - 1, cell * CELL + place
        wanted = (mass(y, y + 1) - mass(last, last + 1)) / (last - y)
        ends = [(mass(e, e + 1) - mass(last, last + 1)) / (last - e) for e in (cell * CELL, last - 1)]
        ratio = wanted / (max(ends) * (1 + mpmath.mpf(2) ** -40))
        assert 0 < ratio < 1
        assert abs(_acceptance(np.array([cell]), np.array([place]))[0] - ratio) < 2.0**-46
        assert abs(exact_acceptance(cell, place) - ratio * 2**191) <= 1


def test_the_distance_of_the_fine_noise_is_below_the_stated_one_too():
    with mpmath.workdps(150):
        unit = mpmath.mpf(2) ** 191
        rectangles = [CELL * mass(end - 1, end) for end in range(CELL, (CELLS + 1) * CELL, CELL)]
        for table, masses in ((fine_thresholds(), rectangles), (rest_thresholds(), None)):
            assert len(table.exact) == CELLS and all(a <= b for a, b in itertools.pairwise(table.exact))
            assert table.exact[-1] <= 2**191
            if masses is not None:
                sums = itertools.accumulate(masses)
                assert max(abs(a - b * unit) for a, b in zip(table.exact, sums, strict=True)) <= 1
        distance = 4 * CELLS * mpmath.mpf(2) ** -192 + 1 - mpmath.ncdf(13) + mpmath.ncdf(-13)
        assert distance <= TOTAL_VARIATION_PER_COORDINATE
        assert 2**24 * TOTAL_VARIATION_PER_COORDINATE < 1e-12


@pytest.mark.parametrize("unit", [2**21, 2**18, 1])
def test_fine_noise_is_the_gaussian_in_a_chi_square_of_a_million(unit):
    samples = floored_gaussian(10**6, SECRET.stream("0" * 64, "train"))
    if unit == 1:  # the low bits, uniform for a bell of 2**24: cells, and places in them
        assert scipy.stats.chisquare(np.bincount(samples % 64, minlength=64)).pvalue > 1e-4
        assert scipy.stats.chisquare(np.bincount(samples % CELL // 1024, minlength=64)).pvalue > 1e-4
        return
    edges = np.arange(-3 * FINE_NOISE_STEPS, 3 * FINE_NOISE_STEPS + 1, unit)
    observed, _ = np.histogram(samples, bins=[-(2**40), *edges, 2**40])
    expected = np.diff(scipy.stats.norm(scale=FINE_NOISE_STEPS).cdf([-(2.0**40), *edges, 2.0**40])) * 1e6
    assert scipy.stats.chi2(len(expected) - 1).sf(float(((observed - expected) ** 2 / expected).sum())) > 1e-4


def test_fine_noise_by_hand():
    # A word of 0 is cell 0 below its rectangle, without the sign bit: -1 - place; places are 5, 6, 7, 8 in one word.
    places = 5 | 6 << 16 | 7 << 32 | 8 << 48
    assert floored_gaussian(3, Words([0, 1, 1, places])).tolist() == [-6, 6, 7]
    # The last outcome is what lies above the rectangles: its cell 0 by a word of 0, places 9 and 4 of which the smaller
    # is taken, and a uniform number of 0, which is below any acceptance. Before that, two equal places are not taken.
    again = [(3 | 3 << 16), 0, (9 | 4 << 16), 0]
    assert floored_gaussian(1, Words([2**64 - 1, 0, 0, *again])).tolist() == [4]


def test_a_number_that_meets_the_acceptance_is_decided_by_more_words():
    exact = exact_acceptance(0, 4)
    leading, rest = divmod(exact, 2**128)
    for step, wanted in ((-1, 4), (0, 2)):  # below: accepted; at it: not, and the next pair is tried
        high, low = divmod(rest + step, 2**64)
        words = [2**64 - 1, 0, 0, (9 | 4 << 16), leading << 1, high, low, (2 | 3 << 16), 0]
        assert floored_gaussian(1, Words(words)).tolist() == [wanted]
