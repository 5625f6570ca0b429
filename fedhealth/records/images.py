"""An image file, found and read: which file a cell names, what is in it, and what keeps it from being an input.

A cell is a path below the folder of the table's file. Nothing outside that folder is read, whatever a cell says or a
link points to, and nothing but regular files. What a file says of its size is looked at before any pixel of it, so that
no small file becomes a large array. Readers of medical formats are loaded where a table names such a file alone.

Whatever is wrong with an image, its inputs are NaN and its patient counts as zero, as with text in a column of numbers;
`Unreadable` says what, for the administrator. Nothing of a file, nor its name, is in a log.

Leaves to others: fitting it to a grid (`fedhealth.records.image_grid`), what becomes of it
(`fedhealth.records.image_inputs`).
"""

import io
import math
import os
import stat
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from fedhealth.errors import ConfigInvalid, FedHealthError

MAX_VOXELS = 2**26
"""Pixels of an image as it lies in its file: a volume of 512 x 512 x 256, 256 MiB in single precision."""

MAX_FILE_BYTES = 2**30
"""Of one file."""

MAX_LENGTH = 2**14
"""Pixels along an axis: resampling takes a step for each."""

_MAX_HEADER_BYTES = 2**14
"""Of a .npy file; those of plain numbers have some 100."""

_MOSTLY, _ENOUGH = 0.9, 50


class Unreadable(Exception):
    """An image cannot be an input; its text is one of a few, without anything of the file."""


@dataclass(frozen=True)
class Image:
    """What a file holds.

    Attributes:
        voxels: the intensities, finite, as (rows, columns) or (slices, rows, columns), in single precision: scanners
            give some 12 bits, and volumes are large.
        spacing: millimetres along each axis; None where the file does not say.
        annotated: the file says itself that text is burned into its pixels.
    """

    voxels: NDArray[np.float32]
    spacing: tuple[float, ...] | None = None
    annotated: bool = False


@dataclass(frozen=True)
class Wanted:
    """What a reader checks before it reads a pixel.

    Attributes:
        axes: 2 or 3; axes of length 1 do not count.
        shape: the only one that is wanted; None for any that is not too large.
    """

    axes: int
    shape: tuple[int, ...] | None

    def check(self, shape: tuple[int, ...]) -> None:
        """Return if an image of this shape is wanted, in whatever order its file has the axes.

        Raises:
            Unreadable: it is not.
        """
        lengths = sorted(length for length in shape if length != 1)
        if not 0 < math.prod(shape) <= MAX_VOXELS or min(shape) < 0 or max(shape) > MAX_LENGTH:
            raise Unreadable("it is empty, or larger than is read")
        if len(lengths) != self.axes or (self.shape is not None and lengths != sorted(self.shape)):
            raise Unreadable("it has another size than the study asks for")


def read_image(folder: Path, cell: str, wanted: Wanted) -> Image:
    """Return the image that a cell names.

    Args:
        folder: of the table's file.
        cell: a path below it; anything at all.
        wanted: what is looked for.

    Raises:
        Unreadable: it names no file below the folder, or one that cannot be read, or has another size.
        ConfigInvalid: the readers are not installed; whatever this one cell names, lest it should stop a study.
    """
    check_readers()
    try:
        place = _inside(folder, cell)
        image = _read_series(folder, place, wanted) if place.is_dir() else _read_file(place, wanted)
        voxels = image.voxels.reshape([length for length in image.voxels.shape if length != 1])
    except (Unreadable, FedHealthError, MemoryError):
        raise  # memory is the machine's, not the file's
    except Exception as error:  # one patient's file must not stop everybody, whatever a reader says of it
        raise Unreadable("it is damaged, or is of no format that is read") from error
    if not np.isfinite(voxels).all():
        raise Unreadable("it has intensities that are not finite")
    spacing = image.spacing
    if spacing is not None and len(spacing) == image.voxels.ndim:
        spacing = tuple(each for each, length in zip(spacing, image.voxels.shape, strict=True) if length != 1)
    if spacing is not None and not all(0 < each < math.inf for each in spacing):
        spacing = None  # no distance: what divides by it must not fail
    return Image(voxels, spacing, image.annotated)


@lru_cache(maxsize=1)
def check_readers() -> None:
    """Return if every format can be read.

    Raises:
        ConfigInvalid: a package is not installed.
    """
    for package in ("nibabel", "pydicom"):
        if find_spec(package) is None:
            raise ConfigInvalid(
                f"a study reads images, and {package} is not installed",
                next_step="Install it: pip install 'fedhealth[imaging]'",
            )


def name_files(folder: Path, cells: Collection[str]) -> bool:
    """Say whether texts nearly all name files or folders, as far as the first few can tell; nothing of them is read.

    Args:
        folder: of the table's file, below which they lie.
        cells: of a column.
    """
    some = sorted(cells)[:_ENOUGH]
    return bool(some) and sum(_is_there(folder, cell) for cell in some) >= _MOSTLY * len(some)


def _is_there(folder: Path, cell: str) -> bool:
    try:
        return _inside(folder, cell) != folder.resolve()
    except Unreadable:
        return False


def _inside(folder: Path, cell: str) -> Path:
    """Return where a file or folder is, without links.

    Raises:
        Unreadable: not below the folder, or nowhere.
    """
    path = Path(cell)
    if path.is_absolute() or ".." in path.parts:
        raise Unreadable("it is no path below the table's folder")
    try:
        place = (folder / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise Unreadable("there is no such file") from error
    if not place.is_relative_to(folder.resolve()):
        raise Unreadable("it leads out of the table's folder")
    return place


class _File(io.BufferedReader):
    """A file of which no more memory is taken than it has bytes, whatever it says of the length of its parts."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, or all that are left."""
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


@contextmanager
def _opened(place: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; a pipe or device is not waited for."""
    try:
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unreadable("it may not be read") from error
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_FILE_BYTES:
        os.close(handle)
        raise Unreadable("it is, or holds, what is no file, or is larger than is read")
    with _File(io.FileIO(handle)) as file:
        yield file


def _read_file(place: Path, wanted: Wanted) -> Image:
    name = place.name.lower()
    with _opened(place) as file:
        if name.endswith(".npy"):
            return Image(_array(file, wanted))
        if name.endswith(".npz"):
            return Image(_zipped_array(file, wanted))
        if name.endswith((".nii", ".nii.gz")):
            from fedhealth.records.nifti_images import read_nifti

            return read_nifti(file, wanted, compressed=name.endswith(".gz"))
    return _read_dicom([place], wanted)


def _read_series(folder: Path, place: Path, wanted: Wanted) -> Image:
    """Return the image of a folder's files, but for hidden ones and an index of DICOM's."""
    names = sorted(entry.name for entry in os.scandir(place))
    names = [name for name in names if not name.startswith(".") and name != "DICOMDIR"]
    if not names:
        raise Unreadable("there is no such file")
    return _read_dicom([_inside(folder, str((place / name).relative_to(folder.resolve()))) for name in names], wanted)


def _read_dicom(files: Sequence[Path], wanted: Wanted) -> Image:
    from fedhealth.records.dicom_images import read_dicom

    return read_dicom(files, _opened, wanted)


def _array(file: IO[bytes], wanted: Wanted) -> NDArray[np.float32]:
    """Return the array of a .npy file; objects are never loaded."""
    readers: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[np.generic]]]] = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }
    version = npy_format.read_magic(file)
    size = file.read(2 * version[0])  # of the header that follows: numpy reads it all before it finds it too long
    if int.from_bytes(size, "little") > _MAX_HEADER_BYTES:
        raise Unreadable("it is damaged, or is of no format that is read")
    header = io.BytesIO(size + file.read(int.from_bytes(size, "little")))
    shape, fortran_order, dtype = readers[version](header)
    if dtype.kind not in "buif" or dtype.itemsize > np.dtype(np.float64).itemsize:
        raise Unreadable("its pixels are no plain numbers")
    wanted.check(shape)
    count = int(np.prod(shape))
    data = file.read(count * dtype.itemsize)
    flat = np.frombuffer(data, dtype, count)
    return flat.reshape(shape, order="F" if fortran_order else "C").astype(np.float32)


def _zipped_array(file: BinaryIO, wanted: Wanted) -> NDArray[np.float32]:
    """Return the one array of a .npz file; of what is compressed, no more is unpacked than the array's header says."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) != 1:
            raise Unreadable("it holds several arrays")
        if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unreadable("it is compressed in a way that is not read")  # others ask for memory as they please
        with archive.open(members[0]) as member:
            return _array(member, wanted)
