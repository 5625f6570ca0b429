"""Mechanisms that do not do what they claim, for measuring and testing whether the empirical audit finds them.

Each fault wraps what ships, from outside, and leaves its claims as they are; the faults of claims leave the mechanism
as it is.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from fedhealth.privacy.events import GaussianEvent, GeometricEvent
from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.privacy.geometric import GeometricHistogram
from fedhealth.privacy.stream import KeyedStream, NoiseSecret
from fedhealth.training.exact_sum import ExactSummer
from fedhealth.training.sampling import PatientSampler

Fault = AbstractContextManager[None]
Integers = NDArray[np.int64]

ADD_GAUSSIAN, ADD_GEOMETRIC = GridGaussian.add_noise, GeometricHistogram.add_noise
GAUSSIAN_SUM, GEOMETRIC_SUM = GridGaussian.fine_sum, GeometricHistogram.bound_and_count
GAUSSIAN_EVENT, GEOMETRIC_EVENT = GridGaussian.event, GeometricHistogram.event.fget
EXACT_SUM, DRAW = ExactSummer.fine_sum, PatientSampler.draw


class RepeatedNoise:
    """A noise secret that gives every second release the noise of the one before.

    Args:
        secret: the true one.
    """

    def __init__(self, secret: NoiseSecret) -> None:
        self._secret, self._keys = secret, dict[str, int]()

    def stream(self, noise_key: str, purpose: str) -> KeyedStream:
        """Return the stream of this release or of the one before."""
        place = self._keys.setdefault(noise_key, len(self._keys))
        return self._secret.stream(f"pair {place // 2}", purpose)


@contextmanager
def patched(*changes: tuple[type, str, object]) -> Iterator[None]:
    """Replace attributes of classes for a while."""
    with ExitStack() as undo:
        for owner, name, value in changes:
            undo.enter_context(patch.object(owner, name, value))
        yield


def noise_times(factor: float) -> Fault:
    """Give all noise another standard deviation."""

    def gaussian(self: GridGaussian, total: Integers, stream: KeyedStream) -> Integers:
        return total + np.rint(factor * (ADD_GAUSSIAN(self, total, stream) - total)).astype(np.int64)

    def geometric(self: GeometricHistogram, counts: Integers, stream: KeyedStream) -> Integers:
        deviation = factor * self.standard_deviation  # sqrt(2 p) / (1 - p), solved for the root of p
        root = (math.sqrt(2 + 4 * deviation**2) - math.sqrt(2)) / (2 * deviation)
        return ADD_GEOMETRIC(replace(self, epsilon_per_cell=-2 * math.log(root)), counts, stream)

    return patched((GridGaussian, "add_noise", gaussian), (GeometricHistogram, "add_noise", geometric))


def clip_times_two() -> Fault:
    """Let a patient move a release by twice the clip or bound."""

    def gaussian(self: GridGaussian, vectors: NDArray[np.float64]) -> tuple[Integers, int]:
        total, zeroed = GAUSSIAN_SUM(self, vectors)
        return 2 * total, zeroed

    def geometric(self: GeometricHistogram, falls_in: NDArray[np.bool_]) -> Integers:
        return GEOMETRIC_SUM(replace(self, cells_per_patient=2 * self.cells_per_patient), falls_in)

    def one_backward_pass(self: ExactSummer, *arguments: object) -> tuple[Integers, int]:
        total, zeroed = EXACT_SUM(self, *arguments)
        return 2 * total, zeroed

    return patched(
        (GridGaussian, "fine_sum", gaussian),
        (ExactSummer, "fine_sum", one_backward_pass),
        (GeometricHistogram, "bound_and_count", geometric),
    )


def claims_of_more_noise() -> Fault:
    """Charge a twentieth less loss than there is."""

    def gaussian(self: GridGaussian, sampling_rate: float = 1.0) -> GaussianEvent:
        event = GAUSSIAN_EVENT(self, sampling_rate)
        return event.model_copy(update={"noise_multiplier": event.noise_multiplier * 1.05})

    def geometric(self: GeometricHistogram) -> GeometricEvent:
        event = GEOMETRIC_EVENT(self)
        return event.model_copy(update={"epsilon": event.epsilon / 1.05})

    return patched((GridGaussian, "event", gaussian), (GeometricHistogram, "event", property(geometric)))


def noise_of_another_shape() -> Fault:
    """Draw noise of the right standard deviation from the uniform distribution."""

    def uniform(self: GridGaussian | GeometricHistogram, total: Integers, stream: KeyedStream) -> Integers:
        steps = self.standard_deviation / getattr(self, "grid", 1.0)
        unit = stream.words(total.size).astype(np.float64) / 2.0**64 - 0.5
        return total + np.rint(unit * math.sqrt(12) * steps).astype(np.int64)

    return patched((GridGaussian, "add_noise", uniform), (GeometricHistogram, "add_noise", uniform))


def half_the_noise_twice() -> Fault:
    """Use the noise of the first half of the coordinates for the second half too."""

    def halved(add: Callable[..., Integers]) -> Callable[..., Integers]:
        def twice(self: GridGaussian | GeometricHistogram, total: Integers, stream: KeyedStream) -> Integers:
            noise, half = add(self, np.zeros_like(total), stream), (total.size + 1) // 2
            return total + np.concatenate([noise[:half], noise[: total.size - half]])

        return twice

    return patched(
        (GridGaussian, "add_noise", halved(ADD_GAUSSIAN)), (GeometricHistogram, "add_noise", halved(ADD_GEOMETRIC))
    )


def noise_of_one_coordinate_times(factor: float) -> Fault:
    """Give the noise of the last coordinate, and of no other, another size."""

    def smaller(add: Callable[..., Integers]) -> Callable[..., Integers]:
        def one_smaller(self: GridGaussian | GeometricHistogram, total: Integers, stream: KeyedStream) -> Integers:
            noise = add(self, np.zeros_like(total), stream)
            noise[-1] = round(factor * int(noise[-1]))
            return total + noise

        return one_smaller

    return patched(
        (GridGaussian, "add_noise", smaller(ADD_GAUSSIAN)), (GeometricHistogram, "add_noise", smaller(ADD_GEOMETRIC))
    )


def one_noise_for_two_coordinates() -> Fault:
    """Use the noise of the first coordinate for the last one too."""

    def shared(add: Callable[..., Integers]) -> Callable[..., Integers]:
        def once(self: GridGaussian | GeometricHistogram, total: Integers, stream: KeyedStream) -> Integers:
            noise = add(self, np.zeros_like(total), stream)
            noise[-1] = noise[0]
            return total + noise

        return once

    return patched(
        (GridGaussian, "add_noise", shared(ADD_GAUSSIAN)), (GeometricHistogram, "add_noise", shared(ADD_GEOMETRIC))
    )


def four_patients_in_five() -> Fault:
    """Draw four patients in five, whatever rate is charged."""
    return patched((PatientSampler, "draw", lambda self, stream: DRAW(replace(self, sampling_rate=0.8), stream)))


def the_same_patients() -> Fault:
    """Draw the same patients in every round."""
    return patched((PatientSampler, "draw", lambda self, stream: DRAW(self, KeyedStream(bytes(32)))))
