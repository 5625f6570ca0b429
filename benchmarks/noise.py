"""Time to draw the noise of a release with 1,000,000 coordinates, against torch's generator in the same run.

Ours is exact to a proven distance and keyed by AES-256; torch's is neither, and is here only to compare with.

Run: .venv/bin/python benchmarks/noise.py
"""

import statistics
import time

import torch

from fedhealth.privacy.gaussian import NOISE_STEPS, TOTAL_VARIATION_PER_COORDINATE, rounded_gaussian
from fedhealth.privacy.stream import KeyedStream

COORDINATES = 1_000_000
TRIALS = 21
TARGET_MS, TARGET_DISTANCE = 25.0, 1e-12


def main() -> None:
    """Print medians in milliseconds, interleaved, single thread."""
    torch.set_num_threads(1)
    rounded_gaussian(1, KeyedStream(bytes(32)))  # makes the table
    ours, theirs = [], []
    for trial in range(TRIALS):
        start = time.perf_counter()
        rounded_gaussian(COORDINATES, KeyedStream(trial.to_bytes(32, "big")))
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        torch.normal(0.0, float(NOISE_STEPS), (COORDINATES,))
        theirs.append(time.perf_counter() - start)
    median, other = statistics.median(ours) * 1e3, statistics.median(theirs) * 1e3
    distance = COORDINATES * TOTAL_VARIATION_PER_COORDINATE
    print(f"keyed stream, {COORDINATES:,} coordinates   {median:6.1f} ms  (target: {TARGET_MS}) {median <= TARGET_MS}")
    print(f"torch.normal                           {other:6.1f} ms")
    print(f"total-variation distance of the release {distance:.1e}  (target: {TARGET_DISTANCE}) ", end="")
    print(distance <= TARGET_DISTANCE)


if __name__ == "__main__":
    main()
