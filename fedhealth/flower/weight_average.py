"""The mean of the models after the last rounds of training, which is published in place of the last one alone.

Noise moves a model from round to round; in a mean over rounds much of it cancels. It rests on what was released anyway,
so it costs no privacy. The rounds themselves go on from the last model, whatever the mean is.

Its owner is whoever drives the rounds; a checkpoint holds it.

Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 1992; of
private training, De et al., "Unlocking High-Accuracy Differentially Private Image Classification through Scale", 2022.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedhealth.flower.kept_arrays import Arrays
from fedhealth.study.protocol import Study

_SUM, _ROUNDS = "average/sum", "average/rounds"


class WeightAverage:
    """The mean so far.

    Args:
        study: says over how many of the last rounds; over one, it is the last model.
    """

    def __init__(self, study: Study) -> None:
        self._most = 1 if study.training is None else study.training.weight_averaging
        self._before = study.rounds - self._most
        self._sum: NDArray[np.float64] | None = None
        self._rounds = 0

    def after(self, number: int, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take in the model after a round, and return the one to publish if no other follows.

        Args:
            number: of the round, from 1; each is taken in once, in order.
            weights: after it, shape (d,).
        """
        if self._most > 1 and number > self._before:
            self._sum = weights if self._sum is None else self._sum + weights
            self._rounds += 1
        return self.of(weights)

    def of(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the model to publish where this is the last one."""
        return weights if self._sum is None else self._sum / self._rounds

    def take(self) -> Arrays:
        """Return it as arrays that a checkpoint can hold."""
        return {} if self._sum is None else {_SUM: self._sum.copy(), _ROUNDS: np.array([self._rounds])}

    def put_back(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Set it to what `take` returned, perhaps in another process; other arrays are passed over."""
        if _SUM in arrays:
            self._sum, self._rounds = np.asarray(arrays[_SUM], dtype=np.float64), int(arrays[_ROUNDS][0])
