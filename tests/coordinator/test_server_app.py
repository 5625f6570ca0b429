"""The ServerApp's process: checkpoints before it says so, and what it says over its socket."""

import json
import socket
import struct
import threading

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import Context, RecordDict

from fedhealth.coordinator.app_frames import (
    Failed,
    Finished,
    Go,
    RoundDone,
    exchange,
    unpack_question,
)
from fedhealth.coordinator.run_folder import MODEL
from fedhealth.coordinator.server_app import CHECKPOINT_FILE, StudyCodec, build_app, store_model
from fedhealth.errors import FederationFailed
from fedhealth.flower.link_grid import LinkGrid, NotReleased, set_task_identity
from fedhealth.learning.plan import encode_release, plan_study
from fedhealth.link.frames import MAX_FRAME_BYTES, pack
from fedhealth.study.protocol import Study

STUDY = Study.model_validate(
    {
        "format": 1,
        "name": "small",
        "title": "A small study",
        "task": "diagnosis",
        "purpose": "To test the ServerApp.",
        "legal_basis": "Made-up records.",
        "data_set": "ward",
        "max_records_per_patient": 4,
        "features": [{"kind": "number", "column": "age", "unit": "years", "range": [0, 100], "impute": 50}],
        "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0, "positive": "is ill"},
        "model": {"kind": "logistic-regression"},
        "training": {"rounds": 3, "learning_rate": 0.5, "l2_clip_norm": 1.0},
        "evaluation": {"held_out_fraction": 0.25, "table": 1, "scores": None},
        "privacy": {"unit": "patient", "delta": 1e-4, "training_epsilon": 2.0, "evaluation_epsilon": 2.0},
    }
)
DECLARED = {"ward-a": 100, "ward-b": 300}


def answer(site, step, number, data):
    return encode_release(np.array([5, -5] if step == "train" else [10, 2, 30, 4]))


def read_frame(connection):
    head = b""
    while len(head) < 4:
        part = connection.recv(4 - len(head))
        if not part:
            return None
        head += part
    rest = b""
    while len(rest) < struct.unpack("!I", head)[0]:
        rest += connection.recv(65536)
    return rest


def run_app(folder, ask, seen):
    """Run the app to its end against a main process that says Go to everything and shows it to `seen`."""
    ours, theirs = socket.socketpair()

    def serve():
        while (frame := read_frame(theirs)) is not None:
            seen(unpack_question(frame)[0])
            reply = pack(Go())
            theirs.sendall(struct.pack("!I", len(reply)) + reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    set_task_identity(run_id=1)
    grid = LinkGrid(list(DECLARED), ask, StudyCodec(STUDY, DECLARED))
    try:
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
        build_app(grid, STUDY, folder, ours)(grid, context)
    finally:
        grid.close()
        ours.close()
        thread.join(5)
        theirs.close()


def load(path):
    with safetensors.safe_open(path, "numpy") as file:
        return file.get_tensor("weights"), json.loads(file.metadata()["fedhealth"])


def test_a_round_is_said_to_be_done_only_when_it_is_on_disk(tmp_path):
    # One step of 5 and -5 from each site: w moves by -0.5 * grid * 10 / 0.75 / 400 and back a round.
    unit = 0.5 * plan_study(STUDY)["train"].mechanism.grid * 10 / 0.75 / 400
    said = []

    def seen(question):
        said.append(question)
        if isinstance(question, RoundDone):
            weights, notes = load(tmp_path / CHECKPOINT_FILE)
            assert notes == {"study": STUDY.digest, "rounds": question.round}
            np.testing.assert_allclose(weights, np.array([-unit, unit]) * question.round, rtol=1e-12)
        if isinstance(question, Finished):
            assert load(tmp_path / MODEL)[1] == {"study": STUDY.digest, "rounds": 3}

    run_app(tmp_path, answer, seen)
    assert [question.kind for question in said] == ["round-done"] * 3 + ["finished"]
    assert [question.round for question in said[:3]] == [1, 2, 3]
    assert sorted(said[-1].counts) == ["ward-a", "ward-b"]
    assert not (tmp_path / CHECKPOINT_FILE).exists()


def test_a_missing_site_ends_the_study_in_that_round_without_a_model(tmp_path):
    def ask(site, step, number, data):
        if (site, number) == ("ward-b", 2):
            raise NotReleased("budget-spent")
        return answer(site, step, number, data)

    said = []
    run_app(tmp_path, ask, said.append)
    assert [question.kind for question in said] == ["round-done", "failed"]
    assert said[-1] == Failed(round=2, absent={"ward-b": "budget-spent"})
    assert not (tmp_path / MODEL).exists()
    assert load(tmp_path / CHECKPOINT_FILE)[1]["rounds"] == 1  # what was done is kept


def test_a_site_missing_from_the_evaluation_leaves_no_model(tmp_path):
    def ask(site, step, number, data):
        if step == "evaluate" and site == "ward-a":
            raise NotReleased("away")
        return answer(site, step, number, data)

    said = []
    run_app(tmp_path, ask, said.append)
    assert said[-1].absent == {"ward-a": "away"}
    assert not (tmp_path / MODEL).exists()


def test_equal_runs_give_equal_models(tmp_path):
    models = []
    for name in "abcdef":  # several, because an order that is left to chance is right half the time
        (tmp_path / name).mkdir()
        run_app(tmp_path / name, answer, lambda _: None)
        models.append((tmp_path / name / MODEL).read_bytes())
    assert len(set(models)) == 1


def test_a_stored_model_is_the_old_or_the_new_one_whole(tmp_path, monkeypatch):
    path = tmp_path / "model"
    store_model(path, np.array([1.0, 2.0]), "ab" * 32, 1)

    def cut(_):
        raise OSError(5, "broken disk")

    monkeypatch.setattr("os.fsync", cut)
    with pytest.raises(OSError, match="broken disk"):
        store_model(path, np.array([3.0, 4.0]), "ab" * 32, 2)
    weights, notes = load(path)
    assert (weights.tolist(), notes["rounds"]) == ([1.0, 2.0], 1)


@pytest.mark.parametrize(
    "reply",
    [b"", b"\0\0", struct.pack("!I", 10) + b"half", struct.pack("!I", MAX_FRAME_BYTES + 1)],
    ids=["nothing", "half a length", "half a frame", "too much"],
)
def test_a_main_process_that_is_gone_is_named(reply):
    ours, theirs = socket.socketpair()
    theirs.sendall(reply)
    theirs.shutdown(socket.SHUT_WR)
    with ours, theirs, pytest.raises(FederationFailed, match="main process does not answer"):
        exchange(ours, RoundDone(round=1, seconds=0.0))
