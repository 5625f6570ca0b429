"""A made-up trial of two drugs against pain, at some clinics: protocol, and tables of patients who do not exist."""

import csv
import random

from fedhealth.study.protocol import Study

COLUMNS = ("clinic", "person", "drug", "before", "sex", "week_4", "week_8")
ARMS = ({"word": "none", "dose": 0}, {"word": "low", "dose": 10}, {"word": "high", "dose": 40})


def trial(visits=("week_8",), **parts):
    """Return the protocol, with an ANCOVA for one visit and a mixed model for several; `parts` are changed in it."""
    values = {
        "format": 1,
        "name": "pain",
        "title": "Effect of a drug on pain",
        "task": "efficacy",
        "purpose": "a test",
        "legal_basis": "made-up patients",
        "data_set": "trial",
        "min_declared_patients": 20,
        "max_records_per_patient": 1,
        "features": [
            {"kind": "number", "column": "before", "unit": "points", "range": [0, 100], "impute": 50},
            {"kind": "category", "column": "sex", "categories": ["f", "m"], "missing_indicator": True},
        ],
        "endpoint": {
            "kind": "trial",
            "arm_column": "drug",
            "arms": ARMS,
            "dose_unit": "mg",
            "outcomes": list(visits),
            "range": [-30, 10],
            "unit": "points",
            "measures": "Change of pain",
            "better": "lower",
        },
        "model": {"kind": "ancova" if len(visits) == 1 else "mixed-model"},
        "evaluation": {"held_out_fraction": 1, "too_wide": 0.4},
        "privacy": {"unit": "patient", "delta": 1e-4, "evaluation_epsilon": 3.0},
    }
    return Study.model_validate(values | parts)


def rows(clinics=("North", "South", "West"), each=60, effect=-8.0, seed=5):
    """Return made-up patients; `effect` is what the high dose does at week 8, the low dose a quarter of it."""
    draw = random.Random(seed)  # noqa: S311 - made-up people
    found = []
    for clinic in clinics:
        for number in range(each):
            arm, before, sex = number % 3, draw.randint(20, 80), draw.choice("fm")
            mean = -8 + (0, effect / 4, effect)[arm] - 0.05 * (before - 50)
            first = draw.gauss(mean / 2, 4)
            second = draw.gauss(mean + 0.5 * (first - mean / 2), 4)
            words = [f"{value:.1f}" for value in (first, second)]
            if draw.random() < 0.2:
                words[1] = ""
            found.append((clinic, f"{clinic}-{number}", ARMS[arm]["word"], before, sex, *words))
    return found


def write_table(path, found):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *found])
    return path
