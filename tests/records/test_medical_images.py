"""DICOM and NIfTI as images: what is read of them, in which order, and what is refused."""

import gzip
import logging
import math
import shutil
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

from fedhealth.records.image_inputs import image_inputs, why_unreadable
from fedhealth.records.images import Unreadable, Wanted, read_image
from fedhealth.study.images import ImageFeature

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (extra `imaging`)")
nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed (extra `imaging`)")

DICOM = Path(pydicom.__file__).parent / "data" / "test_files"
NIFTI = Path(nibabel.__file__).parent / "tests" / "data"
FLAT, VOLUME = Wanted(2, None), Wanted(3, None)

LENGTHS = (9, 8, 10)
"""Of a volume's axes, from feet to head, front to back, right to left."""

NUMBERED = np.arange(math.prod(LENGTHS), dtype=np.int16).reshape(LENGTHS)


def feature(**changes):
    asked = {
        "kind": "image",
        "column": "scan",
        "shape": LENGTHS,
        "window": [0, 1000],
        "inputs": {"kind": "descriptors", "foreground": 0, "descriptors": [{"name": "mean", "range": [0, 1000]}]},
    }
    return ImageFeature.model_validate(asked | changes)


def why(folder, cell, **changes):
    return why_unreadable(feature(**changes), cell, folder)


def slice_file(place, pixels, **tags):
    """Write a slice of a made-up axial series, 2 mm thick, with pixels of 1.5 mm by 1 mm."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    rows, columns = pixels.shape
    stated = {
        "PatientName": "SECRET",
        "SeriesInstanceUID": "1.2.3.4",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelSpacing": [1.5, 1.0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelData": pixels.astype("<u2").tobytes(),
    }
    for name, value in (stated | tags).items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.save_as(place, enforce_file_format=True)


def series(folder, *, left_out=(), names=None, **tags):
    """Write the numbered volume as a series whose names are in no order."""
    made = folder / "series"
    made.mkdir(parents=True)
    for number, pixels in enumerate(NUMBERED):
        if number not in left_out:
            where = {"ImagePositionPatient": [-5, -6, 30 + 2 * number]}
            slice_file(made / f"{(number * 5) % 9}.dcm", pixels, **(where | tags))
    return "series"


def test_the_slices_of_a_series_are_put_in_order_by_where_they_lie(tmp_path):
    image = read_image(tmp_path, series(tmp_path), VOLUME)
    assert (image.voxels == NUMBERED).all() and image.spacing == pytest.approx((2, 1.5, 1))
    assert not image.annotated


def test_an_index_and_hidden_files_in_a_folder_are_passed_over(tmp_path):
    cell = series(tmp_path)
    (tmp_path / cell / "DICOMDIR").write_bytes(b"SECRET")
    (tmp_path / cell / ".DS_Store").write_bytes(b"SECRET")
    assert (read_image(tmp_path, cell, VOLUME).voxels == NUMBERED).all()


def test_the_frames_of_one_file_are_slices_where_it_says_so(tmp_path):
    def group(name, **tags):
        inner, outer = pydicom.Dataset(), pydicom.Dataset()
        for tag, value in tags.items():
            setattr(inner, tag, value)
        setattr(outer, name, [inner])
        return outer

    shared = group("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.update(group("PixelMeasuresSequence", PixelSpacing=[1.5, 1.0]))
    shared.update(group("PixelValueTransformationSequence", RescaleSlope=2, RescaleIntercept=-7))
    order = [3, 0, 8, 1, 7, 2, 6, 5, 4]
    frames = [group("PlanePositionSequence", ImagePositionPatient=[0, 0, 2 * number]) for number in order]
    tags = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    stored = {"NumberOfFrames": 9, "PixelData": NUMBERED[order].astype("<u2").tobytes()}
    slice_file(tmp_path / "a.dcm", NUMBERED[0], ImageOrientationPatient=None, PixelSpacing=None, **tags, **stored)
    image = read_image(tmp_path, "a.dcm", VOLUME)
    assert (image.voxels == 2 * NUMBERED - 7).all() and image.spacing == pytest.approx((2, 1.5, 1))


DIRECTIONS = {
    # Cosines of rows and columns, and the step from slice to slice, with x to the left, y to the back, z to the head.
    "axial from the head": ([1, 0, 0, 0, 1, 0], (0, 0, -2), lambda v: v[::-1]),
    "sagittal": ([0, 1, 0, 0, 0, -1], (1.0, 0, 0), lambda v: v.transpose(2, 0, 1)[:, ::-1]),
    "coronal": ([1, 0, 0, 0, 0, -1], (0, 1.5, 0), lambda v: v.transpose(1, 0, 2)[:, ::-1]),
    "upside down": ([-1, 0, 0, 0, -1, 0], (0, 0, 2), lambda v: v[:, ::-1, ::-1]),
}


@pytest.mark.parametrize("case", DIRECTIONS)
def test_a_volume_is_the_same_in_whatever_direction_it_was_sliced(tmp_path, case):
    cosines, step, sliced = DIRECTIONS[case]
    (tmp_path / "series").mkdir()
    spacing = {"axial from the head": [1.5, 1], "sagittal": [2, 1.5], "coronal": [2, 1], "upside down": [1.5, 1]}[case]
    for number, pixels in enumerate(sliced(NUMBERED)):
        where = {"ImageOrientationPatient": cosines, "ImagePositionPatient": [number * each for each in step]}
        slice_file(tmp_path / "series" / f"{number}", pixels, PixelSpacing=spacing, **where)
    image = read_image(tmp_path, "series", VOLUME)
    assert (image.voxels == NUMBERED).all() and image.spacing == pytest.approx((2, 1.5, 1))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SAL"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti_and_dicom_of_one_head_are_the_same_image(tmp_path, codes, kind):
    orientations = nibabel.orientations
    # The array runs to feet-head, back, left: written as NIfTI in another order of axes, with the affine that says so.
    turn = orientations.ornt_transform(orientations.axcodes2ornt("SPL"), orientations.axcodes2ornt(tuple(codes)))
    affine = np.array([[0, 0, -1.0, 0], [0, -1.5, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    turned = orientations.apply_orientation(NUMBERED, turn)
    made = kind(turned, affine @ orientations.inv_ornt_aff(turn, NUMBERED.shape))
    assert "".join(nibabel.aff2axcodes(made.affine)) == codes
    for name in ("head.nii", "head.nii.gz"):
        made.to_filename(tmp_path / name)
        image = read_image(tmp_path, name, VOLUME)
        assert (image.voxels == NUMBERED).all() and image.spacing == pytest.approx((2, 1.5, 1))


def test_slope_and_intercept_are_applied_and_low_is_never_bright(tmp_path):
    pixels = np.arange(64).reshape(8, 8)
    slice_file(tmp_path / "a.dcm", pixels, RescaleSlope=0.5, RescaleIntercept=-10)
    assert (read_image(tmp_path, "a.dcm", FLAT).voxels == pixels * 0.5 - 10).all()
    # 12 bits are stored: 0, which is shown white, becomes 4095.
    slice_file(tmp_path / "b.dcm", pixels, PhotometricInterpretation="MONOCHROME1")
    assert (read_image(tmp_path, "b.dcm", FLAT).voxels == 4095 - pixels).all()
    scaled = nibabel.Nifti1Image(pixels.reshape(8, 8, 1).astype(np.int16), np.diag([-1, -1, 1, 1]))
    scaled.header.set_slope_inter(0.5, -10)
    scaled.to_filename(tmp_path / "c.nii")
    assert (read_image(tmp_path, "c.nii", FLAT).voxels == pixels.T * 0.5 - 10).all()


def test_the_files_of_pydicom_are_the_same_however_they_are_written():
    images = [
        read_image(DICOM, f"MR_small{name}.dcm", FLAT).voxels
        for name in ("", "_RLE", "_bigendian", "_expb", "_implicit", "_padded")
    ]
    expected = pydicom.dcmread(DICOM / "MR_small.dcm").pixel_array
    assert all((image == expected).all() for image in images)
    volume = read_image(DICOM / "dicomdirtests" / "98892001", "CT5N", VOLUME)
    assert volume.voxels.shape == (5, 16, 16) and volume.spacing[0] == pytest.approx(2.5)


def test_the_files_of_nibabel_are_read_as_nibabel_reads_them():
    for name in ("anatomical.nii", "standard.nii.gz", "reoriented_anat_moved.nii"):
        found = nibabel.as_closest_canonical(nibabel.load(NIFTI / name))
        expected = np.asarray(found.dataobj)[::-1, ::-1].transpose(2, 1, 0)
        image = read_image(NIFTI, name, VOLUME)
        assert image.voxels == pytest.approx(expected)
        assert image.spacing == pytest.approx(found.header.get_zooms()[::-1])


THEIRS = {
    "MR_truncated.dcm": "damaged",
    "MR_small_jp2klossless.dcm": "compressed",
    "JPEG-lossy.dcm": "compressed",
    "image_dfl.dcm": "compressed",  # deflated
    "SC_rgb_rle.dcm": "in colour",
    "waveform_ecg.dcm": "no image",
    "rtplan.dcm": "no image",
    "rtstruct.dcm": "damaged",  # without a header of a file
    "dicomdirtests/77654033/CT2": "a slice is missing",
    "dicomdirtests/98892003/MR700": "several series",
    "dicomdirtests/77654033": "no file",  # folders in a folder
    "dicomdirtests/TINY_ALPHA/PT000000/ST000000/SE000000": "no image",
}


@pytest.mark.parametrize("cell", THEIRS)
def test_files_of_pydicom_that_cannot_be_inputs_are_unreadable(cell):
    with pytest.raises(Unreadable, match=THEIRS[cell]):
        read_image(DICOM, cell, VOLUME if (DICOM / cell).is_dir() else FLAT)


def mixed(folder):
    cell = series(folder, left_out=(8,))
    slice_file(folder / cell / "z", NUMBERED[8], SeriesInstanceUID="9", ImagePositionPatient=[-5, -6, 46])
    return cell


def twice(folder):
    cell = series(folder, left_out=(8,))
    slice_file(folder / cell / "z", NUMBERED[7], ImagePositionPatient=[-5, -6, 44])
    return cell


def with_text(folder):
    cell = series(folder, left_out=(8,))
    (folder / cell / "report.txt").write_bytes(b"SECRET")
    return cell


def with_link(folder):
    cell = series(folder, left_out=(8,))
    shutil.copy(folder / cell / "0.dcm", folder.parent / "theirs.dcm")
    (folder / cell / "z").symlink_to(folder.parent / "theirs.dcm")
    return cell


def nifti(folder, array=NUMBERED, zooms=(1, 1.5, 2), name="a.nii"):
    made = nibabel.Nifti1Image(array.transpose(), np.diag([-zooms[0], -zooms[1], zooms[2], 1]))
    made.to_filename(folder / name)
    return name


def cut(folder):
    data = (folder / nifti(folder)).read_bytes()
    (folder / "cut.nii").write_bytes(data[:-1])
    return "cut.nii"


def no_nifti(folder):
    (folder / "a.nii.gz").write_bytes(gzip.compress(b"SECRET" * 1000))
    return "a.nii.gz"


BAD = {
    "a slice missing in the middle": (lambda f: series(f, left_out=(4,)), {"shape": [8, 8, 10]}, "slice is missing"),
    "a slice missing at the end": (lambda f: series(f, left_out=(8,)), {}, "more, fewer"),
    "two series in a folder": (mixed, {}, "several series"),
    "a place twice": (twice, {}, "slice is missing"),
    "slices that do not say where they lie": (lambda f: series(f, ImagePositionPatient=None), {}, "where its slices"),
    "a text among the slices": (with_text, {}, "damaged"),
    "a link among the slices that leads out": (with_link, {}, "leads out"),
    "an intensity table": (lambda f: series(f, ModalityLUTSequence=[pydicom.Dataset()]), {}, "a table of its own"),
    "an empty folder": (lambda f: (f / "series").mkdir() or "series", {}, "no such file"),
    "another spacing": (nifti, {"spacing": [2, 1.5, 1.1]}, "another spacing"),
    "no spacing": (lambda f: series(f, PixelSpacing=None), {"spacing": [2, 1.5, 1]}, "where its slices"),
    "another size": (lambda f: nifti(f, NUMBERED[:, :, :9]), {}, "another size"),
    "other axes": (lambda f: nifti(f, NUMBERED.transpose(1, 0, 2)), {}, "another size"),
    "complex numbers": (lambda f: nifti(f, NUMBERED.astype(np.complex64)), {}, "no plain numbers"),
    "not finite": (lambda f: nifti(f, np.where(NUMBERED, NUMBERED, np.nan)), {}, "not finite"),
    "cut off": (cut, {}, "damaged"),
    "no NIfTI": (no_nifti, {}, "damaged"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_an_input_says_why_and_nothing_of_it_is_in_a_log(tmp_path, case, caplog, capfd):
    make, changes, expected = BAD[case]
    folder = tmp_path / "site"
    folder.mkdir()
    caplog.set_level(logging.DEBUG)
    cell = make(folder)
    caplog.clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        said = why(folder, cell, **changes)
    assert expected in said
    assert "SECRET" not in said + caplog.text + "".join(capfd.readouterr()) + "".join(
        str(each.message) for each in told
    )


def test_a_spacing_that_differs_by_its_rounding_is_the_same(tmp_path):
    assert why(tmp_path, nifti(tmp_path), spacing=[2.001, 1.5, 0.9995]) == ""


def test_resampling_to_a_spacing_cuts_and_fills_around_the_centre(tmp_path):
    # Slices 0 to 8 lie at -8, -6 .. 8 mm and reach 1 mm further; those wanted at -14, -10 .. 14 mm. So the first two
    # and the last two are beyond; -6, -2, 2 and 6 mm are slices 1, 3, 5 and 7, of 80 a slice, as the mean of the
    # slices around each is.
    ramp = np.broadcast_to(80.0 * np.arange(9)[:, None, None], LENGTHS)
    made = feature(shape=[8, 8, 10], fit="resample", spacing=[4, 1.5, 1], inputs={"kind": "pixels"})
    found = (np.array(image_inputs(made, nifti(tmp_path, ramp), tmp_path)) + 1) * 500
    inside = found.reshape(8, 8, 10)[:, 4, 5]
    assert inside == pytest.approx([0, 0, 80, 240, 400, 560, 0, 0]) and inside[2:6] == pytest.approx(
        [80, 240, 400, 560]
    )


@pytest.mark.parametrize("spacing", [[0, 0], [1.5, 0], [-1.5, 1]])
def test_a_distance_that_is_none_is_no_spacing_and_stops_nothing(tmp_path, spacing):
    # Without a place or direction nothing but this number says how far apart the pixels are.
    slice_file(tmp_path / "a.dcm", np.arange(64).reshape(8, 8), PixelSpacing=spacing, ImageOrientationPatient=None)
    for fit in ("exact", "resample"):
        asked = feature(shape=[8, 8], spacing=[1.5, 1], fit=fit)
        assert "does not say its spacing" in why_unreadable(asked, "a.dcm", tmp_path)
        assert math.isnan(image_inputs(asked, "a.dcm", tmp_path)[0])
        assert why_unreadable(feature(shape=[8, 8], fit=fit), "a.dcm", tmp_path) == ""


def in_runs(place, plane, **tags):
    """Write a slice of one byte a pixel, compressed with RLE: 16 numbers, of which the second says where it starts."""
    frame = np.array([1, 64, *[0] * 14], "<u4").tobytes() + plane
    one = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7} | tags
    slice_file(place, np.zeros((8, 8)), PixelData=pydicom.encaps.encapsulate([frame]), **one)
    dataset = pydicom.dcmread(place)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(place, enforce_file_format=True)


def test_runs_that_unpack_to_more_than_a_slice_are_not_unpacked(tmp_path):
    # A byte of 129 repeats the next one 128 times, 193 repeats it 64 times, 128 says nothing (DICOM PS3.5, annex G).
    in_runs(tmp_path / "whole.dcm", bytes([128, 193, 7]) + b"\x80")
    assert (read_image(tmp_path, "whole.dcm", FLAT).voxels == 7).all()
    in_runs(tmp_path / "bomb.dcm", bytes([193, 7, 129, 7]))
    assert "larger than is read" in why(tmp_path, "bomb.dcm", shape=[8, 8])
    in_runs(tmp_path / "many.dcm", bytes([193, 7]) + bytes([128]) * 2**17)
    assert "larger than is read" in why(tmp_path, "many.dcm", shape=[8, 8])


def test_what_a_file_says_of_its_length_costs_no_memory(tmp_path):
    slice_file(tmp_path / "a.dcm", np.arange(64).reshape(8, 8))
    data = (tmp_path / "a.dcm").read_bytes()
    at = data.index(bytes.fromhex("e07f1000")) + 8  # after the tag of the pixels, how they are written, and two zeros
    (tmp_path / "long.dcm").write_bytes(data[:at] + (2**32 - 2).to_bytes(4, "little") + data[at + 4 :])
    tracemalloc.start()
    why(tmp_path, "long.dcm", shape=[8, 8])
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_no_part_of_what_reads_dicom_logs(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    slice_file(tmp_path / "a.dcm", np.arange(64).reshape(8, 8))
    caplog.clear()
    read_image(tmp_path, "a.dcm", FLAT)
    logging.getLogger("pydicom.pixels.decoders.base").error("SECRET")
    assert "SECRET" not in caplog.text


def test_what_unpacks_to_more_than_it_says_costs_no_memory(tmp_path):
    whole = (tmp_path / nifti(tmp_path)).read_bytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(whole + bytes(2**28)))
    huge = nibabel.Nifti1Header()
    huge.set_data_shape((30000, 30000, 30000))
    huge.set_data_offset(352)
    (tmp_path / "huge.nii.gz").write_bytes(gzip.compress(huge.binaryblock + bytes(2**28)))
    tracemalloc.start()
    said = why(tmp_path, "bomb.nii.gz"), why(tmp_path, "huge.nii.gz"), why(tmp_path, "huge.nii.gz", fit="resample")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert (said[0] == "" and "another size" in said[1] + said[2]) or "larger" in said[1]


def test_no_name_of_a_patient_is_read_of_a_file(tmp_path, monkeypatch):
    read = []
    whole = pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", lambda *args, **options: read.append(whole(*args, **options)) or read[-1])
    slice_file(tmp_path / "a.dcm", np.arange(64).reshape(8, 8))
    read_image(tmp_path, "a.dcm", FLAT)
    assert read and all("PatientName" not in dataset for dataset in read)
