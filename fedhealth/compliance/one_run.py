"""A lower bound on epsilon from one run: canaries in or out by coin, and how well the coins can be guessed.

Many canaries, each in by a fair coin of its own; from the releases the auditor guesses some of the coins and abstains
on the rest. If the mechanism is (epsilon, delta)-DP, the number of right guesses among r is at most that of r coins
with probability e^epsilon / (1 + e^epsilon), but for a term of delta. So many right guesses refute a small epsilon.

Source: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023, Section 5.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Coins = NDArray[np.bool_]

_HIGHEST_EPSILON = 64.0


@dataclass(frozen=True)
class Guesses:
    """How well the coins of one run could be guessed, in several ways that were fixed in advance.

    Few guesses are the surest and many weigh the most, and where patients are sampled only those who were drawn can be
    told: so there are several ways, and the best one's p-value is multiplied by how many they are.

    Attributes:
        canaries: how many coins there were.
        tried: right guesses, and guesses, of each way.
    """

    canaries: int
    tried: tuple[tuple[int, int], ...]

    def p_value(self, epsilon: float, delta: float) -> float:
        """Bound the probability that an (epsilon, delta)-DP mechanism lets the coins be guessed so well."""
        smallest = min(
            one_run_p_value(correct, guesses, self.canaries, epsilon, delta) for correct, guesses in self.tried
        )
        return min(1.0, len(self.tried) * smallest)

    def epsilon_at_least(self, delta: float, confidence: float) -> float:
        """Return the largest epsilon that is refuted at a confidence in (0, 1), to 1e-4 below; 0 if none."""
        low, high = 0.0, _HIGHEST_EPSILON
        if self.p_value(low, delta) > 1 - confidence:
            return 0.0
        while high - low > 1e-4:
            middle = (low + high) / 2
            refuted = self.p_value(middle, delta) <= 1 - confidence
            low, high = (middle, high) if refuted else (low, middle)
        return low


def guess(scores: Vector, coins: Coins) -> Guesses:
    """Guess the coins from the scores.

    Args:
        scores: one per canary, shape (canaries,); higher speaks for "in".
        coins: which canaries were in, shape (canaries,).
    """
    numbers = [max(1, coins.size // share) for share in (100, 25, 6)]
    ways = [(number, lowest) for number in numbers for lowest in (0, number)]
    return Guesses(coins.size, tuple((correct_guesses(scores, coins, *way), sum(way)) for way in ways))


def correct_guesses(scores: Vector, coins: Coins, highest: int, lowest: int) -> int:
    """Guess "in" for the highest scores and "out" for the lowest, abstain on the rest, and count what was right.

    Args:
        scores: one per canary, shape (canaries,); higher speaks for "in".
        coins: the truth, shape (canaries,).
        highest: how many to guess "in".
        lowest: how many to guess "out"; both together at most one guess per canary.
    """
    order = np.argsort(scores, kind="stable")
    guessed_in, guessed_out = order[len(order) - highest :], order[:lowest]
    return int(np.count_nonzero(coins[guessed_in]) + np.count_nonzero(~coins[guessed_out]))


def one_run_p_value(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Bound the probability that an (epsilon, delta)-DP mechanism lets so many guesses be right.

    Args:
        correct: 0 to `guesses`.
        guesses: how many coins were guessed, at least 1.
        canaries: how many there were, guessed or not.
        epsilon: >= 0.
        delta: in [0, 1).
    """
    counts = np.arange(guesses + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, guesses + 1)))])
    log_choices = log_factorial[-1] - log_factorial - log_factorial[::-1]
    right, wrong = -math.log1p(math.exp(-epsilon)), -math.log1p(math.exp(epsilon))
    probability = np.exp(log_choices + counts * right + (guesses - counts) * wrong)
    tail = float(probability[correct:].sum())
    if correct == 0 or delta == 0:
        return min(1.0, tail)
    # P(v > B >= v - i) / i for i = 1 .. v, B the number that the coins get right.
    below = np.cumsum(probability[correct - 1 :: -1]) / np.arange(1, correct + 1)
    return min(1.0, tail + 2 * canaries * delta * float(below.max()))
