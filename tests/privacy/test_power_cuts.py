"""A small run of `benchmarks/power_cuts.py`, which cuts the power at every file operation."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "power_cuts.py"
LOST = -3
"""Of each line's numbers: images, operations, acknowledged, lost, refused, stuck."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc to learn which folder is synced")
def test_a_power_cut_at_any_operation_loses_nothing_acknowledged_and_a_weaker_ledger_is_found_out():
    done = subprocess.run([sys.executable, PROGRAM, "--images", "400"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[int(word) for word in line.split() if word.isdigit()] for line in done.stdout.splitlines()[1:4]]
    shipped, *weakened = rows
    assert shipped[0] == 400 and shipped[1] > 1000 and shipped[2] > 1000
    assert shipped[LOST:] == [0, 0, 0]
    assert all(row[LOST] > 0 for row in weakened)
