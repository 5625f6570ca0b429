"""A quantity: a histogram of the errors, and one of the quantity itself, both at public knots. Torch-free.

A held-out patient is judged by the mean output over the patient's records, clamped to the endpoint's range as the
quantity is, and by the mean of the quantity. The patient is shared between the two knots next to the error, with parts
that add up to 1, and so measures at most 1 there; and likewise between two knots of the quantity. What follows from
such counts exactly, and what up to a bound that its interval holds, `fedhealth.metrics.quantity` says.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.figures import Figure, FigureRow, FigureTable, figure_of
from fedhealth.learning.lines import Line, blocks_of
from fedhealth.metrics.estimate import Estimate
from fedhealth.metrics.quantity import KnotHistogram, share_explained
from fedhealth.records.table import Records
from fedhealth.study.diagnosis_endpoints import Errors, NumberEndpoint
from fedhealth.study.protocol import Study

HEADLINE = "mean absolute error, of the largest"
"""The figure that a plan is judged by, in parts of `evaluation.errors.largest`."""

ERRORS, VALUES = "errors", "values"
_VALUE_STEPS = 16
"""From the lowest to the highest value of the range; their squares hide at most 1/256 of the squared half range."""


def endpoint_of(study: Study) -> NumberEndpoint:
    """Return a study's endpoint, which is a quantity."""
    if not isinstance(study.endpoint, NumberEndpoint):
        raise TypeError(f"an endpoint of kind '{study.endpoint.kind}' is no quantity")
    return study.endpoint


def lines(study: Study) -> tuple[Line, ...]:
    """As of `binary`: errors from the most too little to the most too large; the quantity's values, lowest first."""
    errors = _errors_of(study)
    found = [Line(ERRORS, errors.share, _cells(ERRORS, 2 * errors.steps))]
    if errors.share < 1:
        found.append(Line(VALUES, 1 - errors.share, _cells(VALUES, _VALUE_STEPS)))
    return tuple(found)


def vectors(study: Study, outputs: NDArray[np.float64], records: Records) -> Iterator[NDArray[np.float64]]:
    """As of `binary`; outputs have shape (records, 1): the quantity, scaled from its range to [-1, 1]."""
    with np.errstate(all="ignore"):
        predicted, observed = _mean(outputs[:, 0], records), _mean(records.labels, records)
        errors = (np.clip(predicted, -1, 1) - observed) * endpoint_of(study).half_range / _largest(study)
    broken, found = ~np.isfinite(predicted) | ~np.isfinite(observed), lines(study)
    for block in blocks_of(records.patient_count, found):
        parts = [
            line.weight * _shared(values[block], len(line.cells) - 1)
            for line, values in zip(found, (errors, observed), strict=False)
        ]
        cells = np.concatenate(parts, axis=1)
        cells[broken[block]] = np.nan
        yield cells


def figures(study: Study, counts: Sequence[Mapping[str, float]], noise: Mapping[str, float]) -> FigureTable:
    """As of `binary`: mean absolute error, its like, and, where asked for, the share of the variance explained."""
    endpoint, largest, too_wide = endpoint_of(study), _largest(study), study.evaluation.too_wide
    histograms = [
        KnotHistogram(
            tuple(math.fsum(each[cell] for each in counts) for cell in line.cells),
            noise[line.name] * math.sqrt(len(counts)),
        )
        for line in lines(study)
    ]
    errors = histograms[0]

    def row(name: str, meaning: str, found: Estimate | None) -> FigureRow:
        if found is not None:
            found = Estimate(largest * found.estimate, largest * found.low, largest * found.high)
        figure = figure_of(found, too_wide * largest)
        return FigureRow(group="", name=name, unit=endpoint.unit, meaning=meaning, figure=figure)

    beyond = f"; one beyond {largest:g} counts as so large"
    rows = [
        row("mean absolute error", f"by how much a prediction is off on average{beyond}", errors.mean_absolute()),
        row(
            "root mean square error",
            f"the same, large errors counting more{beyond}",
            errors.root_mean_square(),
        ),
        row("mean error", "prediction less truth on average; 0 where neither side prevails", errors.mean()),
    ]
    for values in histograms[1:]:
        figure: Figure = figure_of(share_explained(errors, values, largest / endpoint.half_range), too_wide)
        meaning = "of the variance between patients, the share that the predictions account for; 1 is all of it"
        rows.append(FigureRow(group="", name="R squared", unit="", meaning=meaning, figure=figure))
    return FigureTable(rows=tuple(rows))


def widest(study: Study) -> str:
    """As of `binary`: in the endpoint's unit, a part of the largest error that counts."""
    too_wide, explained = study.evaluation.too_wide, _errors_of(study).share < 1
    words = f"{too_wide * _largest(study):.3g} {endpoint_of(study).unit}"
    return f"{words} (of R squared, {too_wide:g})" if explained else words


def composition(study: Study, records: Records) -> dict[str, int]:
    """As of `binary`: how many patients have a value at an end of the public range, or had one beyond it."""
    at_an_end = np.abs(records.labels) == 1
    return {"with a value at an end of the range, or beyond": np.unique(records.patients[at_an_end]).size}


def half_width(study: Study, noise: Mapping[str, float], patients: float, sites: int) -> float | None:
    """As of `binary`: of the mean absolute error, were small errors more frequent than large ones, in a triangle.

    Their mean is then about a third of the largest.
    """
    steps = _errors_of(study).steps
    heights = [steps + 1 - abs(number) for number in range(-steps, steps + 1)]
    counts = tuple(patients * height / sum(heights) for height in heights)
    found = KnotHistogram(counts, noise[ERRORS] * math.sqrt(sites)).mean_absolute()
    return None if found is None else found.half_width


def _errors_of(study: Study) -> Errors:
    return study.evaluation.errors or Errors()


def _largest(study: Study) -> float:
    """Return the largest error that counts, in the endpoint's unit."""
    given = _errors_of(study).largest
    return endpoint_of(study).half_range if given is None else given


def _cells(line: str, steps: int) -> tuple[str, ...]:
    return tuple(f"{line} {number}/{steps}" for number in range(steps + 1))


def _mean(values: NDArray[np.float64], records: Records) -> NDArray[np.float64]:
    """Return each patient's mean over the patient's records."""
    count = np.bincount(records.patients, minlength=records.patient_count)
    return np.asarray(np.bincount(records.patients, weights=values, minlength=records.patient_count) / count)


def _shared(values: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Return each patient's part at each knot over [-1, 1], shape (patients, steps + 1)."""
    places = (np.clip(np.nan_to_num(values), -1, 1) + 1) / 2 * steps
    below = np.minimum(places.astype(np.int64), steps - 1)
    rows, cells = np.arange(len(values)), np.zeros((len(values), steps + 1))
    cells[rows, below] = 1 - (places - below)
    cells[rows, below + 1] = places - below
    return cells
