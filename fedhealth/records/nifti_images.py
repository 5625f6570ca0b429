"""Read an image of a NIfTI file, versions 1 and 2, plain or compressed with gzip; no more is unpacked than it says.

Of the file its header and its pixels are read, and no extension, in which scanners and converters leave names.

Source: nifti1.h and nifti2.h of the NIfTI Data Format Working Group, as nibabel reads them.
"""

import gzip
from functools import lru_cache
from typing import IO, Any

import numpy as np

from fedhealth.records.images import Image, Unreadable, Wanted
from fedhealth.records.orientation import oriented

_SIZES = {348: 1, 540: 2}
"""Of a header, and the version that it is of."""

_LARGEST_OFFSET = 2**24
"""Of pixels in the file: extensions lie before them."""


def read_nifti(file: IO[bytes], wanted: Wanted, *, compressed: bool) -> Image:
    """Return the image of a file.

    Args:
        file: opened.
        wanted: what is looked for.
        compressed: with gzip.

    Raises:
        Unreadable: it is no such image.
    """
    stream: IO[bytes] = gzip.GzipFile(fileobj=file) if compressed else file  # type: ignore[assignment]
    start = stream.read(540)
    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")} & _SIZES.keys()
    if len(sizes) != 1:
        raise Unreadable("it is damaged, or is of no format that is read")
    size = sizes.pop()
    header = _headers()[_SIZES[size]](start[:size])
    kind, offset = header.get_data_dtype(), int(header.get_data_offset())
    if kind.kind not in "iuf" or kind.itemsize > np.dtype(np.float64).itemsize:
        raise Unreadable("its pixels are no plain numbers")
    shape = tuple(int(length) for length in header.get_data_shape())
    wanted.check(shape)
    if not size <= offset <= _LARGEST_OFFSET:
        raise Unreadable("it is damaged, or is of no format that is read")
    count = int(np.prod(shape))
    data = start + stream.read(offset + count * kind.itemsize - len(start))
    pixels = np.frombuffer(data, kind, count, offset).reshape(shape, order="F").astype(np.float32)
    slope, intercept = header.get_slope_inter()
    if slope is not None:
        pixels *= float(slope)
        pixels += float(intercept)
    three = (*shape, 1, 1, 1)[:3]
    voxels, spacing = oriented(pixels.reshape(three, order="F"), header.get_best_affine()[:3, :3])
    return Image(voxels, spacing)


@lru_cache(maxsize=1)
def _headers() -> dict[int, Any]:
    """Return nibabel's classes of headers by version; its log repeats what it finds wrong, and is kept silent."""
    from nibabel import Nifti1Header, Nifti2Header, imageglobals

    imageglobals.logger.disabled = True
    return {1: Nifti1Header, 2: Nifti2Header}
