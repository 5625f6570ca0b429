"""What only a simulation may know: raw figures of its private model, and of models trained without privacy.

Beside the private model on the held-out patients stand each hospital's own model (trained there, alone), one trained
on all records together, and the protocol's rounds without clip and noise. All in the form of `reference.json`.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from fedhealth.coordinator.report import Reference, SiteReference
from fedhealth.errors import DataUnusable
from fedhealth.simulation.hospitals import Hospitals
from fedhealth.simulation.without_privacy import train_without_privacy
from fedhealth.simulation.yardsticks import yardstick_for
from fedhealth.study.protocol import Study


def reference_of(study: Study, hospitals: Hospitals, weights: NDArray[np.float64], model: bytes) -> Reference:
    """Return the raw figures of a simulation.

    Args:
        study: the protocol.
        hospitals: those it ran over.
        weights: the private model.
        model: the bytes of its file.

    Raises:
        ConfigInvalid: there are no raw figures for the study's kind of endpoint.
        DataUnusable: a hospital has no patient on one side of the split, so that there is nothing to compare.
    """
    _check_sides(hospitals)
    sides, yardstick = hospitals.sides, yardstick_for(study)
    everybody, federated = [side[1] for side in sides.values()], yardstick.of_model(study, weights)
    parts = []
    for name, (own, kept) in sides.items():
        alone = yardstick.fitted(study, [own])
        parts.append(
            SiteReference(
                site=name,
                training_patients=own.patient_count,
                held_out_patients=kept.patient_count,
                held_out_ill=yardstick.ill(kept),
                local_alone=alone([kept]),
                local_alone_pooled=alone(everybody),
                federated=federated([kept]),
            )
        )
    training = {site: own for site, (own, _) in sides.items()}
    plain = train_without_privacy(study, training, hospitals.declared_patients)
    return Reference(
        study=study.digest,
        model_sha256=hashlib.sha256(model).hexdigest(),
        sites=tuple(parts),
        federated=federated(everybody),
        pooled_without_privacy=yardstick.fitted(study, list(training.values()))(everybody),
        federated_without_privacy=yardstick.of_model(study, plain)(everybody),
    )


def _check_sides(hospitals: Hospitals) -> None:
    for site, sides in hospitals.sides.items():
        if not all(side.patient_count for side in sides):
            raise DataUnusable(
                f"hospital '{hospitals.titles[site]}' has no patients on one side of the split",
                next_step="Raise or lower held_out_fraction, leave the hospital out, or give --no-reference.",
            )
