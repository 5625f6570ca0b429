"""Time to draw the noise of a release with 1,000,000 and 10,000,000 coordinates, against torch's in the same run.

Ours is exact to a proven distance and keyed by AES-256; torch's is neither, and is here only to compare with.

Run: .venv/bin/python benchmarks/noise.py
"""

import statistics
import time

import torch

from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.privacy.noise_table import TOTAL_VARIATION_PER_COORDINATE
from fedhealth.privacy.stream import KeyedStream

CASES = ((1_000_000, 0.1, 21, 25.0), (1_000_000, 1.0, 21, 25.0), (10_000_000, 1.0, 7, None))
"""Coordinates, noise multiplier, trials, and the most milliseconds."""

TARGET_DISTANCE = 1e-12


def main() -> None:
    """Print medians in milliseconds, interleaved, single thread."""
    torch.set_num_threads(1)
    for coordinates, noise_multiplier, trials, target in CASES:
        mechanism = GridGaussian(noise_multiplier, 1.0, coordinates)
        mechanism.scale.sample(100_000, KeyedStream(bytes(32)))  # makes the tables
        ours, theirs = [], []
        for trial in range(trials):
            start = time.perf_counter()
            mechanism.scale.sample(coordinates, KeyedStream(trial.to_bytes(32, "big")))
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            torch.normal(0.0, float(mechanism.scale.noise_steps), (coordinates,))
            theirs.append(time.perf_counter() - start)
        median, other = statistics.median(ours) * 1e3, statistics.median(theirs) * 1e3
        verdict = "" if target is None else f" (target: {target}) {'ok' if median <= target else 'missed'}"
        print(
            f"keyed stream, {coordinates:,} coordinates, {mechanism.scale.noise_steps:,} steps wide: {median:.1f} ms"
            f"{verdict}; torch.normal {other:.1f} ms"
        )
        distance = coordinates * TOTAL_VARIATION_PER_COORDINATE
        met = "ok" if distance <= TARGET_DISTANCE else "missed"
        print(f"    total-variation distance of the release {distance:.1e} (target: {TARGET_DISTANCE}) {met}")


if __name__ == "__main__":
    main()
