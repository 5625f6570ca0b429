"""Read an image of DICOM files: one file, or a folder with the slices of one series, put in order by where they lie.

Of a file, the tags below are read and no other: no name, no date, no number of a patient. Uncompressed pixels and RLE
are read; other compression would bring a native decoder into the gate, and a deflated file can unpack to any size.
Intensities are stored values, mirrored where the file says that low is bright (MONOCHROME1), times the slope, plus the
intercept.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.3 (image pixel), C.7.6.16 (functional groups), C.11.1 (rescale).

Invariant: pydicom's warnings and log, which repeat what they cannot read, are silent.
"""

import itertools
import logging
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fedhealth.records.images import Image, Unreadable, Wanted
from fedhealth.records.orientation import oriented

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_SLICES = 1024
"""Files of a series."""

_RLE = "1.2.840.10008.1.2.5"
_SYNTAXES = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", _RLE})
"""Implicit and explicit little endian, explicit big endian, RLE."""

_RLE_HEADER_BYTES = 64
_NO_RUN = 128
"""A byte of RLE above it repeats the next one, below it says how many follow as they are; itself it says nothing."""

_TAGS = (
    "SeriesInstanceUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PlanarConfiguration",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "BurnedInAnnotation",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_FILE_META_GROUP = 2
_DIRECTION_TOLERANCE = 1e-3
_GAP_TOLERANCE = 0.1
"""Relative: distances between slices are rounded in files."""


@dataclass(frozen=True)
class _Plane:
    """A slice: its series, its pixels, and where they lie in the patient, as far as the file says."""

    series: str
    pixels: NDArray[np.float32]
    annotated: bool
    spacing: tuple[float, float] | None
    orientation: NDArray[np.float64] | None
    position: NDArray[np.float64] | None


def read_dicom(
    files: Sequence[Path], opened: Callable[[Path], AbstractContextManager[BinaryIO]], wanted: Wanted
) -> Image:
    """Return the image of one file or of one series' files.

    Args:
        files: one, or all of a series in any order.
        opened: opens one of them.
        wanted: what is looked for.

    Raises:
        Unreadable: some file is no such image, or they are not the slices of one volume.
    """
    if len(files) > MAX_SLICES:
        raise Unreadable("it has more files than are read")
    planes: list[_Plane] = []
    for place in files:
        with opened(place) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            planes += _planes_of(file, len(files), wanted)
    return _assembled(planes)


def _planes_of(file: BinaryIO, files: int, wanted: Wanted) -> Iterator[_Plane]:
    """Yield a file's slices, after its header says that they are wanted."""
    dicom = _pydicom()
    dicom.filereader.read_preamble(file, False)
    meta = dicom.filereader.read_dataset(file, False, True, stop_when=lambda tag, _, __: tag.group != _FILE_META_GROUP)
    if meta.get("TransferSyntaxUID") not in _SYNTAXES:
        raise Unreadable("it is compressed in a way that is not read: uncompressed and RLE are")
    file.seek(0)
    header = dicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
    frames, one = int(header.get("NumberOfFrames") or 1), header.get("PhotometricInterpretation")
    if header.get("SamplesPerPixel") != 1 or one not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable("it is in colour, or no image")
    if "ModalityLUTSequence" in header:
        raise Unreadable("its intensities follow a table of its own")
    try:
        wanted.check((files * frames, header.Rows, header.Columns))
    except Unreadable as error:
        if files == 1:
            raise
        raise Unreadable("its slices are more, fewer, larger or smaller than the study asks for") from error
    file.seek(0)
    dataset = dicom.dcmread(file, specific_tags=[*_TAGS, *_PIXELS])
    if meta.TransferSyntaxUID == _RLE:
        _check_runs(dicom, dataset, frames)
    stored = dataset.pixel_array.reshape(frames, dataset.Rows, dataset.Columns).astype(np.float32)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        stored = (-1.0 if dataset.PixelRepresentation else 2.0**dataset.BitsStored - 1) - stored
    for number, pixels in enumerate(stored):
        slope = _stated(dataset, number, "PixelValueTransformationSequence", "RescaleSlope")
        intercept = _stated(dataset, number, "PixelValueTransformationSequence", "RescaleIntercept")
        spacing = _stated(dataset, number, "PixelMeasuresSequence", "PixelSpacing")
        orientation = _stated(dataset, number, "PlaneOrientationSequence", "ImageOrientationPatient")
        position = _stated(dataset, number, "PlanePositionSequence", "ImagePositionPatient")
        yield _Plane(
            series=str(dataset.get("SeriesInstanceUID")),
            pixels=pixels * float(1 if slope is None else slope) + float(intercept or 0),
            annotated=dataset.get("BurnedInAnnotation") == "YES",
            spacing=None if not spacing else (float(spacing[0]), float(spacing[1])),
            orientation=None if not orientation else np.array(orientation, dtype=np.float64),
            position=None if not position else np.array(position, dtype=np.float64),
        )


def _check_runs(dicom: Any, dataset: "Dataset", frames: int) -> None:  # noqa: ANN401 - a module
    """Return if no plane of bytes unpacks to more than a frame's pixels, and a byte that evens it out.

    Source: DICOM PS3.5, annex G.

    Raises:
        Unreadable: some plane does, or has more than it can need.
    """
    most = dataset.Rows * dataset.Columns + 1
    data = dataset.PixelData
    if len(data) > 2 * frames * (dataset.BitsAllocated // 8 * most + _RLE_HEADER_BYTES) + 2**16:
        raise Unreadable("it is empty, or larger than is read")
    for frame in dicom.encaps.generate_frames(data, number_of_frames=frames):
        count, *starts = struct.unpack("<16L", frame[:_RLE_HEADER_BYTES])
        for start, stop in itertools.pairwise([*starts[:count], len(frame)]):
            at, unpacked = start, 0
            while at < stop:
                head = frame[at]
                run = head > _NO_RUN
                unpacked += 257 - head if run else (head + 1) * (head < _NO_RUN)
                at += 2 if run else 1 + (head + 1) * (head < _NO_RUN)
                if unpacked > most:
                    raise Unreadable("it is empty, or larger than is read")


def _stated(dataset: "Dataset", frame: int, group: str, name: str) -> Any:  # noqa: ANN401 - of the tag's own type
    """Return what a file says of a frame: for this frame, for all of them, or in the old way, without groups."""
    per_frame, shared = (dataset.get(f"{which}FunctionalGroupsSequence") for which in ("PerFrame", "Shared"))
    for groups in (per_frame[frame] if per_frame else None, shared[0] if shared else None):
        if groups is not None and groups.get(group):
            return groups[group][0].get(name)
    return dataset.get(name)


def _assembled(planes: Sequence[_Plane]) -> Image:
    first, annotated = planes[0], any(plane.annotated for plane in planes)
    if first.orientation is None or first.position is None or first.spacing is None:
        if len(planes) > 1:
            raise Unreadable("it does not say where its slices lie")
        return Image(first.pixels, first.spacing, annotated)
    for plane in planes:
        turned = plane.orientation is None or np.abs(plane.orientation - first.orientation).max() > _DIRECTION_TOLERANCE
        alike = (plane.series, plane.pixels.shape, plane.spacing) == (first.series, first.pixels.shape, first.spacing)
        if turned or not alike or plane.position is None:
            raise Unreadable("it holds images of several series, directions or sizes")
    along_row, along_column = (each / np.sqrt(np.square(each).sum()) for each in np.split(first.orientation, 2))
    normal = np.cross(along_row, along_column)
    positions = np.array([plane.position for plane in planes])
    heights = (positions * normal).sum(axis=1)
    order = np.argsort(heights, kind="stable")
    step = normal
    if len(planes) > 1:
        gaps = np.diff(heights[order])
        if gaps.min() <= 0 or gaps.max() - gaps.min() > _GAP_TOLERANCE * np.median(gaps):
            raise Unreadable("a slice is missing, or its slices are not equally far apart")
        step = (positions[order[-1]] - positions[order[0]]) / (len(planes) - 1)
    # The axes of the array are slices, rows and columns: a step from row to row runs along a column.
    axes = np.array([step, along_column * first.spacing[0], along_row * first.spacing[1]]).T
    voxels, spacing = oriented(np.array([planes[place].pixels for place in order]), _LPS_TO_RAS @ axes)
    return Image(voxels, spacing, annotated)


_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
"""DICOM's axes point to the patient's left and back, nibabel's to the right and front."""


@lru_cache(maxsize=1)
def _pydicom() -> Any:  # noqa: ANN401 - a module, and its parts as attributes
    """Return pydicom, kept silent for the rest of this process."""
    import pydicom
    import pydicom.encaps
    import pydicom.filereader

    logger = logging.getLogger("pydicom")
    logger.disabled = True
    logger.setLevel(logging.CRITICAL + 1)  # which those of its modules have from it; each of them logs for itself
    return pydicom
