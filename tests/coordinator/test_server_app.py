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
    COUNTS,
    Finished,
    Go,
    Halted,
    RoundDone,
    exchange,
    unpack_question,
)
from fedhealth.coordinator.participation import CompletedRound, rounds_of
from fedhealth.coordinator.round_checkpoint import CHECKPOINT_FILE, load_checkpoint, store_checkpoint
from fedhealth.coordinator.run_folder import MODEL
from fedhealth.coordinator.server_app import StudyCodec, build_app
from fedhealth.errors import FederationFailed
from fedhealth.flower.link_grid import LinkGrid, NotReleased, set_task_identity
from fedhealth.learning.model_file import notes_of
from fedhealth.learning.plan import encode_release, plan_study
from fedhealth.link.frames import MAX_FRAME_BYTES, pack
from fedhealth.privacy.release import ReleaseIdentity, input_digest
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


def run_app(folder, ask, seen, study=STUDY, declared=DECLARED):
    """Run the app to its end against a main process that says Go to everything and shows it to `seen`.

    Returns:
        The body of what it said last.
    """
    ours, theirs = socket.socketpair()
    bodies = []

    def serve():
        while (frame := read_frame(theirs)) is not None:
            question, body = unpack_question(frame)
            bodies.append(bytes(body))
            seen(question)
            reply = pack(Go())
            theirs.sendall(struct.pack("!I", len(reply)) + reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    set_task_identity(run_id=1)
    grid = LinkGrid(list(declared), ask, StudyCodec(study, declared))
    try:
        context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
        build_app(grid, study, folder, ours)(grid, context)
    finally:
        grid.close()
        ours.close()
        thread.join(5)
        theirs.close()
    return bodies[-1]


def load(path):
    with safetensors.safe_open(path, "numpy") as file:
        return file.get_tensor("weights"), json.loads(file.metadata()["fedhealth"])


# One step of 5 and -5 from each site: w moves by -0.5 * grid * 10 / 0.75 / 400 and back a round.
UNIT = 0.5 * plan_study(STUDY)["train"].mechanism.grid * 10 / 0.75 / 400


def test_a_round_is_said_to_be_done_only_when_it_is_on_disk(tmp_path):
    said = []

    def seen(question):
        said.append(question)
        if isinstance(question, RoundDone):
            kept = load_checkpoint(tmp_path, STUDY.digest)
            assert kept.sha256 == question.checkpoint_sha256
            assert rounds_of(kept.notes.rounds) == [CompletedRound(n, n) for n in range(1, question.round + 1)]
            np.testing.assert_allclose(kept.weights, np.array([-UNIT, UNIT]) * question.round, rtol=1e-12)
        if isinstance(question, Finished):
            assert load(tmp_path / MODEL)[1] == notes_of(STUDY, 3)

    counts = run_app(tmp_path, answer, seen)
    assert [question.kind for question in said] == ["round-done"] * 3 + ["finished"]
    assert [(question.round, question.number) for question in said[:3]] == [(1, 1), (2, 2), (3, 3)]
    assert sorted(COUNTS.validate_json(counts)) == ["ward-a", "ward-b"]
    assert (tmp_path / CHECKPOINT_FILE).exists()  # until the coordinator has the counts


def test_the_counts_of_a_thousand_sites_arrive(tmp_path):
    declared = {f"hospital-of-a-long-name-{number:04}": 400 for number in range(1000)}
    study = STUDY.model_copy(update={"training": STUDY.training.model_copy(update={"rounds": 1})})
    counts = COUNTS.validate_json(run_app(tmp_path, answer, lambda _: None, study, declared))
    assert counts.keys() == declared.keys()


def test_a_checkpoint_names_the_releases_that_its_round_brought(tmp_path):
    asked = []

    def ask(site, step, number, data):
        asked.append((site, step, number, data))
        return answer(site, step, number, data)

    def seen(question):
        if isinstance(question, RoundDone):
            site, step, number, data = next(each for each in asked if each[2] == question.number)
            identity = ReleaseIdentity(
                site=site, study=STUDY.digest, step=step, round=number, input_digest=input_digest(data)
            )
            assert load_checkpoint(tmp_path, STUDY.digest).notes.releases[site] == (identity.digest,)

    run_app(tmp_path, ask, seen)


def test_a_missing_site_halts_the_study_in_that_round_without_a_model(tmp_path):
    def ask(site, step, number, data):
        if (site, number) == ("ward-b", 2):
            raise NotReleased("budget-spent")
        return answer(site, step, number, data)

    said = []
    run_app(tmp_path, ask, said.append)
    assert [question.kind for question in said] == ["round-done", "halted"]
    assert said[-1] == Halted(round=2, absent={"ward-b": "budget-spent"})
    assert not (tmp_path / MODEL).exists()
    said.clear()
    run_app(tmp_path, answer, said.append)  # it is back
    assert [getattr(question, "round", None) for question in said] == [2, 3, None]


def test_a_site_missing_from_the_evaluation_leaves_no_model(tmp_path):
    def ask(site, step, number, data):
        if step == "evaluate" and site == "ward-a":
            raise NotReleased("away")
        return answer(site, step, number, data)

    said = []
    run_app(tmp_path, ask, said.append)
    assert said[-1] == Halted(round=0, absent={"ward-a": "away"})
    assert not (tmp_path / MODEL).exists()


def test_equal_runs_give_equal_models(tmp_path):
    models = []
    for name in "abcdef":  # several, because an order that is left to chance is right half the time
        (tmp_path / name).mkdir()
        run_app(tmp_path / name, answer, lambda _: None)
        models.append((tmp_path / name / MODEL).read_bytes())
    assert len(set(models)) == 1


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
        exchange(ours, Halted(round=1, absent={}))


def quorum_study(**sites):
    return Study.model_validate(STUDY.model_dump(mode="json") | {"sites": sites})


def answer_but(refusals):
    """Answer as the sites do, but for these refusals by (site, step, number)."""

    def ask(site, step, number, data):
        if (site, step, number) in refusals:
            raise NotReleased(refusals[site, step, number])
        return answer(site, step, number, data)

    return ask


def test_a_round_counts_with_a_quorum_and_says_who_was_absent(tmp_path):
    said = []
    ask = answer_but({("ward-b", "train", 2): "away", ("ward-a", "evaluate", 1): "busy"})
    counts = run_app(tmp_path, ask, said.append, quorum_study(quorum=1))
    assert [question.absent for question in said] == [{}, {"ward-b": "away"}, {}, {"ward-a": "busy"}]
    assert list(COUNTS.validate_json(counts)) == ["ward-b"]
    # Round 2 is ward-a's alone: its update is its 5 steps over its own 75 training patients, 4/2 of a common round's.
    np.testing.assert_allclose(load(tmp_path / MODEL)[0], np.array([-UNIT, UNIT]) * 4, rtol=1e-12)


def test_a_required_site_is_missed_whatever_the_quorum(tmp_path):
    said = []
    ask = answer_but({("ward-b", "train", 1): "away"})
    run_app(tmp_path, ask, said.append, quorum_study(quorum=1, required=["ward-b"]))
    assert said == [Halted(round=1, absent={"ward-b": "away"})]


def test_a_round_whose_releases_are_lost_is_asked_for_again_under_the_next_number(tmp_path):
    said, asked = [], []
    lost = answer_but({("ward-a", "train", 2): "bad-request"})

    def ask(site, step, number, data):
        asked.append((site, step, number, data))
        return lost(site, step, number, data)

    run_app(tmp_path, ask, said.append)
    assert [(question.round, question.number) for question in said[:-1]] == [(1, 1), (2, 3), (3, 4)]
    second, third = ({each[3] for each in asked if each[1:3] == ("train", number)} for number in (2, 3))
    assert second == third  # the same model is asked about
    np.testing.assert_allclose(load(tmp_path / MODEL)[0], np.array([-UNIT, UNIT]) * 3, rtol=1e-12)


def test_spare_numbers_are_used_up_once(tmp_path):
    # 2 spare rounds: numbers 1 and 2 may be lost, 3 is the last that can be round 1 of 3.
    said = []
    run_app(tmp_path, answer_but({("ward-a", "train", n): "bad-request" for n in (1, 2, 3)}), said.append)
    assert said == [Halted(round=1, absent={"ward-a": "bad-request"})]
    said.clear()
    run_app(tmp_path, answer_but({("ward-a", "train", n): "bad-request" for n in (1, 2)}), said.append)
    assert [(question.round, question.number) for question in said[:-1]] == [(1, 3), (2, 4), (3, 5)]


class Killed(BaseException):
    """A process that is gone."""


WITH_MEMORY = {
    "fedavgm": {"server_momentum": 0.7},
    "fedadam": {"server_learning_rate": 0.2, "beta_1": 0.8},
    "fedyogi": {"server_learning_rate": 0.2, "beta_2": 0.9},
    "fedadagrad": {"server_learning_rate": 0.2},
}
"""The strategies that remember; what the others combine depends on the round alone."""


def remembering(kind):
    strategy = {"kind": kind, **WITH_MEMORY[kind]}
    training = STUDY.training.model_dump() | {"rounds": 4, "strategy": strategy}
    return Study.model_validate(STUDY.model_dump(mode="json") | {"training": training})


@pytest.mark.parametrize("kind", WITH_MEMORY)
@pytest.mark.parametrize("moment", ["before the write", "after the write"])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_run_that_is_cut_off_at_a_checkpoint_asks_the_same_bytes_and_ends_with_the_same_model(
    tmp_path, monkeypatch, moment, number, kind
):
    study = remembering(kind)

    def ask(site, step, number, data):
        # An answer that depends on every bit of the question, as a gate's does.
        chance = np.random.default_rng([*input_digest(data).encode(), site == "ward-a"])
        return encode_release(chance.integers(-(10**4), 10**4, 2)) if step == "train" else answer(site, step, 1, data)

    calm = tmp_path / "calm"
    calm.mkdir()
    run_app(calm, ask, lambda _: None, study)
    asked = {}

    def watched(site, step, number, data):
        assert asked.setdefault((site, step, number), data) == data  # another input would be another charge
        return ask(site, step, number, data)

    count = 0

    def cut(*arguments):
        nonlocal count
        count += 1
        if count == number and moment == "before the write":
            raise Killed
        sha256 = store_checkpoint(*arguments)
        if count == number and moment == "after the write":
            raise Killed
        return sha256

    folder = tmp_path / "cut"
    folder.mkdir()
    monkeypatch.setattr("fedhealth.coordinator.server_app.store_checkpoint", cut)
    with pytest.raises(Killed):
        run_app(folder, watched, lambda _: None, study)
    said = []
    run_app(folder, watched, said.append, study)
    first = number + (moment == "after the write")
    assert [question.round for question in said[:-1]] == list(range(first, 5))
    assert (folder / MODEL).read_bytes() == (calm / MODEL).read_bytes()
    assert len(asked) == 2 * 4 + 2


def test_a_checkpoint_of_another_study_or_a_damaged_one_is_not_gone_on_from(tmp_path):
    run_app(tmp_path, answer, lambda _: None)
    with pytest.raises(FederationFailed, match="of another study"):
        load_checkpoint(tmp_path, "ab" * 32)
    path = tmp_path / CHECKPOINT_FILE
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], b"\0" * 64, whole.replace(b"fedhealth", b"fedwealth")):
        path.write_bytes(damaged)
        with pytest.raises(FederationFailed, match="damaged"):
            load_checkpoint(tmp_path, STUDY.digest)
