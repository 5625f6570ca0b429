"""How far blurred counts may be from the truth: held against the distribution of the noise, convolved cell by cell."""

import numpy as np
import pytest

from fedhealth.search.foresight import half_width_of_count


def noise_of(epsilon, sites):
    """Return the probabilities of -n to n of a sum of two-sided geometric noises, whose tails are below 1e-12."""
    reach = int(40 / epsilon)
    one = np.exp(-epsilon * np.abs(np.arange(-reach, reach + 1)))
    found = one / one.sum()
    for _ in range(sites - 1):
        found = np.convolve(found, one / one.sum())
    return found


def beyond(noise, width):
    middle = len(noise) // 2
    return 1 - noise[middle - width : middle + width + 1].sum()


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("sites", [1, 2, 4, 12])
def test_it_is_the_smallest_that_holds(epsilon, sites):
    noise, width = noise_of(epsilon, sites), half_width_of_count(epsilon, sites)
    assert beyond(noise, width) <= 0.05 < beyond(noise, width - 1)
