import hashlib
import hmac
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.records.split import is_held_out

KEY = bytes(range(32))


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.25, 0.5, 0.9])
def test_about_the_public_fraction_is_held_out(fraction):
    patients = 20_000
    found = sum(is_held_out(KEY, f"patient-{number}", fraction) for number in range(patients))
    # A binomial count: five standard deviations.
    assert abs(found - patients * fraction) < 5 * math.sqrt(patients * fraction * (1 - fraction))


@given(st.text(min_size=1), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_who_is_held_out_at_a_fraction_is_held_out_at_every_larger_one(patient, one, other):
    small, large = sorted((one, other))
    assert is_held_out(KEY, patient, large) or not is_held_out(KEY, patient, small)


@given(st.text(min_size=1))
def test_membership_is_the_keyed_hash_of_the_patient_alone(patient):
    mark = hmac.new(KEY, b"fedhealth/split/" + patient.encode(), hashlib.sha256).digest()
    assert is_held_out(KEY, patient, 0.25) == (mark[0] < 64)  # a quarter of the first byte's 256 values


def test_another_key_splits_otherwise():
    patients = [f"patient-{number}" for number in range(1000)]
    both = [sum(is_held_out(key, patient, 0.5) for key in (KEY, bytes(32))) for patient in patients]
    assert 400 < both.count(1) < 600  # two independent halves disagree on half, +- 16 each standard deviation
