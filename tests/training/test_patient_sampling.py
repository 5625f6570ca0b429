import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.privacy.stream import KeyedStream
from fedhealth.training.micro_batches import micro_batches
from fedhealth.training.sampling import PatientRecords, PatientSampler


def stream(number=0):
    return KeyedStream(number.to_bytes(32, "big"))


class Words:
    def __init__(self, *words):
        self.left = list(words)

    def words(self, count):
        taken, self.left = self.left[:count], self.left[count:]
        return np.array(taken, dtype=np.uint64)


def test_a_word_below_the_rate_draws_its_patient_and_one_at_the_rate_does_not():
    # A quarter of 2**64 is 2**62.
    words = Words(0, 2**62 - 1, 2**62, 2**64 - 1)
    assert PatientSampler(4, 0.25).draw(words).tolist() == [0, 1]


def test_a_rate_of_one_is_everybody_and_draws_no_words():
    assert PatientSampler(3, 1.0).draw(Words()).tolist() == [0, 1, 2]


def test_nobody_may_be_drawn():
    assert PatientSampler(2, 0.5).draw(Words(2**63, 2**63)).tolist() == []
    assert PatientSampler(0, 0.5).draw(Words()).tolist() == []


def test_the_same_stream_draws_the_same_patients_and_another_step_others():
    one, same, other = stream(1), stream(1), stream(2)
    sampler = PatientSampler(1000, 0.3)
    first, second = sampler.draw(one), sampler.draw(one)
    assert (first == sampler.draw(same)).all() and (second == sampler.draw(same)).all()
    assert set(first) != set(second) and set(first) != set(sampler.draw(other))


def test_sizes_inclusions_and_pairs_have_the_moments_of_independent_coins():
    # 4000 steps of 50 patients at rate 0.1: all figures within 5 standard errors, the stream is fixed.
    patients, rate, steps = 50, 0.1, 4000
    sampler, source = PatientSampler(patients, rate), stream(3)
    drawn = np.zeros((steps, patients))
    for step in range(steps):
        drawn[step, sampler.draw(source)] = 1
    sizes = drawn.sum(1)
    assert abs(sizes.mean() - patients * rate) < 5 * np.sqrt(patients * rate * (1 - rate) / steps)
    variance = patients * rate * (1 - rate)  # of a binomial; a batch of fixed size would have none
    assert abs(sizes.var() - variance) < 5 * variance * np.sqrt(2 / steps)
    assert np.abs(drawn.mean(0) - rate).max() < 5 * np.sqrt(rate * (1 - rate) / steps)
    pairs = drawn.T @ drawn / steps
    off = pairs[~np.eye(patients, dtype=bool)]
    assert np.abs(off - rate**2).max() < 5.5 * np.sqrt(rate**2 * (1 - rate**2) / steps)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_refuses_a_rate_that_is_no_probability(rate):
    with pytest.raises(ValueError, match="sampling_rate"):
        PatientSampler(3, rate)


def test_refuses_a_negative_number_of_patients():
    with pytest.raises(ValueError, match="patient_count"):
        PatientSampler(-1, 0.5)


@given(st.lists(st.integers(0, 6), max_size=30), st.sets(st.integers(0, 6)))
def test_records_of_chosen_patients_are_theirs_and_all_theirs(owners, chosen):
    patients, drawn = np.array(owners, dtype=np.int64), np.array(sorted(chosen), dtype=np.int64)
    records, places = PatientRecords(patients, 7).of(drawn)
    assert sorted(records.tolist()) == [i for i, owner in enumerate(owners) if owner in chosen]
    assert (drawn[places] == patients[records]).all()
    assert (np.diff(places) >= 0).all()


@pytest.mark.parametrize("owners", [[0, 3], [-1, 0]])
def test_refuses_a_record_that_belongs_to_no_patient(owners):
    with pytest.raises(ValueError, match="patients"):
        PatientRecords(np.array(owners), 3)


@given(st.lists(st.integers(0, 6), max_size=30), st.one_of(st.none(), st.integers(1, 31)))
def test_micro_batches_hold_each_patient_whole_and_once(owners, most):
    patients, seen = np.array(owners, dtype=np.int64), []
    for part in micro_batches(patients, 7, most):
        rows = np.arange(len(patients)) if part.records is None else part.records
        assert most is None or len(rows) <= most or len(part.patients) == 1
        assert (part.buckets[0].records.start, part.buckets[-1].records.stop) == (0, len(rows))
        for bucket in part.buckets:
            mine = part.patients[bucket.patients]
            assert (patients[rows[bucket.records]] == np.repeat(mine, bucket.records_each)).all()
            assert all(owners.count(patient) == bucket.records_each for patient in mine)
        seen += part.patients.tolist()
    assert sorted(seen) == sorted(set(owners))
