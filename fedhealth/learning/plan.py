"""The plan of a study's releases: which mechanism each step uses and what all of them cost. Torch-free.

Coordinator and site derive the same plan from the same protocol: the coordinator to read releases, the site to
charge them, in the currency of its own budget. Full-batch rounds (every patient, q = 1) get their noise from the closed
form; sampled rounds from the privacy loss distribution of all rounds together, rounded up to a multiple of 2**-12 so
that both ends agree on it whatever their libraries' last bits.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.evaluation import lines_of, released_of
from fedhealth.learning.models.table import model_of
from fedhealth.link.frames import MAX_BODY_BYTES
from fedhealth.privacy.accountant import AnyBudget, AnyCost
from fedhealth.privacy.events import GaussianEvent, Plan, plan_of
from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.privacy.mu_squared import noise_multiplier_for
from fedhealth.privacy.noise_table import TOTAL_VARIATION_PER_COORDINATE
from fedhealth.privacy.pld import noise_multiplier_for_plan
from fedhealth.privacy.release import Cohort, StepName
from fedhealth.study.protocol import Study, Training

_OFF_THE_GRID = 1e-3
"""Of a grid step: far more than rounding to doubles can move a count, far less than a change of one that is seen."""

MOST_PATIENTS_PER_DECLARED = 2
"""A site may have so many patients for each that it declares; the releases of one with more may not be believed."""


@dataclass(frozen=True)
class Step:
    """One step of a study.

    Attributes:
        name: "train" or "evaluate".
        cohort: the patients it uses.
        rounds: how often a gate admits it, spare rounds included; the noise is priced for all of them.
        input_length: number of model weights it takes, each a finite double.
        mechanism: how its release is clipped and noised.
        study: that it is of.
        sampling_rate: the probability with which each patient of the cohort is in a release; 1 is all.
    """

    name: StepName
    cohort: Cohort
    rounds: int
    input_length: int
    mechanism: GridGaussian
    study: Study
    sampling_rate: float = 1.0

    @property
    def event(self) -> GaussianEvent:
        """What one of its releases does, as far as its price goes."""
        return self.mechanism.event(self.sampling_rate)

    def plan(self, releases: int | None = None) -> Plan:
        """Return so many of its releases (default: all its rounds) as a plan committed in advance."""
        return plan_of([(self.event, self.rounds if releases is None else releases)])


@lru_cache(maxsize=64)
def plan_study(study: Study) -> dict[StepName, Step]:
    """Return the steps of a study; the order of the dict is the order they run in.

    Raises:
        ConfigInvalid: task, endpoint and model do not fit each other, or no mechanism of ours gives so little epsilon
            over so many rounds or weights.
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
    weights, released = model_of(study).size(study), sum(len(line.cells) for line in lines_of(study))
    if 8 * max(weights, released) > MAX_BODY_BYTES:
        raise ValueError(f"{max(weights, released):,} numbers, wanted at most {MAX_BODY_BYTES // 8:,} in a frame")
    steps: dict[StepName, Step] = {}
    if study.training is not None and study.privacy.training_epsilon is not None:
        steps["train"] = _training_step(study, study.training, study.privacy.training_epsilon, weights)
    steps["evaluate"] = Step(
        name="evaluate",
        cohort="held-out",
        rounds=1,
        input_length=weights,
        mechanism=GridGaussian(
            noise_multiplier=noise_multiplier_for(study.privacy.evaluation_epsilon, study.privacy.delta, 1),
            l2_clip_norm=1.0,
            dimension=released,
        ),
        study=study,
    )
    return steps


def _training_step(study: Study, training: Training, epsilon: float, weights: int) -> Step:
    rounds = training.rounds + training.spare_rounds
    multiplier = _noise_multiplier(epsilon, study.privacy.delta, training.sampling_rate, rounds, weights)
    return Step(
        name="train",
        cohort="training",
        rounds=rounds,
        input_length=weights,
        mechanism=GridGaussian(noise_multiplier=multiplier, l2_clip_norm=training.l2_clip_norm, dimension=weights),
        study=study,
        sampling_rate=training.sampling_rate,
    )


def _noise_multiplier(epsilon: float, delta: float, sampling_rate: float, rounds: int, dimension: int) -> float:
    if sampling_rate == 1:
        return noise_multiplier_for(epsilon, delta, rounds)
    exact = noise_multiplier_for_plan(
        epsilon,
        delta,
        sampling_rate=sampling_rate,
        steps=rounds,
        total_variation=dimension * TOTAL_VARIATION_PER_COORDINATE,
    )
    return math.ceil(exact * 2**12) / 2**12


def envelope_of(study: Study, budget: AnyBudget) -> dict[Cohort, AnyCost]:
    """Return the most a study may ever cost each side of a data set, in the currency of the budget that pays.

    Raises:
        ConfigInvalid: the study has no price there.
    """
    try:
        return {step.cohort: budget.cost_of(step.event).times(step.rounds) for step in plan_study(study).values()}
    except ValueError as error:
        raise ConfigInvalid(
            f"study '{study.name}' has no price in the budget of data set '{study.data_set}'",
            got=str(error),
            wanted="training.sampling_rate = 1, or a budget counted in Renyi divergence",
            next_step="Ask the researcher for full-batch rounds. What a budget is counted in is chosen once, when the "
            "site is made: currency and expected_work in policy.toml.",
        ) from error


def encode_weights(weights: NDArray[np.float64]) -> bytes:
    """Return model weights as little-endian doubles: the input of a step."""
    return np.ascontiguousarray(weights, dtype="<f8").tobytes()


def holds_weights(data: bytes | memoryview, length: int) -> bool:
    """Say whether the bytes are `length` finite doubles; they are not copied."""
    return len(data) == 8 * length and bool(np.all(np.isfinite(np.frombuffer(data, dtype="<f8"))))


def decode_weights(data: bytes | memoryview, length: int) -> NDArray[np.float64] | None:
    """Return `length` finite doubles, or None if the bytes are anything else."""
    return np.frombuffer(data, dtype="<f8").astype(np.float64) if holds_weights(data, length) else None


def encode_release(values: NDArray[np.int64]) -> bytes:
    """Return a release's integers, in grid steps, as little-endian 64-bit."""
    return np.ascontiguousarray(values, dtype="<i8").tobytes()


def decode_release(payload: bytes | memoryview, mechanism: GridGaussian) -> NDArray[np.float64]:
    """Return a release in the mechanism's own unit.

    Raises:
        ValueError: the payload has another length.
    """
    if len(payload) != 8 * mechanism.dimension:
        raise ValueError(f"a release of {len(payload)} bytes, wanted {8 * mechanism.dimension}")
    return np.frombuffer(payload, dtype="<i8").astype(np.float64) * mechanism.grid


def is_plausible(payload: bytes | memoryview, mechanism: GridGaussian, declared_patients: int) -> bool:
    """Say whether a site with so many declared patients can have made a release, by its length as a vector.

    What a site sends is its own word: a hospital that lies signs it as well as an honest one. A release that is longer
    than the clip lets it be is not of this mechanism, whatever it is: scaled up, the bits of a number that is none, or
    another format. The bound rests on public figures and looks at the noised release alone. Up to twice the declared
    patients may be in it, a figure being round; the chance that an honest release is refused is in
    `GridGaussian.longest_release`.

    Args:
        payload: of the right length.
        mechanism: of the step.
        declared_patients: the site's public figure.
    """
    steps = np.frombuffer(payload, dtype="<i8").astype(np.float64)
    longest = mechanism.longest_release(MOST_PATIENTS_PER_DECLARED * declared_patients)
    return math.sqrt(float(np.square(steps).sum())) <= longest


def encode_counts(study: Study, counts: Mapping[str, float]) -> bytes:
    """Return the payload of the evaluation whose counts these are.

    Raises:
        ValueError: no payload of this study has these counts: other cells, or numbers between two grid steps.
    """
    steps = released_of(study, counts) / plan_study(study)["evaluate"].mechanism.grid
    whole = np.rint(steps)
    if not (np.abs(steps - whole) < _OFF_THE_GRID).all() or not (np.abs(whole) < 2**53).all():
        raise ValueError("counts that are not on the grid of a release")
    return encode_release(whole.astype(np.int64))


def model_update(payload: bytes | memoryview, study: Study, declared_patients: int) -> NDArray[np.float64]:
    """Return the change of the weights that a training release asks for.

    The noisy sum of clipped gradients is divided by the public number of training patients,
    (1 - held_out_fraction) * declared_patients, times the sampling rate; never by a count.
    """
    if study.training is None:
        raise ValueError("nothing is trained in this study")
    total = decode_release(payload, plan_study(study)["train"].mechanism)
    expected_patients = study.training.sampling_rate * (1 - study.evaluation.held_out_fraction) * declared_patients
    return -study.training.learning_rate * total / expected_patients
