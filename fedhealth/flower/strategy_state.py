"""What a Flower strategy keeps from round to round, as arrays that a checkpoint can hold.

Flower's strategies keep their memory in attributes: FedAvgM its momentum and the last model, FedAdam and its kin their
moments. Any attribute that is an array, a list or dict of arrays, or an `ArrayRecord` is taken; all others are
settings, and must be as they were when the strategy was made, or there would be state that a resumed round has not.

Source: `flwr.serverapp.strategy`, Flower 1.41; a contract test reads the attributes of every strategy that it ships.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fedhealth.flower.kept_arrays import Arrays, Shape


class StrategyState:
    """The memory of one strategy.

    Args:
        strategy: as it was just made, before its first round.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._made = dict(vars(strategy))

    def take(self) -> tuple[Arrays, dict[str, Shape]]:
        """Return all arrays of the strategy and how they belong together.

        Raises:
            TypeError: the strategy has changed something that is no array; it cannot be resumed.
        """
        arrays: Arrays = {}
        shapes: dict[str, Shape] = {}
        for name, value in vars(self._strategy).items():
            found = _arrays_in(value)
            if found is not None:
                kind, parts = found
                shapes[name] = Shape(kind=kind, keys=tuple(parts))
                arrays |= {f"{name}/{key}": np.ascontiguousarray(part) for key, part in parts.items()}
            elif value is not self._made.get(name) and value != self._made.get(name):
                raise TypeError(f"{type(self._strategy).__name__}.{name} changed and is no array")
        return arrays, shapes

    def put_back(self, arrays: Mapping[str, NDArray[np.generic]], shapes: Mapping[str, Shape]) -> None:
        """Give the strategy the memory that `take` returned, perhaps in another process."""
        for name, shape in shapes.items():
            parts = {key: arrays[f"{name}/{key}"] for key in shape.keys}
            value: object = parts
            if shape.kind == "array":
                value = parts[""]
            elif shape.kind == "list":
                value = list(parts.values())
            elif shape.kind == "record":
                value = ArrayRecord({key: Array(part) for key, part in parts.items()})
            setattr(self._strategy, name, value)


def _arrays_in(value: object) -> tuple[Literal["array", "list", "dict", "record"], Arrays] | None:
    if isinstance(value, np.ndarray):
        return "array", {"": value}
    if isinstance(value, ArrayRecord):
        return "record", {key: array.numpy() for key, array in value.items()}
    if isinstance(value, list) and value and all(isinstance(part, np.ndarray) for part in value):
        return "list", {str(place): part for place, part in enumerate(value)}
    if isinstance(value, dict) and value and all(isinstance(part, np.ndarray) for part in value.values()):
        return "dict", dict(value)
    return None
