"""Studies whose model sees an image, and records of them that no file was read for."""

import numpy as np

from fedhealth.records.table import Records
from fedhealth.study.protocol import Study

ENDPOINTS = {
    "binary": {"kind": "binary", "column": "ill", "positive_above": 0, "positive": "is ill"},
    "category": {
        "kind": "category",
        "column": "ill",
        "positive_categories": ["yes"],
        "negative_categories": ["no"],
        "positive": "is ill",
    },
    "classes": {"kind": "classes", "column": "grade", "classes": ["none", "mild", "severe"], "outcome": "the grade"},
    "number": {"kind": "number", "column": "size", "unit": "mm", "range": [0, 90], "outcome": "its size"},
}


def image_study(
    shape=(8, 12), endpoint="classes", hidden=(4, 8), records=2, model="cnn", features=None, sides=False, **training
):
    image = {"kind": "image", "column": "scan", "shape": shape, "window": [0, 255], "inputs": {"kind": "pixels"}}
    evaluation = {"held_out_fraction": 0.5}
    if endpoint == "number":
        evaluation["errors"] = {"largest": 30, "steps": 4}
    return Study.model_validate(
        {
            "format": 1,
            "name": "scans",
            "title": "t",
            "task": "diagnosis",
            "purpose": "p",
            "legal_basis": "l",
            "data_set": "scans",
            "max_records_per_patient": records,
            "features": features
            or [
                {"kind": "number", "column": "age", "unit": "years", "range": [20, 70], "impute": 45},
                image,
                {"kind": "category", "column": "sex", "categories": ["f", "m"]},
            ],
            "endpoint": ENDPOINTS[endpoint],
            "model": {"kind": model, "hidden": hidden, "compare_sides": sides},
            "training": {"rounds": 2, "learning_rate": 0.5, "l2_clip_norm": 0.7, **training},
            "evaluation": evaluation,
            "privacy": {"unit": "patient", "delta": 1e-5, "training_epsilon": 2.0, "evaluation_epsilon": 2.0},
        }
    )


def image_records(study, seed, patients=5, broken=0.0):
    """Return records of so many patients, each with at least one; a share of the records has an unreadable image."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(1, study.max_records_per_patient + 1, patients)
    owners = draw.permutation(np.repeat(np.arange(patients), counts))
    features = draw.uniform(-1, 1, (len(owners), study.dimension))
    features[draw.random(len(owners)) < broken, 1:-2] = np.nan
    if study.endpoint.kind == "number":
        labels = draw.uniform(-1, 1, len(owners))
    else:
        labels = draw.integers(0, 3 if study.endpoint.kind == "classes" else 2, len(owners)).astype(np.float64)
    return Records(features, labels, owners, patients)


def of_patients(records, kept):
    """Return the records of some of the patients, numbered anew."""
    rows = np.isin(records.patients, kept)
    number = np.zeros(records.patient_count, dtype=np.int64)
    number[kept] = np.arange(len(kept))
    return Records(records.features[rows], records.labels[rows], number[records.patients[rows]], len(kept))
