"""A network over images, from the files that a table names to a published run that an audit finds good."""

import numpy as np
from study_scene import Scene, as_a_gate_does, study_of

from fedhealth.compliance.federation import read_federation
from fedhealth.compliance.run_checks import check_run
from fedhealth.coordinator.run_folder import MODEL, MODEL_CARD
from fedhealth.learning.model_file import load_model, read_model
from fedhealth.training.per_patient import deterministic_here

STUDY = study_of(
    features=[
        {"kind": "image", "column": "scan", "shape": (8, 8), "window": [0, 255], "inputs": {"kind": "pixels"}},
        {"kind": "number", "column": "age", "unit": "years", "range": [0, 100], "impute": 50},
    ],
    model={"kind": "cnn", "hidden": [4]},
    training={
        "rounds": 3,
        "learning_rate": 0.5,
        "l2_clip_norm": 1.0,
        "augment": [{"mirror": True}, {"shift": [1, 0]}],
        "weight_averaging": 2,
    },
)


def write_scans(folder, name):
    """Write a table and the images it names: the ill have a bright left half. Of two patients there is none to read."""
    draw, rows = np.random.default_rng(len(name)), []
    (folder / "scans").mkdir(exist_ok=True)
    for patient in range(40):
        image = draw.integers(0, 128, (8, 8), dtype=np.uint8)
        image[:, :4] += np.uint8(100 * (patient % 2))
        np.save(folder / "scans" / f"{name}-{patient}.npy", image)
        rows.append(f"p{patient},{patient},{patient % 2},scans/{name}-{patient}.npy\n")
    rows += ["p40,40,1,\n", "p41,41,0,scans/none.npy\n"]
    (table := folder / f"{name}.csv").write_text("id,age,ill,scan\n" + "".join(rows))
    return table


def test_a_run_ends_with_the_model_of_a_simulation_and_holds_in_an_audit(tmp_path):
    with deterministic_here():
        gates = dict.fromkeys(("ward-a", "ward-b"), as_a_gate_does)
        scene = Scene(tmp_path, STUDY, lying=gates, draws=True, write=write_scans)
        scene.run()
        simulated = scene.simulated_model()
        scene.close()
        model = read_model((scene.results / MODEL).read_bytes(), STUDY).weights
        assert model.tobytes() == simulated.tobytes()
        ledgers = read_federation(
            [tmp_path / f"{name}.sqlite" for name in scene.sites], studies={STUDY.digest: scene.signed}
        )
        checks = check_run(scene.results, ledgers).checks
        assert [(check.name, check.detail) for check in checks if check.outcome != "ok"] == []
        card = (scene.results / MODEL_CARD).read_text()
        assert "image of 8 x 8" in card and "after the last 2" in card
        released = load_model(scene.results)
        chance = type(released)(released.study, released.weights, tmp_path).chance_of(
            {"scan": "scans/ward-a-1.npy", "age": "30"}
        )
        assert 0 < chance < 1
