"""How likely is it that a mechanism which does what it says looks as bad as this? Upper bounds, in closed form.

Each function returns a p-value that is never too small: a bound on the probability, under the claim, of what was seen
or worse. None rests on a limit theorem, so a threshold on them keeps its promise for every number of samples, and none
needs a library of distributions. They are looser than the exact tails by a factor that costs about a tenth of the
resolution.

Sources: Chernoff, "A Measure of Asymptotic Efficiency", 1952, for sums in an exponential family (the normal variance,
the binomial, the two-sided geometric magnitude), where the bound is exp(-n KL(seen || claimed)); Massart, "The Tight
Constant in the Dvoretzky-Kiefer-Wolfowitz Inequality", 1990; Hoeffding 1963.
"""

import math

import numpy as np
from numpy.typing import NDArray


def variance_p_value(ratio: float, samples: int, *, only_below: bool = False) -> float:
    """Bound the probability that the mean square of normal samples is as far from their variance as this.

    Args:
        ratio: mean square over the claimed variance, >= 0.
        samples: how many independent samples, at least 1.
        only_below: ask only whether the variance is too small; larger is no evidence.
    """
    if only_below and ratio >= 1:
        return 1.0
    if ratio <= 0:
        return 0.0
    exponent = samples / 2 * (ratio - 1 - math.log(ratio))
    return min(1.0, (1 if only_below else 2) * math.exp(-exponent))


def magnitude_p_value(mean_magnitude: float, samples: int, epsilon: float) -> float:
    """Bound the probability that two-sided geometric noise is, on average, as small or as large as this.

    Args:
        mean_magnitude: mean of the absolute values, >= 0.
        samples: how many independent samples, at least 1.
        epsilon: claimed; noise k has a probability proportional to exp(-epsilon * |k|).
    """
    if mean_magnitude == 0:
        return math.exp(samples * math.log(math.tanh(epsilon / 2)))  # every sample is zero
    p, t = math.exp(-epsilon), mean_magnitude
    seen = (math.sqrt(1 + t * t) - 1) / t  # the ratio whose mean magnitude 2 p / (1 - p**2) is t
    divergence = math.log((1 - seen) / (1 + seen) * (1 + p) / (1 - p)) + t * math.log(seen / p)
    return min(1.0, 2 * math.exp(-samples * max(0.0, divergence)))


def binomial_p_value(successes: int, trials: int, probability: float, *, only_above: bool = False) -> float:
    """Bound the probability of as many or as few successes as this.

    Args:
        successes: 0 to `trials`.
        trials: independent ones, at least 1.
        probability: claimed, in (0, 1).
        only_above: ask only whether there are too many.
    """
    share = successes / trials
    if only_above and share <= probability:
        return 1.0
    divergence = sum(
        part * math.log(part / claimed)
        for part, claimed in ((share, probability), (1 - share, 1 - probability))
        if part > 0
    )
    return min(1.0, (1 if only_above else 2) * math.exp(-trials * divergence))


def shape_p_value(distance: float, samples: int) -> float:
    """Bound the probability that samples' distribution function is as far from the claimed one as this, anywhere."""
    return min(1.0, 2 * math.exp(-2 * samples * distance**2))


def normal_p_value(deviation: float) -> float:
    """Bound the probability that a standard normal number is as large as this."""
    return math.exp(-(deviation**2) / 2) if deviation > 0 else 1.0


def repeat_p_value(rows: int, probability: float) -> float:
    """Bound the probability that any two of `rows` independent rows are equal, each pair being so by `probability`."""
    return min(1.0, rows * (rows - 1) / 2 * probability)


def autocorrelation_p_value(noise: NDArray[np.float64]) -> tuple[float, int, float]:
    """Look for noise that comes again, at every distance, by the signs of a sequence.

    The sequence is closed to a ring of prime length, so that at each distance the products of two signs run once
    around the whole ring. Signs of independent symmetric noise are fair coins, those products are fair coins of which
    the last follows from the others, and P(sum >= s) <= 2 exp(-s**2 / 2n). Where noise is zero the ring is cut, and
    what is left are independent coins. Added up over both signs and all distances.

    Args:
        noise: shape (rounds, coordinates), in the order in which it was drawn.

    Returns:
        The p-value, the distance at which the correlation is largest, and that correlation of signs.
    """
    length = _prime_up_to(noise.size)
    spectrum = np.fft.rfft(np.sign(noise.reshape(-1)[:length]))
    sums = np.fft.irfft(np.abs(spectrum) ** 2, n=length)[1 : length // 2 + 1]
    place = int(np.argmax(np.abs(sums)))
    largest = float(abs(sums[place]))
    return min(1.0, 4 * len(sums) * math.exp(-(largest**2) / (2 * length))), place + 1, float(sums[place]) / length


def _prime_up_to(number: int) -> int:
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number -= 1
    return number
