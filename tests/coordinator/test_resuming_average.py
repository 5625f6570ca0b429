"""A study that publishes the mean of its last models goes on after a kill to the same bytes, and its run is audited."""

import tempfile
from pathlib import Path

import pytest
from study_scene import Points, Scene, as_a_gate_does, study_of

from fedhealth.compliance.federation import read_federation
from fedhealth.compliance.run_checks import check_run
from fedhealth.coordinator.run_folder import MODEL, MODEL_CARD
from fedhealth.learning.model_file import read_model

TRAINING = {"rounds": 3, "spare_rounds": 2, "learning_rate": 0.5, "l2_clip_norm": 1.0}
STUDY = study_of(training=TRAINING | {"weight_averaging": 2})


@pytest.fixture(scope="module")
def memory():
    shm = Path("/dev/shm")  # noqa: S108 - the folder in it is of our own
    with tempfile.TemporaryDirectory(prefix="fh-", dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def calm(memory):
    scene, points = Scene(memory / "calm", STUDY), Points()
    scene.run(points)
    model = (scene.results / MODEL).read_bytes()
    scene.close()
    return points.names, model


# The scripted releases are made of the bytes of the question: other weights, in a round or in the evaluation, would
# end in another model or in another charge.
def test_killed_anywhere_it_ends_with_the_same_model_and_charges_nothing_twice(calm, memory):
    names, model = calm
    for number in range(6, len(names) + 1, max(1, len(names) // 8)):
        scene, points = Scene(memory / f"killed-{number}", STUDY), Points(number)
        if scene.run(points) is None:
            scene.run()
        assert (scene.results / MODEL).read_bytes() == model, names[number - 1]
        assert all(site.charges(STUDY) == [3, 1] for site in scene.sites.values()), names[number - 1]
        scene.close()


def test_its_run_is_that_of_a_simulation_and_verifies(memory):
    scene = Scene(memory / "real", STUDY, lying=dict.fromkeys(("ward-a", "ward-b"), as_a_gate_does), draws=True)
    scene.run()
    model = read_model((scene.results / MODEL).read_bytes(), STUDY).weights
    simulated = scene.simulated_model()
    scene.close()
    ledgers = read_federation(
        [memory / "real" / f"{name}.sqlite" for name in scene.sites], studies={STUDY.digest: scene.signed}
    )
    checks = check_run(scene.results, ledgers).checks
    assert model.tobytes() == simulated.tobytes()
    assert "mean of those after the last 2" in (scene.results / MODEL_CARD).read_text()
    assert [(check.name, check.detail) for check in checks if check.outcome != "ok"] == []
    assert {f"ledger of {name}" for name in scene.sites} <= {check.name for check in checks}
