"""A study of survival and made-up patients for it, as several tests use them."""

import random

from fedhealth.study.protocol import Study

PROTOCOL = {
    "format": 1,
    "name": "relapse",
    "title": "Time to relapse",
    "task": "survival",
    "purpose": "To be tested.",
    "legal_basis": "Made-up records.",
    "data_set": "ward",
    "max_records_per_patient": 1,
    "features": [
        {"kind": "number", "column": "age", "unit": "years", "range": [20, 80], "impute": 50},
        {"kind": "category", "column": "drug", "categories": ["a", "b"]},
    ],
    "endpoint": {
        "kind": "survival",
        "column": "status",
        "event_words": ["relapse", "death"],
        "censored_words": ["well"],
        "event": "relapsed or died",
        "time_column": "weeks",
        "time_unit": "weeks",
        "interval_ends": [4, 12, 26, 52],
        "expected_share": 0.5,
    },
    "model": {"kind": "cox"},
    "training": {"rounds": 4, "spare_rounds": 0, "learning_rate": 2.0, "l2_clip_norm": 1.0},
    "evaluation": {
        "held_out_fraction": 0.3,
        "too_wide": 0.5,
        "survival": {"risk_edges": [0.4, 0.5, 0.6], "group_edges": [0.5]},
    },
    "privacy": {"unit": "patient", "delta": 1e-4, "training_epsilon": 5.0, "evaluation_epsilon": 5.0},
}
NETWORK = {"kind": "discrete-time-survival", "hidden": [3]}

COLUMNS = ("hospital", "person", "age", "drug", "status", "weeks")


def survival_study(**changes):
    """Return the study, with top-level keys replaced or, given a dict, updated; a model is replaced."""
    merged = {**PROTOCOL, **changes}
    for key, value in changes.items():
        if isinstance(value, dict) and key != "model":
            merged[key] = {**PROTOCOL[key], **value}
    return Study.model_validate(merged)


def survivors(each=60, hospitals=("east", "north", "west")):
    """Return rows of made-up patients, `each` of them in each hospital; the hospitals' baselines differ."""
    draw = random.Random(11)  # noqa: S311 - made-up people
    rows = []
    for number, hospital in enumerate(hospitals):
        for person in range(each):
            age, drug = draw.randint(20, 80), draw.choice("ab")
            hazard = 0.01 * (1 + number) * 2.5 ** ((age - 50) / 30 + (drug == "b"))
            event_at, left_at = draw.expovariate(hazard), draw.uniform(2, 90)
            status = draw.choice(["relapse", "death"]) if event_at <= left_at else "well"
            rows.append((hospital, f"{hospital}-{person}", age, drug, status, round(min(event_at, left_at), 1)))
    draw.shuffle(rows)
    return rows
