"""Drive a Flower strategy round by round.

Flower's own `Strategy.start` always runs rounds 1 to n and cannot be resumed, so the loop is ours and the strategy is
Flower's: it configures each round and combines the replies. A round counts only with the sites that the study asks for,
and says which others gave no release, and why; nothing is dropped silently.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedhealth.flower.link_grid import LinkGrid
from fedhealth.flower.own_weights import OwnWeights

WEIGHTS = "weights"
"""The one array of a model: all weights, flattened."""

ARRAYS = "arrays"
"""Flower's key for the model in a message."""

EXAMPLES = "num-examples"
"""Flower's key for a reply's weight; here the public number of declared patients."""


RELEASE_NUMBER = "release-number"
"""Key of a message's config: the round that a gate is asked for, which is ahead of Flower's after a loss."""

LOST = "bad-request"
"""What a gate answers that has sent a release before and dropped it."""


class SiteMissing(Exception):
    """Too few sites gave a release in a round.

    Args:
        absent: the public code of each site that gave none.
    """

    def __init__(self, absent: dict[str, str]) -> None:
        super().__init__(", ".join(f"{site}: {code}" for site, code in sorted(absent.items())))
        self.absent = absent


def arrays_of(weights: NDArray[np.float64]) -> ArrayRecord:
    """Return model weights as Flower carries them."""
    return ArrayRecord({WEIGHTS: Array(np.ascontiguousarray(weights))})


def weights_of(arrays: ArrayRecord) -> NDArray[np.float64]:
    """Return model weights from Flower's record."""
    return np.asarray(arrays[WEIGHTS].numpy(), dtype=np.float64)


@dataclass(frozen=True)
class Course:
    """How rounds follow one another.

    Attributes:
        rounds: how many shall be completed.
        spare: how far the number of a round's releases may be ahead of the round, after releases were lost.
        counts_with: whether a round counts with the releases of these sites.
        completed: rounds that are done already.
        number: of the last releases that were asked for.
    """

    rounds: int
    counts_with: Callable[[Collection[str]], bool]
    spare: int = 0
    completed: int = 0
    number: int = 0


@dataclass(frozen=True)
class TrainedRound:
    """A round that counts.

    Attributes:
        round: from 1.
        number: of its releases.
        lost: numbers before it whose releases a site has no more; they were asked for, and count for nothing.
        weights: the model after it.
        absent: the public code of each site that gave no release.
        asked: the model that each site which gave one was asked with.
    """

    round: int
    number: int
    lost: tuple[int, ...]
    weights: NDArray[np.float64]
    absent: dict[str, str]
    asked: dict[str, NDArray[np.float64]]


def train_rounds(
    grid: LinkGrid, strategy: Strategy, weights: NDArray[np.float64], course: Course, own: OwnWeights | None = None
) -> Iterator[TrainedRound]:
    """Yield each round that counts.

    A site that answers `bad-request` has sent this release before and dropped it: the round is asked for again under
    the next number while there are spare ones.

    Args:
        grid: asks the sites.
        strategy: Flower's.
        weights: the model to start from, shape (d,).
        course: which rounds.
        own: the weights that each site keeps of its own, as they are after the rounds that are done; None for none.

    Raises:
        SiteMissing: a round does not count with the sites that gave a release.
    """
    number, own = course.number, own or OwnWeights(0)
    for each in range(course.completed + 1, course.rounds + 1):
        lost: list[int] = []
        while True:
            number += 1
            config = ConfigRecord({RELEASE_NUMBER: number})
            messages = list(strategy.configure_train(each, arrays_of(weights), config, grid))
            asked = {grid.site_of(message.metadata.dst_node_id): message for message in messages}
            models = {site: own.model_for(site, weights_of(_model_in(message))) for site, message in asked.items()}
            for site, message in asked.items():
                message.content = RecordDict({**message.content, ARRAYS: arrays_of(models[site])})
            given, absent = _sorted_out(grid, messages)
            if LOST not in absent.values() or number - each >= course.spare:
                break
            lost.append(number)
        if not course.counts_with(_sites(grid, given)):
            raise SiteMissing(absent)
        # Read before they are combined: some strategies take a reply's arrays apart.
        answers = {site: weights_of(_model_in(reply)) for site, reply in zip(_sites(grid, given), given, strict=True)}
        combined, _ = strategy.aggregate_train(each, given)
        if combined is None:
            raise RuntimeError(f"the strategy combined nothing in round {each}")
        weights = own.common(weights_of(combined), answers)
        yield TrainedRound(each, number, tuple(lost), weights, absent, {site: models[site] for site in answers})


def evaluate_model(
    grid: LinkGrid, strategy: Strategy, weights: NDArray[np.float64], counts_with: Callable[[Collection[str]], bool]
) -> tuple[dict[str, MetricRecord], dict[str, str]]:
    """Return each site's released figures on its held-out patients, and the public code of each site without.

    Raises:
        SiteMissing: the evaluation does not count with the sites that gave a release.
    """
    config = ConfigRecord({RELEASE_NUMBER: 1})
    given, absent = _sorted_out(grid, strategy.configure_evaluate(1, arrays_of(weights), config, grid))
    if not counts_with(_sites(grid, given)):
        raise SiteMissing(absent)
    records = (next(iter(reply.content.metric_records.values())) for reply in given)
    return dict(zip(_sites(grid, given), records, strict=True)), absent


def _sorted_out(grid: LinkGrid, messages: Iterable[Message]) -> tuple[list[Message], dict[str, str]]:
    """Ask, and return the releases and the codes of the sites that gave none."""
    replies = list(grid.send_and_receive(messages))
    absent = {
        grid.site_of(reply.metadata.src_node_id): reply.error.reason or "away" for reply in replies if reply.has_error()
    }
    return [reply for reply in replies if not reply.has_error()], absent


def _model_in(message: Message) -> ArrayRecord:
    return message.content.array_records[ARRAYS]


def _sites(grid: LinkGrid, replies: Iterable[Message]) -> list[str]:
    return [grid.site_of(reply.metadata.src_node_id) for reply in replies]
