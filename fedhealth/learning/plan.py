"""The plan of a study's releases: which mechanism each step uses and what all of them cost. Torch-free.

Coordinator and site derive the same plan from the same protocol: the coordinator to read releases, the site to
charge them. The rounds are full batch (every patient, q = 1) and accounted as such.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import ConfigInvalid
from fedhealth.privacy.accountant import Cost, noise_multiplier_for
from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.privacy.release import Cohort, StepName
from fedhealth.study.protocol import Study

CONFUSION_CELLS = ("true-positive", "false-positive", "true-negative", "false-negative")
"""What an evaluation releases, in this order; a patient counts once, in one cell."""


@dataclass(frozen=True)
class Step:
    """One step of a study.

    Attributes:
        name: "train" or "evaluate".
        cohort: the patients it uses.
        rounds: how often the protocol runs it.
        input_length: number of model weights it takes, each a finite double.
        mechanism: how its release is clipped and noised.
    """

    name: StepName
    cohort: Cohort
    rounds: int
    input_length: int
    mechanism: GridGaussian

    @property
    def envelope(self) -> Cost:
        """The cost of all its rounds."""
        return self.mechanism.cost.times(self.rounds)


def plan_study(study: Study) -> dict[StepName, Step]:
    """Return the steps of a study; the order of the dict is the order they run in.

    Raises:
        ConfigInvalid: no mechanism of ours gives so little epsilon over so many rounds or weights.
    """
    try:
        return _steps_of(study)
    except ValueError as error:
        raise ConfigInvalid(
            f"study '{study.name}' asks for a mechanism that does not exist",
            got=str(error),
            next_step="Give it more epsilon, fewer rounds, or fewer features.",
        ) from error


def _steps_of(study: Study) -> dict[StepName, Step]:
    weights = study.dimension + 1
    privacy, rounds = study.privacy, study.training.rounds
    return {
        "train": Step(
            name="train",
            cohort="training",
            rounds=rounds,
            input_length=weights,
            mechanism=GridGaussian(
                noise_multiplier=noise_multiplier_for(privacy.training_epsilon, privacy.delta, rounds),
                l2_clip_norm=study.training.l2_clip_norm,
                dimension=weights,
            ),
        ),
        "evaluate": Step(
            name="evaluate",
            cohort="held-out",
            rounds=1,
            input_length=weights,
            mechanism=GridGaussian(
                noise_multiplier=noise_multiplier_for(privacy.evaluation_epsilon, privacy.delta, 1),
                l2_clip_norm=1.0,
                dimension=len(CONFUSION_CELLS),
            ),
        ),
    }


def envelope_of(study: Study) -> dict[Cohort, Cost]:
    """Return the most a study may ever cost each side of a data set."""
    return {step.cohort: step.envelope for step in plan_study(study).values()}


def encode_weights(weights: NDArray[np.float64]) -> bytes:
    """Return model weights as little-endian doubles: the input of a step."""
    return np.ascontiguousarray(weights, dtype="<f8").tobytes()


def decode_weights(data: bytes, length: int) -> NDArray[np.float64] | None:
    """Return `length` finite doubles, or None if the bytes are anything else."""
    if len(data) != 8 * length:
        return None
    weights = np.frombuffer(data, dtype="<f8").astype(np.float64)
    return weights if bool(np.all(np.isfinite(weights))) else None


def encode_release(values: NDArray[np.int64]) -> bytes:
    """Return a release's integers, in grid steps, as little-endian 64-bit."""
    return np.ascontiguousarray(values, dtype="<i8").tobytes()


def decode_release(payload: bytes, mechanism: GridGaussian) -> NDArray[np.float64]:
    """Return a release in the mechanism's own unit.

    Raises:
        ValueError: the payload has another length.
    """
    if len(payload) != 8 * mechanism.dimension:
        raise ValueError(f"a release of {len(payload)} bytes, wanted {8 * mechanism.dimension}")
    return np.frombuffer(payload, dtype="<i8").astype(np.float64) * mechanism.grid


def model_update(payload: bytes, study: Study, declared_patients: int) -> NDArray[np.float64]:
    """Return the change of the weights that a training release asks for.

    The noisy sum of clipped gradients is divided by the public number of training patients,
    (1 - held_out_fraction) * declared_patients, never by a count.
    """
    total = decode_release(payload, plan_study(study)["train"].mechanism)
    training_patients = (1 - study.evaluation.held_out_fraction) * declared_patients
    return -study.training.learning_rate * total / training_patients
