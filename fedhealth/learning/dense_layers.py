"""Models of dense layers with softsign between them: their widths, their public start, their tensors. Torch-free.

The weights of a model are one vector: layer by layer, the weights of each output in turn, and then the biases.

Start: each weight is uniform within +-sqrt(6 / (inputs + outputs)) of its layer, each bias 0 (Glorot and Bengio,
AISTATS 2010). The draws are the bits of SHAKE-256 of the study's digest, so that every site, coordinator and auditor
has the same start, whatever the versions of their libraries, and nobody can choose one.
"""

import hashlib
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedhealth.study.diagnosis_endpoints import ClassesEndpoint
from fedhealth.study.protocol import Study


def widths_of(study: Study) -> tuple[int, ...]:
    """Return the widths of a diagnosis: inputs, units of each hidden layer, and outputs: one for each class, or one."""
    endpoint = study.endpoint
    outputs = len(endpoint.classes) if isinstance(endpoint, ClassesEndpoint) else 1
    return (study.dimension, *study.model.hidden, outputs)


def size_of(widths: Sequence[int]) -> int:
    """Return the number of weights, biases included."""
    return sum(outputs * (inputs + 1) for inputs, outputs in itertools.pairwise(widths))


def start_of(widths: Sequence[int], digest: str) -> NDArray[np.float64]:
    """Return where training starts.

    Args:
        widths: of the layers.
        digest: of the study.
    """
    draws = draws_of(digest, size_of(widths))
    parts, at = list[NDArray[np.floating]](), 0
    for inputs, outputs in itertools.pairwise(widths):
        reach = math.sqrt(6 / (inputs + outputs))
        parts += [reach * draws[at : at + inputs * outputs], np.zeros(outputs)]
        at += inputs * outputs
    return np.concatenate(parts).astype(np.float64)


def draws_of(digest: str, count: int) -> NDArray[np.float64]:
    """Return so many numbers of a study's digest, uniform in [-1, 1)."""
    bits = hashlib.shake_256(f"fedhealth/start/{digest}".encode()).digest(8 * count)
    return np.asarray((np.frombuffer(bits, dtype="<u8") >> np.uint64(11)) * 2.0**-52 - 1)  # 53 bits, exactly


def tensors_of(widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the tensors of a model's file, in the order of the weights."""
    layers = list(itertools.pairwise(widths))
    found = dict[str, tuple[int, ...]]()
    for number, (inputs, outputs) in enumerate(layers, 1):
        name = f"layer {number} " if len(layers) > 1 else ""
        found |= {f"{name}weights": (outputs, inputs), f"{name}biases": (outputs,)}
    return found
