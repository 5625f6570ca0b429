import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.metrics.proportion import proportion_of


@pytest.mark.parametrize("patients", [16, 50, 100, 300])
@pytest.mark.parametrize("proportion", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("noise_sd", [0.0, 1.5, 3.0])
def test_the_interval_covers_the_truth_at_least_92_times_in_100_when_it_is_given(patients, proportion, noise_sd):
    generator = np.random.default_rng(int(patients * 100 + proportion * 10 + noise_sd))
    wanted = generator.binomial(patients, proportion, 4000)
    noise = generator.normal(0, noise_sd, (2, 4000)) if noise_sd else np.zeros((2, 4000))
    given_ = [
        found
        for right, one, other in zip(wanted.tolist(), *noise.tolist(), strict=True)
        if (found := proportion_of(right + one, patients - right + other, noise_sd)) is not None
    ]
    covered = sum(found.low <= proportion <= found.high for found in given_)
    assert covered / len(given_) >= 0.92
    # 16 patients are less than four standard deviations of 3 * sqrt(2): there it speaks in the less than half of cases
    # in which the noise made them more.
    if (patients, noise_sd) != (16, 3.0):
        assert len(given_) > 3000, "a rule that never speaks covers nothing"


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_without_noise_it_is_wilsons_interval(wanted, other):
    n = wanted + other
    found = proportion_of(wanted, other, 0.0)
    if n == 0:
        assert found is None
        return
    # Wilson 1927: centre (p + z^2 / 2n) / (1 + z^2 / n), half width z sqrt(p q / n + z^2 / 4n^2) / (1 + z^2 / n).
    z, p = 1.959963984540054, wanted / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert found.estimate == p
    assert (found.low, found.high) == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-7)


def test_a_textbook_interval():
    # 81 of 263, Altman et al., Statistics with Confidence, 2000, p. 46-47: 0.2553 to 0.3662 by Wilson's method.
    found = proportion_of(81, 182, 0.0)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 1e4))
def test_what_is_said_lies_in_order_between_zero_and_one(wanted, other, noise_sd):
    found = proportion_of(wanted, other, noise_sd)
    if found is not None:
        assert 0 <= found.low <= found.high <= 1
        assert found.low - 1e-9 <= found.estimate <= found.high + 1e-9  # the roots are those of doubles


@pytest.mark.parametrize(
    "counts", [(0, 0, 0.0), (0.4, 0.4, 1.0), (-3, 2, 1.0), (3, 3, 100.0), (-50, 60, 1.0), (60, -50, 1.0)]
)
def test_nothing_is_said_where_the_noise_leaves_nothing(counts):
    assert proportion_of(*counts) is None


@given(st.integers(1, 300), st.integers(1, 300))
def test_noise_widens_the_interval(wanted, other):
    exact, noisy = proportion_of(wanted, other, 0.0), proportion_of(wanted, other, 2.0)
    assert noisy is None or noisy.half_width >= exact.half_width - 1e-9
