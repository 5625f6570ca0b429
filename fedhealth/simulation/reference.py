"""What only a simulation may know: raw figures of its private model, and of models trained without privacy.

Beside the private model on the held-out patients stand each hospital's own model (trained there, alone), one trained
on all records together, and the protocol's rounds without clip and noise. All in the form of `reference.json`.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedhealth.coordinator.report import Reference, Score, SiteReference
from fedhealth.errors import DataUnusable
from fedhealth.learning.raw_figures import (
    Outcomes,
    area_under_curve,
    fit_without_privacy,
    outcomes_of,
)
from fedhealth.records.table import Records
from fedhealth.simulation.hospitals import Hospitals
from fedhealth.simulation.without_privacy import train_without_privacy
from fedhealth.study.protocol import Study


def reference_of(study: Study, hospitals: Hospitals, weights: NDArray[np.float64], model: bytes) -> Reference:
    """Return the raw figures of a simulation.

    Args:
        study: the protocol.
        hospitals: those it ran over.
        weights: the private model, shape (features + 1,).
        model: the bytes of its file.

    Raises:
        DataUnusable: a hospital has no patient on one side of the split, so that there is nothing to compare.
    """
    _check_sides(hospitals)
    sides = hospitals.sides
    training = [side[0] for side in sides.values()]
    everybody = joined([side[1] for side in sides.values()])
    parts = []
    for name, (own, kept) in sides.items():
        alone = fit_without_privacy([own])
        at_home = outcomes_of(alone, [kept])
        parts.append(
            SiteReference(
                site=name,
                training_patients=own.patient_count,
                held_out_patients=kept.patient_count,
                held_out_ill=int(at_home.ill.sum()),
                local_alone=_score_of(at_home),
                local_alone_pooled=_score_of(outcomes_of(alone, [everybody])),
                federated=_score_of(outcomes_of(weights, [kept])),
            )
        )
    own_sides = {site: own for site, (own, _) in sides.items()}
    plain = train_without_privacy(study, own_sides, hospitals.declared_patients)
    return Reference(
        study=study.digest,
        model_sha256=hashlib.sha256(model).hexdigest(),
        sites=tuple(parts),
        federated=_score_of(outcomes_of(weights, [everybody])),
        pooled_without_privacy=_score_of(outcomes_of(fit_without_privacy(training), [everybody])),
        federated_without_privacy=_score_of(outcomes_of(plain, [everybody])),
    )


def joined(sides: Sequence[Records]) -> Records:
    """Return the records of several sides as one, with patients of different sides kept apart."""
    starts = np.cumsum([0] + [side.patient_count for side in sides])
    return Records(
        features=np.concatenate([side.features for side in sides]),
        labels=np.concatenate([side.labels for side in sides]),
        patients=np.concatenate([side.patients + start for side, start in zip(sides, starts, strict=False)]),
        patient_count=int(starts[-1]),
    )


def _check_sides(hospitals: Hospitals) -> None:
    for site, sides in hospitals.sides.items():
        if not all(side.patient_count for side in sides):
            raise DataUnusable(
                f"hospital '{hospitals.titles[site]}' has no patients on one side of the split",
                next_step="Raise or lower held_out_fraction, leave the hospital out, or give --no-reference.",
            )


def _score_of(outcomes: Outcomes) -> Score:
    right = (outcomes.scores > 0) == outcomes.ill
    return Score(accuracy=float(right.mean()), auc=area_under_curve(outcomes.scores, outcomes.ill))
