"""The rounds of a protocol with its own strategy, and without privacy: every patient, no clip, no noise.

For public data and simulations, never in a federation: there is no gate and no ledger, and a site's step holds its
patients as they are.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhealth.flower.link_grid import BatchGrid, NotReleased, Question, set_task_identity
from fedhealth.flower.own_weights import OwnWeights
from fedhealth.flower.plain_models import PlainModels
from fedhealth.flower.rounds import Course, train_rounds
from fedhealth.flower.strategies import strategy_for
from fedhealth.flower.weight_average import WeightAverage
from fedhealth.learning.models.table import model_of, own_weights_of
from fedhealth.learning.raw_figures import step_without_privacy
from fedhealth.records.table import Records
from fedhealth.study.protocol import Study


def train_without_privacy(
    study: Study, sides: Mapping[str, Records], declared_patients: Mapping[str, int]
) -> NDArray[np.float64]:
    """Return the model of the protocol's rounds, step length and strategy, with every patient, no clip and no noise.

    Args:
        study: the protocol.
        sides: the training side of each site.
        declared_patients: each site's public figure.

    Raises:
        ConfigInvalid: they are too few sites for the strategy.
    """

    def answers(questions: Sequence[Question]) -> list[bytes | NotReleased]:
        return [model_after(np.frombuffer(data).copy(), site).tobytes() for site, _, _, data in questions]

    def model_after(weights: NDArray[np.float64], site: str) -> NDArray[np.float64]:
        return weights + step_without_privacy(study, weights, sides[site], declared_patients[site])

    strategy = strategy_for(study, len(sides))
    set_task_identity(run_id=int(study.digest[:12], 16))
    grid = BatchGrid(list(sides), answers, PlainModels(declared_patients))
    weights, own, average = model_of(study).start(study), OwnWeights(own_weights_of(study)), WeightAverage(study)
    try:
        for trained in train_rounds(grid, strategy, weights, Course(study.rounds, lambda given: True), own):
            weights = average.after(trained.round, trained.weights)
    finally:
        grid.close()
    return weights
