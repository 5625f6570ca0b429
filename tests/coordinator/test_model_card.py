"""The model card: what the evidence says, in Markdown that no text of a protocol can break, with code that runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.coordinator.evidence import LedgerHead, Participation, RunResult, SiteResult, Span, evidence_of
from fedhealth.coordinator.model_card import render_model_card
from fedhealth.learning.evaluation import lines_of
from fedhealth.learning.model_file import model_bytes
from fedhealth.study.protocol import Study, load_study
from fedhealth.study.signature import SignedStudy, sign_study

STUDY = load_study(Path(__file__).resolve().parents[2] / "protocols" / "heart-disease-diagnosis.toml")


def evidence_with(study=STUDY, absent=None, **changes):
    """Return the evidence of two sites with 400 held-out patients in the first and 4 in the second."""
    cells = [cell for line in lines_of(study) for cell in line.cells]
    table = {"true-positive": 160.0, "false-positive": 40.0, "true-negative": 160.0, "false-negative": 40.0}
    counts = {"ward-a": dict.fromkeys(cells, 20.0) | table, "ward-b": dict.fromkeys(cells, 1.0)}
    run = RunResult(
        software="fedhealth 0.1.0",
        federation="two",
        started="2025-11-22T08:00:00Z",
        finished="2025-11-22T08:05:00Z",
        rounds_completed=20,
        participation=Participation(sites=("ward-a", "ward-b"), rounds=(Span(first=1, last=20, absent=absent or {}),)),
        sites={
            site: SiteResult(
                declared_patients=1600,
                rounds=() if site in (absent or {}) else tuple(range(1, 21)),
                evaluations=1,
                noisy_counts=counts[site],
                ledger=LedgerHead(size=24, root="root", note="note", ledger_key="key"),
            )
            for site in counts
        },
        model_sha256="ab" * 32,
        **changes,
    )
    return evidence_of(SignedStudy(study=study, researcher="ab" * 32, signature="cd" * 64), run)


def row_of(card, first):
    """Return the cells of the table row that begins with a word."""
    [line] = [line for line in card.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_it_says_the_figures_of_the_evidence_and_withholds_what_that_withholds():
    evidence = evidence_with()
    card = render_model_card(evidence, STUDY)
    accuracy = evidence.pooled.accuracy
    words = f"{100 * accuracy.estimate:.0f}\u00a0% ({100 * accuracy.low:.0f} to {100 * accuracy.high:.0f})"
    whole = [line for line in card.splitlines() if line.startswith("| All hospitals together |")]
    assert words in whole[0]
    rows = [line for line in card.splitlines() if line.startswith("| ward-b |")]
    assert rows[0].count("too few patients to say") == 3
    auc = evidence.pooled.scores.auc
    assert row_of(card, "AUC")[1:] == [f"{auc.estimate:.2f} ({auc.low:.2f} to {auc.high:.2f})", f"{auc.binning:.2f}"]


def test_every_input_stands_in_order_with_its_scaling():
    card = render_model_card(evidence_with(), STUDY)
    columns = [feature.column for feature in STUDY.features for _ in range(feature.width)]
    rows = re.findall(r"^\| (\d+) \| (\S+) \| (.*) \|$", card, flags=re.MULTILINE)
    assert [(int(number), column) for number, column, _ in rows] == list(enumerate(columns, start=1))
    assert rows[0][2] == "years; scaled from 30 .. 80 to -1 .. 1 and cut off there; 55 if missing"
    assert rows[2][2] == "mg/dl; scaled from 100 .. 300 to -1 .. 1 and cut off there; 200 if missing or 0"
    assert rows[5][2] == '1 if it is "Female", else 0'


def test_its_code_runs_and_gives_a_chance(tmp_path, monkeypatch):
    results = tmp_path / "results"
    results.mkdir()
    (results / "study.signed").write_bytes(sign_study(STUDY, Ed25519PrivateKey.generate()))
    (results / "model.safetensors").write_bytes(model_bytes(np.zeros(STUDY.dimension + 1), STUDY, 20))
    [code] = re.findall(r"```python\n(.*?)```", render_model_card(evidence_with(), STUDY), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    *lines, last = code.strip().splitlines()
    names = {}
    exec("\n".join(lines), names)  # noqa: S102 - the code of our own template
    assert eval(last, names) == 0.5  # noqa: S307 - the same; all weights are 0


@pytest.mark.parametrize(
    ("absent", "changes", "first"),
    [
        ({"ward-b": "busy"}, {}, "**PARTIAL RESULT.**"),
        ({}, {"unsafe_test_sites": ("ward-a",)}, "**TEST RUN: nothing here is private.**"),
        ({}, {"unsafe_test_sites": ("ward-a",), "simulation": True}, "**SIMULATION. No hospital took part.**"),
    ],
    ids=["partial", "known noise", "simulation"],
)
def test_what_limits_everything_comes_first(absent, changes, first):
    card = render_model_card(evidence_with(absent=absent, **changes), STUDY)
    assert card.splitlines()[2].startswith(first)
    assert "**" not in render_model_card(evidence_with(), STUDY).split("##")[0]


def test_an_absent_site_is_named_with_the_rounds_and_the_reason():
    card = render_model_card(evidence_with(absent={"ward-b": "busy"}), STUDY)
    assert "| ward-b | about 1600 | none | rounds 1 to 20: busy |" in card
    assert "| ward-a | about 1600 | 1 to 20 | never |" in card


def test_a_text_of_the_protocol_cannot_be_anything_but_text():
    hostile = "x | y\n# heading <script>alert(1)</script> [a](http://b) `c`"
    study = STUDY.model_copy(update={"title": hostile, "purpose": hostile})
    card = render_model_card(evidence_with(study), study)
    assert "\n# heading" not in card
    assert "<script" not in card.replace("\\<script", "")
    assert "[a]" not in card.replace("\\[a\\]", "")
    assert "x \\| y" in card


def test_it_says_who_is_in_the_cohort_and_how_wide_an_interval_is_withheld():
    age, *others = STUDY.model_dump()["features"]
    features = [age | {"missing": "exclude", "impute": None, "missing_indicator": False}, *others]
    study = Study.model_validate(STUDY.model_dump() | {"features": features})
    card = render_model_card(evidence_with(study), study)
    assert f"all of these conditions were in the study: {age['column']}: not missing." in card
    assert "wider than 15 percentage points (of a figure that is no share, 0.15) to each side" in card


def test_equal_evidence_gives_equal_bytes():
    assert render_model_card(evidence_with(), STUDY) == render_model_card(evidence_with(), STUDY)


IMAGES = {
    "pixels": ({"kind": "pixels"}, "each pixel; intensities from 0 .. 255 to -1 .. 1"),
    "scattering": (
        {"kind": "scattering", "scales": 2, "angles": 4, "order": 1, "largest": [1, 0.2]},
        "scattering coefficients: 2 scales, 4 angles, order 1, divided by 1.0, 0.2",
    ),
    "descriptors": (
        {"kind": "descriptors", "foreground": 20, "descriptors": [{"name": "blob", "blur": 6, "range": [0, 9]}]},
        "blob, blur 6, of the image, where it is above 20; scaled from 0 .. 9",
    ),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_it_says_what_each_input_is_of_an_image(kind):
    inputs, words = IMAGES[kind]
    feature = {"kind": "image", "column": "scan", "shape": [8, 16], "window": [0, 255], "fit": "resample"}
    study = Study.model_validate(STUDY.model_dump() | {"features": [feature | {"inputs": inputs}]})
    study = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"subgroups": None})})
    card = render_model_card(evidence_with(study), study)
    numbers = {"pixels": "1 to 128", "scattering": "1 to 9", "descriptors": "1"}[kind]
    assert row_of(card, numbers)[1] == "scan" and words in row_of(card, numbers)[2]
    assert "The image in scan is read as 8 x 16 pixels, to which another size is resampled" in card
