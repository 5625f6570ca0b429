"""docs/adding-a-model.md, followed to the letter: one file, one line, and a study runs."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from neighbours import CELLS, reach_of_others, table_of
from safetensors.numpy import load

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.model_file import ReleasedModel, read_model
from fedhealth.learning.models import table
from fedhealth.learning.plan import plan_study
from fedhealth.records.table import Table
from fedhealth.simulation.hospitals import Split, split_table
from fedhealth.simulation.run import simulate
from fedhealth.study.protocol import Study

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "adding-a-model.md").read_text(encoding="utf-8")
STUDY = Study.model_validate(
    {
        "format": 1,
        "name": "pressure",
        "title": "t",
        "task": "diagnosis",
        "purpose": "p",
        "legal_basis": "l",
        "data_set": "icu",
        "max_records_per_patient": 3,
        "features": [
            {"kind": "number", "column": "age", "unit": "years", "range": [20, 70], "impute": 50},
            {"kind": "number", "column": "dose", "unit": "mg", "range": [0, 10], "impute": 5},
        ],
        "endpoint": {
            "kind": "number",
            "column": "pressure",
            "unit": "mmHg",
            "range": [90, 180],
            "outcome": "the pressure",
        },
        "model": {"kind": "huber-regression"},
        "training": {"rounds": 30, "learning_rate": 2.0, "l2_clip_norm": 0.2},
        "evaluation": {"held_out_fraction": 0.5},
        "privacy": {"unit": "patient", "delta": 1e-5, "training_epsilon": 10.0, "evaluation_epsilon": 10.0},
    }
)


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Do what the page says: its file, and its line."""
    name = re.search(r"`fedhealth/learning/models/(\w+)\.py`:", PAGE).group(1)
    code, line = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    named = {}
    exec(line, {name: module}, named)  # noqa: S102 - the page's own line
    monkeypatch.setattr(table, "MODELS", {**table.MODELS, **named["MODELS"]})
    plan_study.cache_clear()
    yield module
    plan_study.cache_clear()


def wards(each=400):
    """Return patients of two wards whose pressure is 100 + age / 2, but for one in ten with an extreme one."""
    draw, rows = np.random.default_rng(1), []
    for number in range(2 * each):
        age, dose = draw.uniform(20, 70), draw.uniform(0, 10)
        pressure = 180 if number % 10 == 0 else 100 + age / 2
        rows.append((f"p{number}", f"{age:.4f}", f"{dose:.4f}", f"{pressure:.4f}", "north" if number % 2 else "south"))
    columns = ("id", "age", "dose", "pressure", "ward")
    return Table(Path("wards.csv"), columns, tuple(enumerate(rows, 2)))


def test_without_its_line_the_kind_is_refused():
    with pytest.raises(ConfigInvalid, match="cannot be fitted") as refused:
        plan_study(STUDY)
    assert "huber-regression" in refused.value.got


def test_a_study_of_the_new_kind_runs_and_its_file_can_be_used(added, tmp_path):
    found = simulate(STUDY, split_table(wards(), STUDY, Split("ward", "id")), tmp_path / "out", workers=1)
    error = found.evidence.pooled.headline.figure
    assert error.estimate is not None
    file = (tmp_path / "out" / "results" / "model.safetensors").read_bytes()
    assert {name: tensor.shape for name, tensor in load(file).items()} == dict(added.tensors(STUDY))
    model = ReleasedModel(STUDY, read_model(file, STUDY).weights)
    # Huber's loss keeps near 100 + age / 2 for nine in ten: at 45 years 122.5. The mean of all would be 5.75 above.
    assert model.value_of({"age": 45, "dose": 5}) == pytest.approx(122.5, abs=3)
    card = (tmp_path / "out" / "results" / "model-card.md").read_text(encoding="utf-8")
    assert added.reading(STUDY) in card and "model.value_of(" in card


def test_it_keeps_what_the_page_says_must_hold(added):
    for seed in range(6):
        weights = np.random.default_rng(seed).uniform(-1, 1, 3) * [1.0, 1e308, 5e-324][seed % 3]
        for patient in CELLS["id"][:-1]:
            assert reach_of_others(STUDY, "train", weights, table_of(seed), patient) <= 1
