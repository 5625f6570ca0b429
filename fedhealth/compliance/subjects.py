"""What the empirical audit examines: every mechanism that ships, called as it is called in earnest.

A subject is a release with **canaries** that the auditor may put in or leave out: made-up patients who reach for as
much as they can get, each in a direction of its own, orthogonal to the others'. A canary's vector is a million times
longer than the clip, says yes in every cell, and has two records, so that a bound that is applied to records, or not
at all, shows. Beside them are only made-up patients whose sum is known, so a release less that sum, without canaries,
is noise.

The steps of the gate run as the gate runs them: `fedhealth.learning` plans them from a protocol, its step functions
compute them, and their payloads are decoded as the coordinator does. What each subject claims is the event that it is
charged for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedhealth.learning.evaluation import lines_of
from fedhealth.learning.plan import Step, decode_release, plan_study
from fedhealth.learning.steps import STEPS, Streams
from fedhealth.privacy.events import Event, GaussianEvent
from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.privacy.geometric import GeometricHistogram
from fedhealth.privacy.sums import BoundedSum, GaussianHistogram
from fedhealth.records.table import Records
from fedhealth.study.protocol import Study
from fedhealth.training.book_keeping import Batch, BookKeeper
from fedhealth.training.exact_sum import ExactSummer

CANARIES_OF_TRAINING = 128
_REACH = 1e6
_PEOPLE_A_CELL = 3

Vector = NDArray[np.float64]
Release = Callable[[NDArray[np.bool_], Streams], Vector]
"""From which canaries are in, shape (canaries,), and the release's streams, to the release less what is known."""


@dataclass(frozen=True)
class Subject:
    """A mechanism under audit.

    Attributes:
        name: for people.
        event: what one release is charged for.
        standard_deviation: of the noise on each coordinate as the mechanism states it, in the release's unit.
        directions: what each canary moves, unit vectors orthogonal to each other, shape (canaries, coordinates).
        release: one release.
        noise_rounds: how many releases without canaries a short audit takes.
        coin_rounds: how many releases with each canary in or out by coin.
    """

    name: str
    event: Event
    standard_deviation: float
    directions: Vector
    release: Release
    noise_rounds: int
    coin_rounds: int

    @property
    def sampling_rate(self) -> float:
        """The probability with which each patient takes part in a release, as the event says."""
        return self.event.sampling_rate if isinstance(self.event, GaussianEvent) else 1.0


def subjects() -> tuple[Subject, ...]:
    """Return every mechanism that ships."""
    plan = plan_study(_protocol())
    return (
        _training("gate: train, full batch", plan["train"]),
        _training("gate: train, half sampled", replace(plan["train"], sampling_rate=0.5)),
        _evaluation("gate: evaluate", plan["evaluate"]),
        _one_backward_pass("training in one backward pass"),
        _counts("geometric histogram"),
        _gaussian_counts("gaussian histogram"),
        _sums("bounded sum", 2.0, columns=64, noise_rounds=640, coin_rounds=80),
        # So much noise over so many columns that it is drawn in finer steps, by another sampler.
        _sums("bounded sum, fine noise", 8.0, columns=1088, noise_rounds=48, coin_rounds=200),
    )


def _protocol() -> Study:
    """Return a study whose noise is about twice as large as what one patient can move."""
    feature = {"kind": "number", "unit": "none", "range": [-1, 1], "impute": 0}
    return Study.model_validate(
        {
            "format": 1,
            "name": "empirical-audit",
            "title": "Empirical audit",
            "task": "diagnosis",
            "purpose": "To see whether the noise is what is said.",
            "legal_basis": "Nobody's data.",
            "data_set": "nobody",
            "max_records_per_patient": 2,
            "features": [feature | {"column": f"x{number}"} for number in range(CANARIES_OF_TRAINING)],
            "endpoint": {"kind": "binary", "column": "y", "positive_above": 0, "positive": "yes"},
            "model": {"kind": "logistic-regression"},
            "training": {"rounds": 1, "spare_rounds": 0, "learning_rate": 1.0, "l2_clip_norm": 1.0},
            "evaluation": {"held_out_fraction": 0.5},
            "privacy": {"unit": "patient", "delta": 1e-7, "training_epsilon": 2.5, "evaluation_epsilon": 2.5},
        }
    )


def _training(name: str, step: Step) -> Subject:
    """Each canary pulls at one weight; a full batch has two people beside them who pull against each other."""
    inputs = step.input_length - 1
    canaries = _REACH * np.eye(inputs)
    # Weights of zero leave every record a residual of one half, whose sign is the label's.
    people = np.ones((2 if step.sampling_rate == 1 else 0, inputs))

    def release(present: NDArray[np.bool_], streams: Streams) -> Vector:
        features = np.concatenate([people, np.repeat(canaries[present], 2, axis=0)])
        count = int(np.count_nonzero(present))
        labels = np.concatenate([np.arange(len(people), dtype=np.float64), np.zeros(2 * count)])
        patients = np.concatenate([np.arange(len(people)), len(people) + np.repeat(np.arange(count), 2)])
        records = Records(features, labels, patients.astype(np.int64), len(people) + count)
        payload, _ = STEPS["train"](step, np.zeros(step.input_length), records, streams)
        return decode_release(payload, step.mechanism)

    return Subject(
        name=name,
        event=step.event,
        standard_deviation=step.mechanism.standard_deviation,
        directions=np.eye(inputs, step.input_length),
        release=release,
        noise_rounds=400,
        coin_rounds=40,
    )


def _evaluation(name: str, step: Step) -> Subject:
    """Each canary falls in a cell of its own in every line; people stand in each of these cells beside them."""
    weights = np.zeros(step.input_length)
    weights[0] = 1.0
    called, ill = np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, 0.0, 0.0, 1.0])
    # Log odds of 1 and -1 are chances of 0.73 and 0.27: of ten bins the eighth and the third, of the ill or the well.
    table, scores = lines_of(step.study)
    directions = np.concatenate([table.weight * np.eye(4), scores.weight * np.eye(20)[[7, 17, 12, 2]]], axis=1)
    grid, fine_steps = step.mechanism.grid, step.mechanism.scale.fine_steps
    known = np.rint(_PEOPLE_A_CELL * np.rint(directions.sum(axis=0) / grid * fine_steps) / fine_steps)

    def release(present: NDArray[np.bool_], streams: Streams) -> Vector:
        cells = np.concatenate([np.repeat(np.arange(4), _PEOPLE_A_CELL), np.flatnonzero(present)])
        rows = np.repeat(cells, 2)
        features = np.zeros((len(rows), step.input_length - 1))
        features[:, 0] = called[rows]
        records = Records(features, ill[rows], np.repeat(np.arange(len(cells), dtype=np.int64), 2), len(cells))
        payload, _ = STEPS["evaluate"](step, weights, records, streams)
        return np.asarray((np.rint(decode_release(payload, step.mechanism) / grid) - known) * grid)

    return Subject(
        name=name,
        event=step.event,
        standard_deviation=step.mechanism.standard_deviation,
        directions=directions,
        release=release,
        noise_rounds=3750,
        coin_rounds=400,
    )


def _one_backward_pass(name: str) -> Subject:
    """Each canary pulls at one weight of a linear layer, by an input that is far too large.

    The layer has so many weights that the noise is drawn in fine steps.
    """
    width, pulled = 130, 16
    model = torch.nn.Linear(width, width, bias=False, dtype=torch.float64)
    mechanism = GridGaussian(noise_multiplier=2.0, l2_clip_norm=1.0, dimension=width**2)
    summer = ExactSummer(BookKeeper(model), mechanism, most_records=2)
    people = np.array([[1.0], [-1.0]]) * np.ones(width)

    def losses(layer: torch.nn.Module, batch: Batch) -> torch.Tensor:
        inputs, outputs = batch
        return torch.sum(layer(inputs) * outputs, dim=1)  # its gradient is the output times the input

    def release(present: NDArray[np.bool_], streams: Streams) -> Vector:
        canaries = np.repeat(np.eye(pulled, width)[present], 2, axis=0)
        inputs = torch.from_numpy(np.concatenate([people, _REACH * canaries]))
        outputs = torch.from_numpy(np.concatenate([np.ones((2, width)), canaries]))
        count = int(np.count_nonzero(present))
        patients = np.concatenate([np.arange(2), 2 + np.repeat(np.arange(count), 2)]).astype(np.int64)
        total, _ = summer.sum(losses, (inputs, outputs), patients, 2 + count)
        return np.asarray(mechanism.add_noise(total, streams("noise")) * mechanism.grid)

    return Subject(
        name=name,
        event=mechanism.event(),
        standard_deviation=mechanism.standard_deviation,
        directions=np.stack([np.eye(1, width**2, each * (width + 1))[0] for each in range(pulled)]),
        release=release,
        noise_rounds=4,
        coin_rounds=80,
    )


def _counts(name: str) -> Subject:
    mechanism = GeometricHistogram(epsilon_per_cell=0.75, cells=64, cells_per_patient=2)

    def release(present: NDArray[np.bool_], streams: Streams) -> Vector:
        counts = mechanism.bound_and_count(_people_in_cells(64, 2, present))
        return (mechanism.add_noise(counts, streams("noise")) - _PEOPLE_A_CELL).astype(np.float64)

    return Subject(
        name=name,
        event=mechanism.event,
        standard_deviation=mechanism.standard_deviation,
        directions=_groups(64, 2),
        release=release,
        noise_rounds=560,
        coin_rounds=80,
    )


def _gaussian_counts(name: str) -> Subject:
    mechanism = GaussianHistogram(noise_multiplier=2.0, cells=64, cells_per_patient=4)
    grid = mechanism.mechanism.grid
    known = np.rint(_PEOPLE_A_CELL / grid) * grid

    def release(present: NDArray[np.bool_], streams: Streams) -> Vector:
        return np.asarray(mechanism.release(_people_in_cells(64, 4, present), streams("noise")) - known)

    return Subject(
        name=name,
        event=mechanism.event,
        standard_deviation=mechanism.mechanism.standard_deviation,
        directions=_groups(64, 4),
        release=release,
        noise_rounds=640,
        coin_rounds=160,
    )


def _sums(name: str, noise_multiplier: float, *, columns: int, noise_rounds: int, coin_rounds: int) -> Subject:
    """Each canary is at a bound in every column, by a pattern of signs of its own (Sylvester's)."""
    mechanism = BoundedSum(noise_multiplier, lower=(-2.0,) * columns, upper=(2.0,) * columns)
    signs = np.ones((1, 1))
    while len(signs) < 64:
        signs = np.block([[signs, signs], [signs, -signs]])
    signs = np.tile(signs, columns // 64)
    people = np.array([[1.0], [-1.0]]) * np.ones(columns)

    def release(present: NDArray[np.bool_], streams: Streams) -> Vector:
        return np.asarray(mechanism.release(np.concatenate([people, _REACH * signs[present]]), streams("noise")))

    return Subject(
        name=name,
        event=mechanism.event,
        standard_deviation=mechanism.mechanism.standard_deviation,
        directions=signs / np.sqrt(columns),
        release=release,
        noise_rounds=noise_rounds,
        coin_rounds=coin_rounds,
    )


def _people_in_cells(cells: int, cells_per_patient: int, present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return who falls in which cell: people in one cell each, canary i in all from its own group on."""
    people = np.repeat(np.eye(cells, dtype=np.bool_), _PEOPLE_A_CELL, axis=0)
    canaries = np.arange(cells) >= cells_per_patient * np.arange(cells // cells_per_patient)[:, None]
    return np.concatenate([people, canaries[present]])


def _groups(cells: int, size: int) -> Vector:
    """Return one unit vector for each group of `size` cells in a row."""
    return np.asarray(np.repeat(np.eye(cells // size), size, axis=1) / np.sqrt(size))
