"""A study of two modalities on real patients, of whom one hospital's have only one: gates, evidence, card, model."""

import csv
import tomllib
from pathlib import Path

import pytest

from fedhealth.compliance.federation import read_federation
from fedhealth.compliance.run_checks import check_run
from fedhealth.learning.model_file import load_model
from fedhealth.simulation.hospitals import Split
from fedhealth.simulation.run import RESULTS, simulate_table
from fedhealth.study.protocol import Study

ROOT = Path(__file__).resolve().parents[2]
HEART = tomllib.loads((ROOT / "protocols" / "heart-disease-diagnosis.toml").read_text())
EXERCISE = ["thalch", "exang", "oldpeak"]
AT_REST = [feature["column"] for feature in HEART["features"] if feature["column"] not in EXERCISE]
STUDY = Study.model_validate(
    HEART
    | {
        "model": {
            "kind": "fusion",
            "modalities": [
                {"name": "exercise", "columns": EXERCISE, "may_be_absent": True},
                {"name": "at-rest", "columns": AT_REST},
            ],
        },
        "privacy": HEART["privacy"] | {"training_epsilon": 15.0, "evaluation_epsilon": 15.0},
    }
)
WITHOUT = "hungary"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The heart patients; those of one hospital have never been exercised."""
    folder, rows = tmp_path_factory.mktemp("heart"), []
    for site in ("cleveland", "hungary", "long-beach", "switzerland"):
        with (ROOT / "sites" / site / "patients.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                rows.append(row | dict.fromkeys(EXERCISE if site == WITHOUT else (), "") | {"hospital": site})
    with (folder / "heart.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return simulate_table(STUDY, folder / "heart.csv", Split("hospital", "id", seed=1), folder / "out", workers=1)


def test_a_run_can_be_checked_to_the_byte_and_its_card_says_what_each_tower_takes(found):
    checked = check_run(found.folder / RESULTS, read_federation([]))
    assert {check.name for check in checked.checks if check.outcome == "ok"} >= {"evidence", "model", "report"}, checked
    card = (found.folder / RESULTS / "model-card.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if "so that there is exercise" in line)
    assert row.startswith(f"| {STUDY.dimension - 1} | thalch, exang, oldpeak |")
    assert "mean over the towers of those modalities that the record has" in card


def test_the_model_answers_with_one_modality_missing_or_with_both(found):
    model = load_model(found.folder / RESULTS)
    rest = dict.fromkeys(AT_REST) | {"age": 60, "cp": "asymptomatic"}
    tired = {"thalch": 90, "exang": "TRUE", "oldpeak": 4}
    fit = {"thalch": 190, "exang": "FALSE", "oldpeak": 0}
    assert model.chance_of(rest | fit) < model.chance_of(rest | dict.fromkeys(EXERCISE)) < model.chance_of(rest | tired)
    assert model.chance_of(rest) == model.chance_of(rest | dict.fromkeys(EXERCISE))


def test_patients_with_one_modality_are_told_apart_too(found):
    reference = found.reference
    assert reference.federated.auc > 0.8  # of all; a logistic regression on all columns of all patients has 0.87
    assert reference.federated.accuracy > 0.7
