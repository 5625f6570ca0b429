"""Flower's strategies over the link: order, weights, momentum and missing sites, worked by hand."""

import random
import threading
import time

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fedhealth.coordinator.participation import quorum_of
from fedhealth.coordinator.server_app import StudyCodec
from fedhealth.flower.link_grid import LinkGrid, set_task_identity
from fedhealth.flower.rounds import (
    RELEASE_NUMBER,
    Course,
    SiteMissing,
    arrays_of,
    evaluate_model,
    train_rounds,
    weights_of,
)
from fedhealth.flower.strategies import strategy_for


def run(grid, study, start=(0.0, 0.0), rounds=None):
    sites = [grid.site_of(node) for node in grid.get_node_ids()]
    course = Course(rounds or study.training.rounds, quorum_of(study, sites).holds)
    strategy = strategy_for(study, len(sites))
    return [(each.round, each.weights) for each in train_rounds(grid, strategy, np.array(start), course)]


def everybody(given):
    return len(given) == 2


def test_fedavg_weighs_sites_by_their_declared_patients(study, scripted, grid_of, unit_of):
    # ward-a: [100, -40] steps and 100 patients; ward-b: [20, 80] and 300. Each site divides its sum by its own
    # patients and Flower weighs by them, so the model moves by -unit * (100 + 20, -40 + 80) a round.
    protocol = study()
    rounds = run(grid_of(protocol, scripted()), protocol)
    unit = unit_of(protocol, 400)
    assert [number for number, _ in rounds] == [1, 2, 3]
    for number, weights in rounds:
        np.testing.assert_allclose(weights, [-120 * unit * number, -40 * unit * number], rtol=1e-12)
        assert weights.dtype == np.float64


def test_fedavg_starts_from_the_weights_it_is_given(study, scripted, grid_of, unit_of):
    protocol, ask = study(), scripted()
    ((_, weights),) = run(grid_of(protocol, ask), protocol, start=(1.0, -2.0), rounds=1)
    unit = unit_of(protocol, 400)
    np.testing.assert_allclose(weights, [1 - 120 * unit, -2 - 40 * unit], rtol=1e-12)
    assert {data for *_, data in ask.asked} == {np.array([1.0, -2.0]).tobytes()}


def test_fedavgm_adds_momentum(study, scripted, grid_of, unit_of):
    # The sites answer c each round. With momentum m: v1 = c, v2 = m c + c, v3 = m v2 + c, and w3 = -(v1 + v2 + v3)
    # = -c (3 + 2 m + m^2).
    protocol, momentum = study(strategy={"kind": "fedavgm", "server_momentum": 0.5}), 0.5
    rounds = run(grid_of(protocol, scripted()), protocol)
    c = np.array([120, 40]) * unit_of(protocol, 400)
    for (_, weights), factor in zip(rounds, (1, 2 + momentum, 3 + 2 * momentum + momentum**2), strict=True):
        np.testing.assert_allclose(weights, -c * factor, rtol=1e-12)


def test_each_site_is_asked_once_a_round_with_the_same_input(study, scripted, grid_of):
    protocol, ask = study(), scripted()
    rounds = run(grid_of(protocol, ask), protocol)
    inputs = [np.zeros(2).tobytes(), *(weights.tobytes() for _, weights in rounds[:-1])]
    wanted = [(site, "train", number, inputs[number - 1]) for number in (1, 2, 3) for site in ("ward-a", "ward-b")]
    assert sorted(ask.asked) == sorted(wanted)


MANY = {f"ward-{letter}": 100 + 7 * place for place, letter in enumerate("gbdface")}


def test_the_same_answers_give_the_same_bytes_whatever_order_they_come_in(study, scripted, grid_of):
    # Sums of doubles depend on their order; another order would send other bytes and be charged anew.
    protocol = study()
    steps = {site: [3**place, -(5**place)] for place, site in enumerate(MANY)}
    results = set()
    for seed in range(6):
        chance = random.Random(seed)  # noqa: S311 - delays, not secrets
        names = list(MANY)
        chance.shuffle(names)
        ask = scripted(steps, delay=lambda site, chance=chance: time.sleep(chance.uniform(0, 0.004)))
        grid = grid_of(protocol, ask, {name: MANY[name] for name in names})
        results.add(b"".join(weights.tobytes() for _, weights in run(grid, protocol)))
    assert len(results) == 1


def test_replies_come_in_the_order_of_the_sites_names(study, scripted, grid_of):
    protocol = study()
    slow_first = {name: 0.002 * (len(MANY) - place) for place, name in enumerate(sorted(MANY))}
    ask = scripted({name: [1, 1] for name in MANY}, delay=lambda site: time.sleep(slow_first[site]))
    grid = grid_of(protocol, ask, MANY)
    content = {"arrays": arrays_of(np.zeros(2)), "config": ConfigRecord({RELEASE_NUMBER: 1})}
    nodes = list(grid.get_node_ids())
    messages = [grid.create_message(RecordDict(content), MessageType.TRAIN, node, "") for node in reversed(nodes)]
    replies = list(grid.send_and_receive(messages))
    assert [grid.site_of(reply.metadata.src_node_id) for reply in replies] == sorted(MANY)
    assert len({reply.metadata.reply_to_message_id for reply in replies}) == len(MANY)


def test_a_reply_can_be_pulled_once(study, scripted, grid_of):
    grid = grid_of(study(), scripted())
    content = RecordDict({"arrays": arrays_of(np.zeros(2)), "config": ConfigRecord({RELEASE_NUMBER: 1})})
    ids = list(grid.push_messages([grid.create_message(content, MessageType.TRAIN, 1, "")]))
    assert len(list(grid.pull_messages(ids))) == 1
    assert list(grid.pull_messages(ids)) == []
    assert list(grid.pull_messages(["no such id"])) == []


@pytest.mark.parametrize("code", ["busy", "budget-spent", "policy", "not-approved", "bad-request", "away"])
def test_a_site_that_refuses_is_named_with_its_code(study, scripted, grid_of, code):
    protocol = study()
    ask = scripted(refuse={("ward-b", "train", 2): code})
    strategy = strategy_for(protocol, 2)
    rounds = train_rounds(grid_of(protocol, ask), strategy, np.zeros(2), Course(3, everybody))
    assert next(rounds).round == 1
    with pytest.raises(SiteMissing) as caught:
        next(rounds)
    assert caught.value.absent == {"ward-b": code}
    assert str(caught.value) == f"ward-b: {code}"
    assert max(number for _, _, number, _ in ask.asked) == 2  # nobody is asked for round 3


def test_all_sites_that_refuse_are_named(study, scripted, grid_of):
    protocol = study()
    ask = scripted(refuse={("ward-a", "evaluate", 1): "busy", ("ward-b", "evaluate", 1): "away"})
    with pytest.raises(SiteMissing) as caught:
        evaluate_model(grid_of(protocol, ask), strategy_for(protocol, 2), np.zeros(2), everybody)
    assert caught.value.absent == {"ward-a": "busy", "ward-b": "away"}


@pytest.mark.parametrize("payload", [b"", b"\0" * 8, b"\0" * 15, b"\0" * 17, b"\0" * 24])
def test_a_site_whose_payload_is_not_of_the_step_is_named(study, scripted, grid_of, payload):
    protocol = study()
    ask = scripted({"ward-a": [1, 2], "ward-b": payload})
    with pytest.raises(SiteMissing) as caught:
        run(grid_of(protocol, ask), protocol)
    assert caught.value.absent == {"ward-b": "away"}


def test_an_evaluation_returns_each_sites_noisy_counts(study, scripted, grid_of):
    protocol, ask = study(), scripted()
    counts, absent = evaluate_model(grid_of(protocol, ask), strategy_for(protocol, 2), np.array([1.0, 2.0]), everybody)
    assert absent == {}
    assert sorted(counts) == ["ward-a", "ward-b"]
    from fedhealth.learning.plan import plan_study

    grid = plan_study(protocol)["evaluate"].mechanism.grid
    cells = ("true-positive", "false-positive", "true-negative", "false-negative")
    for record in counts.values():
        assert [record[cell] for cell in cells] == pytest.approx([10 * grid, 2 * grid, 30 * grid, 4 * grid])
    assert {(step, number) for _, step, number, _ in ask.asked} == {("evaluate", 1)}


def test_one_site_alone_is_not_waited_for_twice(study, scripted, grid_of):
    protocol = study()
    grid = grid_of(protocol, scripted({"ward-a": [1, 2]}), {"ward-a": 100})
    assert len(run(grid, protocol)) == 3


def test_a_grid_knows_its_run_and_its_nodes(study, scripted, grid_of):
    grid = grid_of(study(), scripted())
    assert isinstance(grid, LinkGrid)
    assert grid.run.run_id == 77
    assert list(grid.get_node_ids()) == [1, 2]
    assert [grid.site_of(node) for node in (1, 2)] == ["ward-a", "ward-b"]
    grid.set_run(grid.run)
    message = grid.create_message(RecordDict(), MessageType.TRAIN, 2, "group", ttl=12.0)
    assert isinstance(message, Message)
    assert (message.metadata.group_id, message.metadata.ttl) == ("group", 12.0)


def test_weights_survive_flowers_records_to_the_last_bit():
    values = np.array([0.1, -0.0, 5e-324, -1.7976931348623157e308])
    assert weights_of(arrays_of(values)).tobytes() == values.tobytes()


def test_arrays_are_read_in_the_calling_thread_only_and_sites_are_waited_for_side_by_side(study, scripted):
    protocol, threads = study(), {"codec": set(), "ask": set()}
    codec, ask = StudyCodec(protocol, MANY), scripted({site: [1, 2] for site in MANY})
    together = threading.Barrier(len(MANY), timeout=10)

    class Watched:
        def encode(self, message):
            threads["codec"].add(threading.get_ident())
            return codec.encode(message)

        def decode(self, site, message, payload):
            threads["codec"].add(threading.get_ident())
            return codec.decode(site, message, payload)

    def waiting(*question):
        threads["ask"].add(threading.get_ident())
        together.wait()  # breaks unless every site is asked at the same time
        return ask(*question)

    set_task_identity(run_id=77)
    grid = LinkGrid(list(MANY), waiting, Watched())
    try:
        run(grid, protocol, rounds=2)
    finally:
        grid.close()
    assert threads["codec"] == {threading.get_ident()}
    assert threading.get_ident() not in threads["ask"]
