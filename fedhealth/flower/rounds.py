"""Drive a Flower strategy round by round.

Flower's own `Strategy.start` always runs rounds 1 to n and cannot be resumed, so the loop is ours and the strategy is
Flower's: it configures each round and combines the replies. A round counts only when every site that the study
requires has given its release; nothing is dropped silently.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedAvgM, Strategy
from numpy.typing import NDArray

from fedhealth.flower.link_grid import LinkGrid
from fedhealth.study.protocol import Study

WEIGHTS = "weights"
"""The one array of a model: all weights, flattened."""

EXAMPLES = "num-examples"
"""Flower's key for a reply's weight; here the public number of declared patients."""


class SiteMissing(Exception):
    """A required site gave no release in a round.

    Args:
        absent: the public code of each such site.
    """

    def __init__(self, absent: dict[str, str]) -> None:
        super().__init__(", ".join(f"{site}: {code}" for site, code in sorted(absent.items())))
        self.absent = absent


def strategy_for(study: Study, sites: int) -> Strategy:
    """Return the Flower strategy that a study names, made to wait for all `sites`."""
    training = study.training
    if training.strategy == "fedavgm":
        return FedAvgM(
            min_train_nodes=sites,
            min_evaluate_nodes=sites,
            min_available_nodes=sites,
            server_momentum=training.server_momentum,
        )
    return FedAvg(min_train_nodes=sites, min_evaluate_nodes=sites, min_available_nodes=sites)


def arrays_of(weights: NDArray[np.float64]) -> ArrayRecord:
    """Return model weights as Flower carries them."""
    return ArrayRecord({WEIGHTS: Array(np.ascontiguousarray(weights))})


def weights_of(arrays: ArrayRecord) -> NDArray[np.float64]:
    """Return model weights from Flower's record."""
    return np.asarray(arrays[WEIGHTS].numpy(), dtype=np.float64)


def train_rounds(
    grid: LinkGrid, strategy: Strategy, weights: NDArray[np.float64], rounds: int
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the number and the resulting weights of each round.

    Args:
        grid: asks the sites.
        strategy: Flower's.
        weights: the model to start from, shape (d,).
        rounds: how many.

    Raises:
        SiteMissing: a site gave no release.
    """
    arrays = arrays_of(weights)
    for number in range(1, rounds + 1):
        messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
        replies = _complete(grid, grid.send_and_receive(messages))
        combined, _ = strategy.aggregate_train(number, replies)
        if combined is None:
            raise RuntimeError(f"the strategy combined nothing in round {number}")
        arrays = combined
        yield number, weights_of(arrays)


def evaluate_model(grid: LinkGrid, strategy: Strategy, weights: NDArray[np.float64]) -> dict[str, MetricRecord]:
    """Return every site's released figures on its held-out patients.

    Raises:
        SiteMissing: a site gave no release.
    """
    messages = strategy.configure_evaluate(1, arrays_of(weights), ConfigRecord(), grid)
    replies = _complete(grid, grid.send_and_receive(messages))
    return {
        grid.site_of(reply.metadata.src_node_id): next(iter(reply.content.metric_records.values())) for reply in replies
    }


def _complete(grid: LinkGrid, replies: Iterable[Message]) -> list[Message]:
    complete = list(replies)
    absent = {
        grid.site_of(reply.metadata.src_node_id): reply.error.reason or "away"
        for reply in complete
        if reply.has_error()
    }
    if absent:
        raise SiteMissing(absent)
    return complete
