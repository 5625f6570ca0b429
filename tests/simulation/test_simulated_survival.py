"""Survival from a protocol to evidence that an audit accepts, over simulated hospitals with real gates."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import tomlkit
from survival_study import COLUMNS, NETWORK, survival_study, survivors
from wards import write_table

import fedhealth
from fedhealth.learning.model_file import load_model, read_model
from fedhealth.simulation.hospitals import Split
from fedhealth.simulation.run import simulate_table

SPLIT = Split("hospital", "person", seed=3)
MODELS = {
    "cox": {"model": {"kind": "cox"}},
    "network": {"model": NETWORK, "training": {"rounds": 20, "learning_rate": 4.0, "l2_clip_norm": 2.0}},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("survivors") / "patients.csv", survivors(200), COLUMNS)


@pytest.fixture(scope="module", params=MODELS)
def found(request, table, tmp_path_factory):
    study = survival_study(**MODELS[request.param])
    return simulate_table(study, table, SPLIT, tmp_path_factory.mktemp(request.param) / "out", workers=1)


def test_a_study_of_survival_ends_with_a_model_and_stated_figures(found):
    model = read_model((found.folder / "results" / "model.safetensors").read_bytes(), found.study)
    assert np.array_equal(model.weights, found.weights)
    rows = {(row.group, row.name): row.figure for row in found.evidence.pooled.rows}
    assert rows["", "concordance"].low < rows["", "concordance"].estimate < rows["", "concordance"].high
    for page in (found.folder / "report.html", found.folder / "results" / "model-card.md"):
        text = page.read_text(encoding="utf-8")
        assert "relapsed or died" in text
        assert "concordance" in text


def test_the_published_model_gives_a_patients_risk_by_the_horizon(found):
    model = load_model(found.folder / "results")
    young, old = (model.chance_of({"age": age, "drug": "b"}) for age in (30, 70))
    assert 0 < young < old < 1
    if found.study.model.kind == "cox":
        # Age 30 is -2/3 on the scale, drug b is the third input; four intervals of 4, 8, 14 and 26 weeks.
        score = -2 / 3 * model.weights[0] + model.weights[2]
        hazard = sum(
            width * math.exp(score + log) for width, log in zip((4, 8, 14, 26), model.weights[3:], strict=True)
        )
        assert young == pytest.approx(1 - math.exp(-hazard))


# The network has 3 inputs, 3 hidden units and 4 intervals: 3 (3 + 1) + 4 (3 + 1) weights.
def test_a_notebook_names_weights_and_raw_figures(table, tmp_path):
    for model, last in ((MODELS["cox"]["model"], "(log hazard up to 52 weeks)"), (NETWORK, "weight 28")):
        protocol = survival_study(model=model, training={"rounds": 1}).model_dump(mode="json", exclude_none=True)
        path = tmp_path / f"{model['kind']}.toml"
        path.write_text(tomlkit.dumps(protocol), encoding="utf-8")
        study = fedhealth.Study.load(path)
        result = study.simulate(table, "hospital", patient_column="person", out=tmp_path / model["kind"])
        assert result.model.index[-1] == last
        assert list(result.not_private.columns) == ["model", "patients", "concordance"]
        assert "concordance" in set(result.metrics["metric"])


def test_the_reference_compares_with_coxs_regression_in_one_place(found):
    reference = found.reference
    assert reference.measure == "concordance"
    # Made-up patients whose hazard is 2.5 times as high for drug b and for 30 years: far from chance.
    assert reference.pooled_without_privacy.concordance > 0.6
    assert reference.federated_without_privacy.concordance > 0.6
    assert [site.held_out_ill > 0 for site in reference.sites] == [True] * 3


def test_every_release_is_charged_and_an_audit_accepts_the_run(found):
    assert all(4.9 < site.epsilon <= 5 for site in found.evidence.sites)
    audit = [sys.executable, "-m", "fedhealth.cli.main", "audit", "verify", str(found.folder / "results")]
    done = subprocess.run(audit, capture_output=True, text=True)
    assert done.returncode == 13, done.stdout + done.stderr  # intact, and of a simulation


def test_no_time_and_no_count_of_a_hospital_is_in_what_is_published(found):
    evidence = json.loads((found.folder / "results" / "evidence.json").read_text(encoding="utf-8"))
    for site in evidence["sites"]:
        counts = site["noisy_counts"].values()
        assert all(abs(count - round(count)) > 1e-9 for count in counts), "a count without noise"


@pytest.mark.processes
def test_the_numbers_do_not_depend_on_how_many_processes_compute_them(table, tmp_path):
    # With weights of each site's own, processes are asked with different inputs for their sites.
    one, two = (
        simulate_table(survival_study(), table, SPLIT, tmp_path / str(workers), with_reference=False, workers=workers)
        for workers in (1, 2)
    )
    assert np.array_equal(two.weights, one.weights)
    assert [site.noisy_counts for site in two.evidence.sites] == [site.noisy_counts for site in one.evidence.sites]
