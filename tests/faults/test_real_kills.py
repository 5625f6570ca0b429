"""A small run of `benchmarks/kills.py`: kill -9 of real processes of a federation in the middle of a study."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "kills.py"


@pytest.mark.processes
@pytest.mark.timeout(400)
def test_a_study_whose_processes_are_killed_ends_with_the_same_model_and_charges_each_round_once():
    done = subprocess.run(
        [sys.executable, PROGRAM, "--kills", "5", "--rounds", "30", "--seed", "3"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 5" in done.stdout
