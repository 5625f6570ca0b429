"""Another Flower than the supported one: one sentence and an exit code, before anything starts."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from fedhealth.flower.version import SUPPORTED, check_flower, is_supported

CASES = {
    "1.41": True,
    "1.41.0": True,
    "1.41.7": True,
    "1.41.0rc1": True,
    "1.40.0": False,
    "1.42.0": False,
    "1.4": False,
    "1.410.0": False,
    "2.41.0": False,
    "11.41.0": False,
    "": False,
    "none": False,
}


@pytest.mark.parametrize("found", CASES)
def test_a_version_counts_by_its_major_and_minor_number(found):
    assert is_supported(found) == CASES[found]


def test_the_flower_that_is_installed_is_supported():
    assert check_flower() == version("flwr")
    assert version("flwr").startswith(f"{SUPPORTED}.")


@pytest.fixture
def fedhealth_with(tmp_path):
    """Run `fedhealth` as it would be with another Flower installed, or with none."""

    def run(flower, *arguments):
        (tmp_path / "none").mkdir()
        name = f"flwr-{flower}.dist-info"
        (tmp_path / "none" / name).mkdir()
        (tmp_path / "none" / name / "METADATA").write_text(f"Metadata-Version: 2.4\nName: flwr\nVersion: {flower}\n")
        path = os.pathsep.join([str(tmp_path / "none"), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "fedhealth.cli.main", *arguments]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)

    return run


@pytest.mark.processes
@pytest.mark.parametrize(
    "arguments",
    [
        ["coordinator", "serve", "--home", "nowhere"],
        ["coordinator", "run", __file__, "--home", "nowhere", "--out", "results"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_coordinator_does_not_start_with_another_flower(fedhealth_with, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    ended = fedhealth_with("1.42.0", *arguments)
    assert ended.returncode == 3
    assert ended.stderr.splitlines()[0].startswith("error: this FedHealth does not run with the Flower that is inst")
    assert "got flwr 1.42.0; wanted flwr 1.41, any patch" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr


@pytest.mark.processes
def test_what_needs_no_flower_works_with_any(fedhealth_with, tmp_path):
    ended = fedhealth_with("1.42.0", "audit", "verify", str(tmp_path / "nothing"))
    assert ended.returncode == 7
    assert "Flower" not in ended.stderr
