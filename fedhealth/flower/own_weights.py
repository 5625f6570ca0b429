"""Weights that each site keeps of its own while the rest of the model is shared: the baseline of a stratum.

They are the last so many of a model. A site is asked with its own in their place and answers with them changed; the
strategy combines the whole vectors, as it does any model, and what it makes of these last weights is put aside: in the
common model stands the mean over all sites that have given a release. Flower's strategies need not know.

Their owner is the round loop; a checkpoint holds them.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedhealth.flower.kept_arrays import Arrays

_OWN = "own/"


class OwnWeights:
    """The own weights of all sites.

    Args:
        count: how many of the last weights of a model they are; 0 where all weights are shared.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._of: dict[str, NDArray[np.float64]] = {}

    def model_for(self, site: str, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the model that a site is asked with: the common one, with the site's own weights if it has any."""
        if site not in self._of:
            return weights
        return np.concatenate([weights[: len(weights) - self._count], self._of[site]])

    def common(self, combined: NDArray[np.float64], answers: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Take the own weights out of a round's answers, and return the common model.

        Args:
            combined: what the strategy made of the answers, shape (d,).
            answers: each site's model, by site.
        """
        if not self._count:
            return combined
        shared = len(combined) - self._count
        self._of |= {site: model[shared:] for site, model in answers.items()}
        mean = np.mean([self._of[site] for site in sorted(self._of)], axis=0)
        return np.concatenate([combined[:shared], mean])

    def take(self) -> Arrays:
        """Return them as arrays that a checkpoint can hold."""
        return {_OWN + site: own.copy() for site, own in self._of.items()}

    def put_back(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Set them to what `take` returned, perhaps in another process; other arrays are passed over."""
        self._of = {
            name.removeprefix(_OWN): np.asarray(own, dtype=np.float64)
            for name, own in arrays.items()
            if name.startswith(_OWN)
        }
