"""A strategy that was put back goes on with the same bits: every one that the installed Flower ships."""

import inspect

import flwr.serverapp.strategy as shipped
import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, Strategy

from fedhealth.flower.link_grid import LinkGrid, set_task_identity
from fedhealth.flower.rounds import RELEASE_NUMBER, arrays_of, weights_of
from fedhealth.flower.strategy_state import StrategyState

SITES = [f"ward-{letter}" for letter in "abcdefg"]  # enough for the robust strategies
# Wrappers of a strategy, which add noise or masks of their own, and trees, which are no arrays: not for us.
LEFT_OUT = {
    "DifferentialPrivacyClientSideAdaptiveClipping",
    "DifferentialPrivacyClientSideFixedClipping",
    "DifferentialPrivacyServerSideAdaptiveClipping",
    "DifferentialPrivacyServerSideFixedClipping",
    "FedXgbBagging",
    "FedXgbCyclic",
    "Result",
    "Strategy",
}
SETTINGS = {
    "FedAvgM": {"server_momentum": 0.7, "server_learning_rate": 0.9},
    "FedProx": {"proximal_mu": 0.1},
    "FedTrimmedAvg": {"beta": 0.2},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "Bulyan": {"num_malicious_nodes": 1},
    "QFedAvg": {"client_learning_rate": 0.1},
}
STRATEGIES = sorted(name for name, each in vars(shipped).items() if inspect.isclass(each) and name not in LEFT_OUT)


class NoCodec:
    encode = decode = None


def make(name):
    sites = len(SITES)
    count = {"min_train_nodes": sites, "min_evaluate_nodes": sites, "min_available_nodes": sites}
    return getattr(shipped, name)(**count, **SETTINGS.get(name, {}))


@pytest.fixture
def grid():
    set_task_identity(run_id=5)
    grid = LinkGrid(SITES, None, NoCodec())
    yield grid
    grid.close()


def one_round(strategy, grid, number, weights):
    """Let a strategy combine made-up answers that depend on the round and the model."""
    config = ConfigRecord({RELEASE_NUMBER: number})
    messages = strategy.configure_train(number, arrays_of(weights), config, grid)
    replies = []
    for message in sorted(messages, key=lambda each: each.metadata.dst_node_id):
        chance = np.random.default_rng([number, message.metadata.dst_node_id])
        metrics = MetricRecord({"num-examples": 10.0, "train_loss": 0.5})
        answer = {"arrays": arrays_of(weights + chance.normal(size=weights.size)), "metrics": metrics}
        message.metadata.__dict__["_message_id"] = str(message.metadata.dst_node_id)
        replies.append(Message(RecordDict(answer), reply_to=message))
    combined, _ = strategy.aggregate_train(number, replies)
    return weights_of(combined)


def test_the_strategies_that_a_study_can_name_are_among_them():
    assert {"FedAvg", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad"} <= set(STRATEGIES)
    assert set(LEFT_OUT) <= set(vars(shipped))


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_that_was_put_back_goes_on_with_the_same_bits(name, grid):
    calm, weights = make(name), np.array([0.3, -1.5, 2.0])
    for number in (1, 2, 3, 4):
        weights = one_round(calm, grid, number, weights)
    wanted, weights = weights, np.array([0.3, -1.5, 2.0])
    kept = None
    for number in (1, 2, 3, 4):  # a new strategy for each round, as if its process had been killed after each
        strategy = make(name)
        state = StrategyState(strategy)
        if kept is not None:
            state.put_back(*kept)
        weights = one_round(strategy, grid, number, weights)
        kept = state.take()
    assert weights.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(("name", "memory"), [("FedAvgM", "momentum_vector"), ("FedAdam", "m_t"), ("FedAdam", "v_t")])
def test_without_its_memory_a_strategy_would_go_on_otherwise(name, memory, grid):
    strategy, weights = make(name), np.array([0.3, -1.5, 2.0])
    state = StrategyState(strategy)
    for number in (1, 2):
        weights = one_round(strategy, grid, number, weights)
    arrays, shapes = state.take()
    assert memory in shapes
    whole, poor = make(name), make(name)
    StrategyState(whole).put_back(arrays, shapes)
    StrategyState(poor).put_back(arrays, {key: shape for key, shape in shapes.items() if key != memory})
    assert one_round(whole, grid, 3, weights).tobytes() != one_round(poor, grid, 3, weights).tobytes()


def test_state_that_is_no_array_is_refused_and_not_lost(grid):
    class Counting(FedAvg):
        calls = None

        def aggregate_train(self, server_round, replies):
            self.calls = (self.calls or 0) + 1
            return super().aggregate_train(server_round, replies)

    strategy = Counting(min_train_nodes=7, min_evaluate_nodes=7, min_available_nodes=7)
    state = StrategyState(strategy)
    assert state.take() == ({}, {})
    one_round(strategy, grid, 1, np.zeros(2))
    with pytest.raises(TypeError, match=r"Counting\.calls changed and is no array"):
        state.take()


def test_flowers_strategies_keep_their_memory_in_attributes():
    assert issubclass(FedAdam, Strategy)
    assert {"current_arrays", "momentum_vector"} <= set(vars(FedAvgM()))
    assert {"current_arrays", "m_t", "v_t"} <= set(vars(FedAdam()))
