"""How often the 95 % intervals of the evidence hold the truth, over sizes and epsilons.

Made-up hospitals: ill and well patients have scores whose log odds are normal, so that every metric of the binned
score is known exactly, as a sum over probabilities. Each repetition draws patients, puts them into bins, adds the noise
that a histogram with half of the evaluation's budget has, combines it with a confusion table that has the other half,
and asks for the intervals. Of each kind of metric are printed: how often the interval holds the truth among those that
are stated (within `too_wide`), and how many of them are stated. Where fewer than one in a hundred is, the figure is
left out: nothing is published there.

Run: .venv/bin/python benchmarks/intervals.py
"""

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from fedhealth.metrics.calibration import brier_of, calibration_in_the_large, observed_rates
from fedhealth.metrics.decision_curve import decision_curve
from fedhealth.metrics.discrimination import auc_of, roc_of
from fedhealth.metrics.estimate import Estimate
from fedhealth.metrics.histogram import ScoreHistogram
from fedhealth.privacy.mu_squared import noise_multiplier_for

SIZES, EPSILONS = (50, 200, 1000, 5000), (0.5, 1.0, 2.0, 8.0)
DELTA, SHARE, BINS, TOO_WIDE = 1e-5, 0.5, 10, 0.15
TARGET = 0.93
"""Coverage of every kind of metric, where at least `OFTEN` is stated; 0.95 is nominal."""

OFTEN = 0.2

KINDS = ("auc", "brier", "in the large", "rate in bin", "sensitivity", "net benefit")


@dataclass(frozen=True)
class Population:
    """Patients without end.

    Attributes:
        prevalence: share of the ill.
        distance: between the mean log odds of ill and well, which lie around 0.
    """

    prevalence: float
    distance: float

    def cells(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the probability of each bin, of the ill and of the well, together 1."""
        numbers = np.arange(1, BINS)
        edges = np.concatenate([[-math.inf], np.log(numbers / (BINS - numbers)), [math.inf]])
        ill = np.diff(norm.cdf(edges, self.distance / 2, 1.2))
        well = np.diff(norm.cdf(edges, -self.distance / 2, 1.2))
        return self.prevalence * ill, (1 - self.prevalence) * well

    def truths(self) -> dict[str, list[float]]:
        """Return every metric of the binned score, in the order of `stated`."""
        ill, well = self.cells()
        middles, edges = (np.arange(BINS) + 0.5) / BINS, np.arange(1, BINS) / BINS
        above = np.sign(np.subtract.outer(np.arange(BINS), np.arange(BINS))) / 2 + 0.5
        treated_ill, treated_well = ill[::-1].cumsum()[::-1][1:], well[::-1].cumsum()[::-1][1:]
        return {
            "auc": [float(ill @ above @ well / (ill.sum() * well.sum()))],
            "brier": [float(ill @ (1 - middles) ** 2 + well @ middles**2)],
            "in the large": [float(ill.sum() - (ill + well) @ middles)],
            "rate in bin": (ill / (ill + well)).tolist(),
            "sensitivity": (treated_ill / ill.sum()).tolist(),
            "net benefit": (treated_ill - treated_well * edges / (1 - edges)).tolist(),
        }


POPULATIONS = (Population(0.5, 1.6), Population(0.2, 2.5), Population(0.8, 0.8))


def stated(scores: ScoreHistogram) -> dict[str, list[Estimate | None]]:
    """Return every metric that is worked out of a histogram."""
    return {
        "auc": [auc_of(scores).value],
        "brier": [brier_of(scores).value],
        "in the large": [calibration_in_the_large(scores).value],
        "rate in bin": list(observed_rates(scores)),
        "sensitivity": [point.sensitivity for point in roc_of(scores)],
        "net benefit": [point.model for point in decision_curve(scores)],
    }


def noisy_histograms(
    population: Population, patients: int, noise_sd: float, repetitions: int, seed: int
) -> Iterator[ScoreHistogram]:
    """Yield what a histogram of so many patients says, again and again."""
    generator = np.random.default_rng(seed)
    ill, well = population.cells()
    counts = generator.multinomial(patients, np.concatenate([ill, well]), repetitions)
    for row in counts:
        exact = ScoreHistogram(tuple(row[:BINS].tolist()), tuple(row[BINS:].tolist()), noise_sd)
        cells = (row + generator.normal(0, noise_sd, 2 * BINS)).tolist()
        table = (np.array(exact.table()) + generator.normal(0, noise_sd, 4)).tolist()
        yield ScoreHistogram(tuple(cells[:BINS]), tuple(cells[BINS:]), noise_sd).with_table(table, noise_sd)


@dataclass
class Tally:
    """Of one kind of metric: how many there were, how many were stated, how many of these held the truth."""

    asked: int = 0
    said: int = 0
    held: int = 0

    def add(self, estimate: Estimate | None, truth: float) -> None:
        """Count one."""
        self.asked += 1
        if estimate is not None and estimate.half_width <= TOO_WIDE:
            self.said += 1
            self.held += estimate.low <= truth <= estimate.high


def coverage(patients: int, epsilon: float, repetitions: int, seed: int) -> dict[str, Tally]:
    """Return the tally of each kind of metric over all populations."""
    noise_sd = noise_multiplier_for(epsilon, DELTA, 1) / math.sqrt(SHARE) if math.isfinite(epsilon) else 0.0
    tallies = {kind: Tally() for kind in KINDS}
    for number, population in enumerate(POPULATIONS):
        truths = population.truths()
        for scores in noisy_histograms(population, patients, noise_sd, repetitions, seed + number):
            for kind, estimates in stated(scores).items():
                for estimate, truth in zip(estimates, truths[kind], strict=True):
                    tallies[kind].add(estimate, truth)
    return tallies


def main() -> None:
    """Print the table, and whether the target is met."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    began, worst = time.monotonic(), 1.0
    print(f"coverage of 95 % intervals (share stated), {repetitions} repetitions, {len(POPULATIONS)} populations")
    print("patients  epsilon  " + "".join(f"{kind:>16}" for kind in KINDS))
    for patients in SIZES:
        for epsilon in (*EPSILONS, math.inf):
            row = []
            for tally in coverage(patients, epsilon, repetitions, seed=patients).values():
                share = tally.said / tally.asked
                if share >= OFTEN:
                    worst = min(worst, tally.held / tally.said)
                row.append(f"{tally.held / tally.said:.3f} ({share:.0%})" if share >= 0.01 else f"- ({share:.0%})")
            print(f"{patients:8}  {epsilon:7g}  " + "".join(f"{cell:>16}" for cell in row))
    print(f"worst, where at least {OFTEN:.0%} are stated: {worst:.3f} (target {TARGET})")
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(worst < TARGET)


if __name__ == "__main__":
    main()
