"""Analysis of covariance: effects of arms on one outcome, with an intercept of each site. Nothing is trained."""

from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from fedhealth.study.protocol import Study

if TYPE_CHECKING:
    import torch

    from fedhealth.training.per_patient import RecordLoss

ENDPOINTS = frozenset({"trial"})
HAS_HIDDEN_LAYERS = False


def size(study: Study) -> int:
    """Return 0: the effects follow from what the sites release, at the coordinator."""
    return 0


def start(study: Study) -> NDArray[np.float64]:
    """Return no weights."""
    return np.zeros(0)


def module(study: Study) -> "torch.nn.Module":
    """Refuse: there is no network."""
    return _refuse(study)


def loss(study: Study) -> "RecordLoss":
    """Refuse: there is no loss."""
    return _refuse(study)


def _refuse(study: Study) -> NoReturn:
    raise ValueError(f"study '{study.name}' trains nothing")
