"""Numbers that describe an image, and its scattering coefficients; of this one image alone.

In a volume, blurring, eroding and scattering stay within each slice, because slices are mostly thicker than pixels.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedhealth.errors import ConfigInvalid
from fedhealth.study.images import (
    BlurredDescriptor,
    Descriptors,
    ImageDescriptor,
    QuantileDescriptor,
    Scattering,
    ShareDescriptor,
)

_INSIDE = 3
"""Pixels from the edge of the foreground that asymmetry leaves out: no head lies quite straight."""

_ASYMMETRY_QUANTILE = 0.95

_LEAST_DEVIATION = 1 / 256
"""Of the window, added where a deviation divides."""

_Pixels = NDArray[np.float64]
_Mask = NDArray[np.bool_]


def described(voxels: _Pixels, wanted: Descriptors, window: tuple[float, float]) -> _Pixels:
    """Return the descriptors of an image, each scaled from its range to [-1, 1].

    Args:
        voxels: on the protocol's grid, within its window.
        wanted: which.
        window: the protocol's.
    """
    inside = voxels > wanted.foreground
    width = window[1] - window[0]
    values = [_value_of(each, voxels, inside, width) if inside.any() else 0.0 for each in wanted.descriptors]
    scaled = [
        2 * (min(max(value, low), high) - low) / (high - low) - 1
        for value, (low, high) in zip(values, (each.range for each in wanted.descriptors), strict=True)
    ]
    return np.array(scaled)


def scattered(filled: _Pixels, wanted: Scattering) -> _Pixels:
    """Return the scattering coefficients of an image, each in [0, 1].

    Args:
        filled: intensities from 0 to 1.
        wanted: which.

    Raises:
        ConfigInvalid: Kymatio is not installed.
    """
    slices = filled.reshape(-1, *filled.shape[-2:])
    scattering = _scattering(wanted.scales, wanted.angles, wanted.order, slices.shape[1:])
    coefficients = np.mean([scattering(each).mean(axis=(1, 2)) for each in slices], axis=0)
    first, second = 1, 1 + wanted.scales * wanted.angles
    largest = np.empty(len(coefficients))
    largest[:first], largest[first:second], largest[second:] = wanted.largest[0], wanted.largest[1], wanted.largest[-1]
    return np.asarray(np.clip(coefficients / largest, 0, 1), dtype=np.float64)


@lru_cache(maxsize=4)
def _scattering(scales: int, angles: int, order: int, shape: tuple[int, int]) -> Any:  # noqa: ANN401 - it has no types
    try:
        # By its own module: kymatio.numpy also imports 3D transforms, of a function that SciPy has no more.
        from kymatio.scattering2d.frontend.numpy_frontend import ScatteringNumPy2D
    except ImportError as error:
        raise ConfigInvalid(
            "a study reads scattering coefficients of images, and Kymatio is not installed",
            next_step="Install it: pip install 'fedhealth[imaging]'",
        ) from error
    return ScatteringNumPy2D(scales, shape, angles, max_order=order)


def _value_of(descriptor: ImageDescriptor, voxels: _Pixels, inside: _Mask, width: float) -> float:
    values = voxels[inside]
    if isinstance(descriptor, QuantileDescriptor):
        return float(np.quantile(values, descriptor.quantile))
    if isinstance(descriptor, ShareDescriptor):
        return float((values > descriptor.level).mean())
    if isinstance(descriptor, BlurredDescriptor):
        within = (0.0,) * (voxels.ndim - 2) + (descriptor.blur, descriptor.blur)
        blurred = ndimage.gaussian_filter(voxels, within)
        if descriptor.name == "asymmetry":
            return _asymmetry(blurred, inside)
        highest = float(blurred[inside].max())
        if descriptor.name == "blob-over-median":
            return highest - float(np.median(values))
        return (highest - float(values.mean())) / (float(values.std()) + width * _LEAST_DEVIATION)
    return _PLAIN[descriptor.name](voxels, inside)


def _asymmetry(blurred: _Pixels, inside: _Mask) -> float:
    columns = inside.shape[-1]
    middle = round(float(ndimage.center_of_mass(inside)[-1]))
    half = min(middle, columns - middle)
    left, right = slice(middle - half, middle), slice(middle, middle + half)
    both = inside[..., left] & inside[..., right][..., ::-1]
    neighbours = np.zeros((1,) * (inside.ndim - 2) + (3, 3), dtype=bool)
    neighbours[..., 1, :] = neighbours[..., :, 1] = True
    deep = ndimage.binary_erosion(both, neighbours, iterations=_INSIDE) if both.any() else both
    if not deep.any():
        return 0.0
    difference = np.abs(blurred[..., left] - blurred[..., right][..., ::-1])[deep]
    return float(np.quantile(difference, _ASYMMETRY_QUANTILE))


def _gradient(voxels: _Pixels, inside: _Mask) -> float:
    squares = sum(np.square(each) for each in np.gradient(voxels))
    return float(np.sqrt(squares)[inside].mean())


_PLAIN: Mapping[str, Callable[[_Pixels, _Mask], float]] = MappingProxyType(
    {
        "mean": lambda voxels, inside: float(voxels[inside].mean()),
        "deviation": lambda voxels, inside: float(voxels[inside].std()),
        "foreground": lambda voxels, inside: float(inside.mean()),
        "gradient": _gradient,
    }
)
