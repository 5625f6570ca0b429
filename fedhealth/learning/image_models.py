"""From the protocol of a study whose model sees images to what computes its patients; torch is loaded by a call."""

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


def unclipped_image_sum(
    study: Study,
    weights: NDArray[np.float64],
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.float64],
    patients: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the sum of the patients' gradients, shape (d,), without a clip: for public data and simulation alone."""
    from fedhealth.training.image_gradients import rows_at_once, unclipped_sum

    rows, data = rows_at_once(numbers_of_a_record(study)), (features, labels, patients)
    return unclipped_sum(cnn.module(study), weights, cnn.loss(study), _transforms(study), *data, rows)


def _transforms(study: Study) -> tuple[Transform, ...]:
    return () if study.training is None else study.training.augment
