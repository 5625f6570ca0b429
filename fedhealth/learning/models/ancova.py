"""Analysis of covariance: effects of arms on one outcome, with an intercept of each site. Nothing is trained."""

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fedhealth.study.protocol import Study

ENDPOINTS = frozenset({"trial"})
HAS_HIDDEN_LAYERS = False


def size(study: Study) -> int:
    """Return 0: the effects follow from what the sites release, at the coordinator."""
    return 0


def start(study: Study) -> NDArray[np.float64]:
    """Return no weights."""
    return np.zeros(0)


def tensors(study: Study) -> dict[str, tuple[int, ...]]:
    """Return one tensor without numbers."""
    return {"weights": (0,)}


def reading(study: Study) -> str:
    """Return that there is nothing to read."""
    return "The tensor `weights` is empty: nothing was trained."


def module(study: Study) -> NoReturn:
    """Refuse: there is no network."""
    raise ValueError(f"study '{study.name}' trains nothing")


def loss(study: Study) -> NoReturn:
    """Refuse: there is no loss."""
    raise ValueError(f"study '{study.name}' trains nothing")
