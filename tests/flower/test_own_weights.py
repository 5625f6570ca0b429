"""Weights that each site keeps of its own: asked with them, moved by its release alone, and there after a restart."""

import numpy as np
import pytest

from fedhealth.flower.own_weights import OwnWeights
from fedhealth.flower.rounds import Course, train_rounds
from fedhealth.flower.strategies import strategy_for


def rounds_of(protocol, grid, ask, own, rounds=3, completed=0, start=(0.0, 0.0)):
    course = Course(rounds, lambda given: len(given) == 2, completed=completed, number=completed)
    return list(train_rounds(grid, strategy_for(protocol, 2), np.array(start), course, own))


# As in test_rounds: ward-a steps by (100, -40) of 100 patients and ward-b by (20, 80) of 300. The last weight is each
# site's own, so that it moves by the site's whole step, sum / own patients, whoever else is larger.
@pytest.mark.parametrize(
    "strategy", [{"kind": "fedavg"}, {"kind": "fedavgm", "server_momentum": 0.5}], ids=lambda each: each["kind"]
)
def test_a_sites_own_weight_moves_by_its_own_step_alone(study, scripted, grid_of, unit_of, strategy):
    protocol, ask, own = study(strategy=strategy), scripted(), OwnWeights(1)
    rounds = rounds_of(protocol, grid_of(protocol, ask), ask, own)
    a, b = 40 * unit_of(protocol, 100), -80 * unit_of(protocol, 300)
    asked = [{site: np.frombuffer(data)[1] for site, _, number, data in ask.asked if number == n} for n in (1, 2, 3)]
    assert asked == [{"ward-a": pytest.approx(a * done), "ward-b": pytest.approx(b * done)} for done in (0, 1, 2)]
    # Everybody is asked with the same shared weight, and the common model has the mean of the own ones.
    for number, each in enumerate(rounds, start=1):
        assert each.weights[1] == pytest.approx((a + b) / 2 * number)
        shared = {np.frombuffer(data)[0] for _, _, asked_in, data in ask.asked if asked_in == number}
        assert shared == {each.asked["ward-a"][0]} == {each.asked["ward-b"][0]}
        assert {site: model.tobytes() for site, model in each.asked.items()} == {
            site: data for site, _, asked_in, data in ask.asked if asked_in == number
        }


def test_the_shared_weight_is_what_it_is_without_own_ones(study, scripted, grid_of):
    protocol = study()
    with_own, without = (
        rounds_of(protocol, grid_of(protocol, ask), ask, own)
        for ask, own in ((scripted(), OwnWeights(1)), (scripted(), OwnWeights(0)))
    )
    assert [each.weights[0] for each in with_own] == [each.weights[0] for each in without]


def test_another_process_goes_on_with_the_same_questions(study, scripted, grid_of):
    protocol, calm, ask, own = study(), scripted(), scripted(), OwnWeights(1)
    whole = rounds_of(protocol, grid_of(protocol, calm), calm, OwnWeights(1))
    (first,) = rounds_of(protocol, grid_of(protocol, ask), ask, own, rounds=1)
    restored = OwnWeights(1)
    restored.put_back({"momentum_vector/0": np.zeros(2), **own.take()})
    rest = rounds_of(protocol, grid_of(protocol, ask), ask, restored, completed=1, start=first.weights)
    assert [each.weights.tobytes() for each in (first, *rest)] == [each.weights.tobytes() for each in whole]
    assert sorted(ask.asked) == sorted(calm.asked)


def test_a_site_that_was_away_is_asked_with_the_own_weights_it_had(study):
    own, common = OwnWeights(1), np.array([0.0, 5.0])
    assert own.model_for("ward-a", common).tolist() == [0.0, 5.0]  # before its first release: the common ones
    first = own.common(np.array([1.0, 99.0]), {"ward-a": np.array([1.0, 2.0]), "ward-b": np.array([1.0, 4.0])})
    assert first.tolist() == [1.0, 3.0]
    second = own.common(np.array([2.0, 99.0]), {"ward-b": np.array([2.0, 6.0])})
    assert second.tolist() == [2.0, 4.0]
    assert own.model_for("ward-a", second).tolist() == [2.0, 2.0]
    assert own.model_for("ward-c", second).tolist() == [2.0, 4.0]
