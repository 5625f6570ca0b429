"""Turn a volume so that its axes are slices from the feet upwards, rows from front to back, columns from right to left.

That is how an axial image is looked at, as from the patient's feet. Axes are swapped and mirrored and nothing is
computed anew: a volume that lies obliquely keeps its pixels, along the axes that are nearest.
"""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def oriented(
    voxels: NDArray[np.float32], axes: NDArray[np.float64]
) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
    """Return a volume in this order, and the millimetres along each axis.

    Args:
        voxels: three axes, of which some may have length 1.
        axes: shape (3, 3); its columns are the step along each axis, in millimetres to the right, front and head.

    Raises:
        ValueError: an axis has no direction.
    """
    orientations: Any = importlib.import_module("nibabel.orientations")  # it has no types
    affine = np.eye(4)
    affine[:3, :3] = axes
    lies = orientations.io_orientation(affine)
    turn = orientations.ornt_transform(lies, orientations.axcodes2ornt(("S", "P", "L")))
    lengths = np.sqrt(np.square(axes).sum(axis=0))
    spacing = [0.0, 0.0, 0.0]
    for axis, (place, _) in enumerate(turn):
        spacing[int(place)] = float(lengths[axis])
    turned = np.ascontiguousarray(orientations.apply_orientation(voxels, turn))
    return turned, (spacing[0], spacing[1], spacing[2])
