"""The kinds of model, each with the module that says how it is computed; a line for each. Torch-free."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.models import (
    ancova,
    cnn,
    cox,
    discrete_time_survival,
    fusion,
    linear_regression,
    logistic_regression,
    mixed_model,
    mlp,
)
from fedhealth.study.protocol import Study

if TYPE_CHECKING:
    import torch

    from fedhealth.training.per_patient import RecordLoss


class Model(Protocol):
    """What a module of this package says of its kind of model.

    Attributes:
        ENDPOINTS: the kinds of endpoint that it can be fitted to.
        HAS_HIDDEN_LAYERS: whether it takes `model.hidden`, and needs some.
    """

    @property
    def ENDPOINTS(self) -> frozenset[str]: ...  # noqa: N802, D102

    @property
    def HAS_HIDDEN_LAYERS(self) -> bool: ...  # noqa: N802, D102

    def size(self, study: Study) -> int:
        """Return the number of its weights; 0 for an estimate that is not trained."""
        ...

    def start(self, study: Study) -> NDArray[np.float64]:
        """Return the weights of the first round, from the protocol alone, shape (size,)."""
        ...

    def tensors(self, study: Study) -> Mapping[str, tuple[int, ...]]:
        """Return the names and shapes of the tensors of its file, which hold the weights in this order."""
        ...

    def reading(self, study: Study) -> str:
        """Return how a record's outputs follow from its inputs and these tensors, in words for the model card."""
        ...

    def module(self, study: Study) -> "torch.nn.Module":
        """Return it for torch, without buffers, each row computed alone; torch is loaded by this."""
        ...

    def loss(self, study: Study) -> "RecordLoss":
        """Return the loss of one record."""
        ...


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "logistic-regression": logistic_regression,
        "linear-regression": linear_regression,
        "mlp": mlp,
        "cnn": cnn,
        "fusion": fusion,
        "ancova": ancova,
        "mixed-model": mixed_model,
        "cox": cox,
        "discrete-time-survival": discrete_time_survival,
    }
)
"""By `model.kind`."""

OWN_WEIGHTS: Mapping[str, Callable[[Study], int]] = MappingProxyType({"cox": cox.own_weights})
"""Of the kinds that have any: how many of the last weights each site keeps of its own."""

CONVOLVES = frozenset({"cnn"})
"""Kinds that see one image, and are computed by `fedhealth.learning.image_models`."""

FUSES = frozenset({"fusion"})
"""Kinds that take `model.modalities`, and need some."""


def model_of(study: Study) -> Model:
    """Return the module of a study's model.

    Raises:
        ConfigInvalid: there is none of this kind, or it does not fit the endpoint, or it is given layers or modalities
            that it has not, or none where it needs some.
    """
    kind, endpoint = study.model.kind, study.endpoint.kind
    fitting = sorted(name for name, model in MODELS.items() if endpoint in model.ENDPOINTS)
    if kind not in fitting:
        raise ConfigInvalid(
            f"study '{study.name}' has a model that cannot be fitted to its endpoint",
            got=f"model.kind = '{kind}', endpoint.kind = '{endpoint}'",
            wanted=", ".join(f"'{name}'" for name in fitting),
            next_step="Correct [model].",
        )
    if bool(study.model.hidden) != MODELS[kind].HAS_HIDDEN_LAYERS:
        raise ConfigInvalid(
            f"study '{study.name}' gives its model layers that do not fit",
            got=f"model.hidden = {list(study.model.hidden)}",
            wanted="the widths of the hidden layers" if MODELS[kind].HAS_HIDDEN_LAYERS else "none",
            next_step="Correct [model].",
        )
    if study.model.compare_sides and kind not in CONVOLVES:
        raise ConfigInvalid(
            f"study '{study.name}' compares the sides of an image, and its model sees none",
            got=f"model.kind = '{kind}', compare_sides = true",
            wanted="model.compare_sides for " + ", ".join(f"'{each}'" for each in sorted(CONVOLVES)) + " and no other",
            next_step="Leave out model.compare_sides, or correct [model].",
        )
    if study.training is not None and study.training.augment and kind not in CONVOLVES:
        raise ConfigInvalid(
            f"study '{study.name}' asks for further images, and its model sees none",
            got=f"model.kind = '{kind}', {len(study.training.augment)} transforms",
            wanted="training.augment for " + ", ".join(f"'{each}'" for each in sorted(CONVOLVES)) + " and no other",
            next_step="Leave out training.augment, or correct [model].",
        )
    if bool(study.model.modalities) != (kind in FUSES):
        raise ConfigInvalid(
            f"study '{study.name}' divides its features for a model that does not fit",
            got=f"model.kind = '{kind}', {len(study.model.modalities)} modalities",
            wanted="[[model.modalities]] for " + ", ".join(f"'{each}'" for each in sorted(FUSES)) + " and no other",
            next_step="Correct [model].",
        )
    return MODELS[kind]


def own_weights_of(study: Study) -> int:
    """Return how many of the last weights of a study's model are each site's own; 0 where all are shared."""
    return OWN_WEIGHTS[study.model.kind](study) if study.model.kind in OWN_WEIGHTS else 0
