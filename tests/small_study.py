"""The small study that most tests of a gate run: two numbers, three rounds, none to spare."""

from fedhealth.study.protocol import Study

PROTOCOL = {
    "format": 1,
    "name": "small",
    "title": "A small study",
    "task": "diagnosis",
    "purpose": "To be tested.",
    "legal_basis": "Made-up records.",
    "data_set": "ward",
    "max_records_per_patient": 4,
    "features": [
        {"kind": "number", "column": "age", "unit": "years", "range": [0, 100], "impute": 50},
        {"kind": "number", "column": "dose", "unit": "mg", "range": [0, 10], "impute": 5},
    ],
    "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0, "positive": "is ill"},
    "model": {"kind": "logistic-regression"},
    "training": {"rounds": 3, "spare_rounds": 0, "learning_rate": 1.0, "l2_clip_norm": 1.0},
    "evaluation": {"held_out_fraction": 0.25},
    "privacy": {"unit": "patient", "delta": 1e-4, "training_epsilon": 2.0, "evaluation_epsilon": 2.0},
}


def protocol(**changes):
    """Return the small study, with top-level keys replaced or, given a dict, updated."""
    merged = {**PROTOCOL, **changes}
    for key, value in changes.items():
        if isinstance(value, dict):
            merged[key] = {**PROTOCOL[key], **value}
    return Study.model_validate(merged)
