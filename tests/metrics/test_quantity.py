"""Figures of a quantity from noisy histograms: exact where they say so, and intervals that hold the truth."""

import numpy as np
import pytest

from fedhealth.metrics.quantity import KnotHistogram, share_explained


def shared(values, steps):
    """Share each value between its two knots, worked out apart from the package."""
    knots = np.linspace(-1, 1, steps + 1)
    return np.maximum(0, 1 - np.abs(values[:, None] - knots) * steps / 2).sum(axis=0)


def histogram(values, steps, noise=0.0):
    return KnotHistogram(tuple(shared(values, steps).tolist()), noise)


def test_means_and_absolute_means_are_those_of_the_values_themselves():
    values = np.random.default_rng(1).uniform(-1, 1, 500)
    found = histogram(values, 10)
    assert found.knots == pytest.approx(np.linspace(-1, 1, 11)) and found.step == pytest.approx(0.2)
    assert found.mean().estimate == pytest.approx(values.mean())
    assert found.mean_absolute().estimate == pytest.approx(np.abs(values).mean())


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5])
def test_a_root_mean_square_holds_the_truth_wherever_values_lie_between_knots(fraction):
    # All at one place: at a knot nothing is added to the square, half way between two the most, h^2 / 4.
    value = 0.4 + 0.2 * fraction
    found = histogram(np.full(10_000, value), 10).root_mean_square()
    assert found.low <= value <= found.high
    squares = 0.04 * fraction * (1 - fraction) + value**2
    assert found.estimate == pytest.approx((squares - 0.04 / 6) ** 0.5)


def test_the_share_explained_is_that_of_the_values():
    draw = np.random.default_rng(2)
    truth = draw.uniform(-0.8, 0.8, 100_000)
    said = 0.7 * truth + draw.normal(0, 0.1, truth.size)
    errors, values = said - truth, truth
    expected = 1 - (errors**2).sum() / ((truth - truth.mean()) ** 2).sum()
    found = share_explained(histogram(errors / 0.5, 10), histogram(values, 16), 0.5)
    assert found.estimate == pytest.approx(expected, abs=0.002)
    assert found.low <= expected <= found.high and found.half_width < 0.05


@pytest.mark.parametrize(
    ("errors", "values"),
    [
        (np.zeros(2), np.linspace(-1, 1, 2)),  # too few patients for the noise
        (np.zeros(500), np.zeros(500)),  # all alike: there is nothing to explain
    ],
)
def test_nothing_is_said_of_few_patients_or_of_values_that_do_not_differ(errors, values):
    assert share_explained(histogram(errors, 10, 3.0), histogram(values, 16, 3.0), 1.0) is None


def test_intervals_hold_the_truth_about_95_times_of_100():
    draw, noise = np.random.default_rng(3), 3.0
    error_sd, spread = 0.3, 0.4
    truth = {
        "mean": 0.0,
        "absolute": error_sd * (2 / np.pi) ** 0.5,
        "root": error_sd,
        "explained": 1 - (error_sd * 0.5 / spread) ** 2,
    }
    held, stated = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for _ in range(600):
        errors = histogram(np.clip(draw.normal(0, error_sd, 400), -1, 1), 10)
        values = histogram(np.clip(draw.normal(0, spread, 400), -1, 1), 16)
        errors = KnotHistogram(tuple(np.array(errors.counts) + draw.normal(0, noise, 11)), noise)
        values = KnotHistogram(tuple(np.array(values.counts) + draw.normal(0, noise, 17)), noise)
        found = {
            "mean": errors.mean(),
            "absolute": errors.mean_absolute(),
            "root": errors.root_mean_square(),
            "explained": share_explained(errors, values, 0.5),
        }
        for name, one in found.items():
            if one is not None:
                stated[name] += 1
                held[name] += one.low <= truth[name] <= one.high
    for name in truth:
        assert stated[name] > 550, (name, stated)
        assert held[name] / stated[name] > 0.915, (name, held[name] / stated[name])  # 95 %, less 4 standard errors
    assert held["mean"] / stated["mean"] < 0.985
