"""Image files as model inputs: what a cell becomes, by its one file alone, and what is never read."""

import io
import math
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from fedhealth.records import image_inputs as image_inputs_module
from fedhealth.records import images
from fedhealth.records.image_inputs import image_inputs, why_unreadable
from fedhealth.study.images import ImageFeature

SLICE = np.arange(64, dtype=np.uint8).reshape(8, 8)


def feature(**changes):
    asked = {
        "kind": "image",
        "column": "scan",
        "shape": [8, 8],
        "window": [0, 63],
        "inputs": {"kind": "pixels"},
    }
    return ImageFeature.model_validate(asked | changes)


def saved(folder, name, array):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, array)
    return name


def test_pixels_are_scaled_from_the_window_and_clamped(tmp_path):
    # 2 (x - 16) / (48 - 16) - 1: 16 becomes -1, 32 becomes 0, 48 and all above 1.
    inputs = image_inputs(feature(window=[16, 48]), saved(tmp_path, "a.npy", SLICE), tmp_path)
    assert inputs[:17] == [-1.0] * 17 and inputs[32] == 0.0 and inputs[48:] == [1.0] * 16


def test_a_volume_s_last_axis_is_the_fastest(tmp_path):
    volume = np.arange(8 * 8 * 10, dtype=np.float32).reshape(8, 8, 10)
    made = feature(shape=[8, 8, 10], window=[0, 639])
    inputs = image_inputs(made, saved(tmp_path, "a.npy", np.asfortranarray(volume)), tmp_path)
    assert np.allclose((np.array(inputs) + 1) / 2 * 639, np.arange(640))


def test_a_blank_is_missing_and_an_unreadable_image_is_not(tmp_path):
    made = feature(missing_indicator=True)
    assert image_inputs(made, "", tmp_path) == [0.0] * 64 + [1.0]
    unread = image_inputs(made, "none.npy", tmp_path)
    assert all(map(math.isnan, unread[:64])) and unread[64] == 0.0


def bomb(folder):
    """Write a zip file of a few kilobytes that says it holds 8 TB."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(10**7))
    return "bomb.npz"


def header_bomb(folder):
    """Write a zip file of some kilobytes whose array has a header of 64 MiB."""
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x02\0" + (2**26).to_bytes(4, "little") + b" " * 2**26)
    return "bomb.npz"


def long_header(folder):
    return written(folder, b"\x93NUMPY\x02\0" + b"\xff" * 4 + b" " * 100)


def dictionary_bomb(folder):
    """Write a zip file whose decompressor is told to keep 4 GiB at hand."""
    array = io.BytesIO()
    np.save(array, SLICE)
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", array.getvalue())
    data = bytearray((folder / "bomb.npz").read_bytes())
    at = data.index(b"a.npy") + len(b"a.npy") + 5  # version, length of what follows, and its first byte
    data[at : at + 4] = b"\xff" * 4
    return written(folder, data, "bomb.npz")


def zipped(folder, *contents):
    np.savez_compressed(folder / "several.npz", *contents)
    return "several.npz"


def written(folder, data, name="a.npy"):
    (folder / name).write_bytes(data)
    return name


def linked(folder, target):
    (folder / "link.npy").symlink_to(target)
    return "link.npy"


def cut(folder):
    return written(folder, (folder / saved(folder, "whole.npy", SLICE)).read_bytes()[:-1])


def fifo(folder):
    os.mkfifo(folder / "pipe.npy")
    return "pipe.npy"


def outside(folder):
    return saved(folder, "../outside.npy", SLICE)


BAD = {
    "nothing there": (lambda folder: "none.npy", "no such file"),
    "another size": (lambda folder: saved(folder, "a.npy", SLICE[:7]), "another size"),
    "another number of axes": (lambda folder: saved(folder, "a.npy", np.zeros((8, 8, 8))), "another size"),
    "empty": (lambda folder: saved(folder, "a.npy", np.zeros((0, 8))), "is empty"),
    "not finite": (lambda folder: saved(folder, "a.npy", np.where(SLICE == 5, np.nan, SLICE)), "not finite"),
    "complex": (lambda folder: saved(folder, "a.npy", SLICE.astype(complex)), "no plain numbers"),
    "objects": (lambda folder: saved(folder, "a.npy", np.full((8, 8), None)), "no plain numbers"),
    "cut off": (cut, "damaged"),
    "no array": (lambda folder: written(folder, b"SECRET"), "damaged"),
    "a text": (lambda folder: written(folder, b"SECRET", "a.txt"), "no format"),
    "several arrays": (lambda folder: zipped(folder, SLICE, SLICE), "several arrays"),
    "a bomb": (bomb, "larger than is read"),
    "a bomb in its header": (header_bomb, "damaged"),
    "a header that is said to be long": (long_header, "damaged"),
    "a bomb of its decompressor": (dictionary_bomb, "compressed in a way"),
    "a pipe": (fifo, "what is no file"),
    "a device": (lambda folder: linked(folder, "/dev/zero"), "leads out"),
    "a link that leads out": (lambda folder: linked(folder, folder / outside(folder)), "leads out"),
    "a link to itself": (lambda folder: linked(folder, "link.npy"), "no such file"),
    "a path that leads out": (outside, "no path below"),
    "a path that comes back": (lambda folder: f"../{folder.name}/" + saved(folder, "a.npy", SLICE), "no path below"),
    "an absolute path": (lambda folder: str(folder / saved(folder, "a.npy", SLICE)), "no path below"),
    "no name of a file": (lambda folder: "a\0b.npy", "no such file"),
    "a name that is too long": (lambda folder: "x" * 5000 + ".npy", "no such file"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_an_input_is_unreadable_and_says_why_without_a_word_of_it(tmp_path, case):
    folder = tmp_path / "site"
    folder.mkdir()
    make, why = BAD[case]
    cell = make(folder)
    said = why_unreadable(feature(), cell, folder)
    assert why in said and "SECRET" not in said and cell not in said
    assert all(map(math.isnan, image_inputs(feature(), cell, folder)))


def test_a_file_that_became_a_link_after_it_was_found_is_not_read(tmp_path, monkeypatch):
    cell = linked(tmp_path, saved(tmp_path, "a.npy", SLICE))
    monkeypatch.setattr(images, "_inside", lambda folder, cell: folder / cell)
    assert why_unreadable(feature(), cell, tmp_path) == "it may not be read"


def test_a_link_within_the_folder_is_followed(tmp_path):
    saved(tmp_path, "archive/a.npy", SLICE)
    assert image_inputs(feature(), linked(tmp_path, "archive/a.npy"), tmp_path)[:2] == [-1.0, 2 / 63 - 1]


@pytest.mark.parametrize("make", [bomb, header_bomb, long_header, dictionary_bomb])
def test_a_bomb_costs_no_memory(tmp_path, make):
    cell = make(tmp_path)
    tracemalloc.start()
    why_unreadable(feature(fit="resample"), cell, tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("part", ["fit_image", "_inputs_of"])
def test_what_fails_of_one_image_stops_no_other(tmp_path, monkeypatch, part):
    def broken(*_):
        raise ZeroDivisionError("SECRET")

    monkeypatch.setattr(image_inputs_module, part, broken)
    cell = saved(tmp_path, "a.npy", SLICE)
    assert why_unreadable(feature(), cell, tmp_path) == "nothing can be computed of it"
    assert all(map(math.isnan, image_inputs(feature(), cell, tmp_path)))


def test_an_axis_is_no_longer_than_resampling_has_time_for(tmp_path):
    asked = feature(fit="resample")
    assert why_unreadable(asked, saved(tmp_path, "a.npy", np.zeros((2, 2**14), dtype=np.uint8)), tmp_path) == ""
    too_long = saved(tmp_path, "b.npy", np.zeros((2, 2**14 + 1), dtype=np.uint8))
    assert "larger than is read" in why_unreadable(asked, too_long, tmp_path)


IMAGES = arrays.arrays(
    st.sampled_from([np.uint8, np.int16, np.float32, np.float64]),
    st.tuples(st.integers(8, 20), st.integers(8, 20)),
    elements=st.integers(0, 100),
)


@settings(max_examples=30, deadline=None)
@given(image=IMAGES)
def test_every_kind_of_input_lies_within_minus_one_and_one_and_comes_out_the_same_again(tmp_path_factory, image):
    folder = tmp_path_factory.mktemp("images")
    cell = saved(folder, "a.npy", image)
    for inputs in KINDS.values():
        made = feature(fit="resample", window=[0, 80], inputs=inputs)
        first = image_inputs(made, cell, folder)
        assert len(first) == made.width and -1 <= min(first) <= max(first) <= 1
        assert image_inputs(made, cell, folder) == first


KINDS = {
    "pixels": {"kind": "pixels"},
    "descriptors": {
        "kind": "descriptors",
        "foreground": 20,
        "descriptors": [
            *({"name": name, "range": [0, 50]} for name in ("mean", "deviation", "foreground", "gradient")),
            {"name": "quantile", "quantile": 0.5, "range": [0, 50]},
            {"name": "share-above", "level": 30, "range": [0, 1]},
            *({"name": each, "blur": 2, "range": [0, 9]} for each in ("asymmetry", "blob", "blob-over-median")),
        ],
    },
}


def value_of(descriptor, image, folder, foreground=0.0):
    """Return one descriptor of an image, unscaled."""
    inputs = {"kind": "descriptors", "foreground": foreground, "descriptors": [descriptor | {"range": [-1000, 1000]}]}
    made = feature(shape=image.shape, window=[0, 200], inputs=inputs)
    (scaled,) = image_inputs(made, saved(folder, "described.npy", image), folder)
    return 1000 * scaled


def test_descriptors_of_the_foreground_are_those_of_its_pixels(tmp_path):
    # 64 pixels: 16 of 10, 16 of 30, the others 0, which are no foreground. Mean 20, deviation 10, share 1/2; above 20
    # lies a half; the 75 % quantile is 30.
    image = np.zeros((8, 8))
    image[:2], image[2:4] = 10, 30
    assert value_of({"name": "mean"}, image, tmp_path) == pytest.approx(20)
    assert value_of({"name": "deviation"}, image, tmp_path) == pytest.approx(10)
    assert value_of({"name": "foreground"}, image, tmp_path) == pytest.approx(0.5)
    assert value_of({"name": "share-above", "level": 20}, image, tmp_path) == pytest.approx(0.5)
    assert value_of({"name": "quantile", "quantile": 0.75}, image, tmp_path) == pytest.approx(30)
    # A ramp of 3 a row has a gradient of 3 everywhere.
    assert value_of({"name": "gradient"}, np.arange(1, 9)[:, None] * np.full(8, 3.0), tmp_path) == pytest.approx(3)


def test_a_spot_on_one_side_is_asymmetric_and_a_blob(tmp_path):
    head = np.zeros((40, 40))
    head[4:36, 4:36] = 50
    tumour = head.copy()
    tumour[15:22, 9:16] = 150
    for name, least in (("asymmetry", 20), ("blob", 2), ("blob-over-median", 20)):
        descriptor = {"name": name, "blur": 2}
        assert abs(value_of(descriptor, head, tmp_path)) < 1 < least < value_of(descriptor, tumour, tmp_path)
        # Wherever left and right are, a mirrored head is the same.
        mirrored = value_of(descriptor, tumour[:, ::-1].copy(), tmp_path)
        assert mirrored == pytest.approx(value_of(descriptor, tumour, tmp_path), rel=0.1)
    assert value_of({"name": "asymmetry", "blur": 2}, np.zeros((16, 16)), tmp_path) == 0


def test_scattering_tells_fine_from_coarse_and_has_the_mean_first(tmp_path):
    pytest.importorskip("kymatio", reason="Kymatio is not installed (extra `imaging`)")
    inputs = {"kind": "scattering", "scales": 3, "angles": 4, "order": 2, "largest": [1, 1, 1]}
    made = feature(shape=[32, 32], window=[0, 100], inputs=inputs)
    flat = image_inputs(made, saved(tmp_path, "flat.npy", np.full((32, 32), 25)), tmp_path)
    # 1 mean, 3 sizes of 4 directions, and 4 x 4 for each of 3 pairs of sizes; of a flat image all but the mean are 0.
    assert len(flat) == made.width == 1 + 12 + 48
    assert flat == pytest.approx([0.25] + [0] * 60, abs=1e-4)
    stripes = np.where(np.arange(32) // 2 % 2, 100, 0) * np.ones((32, 1))
    bars = np.where(np.arange(32) // 8 % 2, 100, 0) * np.ones((32, 1))
    fine = np.array(image_inputs(made, saved(tmp_path, "stripes.npy", stripes), tmp_path))[1:13].reshape(3, 4)
    coarse = np.array(image_inputs(made, saved(tmp_path, "bars.npy", bars), tmp_path))[1:13].reshape(3, 4)
    assert fine.max(axis=1).argmax() < coarse.max(axis=1).argmax()


def test_resampling_keeps_a_ramp_and_averages_what_is_finer(tmp_path):
    # Twice as fine: pixel i lies at (i + 0.5) / 2 - 0.5, on the ramp itself but for the two ends.
    ramp = np.arange(8)[:, None] * np.ones(8)
    made = feature(shape=[16, 8], window=[0, 7], fit="resample")
    finer = (np.array(image_inputs(made, saved(tmp_path, "a.npy", ramp), tmp_path)) + 1).reshape(16, 8) * 3.5
    assert finer[1:15, 3] == pytest.approx((np.arange(1, 15) + 0.5) / 2 - 0.5)
    # Half as fine: lines of 0 and 7 in turn are 3.5 everywhere inside.
    lines = np.where(np.arange(32) % 2, 7, 0)[:, None] * np.ones(8)
    made = feature(shape=[16, 8], window=[0, 7], fit="resample")
    coarser = (np.array(image_inputs(made, saved(tmp_path, "b.npy", lines), tmp_path)) + 1).reshape(16, 8) * 3.5
    assert coarser[1:15] == pytest.approx(3.5, abs=1e-9)


WRONG = {
    "a window that runs down": ({"window": [9, 1]}, "lower value first"),
    "one axis": ({"shape": [64]}, "at least 2"),
    "spacing of another number of axes": ({"spacing": [1, 1, 1]}, "spacing of 'scan' has 3 axes"),
    "too many pixels": ({"shape": [512, 512, 8]}, "wanted at most 262144"),
    "sizes larger than the image": (
        {"inputs": {"kind": "scattering", "scales": 4, "largest": [1, 1, 1]}},
        "larger than its image",
    ),
    "an order without its largest": ({"inputs": {"kind": "scattering", "largest": [1, 1]}}, "wanted 3"),
    "a foreground beyond the window": (
        {"inputs": {"kind": "descriptors", "foreground": 63, "descriptors": [{"name": "mean", "range": [0, 1]}]}},
        "wanted a level in",
    ),
    "one descriptor twice": (
        {"inputs": {"kind": "descriptors", "foreground": 0, "descriptors": [{"name": "mean", "range": [0, 1]}] * 2}},
        "repeat one: mean",
    ),
    "a range without width": (
        {"inputs": {"kind": "descriptors", "foreground": 0, "descriptors": [{"name": "mean", "range": [1, 1]}]}},
        "lower value first",
    ),
    "an indicator of what is left out": ({"missing": "exclude", "missing_indicator": True}, "wanted no indicator"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_feature_that_contradicts_itself_is_refused(case):
    changes, why = WRONG[case]
    with pytest.raises(ValidationError, match=why):
        feature(**changes)
