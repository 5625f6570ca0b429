"""What a model is given of an image: pixels, scattering coefficients or descriptors, by this one image alone.

Invariant: the inputs of an image are the same bits each time, whatever else is in the table.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import FedHealthError
from fedhealth.records.cells import is_blank
from fedhealth.records.image_grid import fit_image
from fedhealth.records.images import Unreadable, Wanted, check_readers, read_image
from fedhealth.study.images import Descriptors, ImageFeature, Scattering


def image_inputs(feature: ImageFeature, cell: str, folder: Path) -> list[float]:
    """Return the model inputs that a cell becomes, each within [-1, 1]; NaN where its image is unreadable.

    Args:
        feature: what is asked of the image.
        cell: a path; anything at all.
        folder: of the table's file, below which the path must lie.

    Raises:
        ConfigInvalid: what reads images is not installed.
    """
    check_readers()
    absent = is_blank(cell)
    width = feature.width - feature.missing_indicator
    if absent:
        inputs = [0.0] * width
    else:
        try:
            inputs = _computed(feature, cell, folder).tolist()
        except Unreadable:
            inputs = [math.nan] * width
    return [*inputs, float(absent)] if feature.missing_indicator else inputs


def read_fitted(feature: ImageFeature, cell: str, folder: Path) -> NDArray[np.float64]:
    """Return the intensities of an image on the feature's grid and within its window.

    Raises:
        Unreadable: it cannot be an input; says why.
        ConfigInvalid: what reads images is not installed.
    """
    return fit_image(read_image(folder, cell, wanted_of(feature)), feature)


def wanted_of(feature: ImageFeature) -> Wanted:
    """Return what a reader looks for."""
    return Wanted(len(feature.shape), feature.shape if feature.fit == "exact" else None)


def why_unreadable(feature: ImageFeature, cell: str, folder: Path) -> str:
    """Return what keeps the image of a cell from being an input, without a word of it; empty where nothing does."""
    try:
        if not is_blank(cell):
            _computed(feature, cell, folder)
    except Unreadable as why:
        return str(why)
    return ""


def _computed(feature: ImageFeature, cell: str, folder: Path) -> NDArray[np.float64]:
    """Return an image's inputs; whatever fails on the way fails for this one image."""
    try:
        return _inputs_of(feature, read_fitted(feature, cell, folder))
    except (Unreadable, FedHealthError, MemoryError):
        raise  # memory is the machine's, not the file's
    except Exception as error:
        raise Unreadable("nothing can be computed of it") from error


def _inputs_of(feature: ImageFeature, voxels: NDArray[np.float64]) -> NDArray[np.float64]:
    # Loaded where a study reads images alone: a gate with a table of numbers runs none of it.
    from fedhealth.records.image_descriptors import described, scattered

    low, high = feature.window
    filled = (voxels - low) / (high - low)
    if isinstance(feature.inputs, Scattering):
        return scattered(filled, feature.inputs)
    if isinstance(feature.inputs, Descriptors):
        return described(voxels, feature.inputs, feature.window)
    return np.clip(2 * filled.reshape(-1) - 1, -1, 1)
