"""Classes, a quantity and a network on real patients: four hospitals, gates, ledgers, evidence, report and audit."""

import csv
import tomllib
from pathlib import Path

import pytest

from fedhealth.compliance.federation import read_federation
from fedhealth.compliance.run_checks import check_run
from fedhealth.learning.model_file import load_model
from fedhealth.simulation.hospitals import Split
from fedhealth.simulation.run import simulate_table
from fedhealth.study.protocol import Study

ROOT = Path(__file__).resolve().parents[2]
HEART = tomllib.loads((ROOT / "protocols" / "heart-disease-diagnosis.toml").read_text())
GRADES = {"kind": "classes", "column": "num", "classes": ["0", "1", "2", "3", "4"], "outcome": "the grade of narrowing"}
RATE = {
    "kind": "number",
    "column": "thalch",
    "unit": "beats a minute",
    "range": [60, 200],
    "outcome": "the highest heart rate in exercise",
}


def study_of(model, endpoint=None, rate=1.5, **evaluation):
    parts = {**HEART, "model": model}
    parts["training"] = {**HEART["training"], "learning_rate": rate, "l2_clip_norm": 0.5}
    parts["privacy"] = {**HEART["privacy"], "training_epsilon": 15.0, "evaluation_epsilon": 15.0}
    if endpoint is not None:
        parts["endpoint"] = endpoint
        parts["features"] = [each for each in HEART["features"] if each["column"] != endpoint["column"]]
        parts["evaluation"] = {"held_out_fraction": 0.4, "each_site": True, **evaluation}
    return Study.model_validate(parts)


STUDIES = {
    "network": study_of({"kind": "mlp", "hidden": [8]}),
    "classes": study_of({"kind": "logistic-regression"}, GRADES),
    "classes, network": study_of({"kind": "mlp", "hidden": [8]}, GRADES),
    "quantity": study_of({"kind": "linear-regression"}, RATE, 0.15),
    "quantity, network": study_of({"kind": "mlp", "hidden": [8]}, RATE, 1.0, errors={"largest": 50}),
}


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    path, rows = tmp_path_factory.mktemp("heart") / "heart.csv", []
    for site in ("cleveland", "hungary", "long-beach", "switzerland"):
        with (ROOT / "sites" / site / "patients.csv").open(newline="", encoding="utf-8") as file:
            header, *own = csv.reader(file)
            rows += [[*row, site] for row in own]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([[*header, "hospital"], *rows])
    return path


class Runs(dict):
    """The runs by case, each made when it is first asked for."""

    def __init__(self, table, folder):
        super().__init__()
        self.table, self.folder = table, folder

    def __missing__(self, case):
        folder = self.folder / str(len(self))
        self[case] = simulate_table(STUDIES[case], self.table, Split("hospital", "id", seed=1), folder, workers=1)
        return self[case]


@pytest.fixture(scope="module")
def runs(heart, tmp_path_factory):
    return Runs(heart, tmp_path_factory.mktemp("runs"))


def figure(found, name, group=""):
    return next(row.figure for row in found.evidence.pooled.named() if (row.group, row.name) == (group, name))


@pytest.mark.parametrize("case", STUDIES)
def test_a_run_can_be_checked_to_the_byte_and_its_model_used(runs, case):
    found = runs[case]
    checked = check_run(found.folder / "results", read_federation([]))
    assert {check.name for check in checked.checks if check.outcome == "ok"} >= {"evidence", "model", "report"}, checked
    for site in found.evidence.sites:
        assert site.epsilon <= 15
    model, record = load_model(found.folder / "results"), dict.fromkeys(HEART_COLUMNS)
    if "classes" in case:
        assert sum(model.chances_of(record).values()) == pytest.approx(1)
    elif "quantity" in case:
        assert 60 <= model.value_of(record) <= 200
    else:
        assert 0 <= model.chance_of(record) <= 1


HEART_COLUMNS = [feature["column"] for feature in HEART["features"]]


def test_a_network_is_as_good_as_a_logistic_regression_is_on_these_patients(runs):
    found = runs["network"]
    assert figure(found, "accuracy").estimate > 0.7
    assert found.reference.federated.accuracy > 0.72 and found.reference.federated.auc > 0.8


@pytest.mark.parametrize("case", ["classes", "classes, network"])
def test_classes_are_told_better_than_by_the_most_frequent_of_them(runs, case):
    # 411 of the 920 patients have grade 0, which always saying so would be right about.
    assert figure(runs[case], "accuracy").low > 411 / 920
    assert figure(runs[case], "sensitivity", "0").estimate > 0.7
    page = (runs[case].folder / "results" / "report.html").read_text(encoding="utf-8")
    assert "of those who are &#39;0&#39;, how many are called so" in page
    assert "one of 5 classes of <strong>the grade of narrowing</strong>: 0, 1, 2, 3, 4." in page


@pytest.mark.parametrize("case", ["quantity", "quantity, network"])
def test_a_quantity_is_predicted_better_than_by_its_mean(runs, case):
    # Of 865 measured rates the mean is 137.5 and the mean absolute distance from it 21.1 beats a minute.
    assert figure(runs[case], "mean absolute error").estimate < 21.1
    assert figure(runs[case], "mean absolute error").low > 10
    assert abs(figure(runs[case], "mean error").estimate) < 8
    card = (runs[case].folder / "results" / "model-card.md").read_text(encoding="utf-8")
    assert "goes evenly from 60 to 200 beats a minute" in card
    page = (runs[case].folder / "results" / "report.html").read_text(encoding="utf-8")
    assert "predicts <strong>the highest heart rate in exercise</strong>, in beats a minute." in page


def test_what_has_no_raw_figures_says_so_and_runs(runs):
    assert "no raw figures" in runs["classes"].warnings[-1] and runs["classes"].reference is None
    assert not (runs["classes"].folder / "reference.json").exists()
