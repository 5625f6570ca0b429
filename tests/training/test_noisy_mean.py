import numpy as np
import pytest
import torch

from fedhealth.privacy.gaussian import GridGaussian, rounded_gaussian
from fedhealth.privacy.stream import KeyedStream
from fedhealth.training.noisy_mean import mean_of_steps, noisy_steps

MECHANISM = GridGaussian(noise_multiplier=1.0, l2_clip_norm=2.0, dimension=3)


def test_the_release_is_the_sum_on_the_grid_plus_the_streams_noise():
    total = torch.tensor([5.0, -7.0, 0.4], dtype=torch.float64) * MECHANISM.grid
    found = noisy_steps(total, MECHANISM, KeyedStream(bytes(32)))
    assert (found - rounded_gaussian(3, KeyedStream(bytes(32)))).tolist() == [5, -7, 0]


def test_an_empty_batch_is_noise_alone():
    found = noisy_steps(torch.zeros(3), MECHANISM, KeyedStream(bytes(32)))
    assert (found == rounded_gaussian(3, KeyedStream(bytes(32)))).all()


def test_the_mean_divides_by_the_public_expectation():
    # A quarter of 40 declared patients is 10, whoever was drawn.
    found = mean_of_steps(np.array([10, 0, -20]), MECHANISM, sampling_rate=0.25, declared_patients=40)
    assert np.allclose(found, np.array([1.0, 0.0, -2.0]) * MECHANISM.grid)


def test_refuses_a_sum_of_another_length():
    with pytest.raises(ValueError, match="shape"):
        noisy_steps(torch.zeros(4), MECHANISM, KeyedStream(bytes(32)))
