"""A study in which each site has weights of its own goes on after a kill with the same questions and the same model."""

import tempfile
from pathlib import Path

import pytest
from study_scene import Points, Scene, as_a_gate_does, study_of

from fedhealth.coordinator.run_folder import MODEL
from fedhealth.learning.model_file import read_model

STUDY = study_of(
    task="survival",
    features=[{"kind": "category", "column": "id", "categories": ["p1", "p2"]}],
    endpoint={
        "kind": "survival",
        "column": "ill",
        "event_words": ["1"],
        "censored_words": ["0"],
        "event": "is ill",
        "time_column": "age",
        "time_unit": "years",
        "interval_ends": [30, 60],
        "expected_share": 0.5,
    },
    model={"kind": "cox"},
    evaluation={"held_out_fraction": 0.25, "survival": {"risk_edges": [0.5]}},
)


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


# The scripted releases are made of the bytes of the question: other own weights would end in another model.
def test_killed_anywhere_it_ends_with_the_same_model_and_charges_nothing_twice(calm, memory):
    names, model = calm
    for number in range(4, len(names) + 1, max(1, len(names) // 8)):
        scene, points = Scene(memory / f"killed-{number}", STUDY), Points(number)
        evidence = scene.run(points)
        if evidence is None:
            scene.run()
        assert (scene.results / MODEL).read_bytes() == model, names[number - 1]
        assert all(site.charges(STUDY) == [2, 1] for site in scene.sites.values()), names[number - 1]
        scene.close()


def test_a_run_through_the_coordinator_ends_with_the_model_of_a_simulation(memory):
    scene = Scene(memory / "real", STUDY, lying=dict.fromkeys(("ward-a", "ward-b"), as_a_gate_does))
    evidence = scene.run()
    model = read_model((scene.results / MODEL).read_bytes(), STUDY).weights
    scene.close()
    assert model.tobytes() == scene.simulated_model().tobytes()
    assert [row.name for row in evidence.pooled.rows] == ["concordance", "observed / expected"]
