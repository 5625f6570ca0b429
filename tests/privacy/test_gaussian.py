import bisect
import contextlib
import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedhealth.privacy.gaussian import (
    NOISE_STEPS,
    TOTAL_VARIATION_PER_COORDINATE,
    GridGaussian,
    _thresholds,
    rounded_gaussian,
)
from fedhealth.privacy.mu_squared import MuSquaredBudget
from fedhealth.privacy.stream import SiteNoiseSecret

SECRET = SiteNoiseSecret(bytes(range(32)))
EXTREMES = (0.0, -0.0, 5e-324, 2.2e-308, 1e-160, 1e-9, 0.5, 1.0, 3.0, 1e154, 1e308, math.inf, -math.inf, math.nan)
ANY_FLOAT = st.floats(width=64) | st.sampled_from(EXTREMES) | st.sampled_from(EXTREMES).map(lambda x: -x)


@st.composite
def mechanisms_and_patients(draw):
    dimension, patients = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    mechanism = GridGaussian(
        noise_multiplier=draw(st.floats(1e-2, 100)), l2_clip_norm=draw(st.floats(1e-3, 1e3)), dimension=dimension
    )
    return mechanism, draw(arrays.arrays(np.float64, (patients, dimension), elements=ANY_FLOAT))


@contextlib.contextmanager
def subnormals(flushed):
    """Compute as a gate does, which flushes them, or as a plain process."""
    torch.set_flush_denormal(flushed)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def squared_sensitivity(mechanism):
    """The proven bound in grid steps, squared: (clip (1 + 2**-30) / grid + sqrt(d) (1 + 2**-21))**2, rounded up."""
    reach = Fraction(mechanism.l2_clip_norm) * (1 + Fraction(1, 2**30)) / Fraction(mechanism.grid)
    return (reach + Fraction(math.nextafter(math.sqrt(mechanism.dimension), 9)) * (1 + Fraction(1, 2**21))) ** 2


@pytest.mark.parametrize("flushed", [False, True], ids=["subnormals kept", "subnormals flushed"])
@settings(max_examples=300, deadline=None)
@given(case=mechanisms_and_patients())
def test_one_patient_changes_the_sum_by_the_proven_bound_and_nobody_elses_part(flushed, case):
    mechanism, vectors = case
    with subnormals(flushed):
        total, zeroed = mechanism.clip_and_sum(vectors)
        others = [np.delete(vectors, patient, axis=0) for patient in range(len(vectors))]
        without = [mechanism.clip_and_sum(rows)[0] for rows in others]
        fine = mechanism.fine_sum(vectors)[0]
        alone = [mechanism.fine_sum(row[None])[0] for row in vectors]
        rest = [mechanism.fine_sum(rows)[0] for rows in others]
    finite = [all(map(math.isfinite, row)) for row in vectors.tolist()]
    assert zeroed == finite.count(False)
    for patient in range(len(vectors)):
        change = [int(a) - int(b) for a, b in zip(total, without[patient], strict=True)]
        assert (fine - rest[patient] == alone[patient]).all(), "everybody else's part is the same to the last step"
        assert sum(step * step for step in change) <= squared_sensitivity(mechanism)
        assert finite[patient] or change == [0] * mechanism.dimension


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 8, 17, 100, 1025])
def test_a_patients_part_has_the_same_bits_in_any_company(dimension):
    mechanism = GridGaussian(1.0, 1.0, dimension)
    vectors = np.random.default_rng(dimension).normal(size=(23, dimension))
    parts = [mechanism.fine_sum(row[None])[0] for row in vectors]
    for start in range(0, 22):
        assert (mechanism.fine_sum(vectors[start:])[0] == sum(parts[start:])).all()


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
    exact, later = _thresholds().exact, iter(more)
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
    exact = _thresholds().exact
    leading, rest = divmod(exact[magnitude], 2**64)
    if not 0 <= rest + step < 2**64:
        return
    # at the threshold or above it is the next magnitude's, below it is still this one's; unless others lie between
    expected = bisect.bisect_right(exact, exact[magnitude] + step)
    assert rounded_gaussian(1, Words([2 * leading + 1, rest + step])).tolist() == [expected]


def test_many_contributions_far_below_a_step_are_not_lost():
    # 10,000 patients give a quarter of a step each: 2,500 steps together, though each alone rounds to none.
    mechanism = GridGaussian(noise_multiplier=1.0, l2_clip_norm=1.0, dimension=3)
    vectors = np.full((10_000, 3), mechanism.grid / 4)
    assert mechanism.clip_and_sum(vectors[:1])[0].tolist() == [0, 0, 0]
    assert mechanism.clip_and_sum(vectors)[0].tolist() == [2500, 2500, 2500]


@given(arrays.arrays(np.float64, 4, elements=st.floats(-1e300, 1e300)))
def test_a_vector_within_the_clip_is_kept_and_a_longer_one_keeps_its_direction(vector):
    mechanism = GridGaussian(noise_multiplier=1.0, l2_clip_norm=2.0, dimension=4)
    norm = math.hypot(*vector)
    expected = vector if norm <= 2 else [2 * (value / norm) for value in vector.tolist()]
    found = mechanism.clip_and_sum(vector[None])[0] * mechanism.grid
    assert np.allclose(found, expected, rtol=0, atol=mechanism.grid * 0.5001)


def test_the_noise_is_the_multiplier_times_the_sensitivity_and_the_cost_follows():
    mechanism = GridGaussian(noise_multiplier=7.0, l2_clip_norm=0.3, dimension=20)
    sensitivity = 0.3 * (1 + 2**-30) + math.sqrt(20) * (1 + 2**-21) * mechanism.grid
    assert mechanism.standard_deviation == pytest.approx(7.0 * sensitivity, rel=1e-12)
    assert mechanism.standard_deviation == 1024 * mechanism.grid
    cost = MuSquaredBudget(epsilon=1.0, delta=1e-5).cost_of(mechanism.event())
    assert cost.mu_squared == math.ceil(Fraction(2**40, 49))  # mu = 1 / 7


@pytest.mark.parametrize(
    "arguments",
    [
        (0.0, 1.0, 1),
        (math.nan, 1.0, 1),
        (math.inf, 1.0, 1),
        (-1.0, 1.0, 1),
        (1.0, 0.0, 1),
        (1.0, math.nan, 1),
        (1.0, 1.0, 0),
        (1.0, 1.0, 2**20),
        (1024.0, 1.0, 1),  # 1024 sqrt(1) steps of rounding already use up the 1024
        (0.009, 1.0, 1),
    ],
)
def test_a_mechanism_without_a_proof_does_not_exist(arguments):
    with pytest.raises(ValueError):
        GridGaussian(*arguments)


def test_vectors_of_another_shape_are_refused():
    mechanism = GridGaussian(1.0, 1.0, 3)
    for shape in ((3,), (2, 4), (2, 3, 1)):
        with pytest.raises(ValueError):
            mechanism.clip_and_sum(np.zeros(shape))
    with pytest.raises(ValueError):
        mechanism.add_noise(np.zeros(2, dtype=np.int64), SECRET.stream("k", "p"))


def test_nobody_gives_a_sum_of_zero_and_noise_as_ever():
    mechanism = GridGaussian(1.0, 1.0, 3)
    total, zeroed = mechanism.clip_and_sum(np.zeros((0, 3)))
    assert total.tolist() == [0, 0, 0] and zeroed == 0
    noised = mechanism.add_noise(total, SECRET.stream("k", "p"))
    assert noised.tolist() == rounded_gaussian(3, SECRET.stream("k", "p")).tolist()


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


class GivenWords:
    """A stream that says what it is told."""

    def __init__(self, *words):
        self._words = list(words)

    def words(self, count):
        taken, self._words = self._words[:count], self._words[count:]
        return np.array(taken, dtype=np.uint64)


def probability_within(magnitude):
    """P(|round(G)| <= magnitude), to 150 digits."""
    return 1 - mpmath.erfc((mpmath.mpf(magnitude) + mpmath.mpf(1) / 2) / (NOISE_STEPS * mpmath.sqrt(2)))


@pytest.mark.parametrize("magnitude", [0, 1, 2, 100, 1023, 1024, 4000, 9000, 9215, 9216, 9300, 10000, 12000, 12800])
def test_each_magnitude_begins_where_its_probability_says_to_127_places(magnitude):
    with mpmath.workdps(150):
        threshold = int(mpmath.floor(probability_within(magnitude) * mpmath.mpf(2) ** 127))
    for uniform, wanted in ((threshold - 1, magnitude), (threshold, magnitude + 1)):
        leading, rest = uniform >> 64, uniform & (2**64 - 1)
        assert abs(rounded_gaussian(1, GivenWords(leading << 1, rest))[0]) == wanted
        assert rounded_gaussian(1, GivenWords(leading << 1 | 1, rest))[0] == wanted, "the last bit is the sign"


def test_the_distance_from_exact_noise_is_below_the_stated_one():
    exact = _thresholds().exact
    assert all(a <= b for a, b in itertools.pairwise(exact)) and exact[-1] <= 2**127
    with mpmath.workdps(150):
        unit = mpmath.mpf(2) ** 127
        worst = max(abs(exact[m] - unit * probability_within(m)) for m in range(0, len(exact), 37))
        assert worst < 1
        # Every P(|noise| <= m) is off by less than 2**-127, so each of the len(exact) magnitudes by as much, and the
        # distance, half the sum of what they are off, is below len(exact) / 2 * 2**-127, plus what is beyond.
        distance = len(exact) * mpmath.mpf(2) ** -128 + 1 - probability_within(len(exact))
        assert distance <= TOTAL_VARIATION_PER_COORDINATE
