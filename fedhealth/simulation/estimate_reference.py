"""What only a simulation may know of a study that trains nothing: the same figures of the same patients, unnoised."""

import hashlib

import numpy as np

from fedhealth.coordinator.report import EstimateReference, SitePatients
from fedhealth.errors import DataUnusable
from fedhealth.learning.evaluation import counts_of, noise_of
from fedhealth.learning.figures import FigureTable
from fedhealth.learning.outcomes.table import outcome_of
from fedhealth.learning.plan import plan_study
from fedhealth.simulation.hospitals import Hospitals
from fedhealth.study.protocol import Study


def estimate_without_privacy(study: Study, hospitals: Hospitals, model: bytes) -> EstimateReference:
    """Return the figures of a study that trains nothing, from the sums of its patients without noise.

    Args:
        study: the protocol.
        hospitals: those it ran over.
        model: the bytes of the run's model file.

    Raises:
        DataUnusable: no hospital has a patient.
    """
    outcome, everybody = outcome_of(study), {site: kept for site, (_, kept) in hospitals.sides.items()}
    if not any(kept.patient_count for kept in everybody.values()):
        raise DataUnusable("no hospital has a patient of the study", next_step="Check the columns, or --no-reference.")
    length = plan_study(study)["evaluate"].mechanism.dimension
    sums = []
    for kept in everybody.values():
        blocks = outcome.vectors(study, np.zeros((len(kept.labels), 0)), kept)
        sums.append(sum((np.nansum(block, axis=0) for block in blocks), np.zeros(length)))
    figures = outcome.figures(study, [counts_of(study, each) for each in sums], noise_of(study, 0.0))
    if not isinstance(figures, FigureTable):
        raise TypeError(f"study '{study.name}' has no table of figures")
    return EstimateReference(
        study=study.digest,
        model_sha256=hashlib.sha256(model).hexdigest(),
        sites=tuple(SitePatients(site=site, patients=kept.patient_count) for site, kept in everybody.items()),
        without_privacy=figures,
    )
