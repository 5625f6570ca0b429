"""Evidence in words and numbers that people read, alike in the report and in the model card.

A withheld figure has no number; a cost in privacy is rounded up, never down.
"""

import math
from collections.abc import Iterable

from fedhealth.coordinator.evidence import Evidence
from fedhealth.learning.figures import EffectFigure, Figure, FigureRow
from fedhealth.study.features import Condition, Feature, NumberCondition, NumberFeature
from fedhealth.study.molecules import MoleculeFeature
from fedhealth.study.protocol import Study


def percent(share: float, digits: int = 0) -> str:
    """Return a share as people read it."""
    return f"{100 * share:.{digits}f}\u00a0%".replace("-", "\u2212")


def sentence(words: str) -> str:
    """Return words as a sentence begins with them."""
    return words[:1].upper() + words[1:]


def finding_words(feature: Feature) -> str:
    """Return what a feature looks at."""
    match feature:
        case NumberFeature():
            return f"{feature.column} ({feature.unit})"
        case MoleculeFeature():
            return f"{feature.column} (structure of a molecule)"
        case _:
            return feature.column


def figure_words(figure: Figure) -> str:
    """Return a share with its interval, in percent, or why it is withheld."""
    if figure.estimate is None or figure.low is None or figure.high is None:
        return figure.withheld or "too few patients to say"
    digits = 0 if figure.high - figure.low > 0.02 else 1
    low, high = f"{100 * figure.low:.{digits}f}", f"{100 * figure.high:.{digits}f}"
    return f"{percent(figure.estimate, digits)} ({low} to {high})"


def number_words(figure: Figure) -> str:
    """Return a figure that is no share with its interval, or why it is withheld."""
    if figure.estimate is None or figure.low is None or figure.high is None:
        return figure_words(figure)
    return f"{figure.estimate:.2f} ({figure.low:.2f} to {figure.high:.2f})".replace("-", "\u2212")


def sampling_words(figure: Figure) -> str:
    """Return half the interval that an effect would have without noise; "" where none is stated."""
    return _half_width_words(figure.sampling_half_width if isinstance(figure, EffectFigure) else None)


def noise_words(figure: Figure) -> str:
    """Return half the interval that the noise alone gives an effect; "" where none is stated."""
    return _half_width_words(figure.noise_half_width if isinstance(figure, EffectFigure) else None)


def _half_width_words(half_width: float | None) -> str:
    return "" if half_width is None else f"±{half_width:.2f}"


def row_words(row: FigureRow) -> str:
    """Return a row of a table of figures with its interval and unit, or why it is withheld."""
    if row.unit == "share":
        return figure_words(row.figure)
    unit = f" {row.unit}" if row.unit and row.figure.estimate is not None else ""
    return number_words(row.figure) + unit


def per_hundred_patients(figure: Figure) -> str:
    """Return net benefit with its interval, for 100 patients, or why it is withheld."""
    if figure.estimate is None or figure.low is None or figure.high is None:
        return figure_words(figure)
    return f"{100 * figure.estimate:.0f} ({100 * figure.low:.0f} to {100 * figure.high:.0f})".replace("-", "\u2212")


def cohort_words(study: Study) -> list[str]:
    """Return the conditions that a record of the cohort meets, in words, first those that the protocol names."""
    stated = [f"{feature.column}: not missing" for feature in study.features if feature.missing == "exclude"]
    chosen = [f"by codes: {study.cohort.words}"] if study.cohort else []
    return chosen + [_condition_words(condition) for condition in study.include] + stated


def _condition_words(condition: Condition) -> str:
    if isinstance(condition, NumberCondition):
        return f"{condition.column} from {condition.range[0]:g} to {condition.range[1]:g}"
    return f"{condition.column}: {' or '.join(condition.any_of)}"


def absences(evidence: Evidence) -> dict[str, list[str]]:
    """Return for each site of the study what it was missing from, and the public code why."""
    found: dict[str, list[str]] = {site: [] for site in evidence.participation.sites}
    for span in evidence.participation.rounds:
        rounds = f"round {span.first}" if span.first == span.last else f"rounds {span.first} to {span.last}"
        for site, code in sorted(span.absent.items()):
            found.setdefault(site, []).append(f"{rounds}: {code}")
    for site, code in sorted(evidence.participation.evaluation_absent.items()):
        found.setdefault(site, []).append(f"evaluation: {code}")
    return found


def epsilon_words(epsilon: float) -> str:
    """Return two decimals, rounded up: a cost is never understated."""
    return f"{math.ceil(epsilon * 100 - 1e-9) / 100:.2f}" if math.isfinite(epsilon) else "no bound"


def guesses_right(epsilon: float, delta: float) -> int:
    """Return how often in 100 a guess at an even chance can be right, rounded up.

    Source: an (epsilon, delta) mechanism allows a test no total variation above
    (e^epsilon - 1 + 2 delta) / (e^epsilon + 1); Kairouz, Oh and Viswanath, ICML 2015, Theorem 2.1.
    """
    odds = math.exp(-epsilon)
    return math.ceil(100 * min(1.0, (1 + delta * odds) / (1 + odds)))


def runs_of(rounds: Iterable[int]) -> str:
    """Return round numbers in words: "1 to 7, 9"."""
    runs: list[list[int]] = []
    for number in sorted(set(rounds)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in runs) or "none"


def partial_words(evidence: Evidence) -> str:
    """Return the line that labels a result to which not every site gave everything; "" if all did."""
    missing = [f"{site} ({'; '.join(rounds)})" for site, rounds in absences(evidence).items() if rounds]
    return f"PARTIAL RESULT, without {', '.join(missing)}" if evidence.partial else ""


def together(evidence: Evidence) -> str:
    """Return whom the pooled figures are of."""
    if evidence.participation.evaluation_absent:
        return "The hospitals that judged it, together"
    return "All hospitals together"
