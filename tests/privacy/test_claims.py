"""A small run of `benchmarks/claims.py`: 64 threads on one ledger, and another process that must stay out."""

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "claims.py"


def test_64_threads_spend_five_envelopes_of_a_budget_exactly_and_nothing_acknowledged_is_lost():
    done = subprocess.run([sys.executable, PROGRAM, "--claims", "3000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # Envelopes hold 0.08 * 3000 * (4 + 4 * 1.5) = 2400 releases; every 21st of 3000 claims is a repetition.
    assert "2,400 acknowledged" in done.stdout
    assert "0 over budget, 0 lost, 0 charged unasked or twice, of 2,400 in the ledger" in done.stdout
    # And on the disk 120 of 150.
    assert "0 over budget, 0 lost, 0 charged unasked or twice, of 120 in the ledger" in done.stdout
    assert done.stdout.count("20 fit the budget: 20 in the ledger") == 2
