"""A small run of `benchmarks/claims.py`: 64 threads on one ledger, and another process that must stay out."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "claims.py"


def test_64_threads_spend_five_envelopes_of_a_budget_exactly_and_nothing_acknowledged_is_lost(tmp_path):
    memory = Path("/dev/shm")  # noqa: S108 - the program makes a folder of its own there
    place = {"TMPDIR": str(memory if os.access(memory, os.W_OK) else tmp_path)}
    done = subprocess.run(
        [sys.executable, PROGRAM, "--claims", "3000"], capture_output=True, text=True, env=os.environ | place
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Envelopes hold 0.08 * 3000 * (4 + 4 * 1.5) = 2400 releases; every 21st of 3000 claims is a repetition.
    assert "2,400 acknowledged" in done.stdout
    assert "0 over budget, 0 lost, 0 charged unasked or twice, of 2,400 in the ledger" in done.stdout
    assert "20 fit the budget: 20 in the ledger" in done.stdout
