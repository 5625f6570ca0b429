"""A confined gate reads the images that its table names, in every format, and nothing outside the site's folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedhealth.site.landlock import landlock_abi

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (extra `imaging`)")
nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed (extra `imaging`)")
pytest.importorskip("kymatio", reason="Kymatio is not installed (extra `imaging`)")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux") or landlock_abi() == 0, reason="Landlock is Linux's"),
]
READS = """
import json, sys
from pathlib import Path
from fedhealth.site.confinement import confine_gate
root = Path(sys.argv[1])
if sys.argv[2] == "gate":
    confine_gate(root / "site", root / "state")
from fedhealth.records.image_inputs import image_inputs, why_unreadable
from fedhealth.study.images import ImageFeature
found = {}
for cell, feature in json.loads(sys.argv[3]).items():
    asked = ImageFeature.model_validate(feature)
    inputs = image_inputs(asked, cell, root / "site" / "data")
    found[cell] = why_unreadable(asked, cell, root / "site" / "data") or len(inputs)
try:
    found["elsewhere"] = len((root / "other.npy").read_bytes())
except PermissionError:
    found["elsewhere"] = "may not be read"
print(json.dumps(found))
"""
FLAT = {"kind": "image", "column": "scan", "shape": [16, 16], "window": [0, 255], "inputs": {"kind": "pixels"}}
SCATTERED = FLAT | {"inputs": {"kind": "scattering", "scales": 2, "angles": 4, "largest": [1, 1, 1]}}
VOLUME = FLAT | {"shape": [8, 8, 8], "window": [-1000, 1000], "fit": "resample"}
CELLS = {"a.npy": FLAT, "b.npz": SCATTERED, "head.nii.gz": VOLUME, "CT5N": VOLUME, "link.npy": FLAT}


@pytest.mark.parametrize("role", ["gate", "nothing"])
def test_a_gate_reads_images_of_every_format_and_no_link_leads_out_of_its_folder(tmp_path, role):
    (tmp_path / "state" / "gate").mkdir(parents=True)
    data = tmp_path / "site" / "data"
    data.mkdir(parents=True)
    image = np.zeros((16, 16), np.uint8)
    np.save(data / "a.npy", image)
    np.savez_compressed(data / "b.npz", image)
    np.save(tmp_path / "other.npy", image)
    (data / "link.npy").symlink_to(tmp_path / "other.npy")
    nibabel.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4)).to_filename(data / "head.nii.gz")
    theirs = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests" / "98892001" / "CT5N"
    (data / "CT5N").mkdir()
    for file in theirs.iterdir():
        (data / "CT5N" / file.name).write_bytes(file.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", READS, str(tmp_path), role, json.dumps(CELLS)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "leads out" in found.pop("link.npy")
    # 1 mean, 2 sizes of 4 directions, and 4 x 4 for the pair of sizes.
    assert found == {
        "a.npy": 256,
        "b.npz": 25,
        "head.nii.gz": 512,
        "CT5N": 512,
        "elsewhere": "may not be read" if role == "gate" else (tmp_path / "other.npy").stat().st_size,
    }
