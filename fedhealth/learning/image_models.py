"""From the protocol of a study whose model sees images to what computes its patients; torch is loaded by a call."""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedhealth.learning.models import cnn
from fedhealth.learning.models.cnn import numbers_of_a_record
from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.study.augmentation import Transform
from fedhealth.study.protocol import Study

if TYPE_CHECKING:
    from fedhealth.training.image_gradients import ImageGradients


@lru_cache(maxsize=2)
def image_gradients(study: Study, mechanism: GridGaussian) -> "ImageGradients":
    """Return what sums the clipped gradients of a study's patients; kept, because it examines its network first."""
    from fedhealth.training.image_gradients import ImageGradients, rows_at_once

    rows, most = rows_at_once(numbers_of_a_record(study)), study.max_records_per_patient
    return ImageGradients(cnn.module(study), cnn.loss(study), _transforms(study), mechanism, most, rows)


def image_gradients_alone(
    study: Study,
    weights: NDArray[np.float64],
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.float64],
    patients: NDArray[np.int64],
    patient_count: int,
) -> Iterator[NDArray[np.float64]]:
    """Yield each patient's gradient, shape (1, d), without a clip: arguments as of `ImageGradients.sum`."""
    from fedhealth.training.image_gradients import gradients_alone, rows_at_once

    rows, data = rows_at_once(numbers_of_a_record(study)), (features, labels, patients, patient_count)
    return gradients_alone(cnn.module(study), weights, cnn.loss(study), _transforms(study), *data, rows)


def _transforms(study: Study) -> tuple[Transform, ...]:
    return () if study.training is None else study.training.augment
