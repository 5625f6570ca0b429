"""A public grid of follow-up time: which intervals a patient lived through, and in which one follow-up ended.

Cox's partial likelihood compares each event with everybody still at risk, so that its gradient is no sum over
patients: no clip could bound what one of them does to it, and a site would have to say who is at risk when. With the
baseline hazard constant within the intervals of a grid that the protocol states, the same regression is a sum of one
term a patient (Holford, Biometrics 1980; Laird and Olivier, JASA 1981):

    loss = sum over intervals k of  lived_k exp(a_k + x b) - ended_k (a_k + x b),

the Poisson form. Maximised over the a_k of a stratum it is Cox's partial likelihood with Breslow's ties in the limit of
a fine grid. Torch-free.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhealth.study.protocol import Study
from fedhealth.study.survival_endpoint import SurvivalEndpoint

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class TimeGrid:
    """Intervals (0, e_1], (e_1, e_2] ... up to the horizon; time 0 is in the first.

    Attributes:
        ends: end of each interval, in the protocol's unit, ascending and above 0.
    """

    ends: tuple[float, ...]

    @property
    def intervals(self) -> int:
        """Number of intervals."""
        return len(self.ends)

    @property
    def horizon(self) -> float:
        """End of the last interval: nothing after it is looked at."""
        return self.ends[-1]

    @property
    def starts(self) -> Vector:
        """Start of each interval, shape (intervals,)."""
        return np.array([0.0, *self.ends[:-1]])

    @property
    def widths(self) -> Vector:
        """Length of each interval, shape (intervals,)."""
        return np.array(self.ends) - self.starts

    def lived(self, times: Vector) -> Vector:
        """Return how long each patient was followed in each interval, shape (patients, intervals)."""
        return np.clip(times[:, None] - self.starts, 0.0, self.widths)

    def interval_of(self, times: Vector) -> NDArray[np.int64]:
        """Return the interval in which each time lies, shape (patients,); `intervals` for those beyond the horizon.

        NaN is beyond the horizon, too.
        """
        return np.searchsorted(np.array(self.ends), times, side="left").astype(np.int64)

    def hazard_of(self, share: float) -> float:
        """Return the constant hazard, per unit of time, at which a share of patients has the event by the horizon.

        Example:
            >>> round(TimeGrid((1.0, 2.0)).hazard_of(0.5), 4)
            0.3466
        """
        return -math.log1p(-share) / self.horizon


def endpoint_of(study: Study) -> SurvivalEndpoint:
    """Return the endpoint of a study of survival.

    Raises:
        ValueError: it has another; the tables of models and outcomes refuse such a study before.
    """
    if not isinstance(study.endpoint, SurvivalEndpoint):
        raise ValueError(f"an endpoint of kind '{study.endpoint.kind}' has no time")
    return study.endpoint


def grid_of(study: Study) -> TimeGrid:
    """Return the grid of a study of survival."""
    return TimeGrid(endpoint_of(study).interval_ends)


def expected_hazard(study: Study) -> float:
    """Return the constant hazard of a study's `expected_share`, per unit of time: where training starts."""
    return grid_of(study).hazard_of(endpoint_of(study).expected_share)
