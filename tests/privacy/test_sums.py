import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedhealth.privacy.events import GaussianEvent
from fedhealth.privacy.noise_table import TOTAL_VARIATION_PER_COORDINATE
from fedhealth.privacy.stream import SiteNoiseSecret
from fedhealth.privacy.sums import BoundedSum, GaussianHistogram

SECRET = SiteNoiseSecret(bytes(range(32)))


class NoNoise:
    """Words whose magnitude is zero, so that a release is the rounded sum."""

    def words(self, count):
        return np.zeros(count, dtype=np.uint64)


@settings(deadline=None)
@given(st.data())
def test_one_patient_changes_a_sum_by_the_bounds_and_rounding_at_most(data):
    columns, patients = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    bounds = [sorted(data.draw(st.tuples(st.floats(-50, 50), st.floats(-50, 50)))) for _ in range(columns)]
    reach = math.hypot(*(max(abs(low), abs(high)) for low, high in bounds))
    if reach < 1e-6:
        return
    one = BoundedSum(3.0, tuple(low for low, _ in bounds), tuple(high for _, high in bounds))
    values = data.draw(arrays.arrays(np.float64, (patients, columns), elements=st.floats(width=64)))
    total, grid = one.release(values, NoNoise()), one.mechanism.grid
    for patient in range(patients):
        change = total - one.release(np.delete(values, patient, axis=0), NoNoise())
        assert np.linalg.norm(change) <= reach * (1 + 1e-8) + math.sqrt(columns) * grid * 1.001


def test_a_sum_by_hand():
    one = BoundedSum(1.0, (0.0, -1.0), (10.0, 1.0))
    values = np.array([[5.0, 3.0], [20.0, -0.5], [-4.0, math.inf], [math.nan, 0.5]])
    # Column 1: 5 + 10 + 0; column 2: 1 - 0.5 + 1; the patient with a value that is not a number counts as zero.
    assert one.release(values, NoNoise()) == pytest.approx([15.0, 1.5], abs=one.mechanism.grid)


def test_a_sums_sensitivity_and_noise_follow_from_its_bounds():
    one = BoundedSum(2.0, (0.0, -4.0), (3.0, 1.0))
    assert one.mechanism.l2_clip_norm == 5.0  # the root of 3**2 + 4**2
    assert one.mechanism.standard_deviation == pytest.approx(10.0, rel=0.01)
    assert one.event == GaussianEvent(
        noise_multiplier=2.0, sampling_rate=1.0, total_variation=2 * TOTAL_VARIATION_PER_COORDINATE
    )
    noise = [one.release(np.zeros((0, 2)), SECRET.stream(str(i), "sum"))[0] for i in range(3000)]
    assert np.std(noise) == pytest.approx(10.0, rel=0.08)  # five standard deviations of the estimate are 6.5 %


@pytest.mark.parametrize(
    "lower, upper",
    [
        ((), ()),
        ((0.0,), (1.0, 2.0)),
        ((1.0,), (0.0,)),
        ((0.0,), (0.0,)),  # a sum of zeros has no sensitivity to scale noise by
        ((math.nan,), (1.0,)),
        ((0.0,), (math.inf,)),
    ],
)
def test_bounds_without_a_proof_are_refused(lower, upper):
    with pytest.raises(ValueError):
        BoundedSum(1.0, lower, upper)


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, math.nan, math.inf])
def test_no_noise_is_refused(noise_multiplier):
    with pytest.raises(ValueError):
        BoundedSum(noise_multiplier, (0.0,), (1.0,))
    with pytest.raises(ValueError):
        GaussianHistogram(noise_multiplier, 3)


def test_a_gaussian_histogram_counts_the_first_cells_of_each_patient():
    rows = np.array([[True, True, True], [False, True, True], [False, False, False]])
    one = GaussianHistogram(1.0, 3, cells_per_patient=2)
    assert one.release(rows, NoNoise()) == pytest.approx([1.0, 2.0, 1.0], abs=one.mechanism.grid)
    assert one.mechanism.l2_clip_norm == math.sqrt(2)
    assert one.event.noise_multiplier == 1.0
    assert (one.release(rows, SECRET.stream("a", "b")) == one.release(rows, SECRET.stream("a", "b"))).all()
    for wrong in (0, 4):
        with pytest.raises(ValueError):
            GaussianHistogram(1.0, 3, cells_per_patient=wrong)
