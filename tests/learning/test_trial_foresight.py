"""What to expect of a trial before it runs: the half-interval of an effect, by size of the hospitals."""

import math

import pytest
from made_up_trial import trial

from fedhealth.learning.evaluation import noise_of
from fedhealth.learning.foresight import foresee
from fedhealth.learning.outcomes import trial as outcome
from fedhealth.learning.plan import plan_study

STUDIES = pytest.mark.parametrize("study", [trial(), trial(("week_4", "week_8"))], ids=["one visit", "two visits"])


def expected(study, patients, sites, noise=None):
    deviation = plan_study(study)["evaluate"].mechanism.standard_deviation if noise is None else noise
    return outcome.half_width(study, noise_of(study, deviation), patients, sites)


@STUDIES
def test_without_noise_it_is_that_of_two_means(study):
    # Two arms of 1,000 of 3,000 patients, whose outcomes have a standard deviation of a third of the half-range, which
    # is a sixth of the range: 1.96 * sqrt(2 / 1000) / 6 = 0.0146. Patients who are all seen owe nothing to earlier
    # visits, because an effect at the last visit is then the difference of its means.
    assert expected(study, 3000, 1, noise=0.0) == pytest.approx(1.96 * math.sqrt(2 / 1000) / 6, rel=0.01)


@STUDIES
def test_noise_makes_it_wider_and_more_patients_narrower(study):
    widths = [expected(study, patients, 3) for patients in (900, 2700, 8100)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > expected(study, 900, 3, noise=0.0)


def test_many_small_hospitals_carry_more_noise_than_one_large_one():
    assert expected(trial(), 1000, 20) > expected(trial(), 1000, 1)


def test_so_few_patients_that_nothing_can_be_said_are_foreseen():
    assert expected(trial(), 12, 4) is None
    small = foresee(trial(evaluation={"held_out_fraction": 1, "too_wide": 0.2})).sizes[0]
    assert small.withheld


def test_a_plan_prices_every_line_and_has_no_training():
    found = foresee(trial())
    assert [cost.part for cost in found.costs][:2] == ["evaluation: patients", "evaluation: sum of before"]
    assert found.federation_weight_noise is None
    assert found.headline == "effect, in parts of the outcome's range"
