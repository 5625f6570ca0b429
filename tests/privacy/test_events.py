import math

import pytest
from pydantic import ValidationError

from fedhealth.privacy.events import EVENT, GaussianEvent, GeometricEvent, checked, plan_of
from fedhealth.privacy.mu_squared import MuSquaredBudget
from fedhealth.privacy.pld import informative_epsilon
from fedhealth.privacy.renyi import RenyiBudget, best_order, plan_cost, renyi_cost

GAUSSIAN = {"noise_multiplier": 2.0, "sampling_rate": 0.1, "total_variation": 0.0}
GEOMETRIC = {"epsilon": 0.5, "cells": 1}
BAD_NUMBERS = [0.0, -0.0, -1.0, 5e-324, -5e-324, 1e-310, math.nan, math.inf, -math.inf, 1e300, "1", True, None]


@pytest.mark.parametrize("field", ["noise_multiplier", "sampling_rate"])
@pytest.mark.parametrize("value", BAD_NUMBERS)
def test_a_gaussian_event_out_of_its_ranges_does_not_exist(field, value):
    with pytest.raises(ValidationError):
        GaussianEvent(**{**GAUSSIAN, field: value})


@pytest.mark.parametrize("value", [-1e-40, -5e-324, 1e-15, 1.0, math.nan, math.inf])
def test_noise_far_from_exact_or_nearer_than_exact_does_not_exist(value):
    with pytest.raises(ValidationError):
        GaussianEvent(**{**GAUSSIAN, "total_variation": value})


@pytest.mark.parametrize("value", [*BAD_NUMBERS, 16.5])
def test_a_geometric_event_out_of_its_ranges_does_not_exist(value):
    with pytest.raises(ValidationError):
        GeometricEvent(epsilon=value, cells=1)


@pytest.mark.parametrize("value", [0, -1, 1.5, math.nan, 2**21, True])
def test_a_patient_is_in_a_whole_number_of_cells(value):
    with pytest.raises(ValidationError):
        GeometricEvent(epsilon=1.0, cells=value)


def test_the_neighbouring_relation_is_written_into_every_event_and_is_the_only_one():
    for kind, arguments in ((GaussianEvent, GAUSSIAN), (GeometricEvent, GEOMETRIC)):
        event = kind(**arguments)
        assert event.model_dump()["neighbours"] == "one-patient-added-or-removed"
        assert EVENT.validate_json(event.model_dump_json()) == event
        with pytest.raises(ValidationError):
            kind(**arguments, neighbours="one-patient-replaced")


class QuieterEvent(GaussianEvent):
    """Claims to be a Gaussian, and may mean anything."""


UNKNOWN = {
    "not an event": "gaussian",
    "nothing": None,
    "a subclass of a known event": QuieterEvent(**GAUSSIAN),
    "no noise, made without a check": GaussianEvent.model_construct(**{**GAUSSIAN, "noise_multiplier": 0.0}),
    "not a number, made without a check": GaussianEvent.model_construct(**{**GAUSSIAN, "noise_multiplier": math.nan}),
    "a negative distance, copied without a check": GaussianEvent(**GAUSSIAN).model_copy(
        update={"total_variation": -1.0}
    ),
    "a negative epsilon, made without a check": GeometricEvent.model_construct(epsilon=-1.0, cells=1),
    "another neighbouring relation, copied without a check": GeometricEvent(**GEOMETRIC).model_copy(
        update={"neighbours": "one-patient-replaced"}
    ),
}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("event", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_whatever_states_a_price_refuses_an_unknown_event(event):
    full = {"epsilon": 3.0, "delta": 1e-5}
    refusals = [
        lambda: checked(event),
        lambda: plan_of([(event, 1)]),
        lambda: renyi_cost(event, 4.0),
        lambda: plan_cost(((event, 1),), 4.0),
        lambda: best_order(3.0, 1e-5, ((event, 1),)),
        lambda: RenyiBudget(**full, order=4.0).cost_of(event),
        lambda: MuSquaredBudget(**full).cost_of(event),
        lambda: informative_epsilon(((event, 1),), 1e-5),
    ]
    for refusal in refusals:
        with pytest.raises(ValueError):
            refusal()


@pytest.mark.parametrize("times", [0, -1, 1.0, math.nan, True, 2**33])
def test_an_event_is_repeated_a_whole_number_of_times(times):
    with pytest.raises(ValueError):
        plan_of([(GaussianEvent(**GAUSSIAN), times)])


def test_an_empty_plan_has_no_price():
    for refusal in (lambda: plan_of([]), lambda: plan_cost((), 4.0), lambda: informative_epsilon((), 1e-5)):
        with pytest.raises(ValueError):
            refusal()
