"""The model of a study as a file: safetensors with one tensor, and whose it is. Torch-free."""

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from fedhealth.errors import DataUnusable
from fedhealth.learning.plan import plan_study
from fedhealth.study.protocol import Study

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class ModelFile:
    """A model that was read.

    Attributes:
        weights: shape (inputs + 1,), finite.
        notes: what the file says of itself: digest of the study, completed rounds.
    """

    weights: NDArray[np.float64]
    notes: dict[str, Any]


def read_model(data: bytes, study: Study) -> ModelFile:
    """Return the model in a safetensors file.

    Raises:
        DataUnusable: it is no safetensors file, or not the size of this study's model.
    """
    try:
        tensors = load(data)
        header = json.loads(data[_LENGTH.size : _LENGTH.size + _LENGTH.unpack_from(data)[0]])
        notes = json.loads(header.get("__metadata__", {}).get("fedhealth", "{}"))
    except (SafetensorError, ValueError, struct.error) as error:
        raise DataUnusable("the model is not a safetensors file", got=str(error)) from error
    weights, length = tensors.get("weights"), plan_study(study)["train"].input_length
    fits = weights is not None and weights.dtype == np.float64 and weights.shape == (length,)
    if weights is None or not fits or not np.isfinite(weights).all():
        raise DataUnusable(
            f"the model is not of study '{study.name}'",
            got=", ".join(f"{name} {tensor.dtype}{list(tensor.shape)}" for name, tensor in tensors.items()),
            wanted=f"one tensor 'weights', float64[{length}], finite",
            next_step="Give the model.safetensors of the same run.",
        )
    return ModelFile(np.asarray(weights), notes if isinstance(notes, dict) else {})
