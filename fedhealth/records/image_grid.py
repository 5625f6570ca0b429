"""An image on the grid that a protocol asks for: its size, and the distance from one pixel to the next.

Resampling is linear along each axis in turn. Where the new grid is coarser, a pixel is an average whose weights fall
linearly to both sides, so that no detail is read where a single point happens to lie. Sums are taken one source pixel
after the other, so that the bits rest on this image alone and on no library's choice of an order.
"""

import numpy as np
from numpy.typing import NDArray

from fedhealth.records.images import Image, Unreadable
from fedhealth.study.images import ImageFeature

_SPACING_TOLERANCE = 0.01
"""Relative: one scanner's files say 0.9375 and 0.938 of the same."""


def fit_image(image: Image, feature: ImageFeature) -> NDArray[np.float64]:
    """Return an image's intensities on the feature's grid, within its window; shape `feature.shape`.

    Raises:
        Unreadable: its size or spacing is not as asked, and the protocol does not have it resampled; or its spacing
            matters and is not known.
    """
    voxels, spacing = image.voxels, image.spacing
    if voxels.ndim != len(feature.shape):
        raise Unreadable("it has another size than the study asks for")
    if feature.spacing is not None and (spacing is None or len(spacing) != voxels.ndim):
        raise Unreadable("it does not say its spacing")
    if feature.fit == "exact":
        if voxels.shape != feature.shape:
            raise Unreadable("it has another size than the study asks for")
        if feature.spacing is not None and spacing is not None and not _alike(spacing, feature.spacing):
            raise Unreadable("it has another spacing than the study asks for")
    low, high = feature.window
    voxels = np.clip(voxels, low, high)
    if feature.fit == "resample":
        for axis, length in enumerate(feature.shape):
            steps = None
            if feature.spacing is not None and spacing is not None:
                steps = feature.spacing[axis] / spacing[axis]
            voxels = _resampled(voxels, axis, length, steps, low)
    return np.clip(voxels.astype(np.float64), low, high)  # single precision rounds the ends of a window, too


def _alike(spacing: tuple[float, ...], asked: tuple[float, ...]) -> bool:
    return all(abs(has - want) <= _SPACING_TOLERANCE * want for has, want in zip(spacing, asked, strict=True))


def _resampled(
    voxels: NDArray[np.float32], axis: int, length: int, step: float | None, outside: float
) -> NDArray[np.float32]:
    """Return an image with another number of pixels along an axis.

    Args:
        voxels: the image.
        axis: which.
        length: number of pixels wanted.
        step: from one wanted pixel to the next, in source pixels, around the centre; None to fill the whole axis.
        outside: what lies beyond the image.
    """
    source = np.moveaxis(voxels, axis, 0)
    count = len(source)
    step = count / length if step is None else step
    reach = max(1.0, step)
    found = np.full((length, *source.shape[1:]), outside, dtype=np.float32)
    for place in range(length):
        at = (place - (length - 1) / 2) * step + (count - 1) / 2
        if not -0.5 <= at <= count - 0.5:
            continue
        total, sum_of_weights = np.zeros(source.shape[1:]), 0.0
        for near in range(max(0, int(np.ceil(at - reach))), min(count - 1, int(np.floor(at + reach))) + 1):
            weight = 1 - abs(near - at) / reach
            if weight > 0:
                total += weight * source[near]
                sum_of_weights += weight
        found[place] = total / sum_of_weights
    return np.moveaxis(found, 0, axis)
