"""What no honest site can have sent is left out by its code, whatever it is, before anything is computed from it."""

import math
import struct

import numpy as np
import pytest

from fedhealth.flower.rounds import Course, SiteMissing, evaluate_model, train_rounds
from fedhealth.flower.strategies import strategy_for
from fedhealth.learning.plan import MOST_PATIENTS_PER_DECLARED, encode_release, is_plausible, plan_study

DECLARED = {"ward-a": 100, "ward-b": 100, "ward-c": 100}
HONEST = [900, -1200]


def doubles(*values):
    return struct.pack(f"<{len(values)}d", *values)


LIES = {
    "NaN": doubles(math.nan, math.nan),
    "one NaN among steps": doubles(math.nan) + struct.pack("<q", 5),
    "a NaN of other bits": struct.pack("<QQ", 0xFFF8_0000_0000_0001, 0),
    "infinity": doubles(math.inf, -math.inf),
    "weights as doubles": doubles(0.25, -1.5),
    "the largest integers": struct.pack("<qq", 2**63 - 1, -(2**63)),
    "the smallest integer": struct.pack("<qq", -(2**63), 0),
    "a release a hundred thousand times as large": encode_release(np.array(HONEST) * 100_000),
}


def run(study, grid):
    sites = len(list(grid.get_node_ids()))
    course = Course(2, lambda given: len(given) >= 2)
    return list(train_rounds(grid, strategy_for(study, sites), np.zeros(2), course))


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_that_cannot_be_true_is_left_out_and_the_others_go_on(study, scripted, grid_of, lie):
    protocol = study()
    steps = {"ward-a": HONEST, "ward-b": [100, 50]}
    found = run(protocol, grid_of(protocol, scripted(steps | {"ward-c": LIES[lie]}), DECLARED))
    alone = run(protocol, grid_of(protocol, scripted(steps), dict.fromkeys(steps, 100)))
    assert [each.absent for each in found] == [{"ward-c": "implausible"}] * 2
    assert [each.weights.tobytes() for each in found] == [each.weights.tobytes() for each in alone]


def test_where_every_site_must_give_a_release_the_lie_is_named(study, scripted, grid_of):
    protocol = study()
    grid = grid_of(protocol, scripted({"ward-a": HONEST, "ward-b": LIES["NaN"]}))
    with pytest.raises(SiteMissing, match="ward-b: implausible"):
        next(train_rounds(grid, strategy_for(protocol, 2), np.zeros(2), Course(1, lambda given: len(given) == 2)))


def test_counts_that_cannot_be_are_left_out(study, scripted, grid_of):
    protocol, ask = study(), scripted()
    lies = {("ward-b", "evaluate"): encode_release(np.array([10, 2**40, 30, 4]))}

    def lying(site, step, number, data):
        return lies.get((site, step)) or ask(site, step, number, data)

    counts, absent = evaluate_model(
        grid_of(protocol, lying), strategy_for(protocol, 2), np.zeros(2), lambda given: len(given) == 1
    )
    assert (set(counts), absent) == ({"ward-a"}, {"ward-b": "implausible"})


@pytest.mark.parametrize("step", ["train", "evaluate"])
def test_the_bound_is_the_length_that_twice_the_declared_patients_can_have(study, step):
    mechanism = plan_study(study())[step].mechanism
    longest = int(mechanism.longest_release(2 * 100))
    assert MOST_PATIENTS_PER_DECLARED == 2
    for place in range(mechanism.dimension):
        for sign in (1, -1):
            steps = np.zeros(mechanism.dimension, dtype=np.int64)
            steps[place] = sign * longest
            assert is_plausible(encode_release(steps), mechanism, 100)
            steps[place] += sign
            assert not is_plausible(encode_release(steps), mechanism, 100)
            assert is_plausible(encode_release(steps), mechanism, 101)
