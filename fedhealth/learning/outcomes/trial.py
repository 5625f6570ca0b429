"""A randomised trial: what each arm does to an outcome, compared with the control, stratified by site. Torch-free.

Every patient takes part in one release of sums (`fedhealth.learning.trial_moments`); the coordinator solves for the
effects. The first figure is the dose response where the arms have doses, else that of the last arm; then come all arms
at each visit, the last visit first, and the mean of each arm as it was observed.

A hospital with one arm only, or whose patients all have the same outcome, takes part like any other: its sums say
little or nothing of the difference, and neither the coordinator nor anybody else is told.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.figures import FigureTable
from fedhealth.learning.lines import Line, blocks_of
from fedhealth.learning.trial_figures import TrialSums, expected_half_width, table_of
from fedhealth.learning.trial_moments import covariates_of, groups_of
from fedhealth.records.table import Records
from fedhealth.study.protocol import Study
from fedhealth.study.trial_endpoint import TrialEndpoint

HEADLINE = "effect, in parts of the outcome's range"
"""The figure that a plan is judged by."""

_VISITS = {"ancova": (1, 1), "mixed-model": (2, 20)}


def lines(study: Study) -> tuple[Line, ...]:
    """Return the lines of the released vector.

    Raises:
        ConfigInvalid: the model is for another number of visits.
    """
    endpoint, (fewest, most) = _endpoint_of(study), _VISITS[study.model.kind]
    if not fewest <= len(endpoint.outcomes) <= most:
        raise ConfigInvalid(
            f"study '{study.name}' has a model for another number of visits",
            got=f"model.kind = '{study.model.kind}', {len(endpoint.outcomes)} outcomes",
            wanted="one outcome for 'ancova', several for 'mixed-model'",
            next_step="Correct [model] or endpoint.outcomes.",
        )
    return tuple(line for group in groups_of(study, endpoint) for line in group.lines())


def vectors(study: Study, outputs: NDArray[np.float64], records: Records) -> Iterator[NDArray[np.float64]]:
    """Yield what each patient adds to the vector, in blocks; NaN where the patient's record cannot be computed."""
    groups = groups_of(study, _endpoint_of(study))
    found = lines(study)
    length = sum(len(line.cells) for line in found)
    inputs = records.features[:, [place for _, place in covariates_of(study)]]
    for rows in blocks_of(records.patient_count, found):
        label, block, first = records.labels[rows], np.zeros((rows.stop - rows.start, length)), 0
        for visits, group in enumerate(groups, 1):
            own = np.flatnonzero(label[:, 1] == visits)
            values = np.column_stack([inputs[rows][own], label[own, 2 : 2 + visits]])
            part = group.vectors(label[own, 0].astype(np.int64), values)
            block[own, first : first + part.shape[1]] = part
            first += part.shape[1]
        yield block  # a patient has one record, so that patients are in the order of the records


def figures(study: Study, counts: Sequence[Mapping[str, float]], noise: Mapping[str, float]) -> FigureTable:
    """Return the effects, by the noisy sums of one site or of several together.

    Args:
        study: the protocol.
        counts: of each site, by the names of the lines' cells; may be empty.
        noise: standard deviation of the noise of each site's sum, by the names of the lines.
    """
    endpoint = _endpoint_of(study)
    return table_of(study, endpoint, TrialSums.of(groups_of(study, endpoint), counts, noise))


def widest(study: Study) -> str:
    """As of `binary`: in the outcome's unit, a part of the width of its range."""
    endpoint = _endpoint_of(study)
    return f"{study.evaluation.too_wide * 2 * endpoint.half_range:.3g} {endpoint.unit}"


def composition(study: Study, records: Records) -> dict[str, int]:
    """Return the patients of each arm, and those who missed a visit, for the hospital's own terminal."""
    endpoint = _endpoint_of(study)
    arms, visits = records.labels[:, 0], records.labels[:, 1]
    found = {f"in arm '{arm.word}'": int(np.sum(arms == place)) for place, arm in enumerate(endpoint.arms)}
    if len(endpoint.outcomes) > 1:
        found["not observed at every visit"] = int(np.sum(visits < len(endpoint.outcomes)))
    return found


def half_width(study: Study, noise: Mapping[str, float], patients: float, sites: int) -> float | None:
    """Return half the interval to expect of an arm's effect, in parts of the range; None where nothing can be said.

    Args:
        study: the protocol.
        noise: as in `figures`.
        patients: over all sites, spread evenly over sites and arms.
        sites: number of sites.
    """
    return expected_half_width(groups_of(study, _endpoint_of(study)), noise, patients, sites)


def _endpoint_of(study: Study) -> TrialEndpoint:
    if not isinstance(study.endpoint, TrialEndpoint):
        raise TypeError(f"study '{study.name}' has no trial's endpoint")
    return study.endpoint
