"""A codec for sites that answer with models as they are: for public data and simulations, never in a federation."""

from collections.abc import Mapping

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from fedhealth.flower.rounds import ARRAYS, EXAMPLES, RELEASE_NUMBER, arrays_of, weights_of


class PlainModels:
    """Messages as doubles: a question is the common model, and an answer the site's own.

    Args:
        declared_patients: the public figure of each site, its weight.
    """

    def __init__(self, declared_patients: Mapping[str, int]) -> None:
        self._declared = declared_patients

    def encode(self, message: Message) -> tuple[str, int, bytes]:
        """Return the step, the round and the common model."""
        number = message.content.config_records["config"][RELEASE_NUMBER]
        return "train", int(str(number)), weights_of(message.content.array_records[ARRAYS]).tobytes()

    def decode(self, site: str, message: Message, payload: bytes) -> RecordDict:
        """Return a site's model with its public weight."""
        weight = MetricRecord({EXAMPLES: float(self._declared[site])})
        return RecordDict({ARRAYS: arrays_of(np.frombuffer(payload)), "metrics": weight})
