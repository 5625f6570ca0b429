import contextlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedhealth.privacy.gaussian import COARSE, FINE, GridGaussian
from fedhealth.privacy.mu_squared import MuSquaredBudget
from fedhealth.privacy.noise_table import floored_gaussian, rounded_gaussian
from fedhealth.privacy.stream import SiteNoiseSecret

SECRET = SiteNoiseSecret(bytes(range(32)))
EXTREMES = (0.0, -0.0, 5e-324, 2.2e-308, 1e-160, 1e-9, 0.5, 1.0, 3.0, 1e154, 1e308, math.inf, -math.inf, math.nan)
ANY_FLOAT = st.floats(width=64) | st.sampled_from(EXTREMES) | st.sampled_from(EXTREMES).map(lambda x: -x)


@st.composite
def mechanisms_and_patients(draw):
    dimension, patients = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    mechanism = GridGaussian(
        noise_multiplier=draw(st.floats(1e-2, 100) | st.floats(300, 1e5)),
        l2_clip_norm=draw(st.floats(1e-3, 1e3)),
        dimension=dimension,
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
    """The proven bound in grid steps, squared: (clip (1 + slack) / grid + sqrt(d) (1 + 1 / (2 F)))**2, rounded up."""
    slack, fine = (Fraction(1, 2**30), 2**20) if mechanism.scale is COARSE else (Fraction(1, 2**29), 2**6)
    reach = Fraction(mechanism.l2_clip_norm) * (1 + slack) / Fraction(mechanism.grid)
    return (reach + Fraction(math.nextafter(math.sqrt(mechanism.dimension), 9)) * (1 + Fraction(1, 2 * fine))) ** 2


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


@pytest.mark.parametrize("seed", [177, 379, 686, 905])
def test_neither_has_a_patient_alone_other_bits_where_vectors_are_long(seed):
    """numpy's einsum adds up a single row of more than 8,192 numbers otherwise than one of two rows.

    A coordinate near the middle between two steps then falls to the other side. The seeds were found by trying: with
    einsum each of them moves one coordinate by a step of the fine grid.
    """
    mechanism = GridGaussian(noise_multiplier=0.01, l2_clip_norm=1.0, dimension=10_000)
    two = np.random.default_rng(seed).normal(size=(2, 10_000))
    together, alone = mechanism.fine_sum(two)[0], [mechanism.fine_sum(each[None])[0] for each in two]
    assert (together == alone[0] + alone[1]).all()


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
    ("noise_multiplier", "dimension", "scale"),
    [
        (1.0, 20, COARSE),
        (100.0, 6, COARSE),
        (0.1, 10**6, COARSE),
        (257.0, 1, FINE),
        (1.0, 10**6, FINE),
        (0.01, 2**20, FINE),
        (1.0, 10**7, FINE),
        (8.0, 2**24 - 1, FINE),
    ],
)
def test_rounding_never_takes_more_than_a_quarter_of_the_noise(noise_multiplier, dimension, scale):
    mechanism = GridGaussian(noise_multiplier, 1.0, dimension)
    assert mechanism.scale is scale
    # Without rounding the standard deviation is multiplier times clip; a quarter taken makes that 4/3 of it.
    assert 1 <= mechanism.standard_deviation / noise_multiplier <= 4 / 3 * (1 + 2**-29)


def test_a_mechanism_of_a_million_weights_adds_and_is_drawn_like_any_other():
    mechanism = GridGaussian(2.0, 1.0, 10**6)
    vectors = np.random.default_rng(0).normal(size=(2, 10**6))
    total, _ = mechanism.clip_and_sum(vectors)
    # Both are longer than the clip of 1: each is cut to its direction.
    expected = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).sum(axis=0)
    # Half a step for the sum, and half a fine step, of which 64 are a step, for each of the two.
    assert np.abs(total * mechanism.grid - expected).max() <= (0.5 + 2 / 128 + 1e-6) * mechanism.grid
    noise = mechanism.add_noise(total, SECRET.stream("k", "p")) - total
    assert np.array_equal(noise, floored_gaussian(10**6, SECRET.stream("k", "p")))
    assert noise.std() * mechanism.grid == pytest.approx(2.0 * (1 + 1000 * mechanism.grid), rel=5e-3)


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
        (1.0, 1.0, 2**24),
        (1e6, 1.0, 71),  # 1e6 sqrt(71) = 8.43e6 steps of rounding use up half of the 2**24
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


def test_the_longest_release_is_patients_in_step_and_noise_beyond_chance():
    # 1,024 steps of noise are 1 * sensitivity, and sensitivity is the clip and the rounding of 4 sums, 2 steps: so a
    # patient measures 1,022 steps. 50 in step: 51,100; roundings: 1.5 * 2; noise: 1,024 * (2 + 10).
    assert GridGaussian(1.0, 3.0, 4).longest_release(50) == pytest.approx(51_100 + 3 + 12_288, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.floats(0.05, 50), st.integers(1, 40), st.integers(0, 2**32))
def test_no_honest_release_is_longer_though_all_patients_pull_one_way(dimension, multiplier, patients, seed):
    mechanism = GridGaussian(multiplier, 1.0, dimension)
    one_way = np.tile(np.random.default_rng(seed).normal(size=dimension) * 1e6, (patients, 1))
    total, _ = mechanism.clip_and_sum(one_way)
    stream = SECRET.stream(f"{seed:064x}", "longest")
    released = mechanism.add_noise(total, stream).astype(np.float64)
    assert np.linalg.norm(released) <= mechanism.longest_release(patients)
    # It is not slack: without noise, the patients alone fill what is for patients, but for roundings.
    own = mechanism.longest_release(patients) - mechanism.longest_release(1)
    assert np.linalg.norm(total) * (patients - 1) / patients == pytest.approx(own, rel=1e-2, abs=dimension)
