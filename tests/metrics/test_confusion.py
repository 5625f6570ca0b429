"""A confusion table of several classes: figures by hand, and intervals that hold the truth as often as they say."""

import numpy as np
import pytest

from fedhealth.metrics.confusion import ConfusionTable, mean_of_estimates
from fedhealth.metrics.estimate import Estimate
from fedhealth.metrics.proportion import proportion_of

#        called: a   b   c
TABLE = ((80.0, 15.0, 5.0), (10.0, 30.0, 10.0), (0.0, 5.0, 45.0))


def test_without_noise_the_figures_are_those_of_the_counts():
    table = ConfusionTable(TABLE, 0.0)
    assert table.accuracy().estimate == pytest.approx(155 / 200)
    assert [table.sensitivity(place).estimate for place in range(3)] == pytest.approx([0.8, 0.6, 0.9])
    assert [table.precision(place).estimate for place in range(3)] == pytest.approx([80 / 90, 30 / 50, 45 / 60])
    assert table.mean_sensitivity().estimate == pytest.approx((0.8 + 0.6 + 0.9) / 3)
    assert table.mean_precision().estimate == pytest.approx((8 / 9 + 0.6 + 0.75) / 3)


def test_without_noise_intervals_are_wilsons():
    table = ConfusionTable(TABLE, 0.0)
    assert table.accuracy() == proportion_of(155, 45, 0.0)
    assert table.sensitivity(1) == proportion_of(30, 20, 0.0)


def test_with_noise_the_sum_of_more_cells_is_less_certain():
    # Of 100 patients in 2 cells or in 10: the noise of the others adds up over as many cells as there are.
    few = ConfusionTable(((80.0, 20.0), (0.0, 0.0)), 2.0).sensitivity(0)
    many = ConfusionTable(((80.0, *[20 / 9] * 9), *[(0.0,) * 10] * 9), 2.0).sensitivity(0)
    assert few.estimate == pytest.approx(many.estimate) and many.half_width > few.half_width


def test_a_mean_is_unknown_where_one_class_is():
    table = ConfusionTable((TABLE[0], TABLE[1], (0.0, 1.0, 2.0)), 2.0)
    assert table.sensitivity(2) is None and table.mean_sensitivity() is None
    assert table.accuracy() is not None and table.sensitivity(0) is not None
    assert mean_of_estimates([]) is None


def test_the_interval_of_a_mean_follows_from_its_parts():
    # Distances below 0.3 and 0.4, above 0.1 and 0: roots of sums of squares 0.5 and 0.1, over 2 parts.
    found = mean_of_estimates([Estimate(0.5, 0.2, 0.6), Estimate(0.9, 0.5, 0.9)])
    assert (found.estimate, found.low, found.high) == pytest.approx((0.7, 0.45, 0.75))


def test_intervals_hold_the_truth_about_95_times_of_100():
    draw, chances = np.random.default_rng(0), np.array([[0.4, 0.1, 0.0], [0.05, 0.15, 0.05], [0.0, 0.05, 0.2]])
    truth = {
        "accuracy": 0.75,
        "mean_sensitivity": (0.8 + 0.6 + 0.8) / 3,
        "mean_precision": (0.4 / 0.45 + 0.5 + 0.8) / 3,
    }
    held, stated = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for _ in range(1500):
        counts = draw.multinomial(300, chances.ravel()) + draw.normal(0, 4.0, 9)
        table = ConfusionTable(tuple(map(tuple, counts.reshape(3, 3).tolist())), 4.0)
        for name, value in truth.items():
            found = getattr(table, name)()
            if found is not None:
                stated[name] += 1
                held[name] += found.low <= value <= found.high
    for name in truth:
        assert stated[name] > 1400
        # 95 % of 1,500, to 4 standard errors of 0.56 points, and on the safe side up to 98 %.
        assert 0.927 < held[name] / stated[name] < 0.98, name
