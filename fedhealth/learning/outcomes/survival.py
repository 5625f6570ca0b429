"""Time to an event: a histogram by risk and by interval, and events observed and expected. Torch-free.

A held-out patient adds one to exactly one cell of the histogram: the bin of the risk by the horizon that the model
gives, and where follow-up ended. To each of the other two lines the patient adds at most one, in the cell of the
patient's group of risk: one for the event; and the events that the model expected of the patient up to the end of
follow-up, divided by the most they can be, the cumulative hazard at the group's upper edge. In the highest group, which
has no upper edge, expected events beyond `MOST_EXPECTED` are cut off.

Risks are compared with edges as cumulative hazards, H = -log(1 - risk).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.figures import FigureRow, FigureTable, figure_of
from fedhealth.learning.lines import Line, blocks_of
from fedhealth.learning.models import cox, discrete_time_survival
from fedhealth.learning.time_grid import endpoint_of, grid_of
from fedhealth.metrics.concordance import SurvivalHistogram, concordance_of, observed_to_expected
from fedhealth.metrics.estimate import Estimate
from fedhealth.records.table import Records
from fedhealth.study.evaluation import SurvivalLines
from fedhealth.study.protocol import Study

HEADLINE = "concordance"
"""The figure that a plan is judged by."""

HISTOGRAM, OBSERVED, EXPECTED = "histogram", "observed", "expected"
"""Names of the lines."""

MOST_EXPECTED = 2.0
"""Events expected of one patient in the highest group at most: a risk of 0.86 by the horizon."""

_HAZARDS: Mapping[str, Callable[[Study, NDArray[np.float64]], NDArray[np.float64]]] = {
    "cox": cox.cumulative_hazards,
    "discrete-time-survival": discrete_time_survival.cumulative_hazards,
}
"""By `model.kind`: from outputs to the hazard that each interval adds."""

_WIDEST_RATIO = 0.5


def lines(study: Study) -> tuple[Line, ...]:
    """Return the lines of a study's evaluation, in the order of the released vector."""
    asked, intervals = _lines(study), grid_of(study).intervals
    histogram = [cell for row in _cells(len(asked.risk_edges) + 1, intervals) for cell in row]
    groups = range(len(asked.group_edges) + 1)
    return (
        Line(HISTOGRAM, asked.histogram, tuple(histogram)),
        Line(OBSERVED, asked.observed, tuple(map(_observed_cell, groups))),
        Line(EXPECTED, asked.expected, tuple(map(_expected_cell, groups))),
    )


def vectors(study: Study, outputs: NDArray[np.float64], records: Records) -> Iterator[NDArray[np.float64]]:
    """Yield what each patient adds to the vector, in blocks of shape (patients, coordinates); NaN where unreadable.

    A patient has one record: the protocol allows no more.

    Args:
        study: the protocol.
        outputs: of the model, shape (records, intervals).
        records: of the held-out patients.
    """
    asked, grid, found = _lines(study), grid_of(study), lines(study)
    events, times = records.labels[:, 0], records.labels[:, 1]
    with np.errstate(all="ignore"):
        added, total = _HAZARDS[study.model.kind](study, outputs), total_hazards(study, outputs)
        expected = np.add.reduce(added * (grid.lived(times) / grid.widths), axis=1)
    group = _bin_of(total, asked.group_edges)
    interval = np.minimum(grid.interval_of(times), grid.intervals - 1)
    free = (events == 0) & (times >= grid.horizon)
    ended = np.where(free, 2 * grid.intervals, np.where(events > 0, interval, grid.intervals + interval))
    places = (_bin_of(total, asked.risk_edges) * (2 * grid.intervals + 1) + ended, group, group)
    amounts = (np.ones(len(events)), events, np.minimum(expected / _most_expected(asked)[group], 1.0))
    broken = ~np.isfinite(total) | ~np.isfinite(expected) | np.isnan(events)
    for run in blocks_of(len(events), found):
        rows = np.arange(run.start, run.stop)
        block, first = np.zeros((len(rows), sum(len(line.cells) for line in found))), 0
        for line, place, amount in zip(found, places, amounts, strict=True):
            block[rows - run.start, first + place[rows]] = line.weight * amount[rows]
            first += len(line.cells)
        block[broken[rows]] = np.nan
        yield block


def total_hazards(study: Study, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each record's cumulative hazard by the horizon, shape (records,): what risks are ordered by."""
    return np.asarray(np.add.reduce(_HAZARDS[study.model.kind](study, outputs), axis=1))


def figures(study: Study, counts: Sequence[Mapping[str, float]], noise: Mapping[str, float]) -> FigureTable:
    """Return what the noisy counts of one site say, or those of several together.

    Args:
        study: the protocol.
        counts: of each site, by the names of the lines' cells; may be empty.
        noise: standard deviation of the noise of each site's count, by the names of the lines.
    """
    total = {cell: math.fsum(each[cell] for each in counts) for line in lines(study) for cell in line.cells}
    noises, asked = {line: sd * math.sqrt(len(counts)) for line, sd in noise.items()}, _lines(study)
    found = concordance_of(_histogram_of(study, total, noises[HISTOGRAM]))
    stated = figure_of(found.value, study.evaluation.too_wide)
    hidden = f"; bins and intervals hide at most {found.binning:.2f} of it" if stated.estimate is not None else ""
    order = "of two patients whose order is known, how often the one with the earlier event has the higher risk"
    most, edges = _most_expected(asked).tolist(), [0.0, *asked.group_edges, 1.0]
    observed = [total[_observed_cell(group)] for group in range(len(most))]
    expected = [cap * total[_expected_cell(group)] for group, cap in enumerate(most)]
    everybody = observed_to_expected(
        math.fsum(observed),
        math.fsum(expected),
        noises[OBSERVED] * math.sqrt(len(most)),
        noises[EXPECTED] * math.hypot(*most),
    )
    rows = [
        FigureRow(group="", name=HEADLINE, unit="", meaning=order + hidden, figure=stated),
        _ratio_row("", everybody),
    ]
    for group, cap in enumerate(most if len(most) > 1 else ()):
        words = f"predicted risk {edges[group]:.0%} to {edges[group + 1]:.0%}"
        ratio = observed_to_expected(observed[group], expected[group], noises[OBSERVED], cap * noises[EXPECTED])
        rows.append(_ratio_row(words, ratio))
    return FigureTable(rows=tuple(rows))


def widest(study: Study) -> str:
    """As of `binary`; a ratio has a width of its own."""
    return f"{study.evaluation.too_wide:g} (of a ratio, {_WIDEST_RATIO:g})"


def composition(study: Study, records: Records) -> dict[str, int]:
    """Return how many patients have the event by the horizon, in words for the hospital's own terminal."""
    return {"with the event by the horizon": int(np.count_nonzero(records.labels[:, 0] > 0))}


def half_width(study: Study, noise: Mapping[str, float], patients: float, sites: int) -> float | None:
    """Return half the 95 % interval of the concordance index, were all counts as a right model has them.

    Assumed: patients spread evenly over the bins, events as often as the middle of a bin says at a constant hazard,
    and nobody is lost before the horizon.

    Args:
        study: the protocol.
        noise: as in `figures`.
        patients: held out, over all sites.
        sites: whose counts are added.

    Returns:
        None where nothing can be said at all.
    """
    edges, grid = [0.0, *_lines(study).risk_edges, 1.0], grid_of(study)
    each, events, free = patients / (len(edges) - 1), [], []
    for low, high in itertools.pairwise(edges):
        hazard = -math.log1p(-(low + high) / 2) / grid.horizon
        alive = [math.exp(-hazard * end) for end in (0.0, *grid.ends)]
        events.append(tuple(each * (one - other) for one, other in itertools.pairwise(alive)))
        free.append(each * alive[-1])
    nobody = tuple(tuple(0.0 for _ in grid.ends) for _ in events)
    counted = SurvivalHistogram(tuple(events), nobody, tuple(free), noise[HISTOGRAM] * math.sqrt(sites))
    found = concordance_of(counted).value
    return None if found is None else found.half_width


def _lines(study: Study) -> SurvivalLines:
    endpoint_of(study)
    if study.evaluation.survival is None:
        raise ValueError("[evaluation.survival] is missing")  # the protocol's own check comes first
    return study.evaluation.survival


def _cells(bins: int, intervals: int) -> list[list[str]]:
    """Return the names of the histogram's cells, a list for each bin of risk, lowest first."""
    ends = [f"{what} in {at}/{intervals}" for what in ("event", "censored") for at in range(1, intervals + 1)]
    return [[f"risk {bin_}/{bins}: {end}" for end in (*ends, "free at the horizon")] for bin_ in range(1, bins + 1)]


def _observed_cell(group: int) -> str:
    return f"events of group {group + 1}"


def _expected_cell(group: int) -> str:
    return f"expected events of group {group + 1}, as a part of the most"


def _bin_of(total: NDArray[np.float64], risk_edges: Sequence[float]) -> NDArray[np.int64]:
    """Return the bin of each cumulative hazard, shape (patients,); one at an edge is in the lower bin."""
    return np.asarray(np.searchsorted(_hazard_at(risk_edges), total, side="left"), dtype=np.int64)


def _hazard_at(risks: Sequence[float]) -> NDArray[np.float64]:
    return np.array([-math.log1p(-risk) for risk in risks])


def _most_expected(asked: SurvivalLines) -> NDArray[np.float64]:
    """Return the most events that are counted as expected of a patient of each group."""
    return np.append(_hazard_at(asked.group_edges), MOST_EXPECTED)


def _histogram_of(study: Study, total: Mapping[str, float], noise_sd: float) -> SurvivalHistogram:
    intervals = grid_of(study).intervals
    rows = [[total[cell] for cell in row] for row in _cells(len(_lines(study).risk_edges) + 1, intervals)]
    return SurvivalHistogram(
        events=tuple(tuple(row[:intervals]) for row in rows),
        censored=tuple(tuple(row[intervals : 2 * intervals]) for row in rows),
        free=tuple(row[-1] for row in rows),
        noise_sd=noise_sd,
    )


def _ratio_row(group: str, found: Estimate | None) -> FigureRow:
    meaning = "events that happened over those that the model expected; 1 where its risks come true"
    figure = figure_of(found, _WIDEST_RATIO)
    return FigureRow(group=group, name="observed / expected", unit="", meaning=meaning, figure=figure)
