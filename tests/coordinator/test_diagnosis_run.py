"""Networks, classes and quantities over real gates: they end with a simulation's model, and hold in an audit."""

import pytest
from study_scene import Scene, as_a_gate_does, study_of

from fedhealth.compliance.federation import read_federation
from fedhealth.compliance.run_checks import check_run
from fedhealth.coordinator.evidence import evidence_of, result_of
from fedhealth.coordinator.run_folder import MODEL
from fedhealth.learning.model_file import read_model
from fedhealth.study.signature import open_signed_study

# The scene's patients p0 to p59 are of age 0 to 59, and every other one has 1 under "ill", the rest 0.
NETWORK = {"kind": "mlp", "hidden": [2]}
ILL = {"kind": "number", "column": "ill", "unit": "points", "range": [0, 1], "impute": 0}
GRADE = {"kind": "classes", "column": "ill", "classes": ["0", "1", "2"], "outcome": "grade"}
AGE = {"kind": "number", "column": "age", "unit": "years", "range": [0, 60], "outcome": "age"}


@pytest.mark.parametrize(
    ("changes", "figures"),
    [
        ({"model": NETWORK}, ["accuracy", "sensitivity", "specificity"]),
        ({"endpoint": GRADE, "model": NETWORK}, ["accuracy", "mean sensitivity", "mean precision"]),
        (
            {"features": [ILL], "endpoint": AGE, "model": {"kind": "linear-regression"}},
            ["mean absolute error", "root mean square error", "mean error", "R squared"],
        ),
    ],
    ids=["yes-or-no", "classes", "number"],
)
def test_a_run_ends_with_the_model_of_a_simulation_and_holds_in_an_audit(tmp_path, changes, figures):
    study = study_of(**changes)
    scene = Scene(tmp_path, study, lying=dict.fromkeys(("ward-a", "ward-b"), as_a_gate_does), draws=True)
    evidence = scene.run()
    scene.close()
    model = read_model((scene.results / MODEL).read_bytes(), study).weights
    assert model.tobytes() == scene.simulated_model().tobytes()
    assert [row.name for row in evidence.pooled.named()][: len(figures)] == figures
    signed = open_signed_study(scene.signed)
    assert evidence_of(signed, result_of(evidence)) == evidence
    ledgers = read_federation(
        [tmp_path / f"{name}.sqlite" for name in scene.sites], studies={study.digest: scene.signed}
    )
    found = check_run(scene.results, ledgers)
    assert [(check.name, check.detail) for check in found.checks if check.outcome != "ok"] == []
    assert {f"ledger of {name}" for name in scene.sites} <= {check.name for check in found.checks}
