"""A gate whose study reads images: no image is told by what the gate answers, and a changed one never shares noise."""

import logging

import numpy as np
import pytest
from small_study import protocol

from fedhealth.learning.steps import STEPS
from fedhealth.link.frames import ReleaseReply
from fedhealth.site.running_site import quiet_seconds, reading_seconds

pytest.importorskip("pydicom", reason="pydicom is not installed (extra `imaging`)")
pytest.importorskip("nibabel", reason="nibabel is not installed (extra `imaging`)")

DESCRIPTORS = {
    "kind": "descriptors",
    "foreground": 20,
    "descriptors": [{"name": "mean", "range": [0, 255]}, {"name": "blob", "blur": 1, "range": [0, 5]}],
}


def study(inputs, **changes):
    # A column that the table of this hospital has before a test writes another.
    feature = {"kind": "image", "column": "dose", "shape": [8, 8], "window": [0, 255], "inputs": inputs} | changes
    return protocol(features=[feature | {"missing_indicator": True}], max_records_per_patient=2)


WIDTHS = {"pixels": ({"kind": "pixels"}, 64), "descriptors": (DESCRIPTORS, 2)}


def image_of(number):
    return np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)


def good(folder):
    np.save(folder / "scans" / "p20.npy", image_of(20))
    return "scans/p20.npy"


def other_size(folder):
    np.save(folder / "scans" / "p20.npy", np.zeros((9, 8)))
    return "scans/p20.npy"


def corrupt(folder):
    (folder / "scans" / "SECRET.dcm").write_bytes(bytes(128) + b"DICM" + b"SECRET" * 50)
    return "scans/SECRET.dcm"


def corrupt_volume(folder):
    (folder / "scans" / "SECRET.nii.gz").write_bytes(b"\x1f\x8bSECRET")
    return "scans/SECRET.nii.gz"


CELLS = {
    "a good image": good,
    "nothing": lambda folder: "",
    "no file": lambda folder: "scans/SECRET.npy",
    "another size": other_size,
    "a corrupt file": corrupt,
    "a corrupt volume": corrupt_volume,
    "a path that leads out": lambda folder: "../SECRET.npy",
    "no path": lambda folder: "SECRET\udce9" * 999,
}


def write_table(site, make=None):
    """Write a hospital's images and the table that names them; with one patient more if asked."""
    (site.folder / "scans").mkdir(exist_ok=True)
    for number in range(20):
        np.save(site.folder / "scans" / f"{number}.npy", image_of(number))
    rows = "id,dose,ill\n" + "".join(f"p{n},scans/{n}.npy,{n % 2}\n" for n in range(20))
    rows += f"p20,{make(site.folder)},1\n" if make else ""
    site.csv.write_bytes(rows.encode("utf-8", "surrogateescape"))


def asked(site, weights):
    """Return each reply with its body and its time, and the size of the ledger after it."""
    for step, number in (("train", 1), ("train", 2), ("evaluate", 1)):
        header, body, seconds = site.ask(step, number, np.full(weights, 0.5).tobytes())
        assert isinstance(header, ReleaseReply)
        yield (type(header), len(body), seconds, site.entries), body


@pytest.mark.parametrize("kind", WIDTHS)
def test_no_image_changes_what_the_other_side_can_see_or_stands_in_a_log(hospital, kind, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    inputs, width = WIDTHS[kind]
    transcripts = {}
    for name, make in {"no such patient": None, **CELLS}.items():
        site = hospital(name.replace(" ", "-"), study=study(inputs))
        write_table(site, make)
        site.reopen(lambda step, *arguments: STEPS[step.name](step, *arguments))
        transcripts[name] = [seen for seen, _ in asked(site, width + 2)]
    assert transcripts == dict.fromkeys(transcripts, transcripts["no such patient"])
    assert "SECRET" not in caplog.text + "".join(capfd.readouterr())


def test_an_image_that_changed_has_other_noise_and_one_that_did_not_the_same(hospital):
    # The step releases noise alone, so that equal payloads are equal noise.
    def payloads(name, change=None):
        site = hospital(name, study=study(DESCRIPTORS))
        write_table(site, good)
        if change:
            change(site.folder / "scans")
        site.reopen()
        return [body for _, body in asked(site, 4)]

    def one_pixel(scans):
        image = image_of(7)
        image[3, 3] ^= 255
        np.save(scans / "7.npy", image)

    before = payloads("before")
    assert payloads("the-same") == before
    for name, change in {"changed": one_pixel, "gone": lambda scans: (scans / "7.npy").unlink()}.items():
        after = payloads(name, change)
        assert all(mine != theirs for mine, theirs in zip(after, before, strict=True)), name


def test_a_gate_is_quiet_longer_for_images_by_public_figures_alone():
    # Of 64 pixels, two images a patient: 10 ms, and 1 microsecond a pixel; 0.5 s more where each is resampled, and 30
    # ns for each pixel and coefficient: 217 of three sizes and eight directions, and one indicator.
    scattering = {"kind": "scattering", "largest": [1, 1, 1]}
    assert reading_seconds(study(DESCRIPTORS)) == pytest.approx(2 * (0.01 + 64e-6))
    resampled = study(scattering, fit="resample")
    assert reading_seconds(resampled) == pytest.approx(2 * (0.01 + 64e-6 + 30e-9 * 64 * 218 + 0.5))
    assert quiet_seconds(300, 1, reading_seconds(resampled)) == pytest.approx(1.06 + 300 * reading_seconds(resampled))
