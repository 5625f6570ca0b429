"""The Flower ServerApp of one study, in a process of its own.

Flower keeps the identity of a run in process-wide state, so each study's ServerApp has its own process. It holds no
key and no certificate; it reaches sites only through the coordinator's main process, round by round, and stores each
round durably before that process may acknowledge it to the sites. It can be killed at any moment: started again, it
goes on from the last checkpoint and asks the same questions, to the byte.

Run as `python -m fedhealth.coordinator.server_app SOCKET FOLDER`.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from fedhealth.canonical import canonical_bytes
from fedhealth.coordinator.app_frames import (
    AskSite,
    Begin,
    Finished,
    Halted,
    Nothing,
    Payload,
    RoundDone,
    Start,
    exchange,
)
from fedhealth.coordinator.participation import IMPLAUSIBLE, CompletedRound, quorum_of, rounds_of, spans_of
from fedhealth.coordinator.round_checkpoint import Notes, load_checkpoint, store_checkpoint
from fedhealth.coordinator.run_folder import MODEL
from fedhealth.flower.link_grid import LinkGrid, NotReleased, set_task_identity
from fedhealth.flower.own_weights import OwnWeights
from fedhealth.flower.rounds import (
    ARRAYS,
    EXAMPLES,
    RELEASE_NUMBER,
    Course,
    SiteMissing,
    arrays_of,
    evaluate_model,
    train_rounds,
    weights_of,
)
from fedhealth.flower.strategies import strategy_for
from fedhealth.flower.strategy_state import StrategyState
from fedhealth.flower.weight_average import WeightAverage
from fedhealth.learning.evaluation import counts_of
from fedhealth.learning.model_file import model_bytes
from fedhealth.learning.models.table import model_of, own_weights_of
from fedhealth.learning.plan import decode_release, encode_weights, is_plausible, model_update, plan_study
from fedhealth.privacy.release import Digest, ReleaseIdentity, StepName, input_digest
from fedhealth.secret_file import replace_file
from fedhealth.study.protocol import Study
from fedhealth.study.signature import open_signed_study

_STEP_OF: dict[str, StepName] = {MessageType.TRAIN: "train", MessageType.EVALUATE: "evaluate"}


class StudyCodec:
    """What Flower's messages mean in bytes for one study.

    Args:
        study: the protocol.
        declared_patients: the public figure of each site that has given a release; may grow.
    """

    def __init__(self, study: Study, declared_patients: Mapping[str, int]) -> None:
        self._study, self._declared, self._plan = study, declared_patients, plan_study(study)

    def encode(self, message: Message) -> tuple[str, int, bytes]:
        """Return the step, the round and the model's weights as bytes."""
        number = message.content.config_records["config"][RELEASE_NUMBER]
        weights = weights_of(message.content.array_records[ARRAYS])
        return _STEP_OF[message.metadata.message_type], int(str(number)), encode_weights(weights)

    def decode(self, site: str, message: Message, payload: bytes) -> RecordDict:
        """Return new weights with their public weight, or the noisy counts of an evaluation.

        Raises:
            NotReleased: the payload is not of this step, or no site of its size can have made it; the site does not
                keep the protocol.
        """
        step = _STEP_OF[message.metadata.message_type]
        mechanism = self._plan[step].mechanism
        if len(payload) != 8 * mechanism.dimension:
            raise NotReleased("away")
        if not is_plausible(payload, mechanism, self._declared[site]):
            raise NotReleased(IMPLAUSIBLE)
        figures: dict[str, float] = {EXAMPLES: float(self._declared[site])}
        if step == "train":
            weights = weights_of(message.content.array_records[ARRAYS])
            updated = weights + model_update(payload, self._study, self._declared[site])
            return RecordDict({ARRAYS: arrays_of(updated), "metrics": MetricRecord(dict(figures))})
        counts = decode_release(payload, mechanism)
        figures.update(counts_of(self._study, counts))
        return RecordDict({"metrics": MetricRecord(dict(figures))})


class SocketAsk:
    """Asks sites through the coordinator's main process; one connection per thread.

    Args:
        path: its socket.
        declared_patients: takes the public figure of each site that gives a release.
    """

    def __init__(self, path: Path, declared_patients: dict[str, int]) -> None:
        self._path, self._declared = path, declared_patients
        self._local = threading.local()

    def __call__(self, site: str, step: str, number: int, data: bytes) -> bytes:
        """Return a site's payload, or raise `NotReleased`."""
        if not hasattr(self._local, "connection"):
            self._local.connection = connect(self._path)
        question = AskSite(site=site, step=_STEP_OF_NAME[step], round=number)
        reply, payload = exchange(self._local.connection, question, data)
        if isinstance(reply, Payload):
            self._declared[site] = reply.declared_patients
            return payload
        raise NotReleased(reply.code if isinstance(reply, Nothing) else "away")


_STEP_OF_NAME: dict[str, StepName] = {"train": "train", "evaluate": "evaluate"}


def connect(path: Path) -> socket.socket:
    """Connect to the coordinator's main process."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(path))
    return connection


def build_app(grid: LinkGrid, study: Study, folder: Path, control: socket.socket) -> ServerApp:
    """Return the ServerApp that trains and evaluates a study, from the checkpoint in its folder on if there is one."""
    app = ServerApp()
    sites = [grid.site_of(node) for node in grid.get_node_ids()]
    quorum = quorum_of(study, sites)

    @app.main()
    def main(_grid: Grid, _context: Context) -> None:
        strategy = strategy_for(study, len(sites))
        state = StrategyState(strategy)
        weights, own = model_of(study).start(study), OwnWeights(own_weights_of(study))
        average = WeightAverage(study)
        done: list[CompletedRound] = []
        if (checkpoint := load_checkpoint(folder, study.digest)) is not None:
            state.put_back(checkpoint.arrays, checkpoint.notes.strategy)
            own.put_back(checkpoint.arrays)
            average.put_back(checkpoint.arrays)
            weights, done = checkpoint.weights, rounds_of(checkpoint.notes.rounds)
        course = Course(
            rounds=study.rounds,
            counts_with=quorum.holds,
            spare=study.spare_rounds,
            completed=len(done),
            number=done[-1].number if done else 0,
        )
        try:
            start = time.monotonic()
            for trained in train_rounds(grid, strategy, weights, course, own):
                done.append(CompletedRound(trained.round, trained.number, trained.absent))
                arrays, shapes = state.take()
                notes = Notes(
                    study=study.digest,
                    rounds=spans_of(done),
                    releases=release_names(study.digest, trained.number, trained.asked),
                    strategy=shapes,
                )
                average.after(trained.round, trained.weights)
                sha256 = store_checkpoint(folder, notes, trained.weights, arrays | own.take() | average.take())
                now = time.monotonic()
                exchange(
                    control,
                    RoundDone(
                        round=trained.round,
                        number=trained.number,
                        absent=trained.absent,
                        checkpoint_sha256=sha256,
                        seconds=now - start,
                    ),
                )
                weights, start = trained.weights, now
            weights = average.of(weights)
            counts, absent = evaluate_model(grid, strategy, weights, quorum.holds)
        except SiteMissing as missing:
            exchange(control, Halted(round=(len(done) + 1) % (course.rounds + 1), absent=missing.absent))
            return
        replace_file(folder / MODEL, model_bytes(weights, study, len(done)))
        released = {
            site: {cell: float(str(count)) for cell, count in figures.items() if cell != EXAMPLES}
            for site, figures in counts.items()
        }
        exchange(control, Finished(absent=absent), canonical_bytes(released))

    return app


def release_names(
    study: Digest, number: int, asked: Mapping[str, NDArray[np.float64]]
) -> dict[str, tuple[Digest, ...]]:
    """Return the name of each site's training release of a number, for the model that it was asked with."""
    return {site: (_release_name(site, study, number, weights),) for site, weights in asked.items()}


def _release_name(site: str, study: Digest, number: int, weights: NDArray[np.float64]) -> Digest:
    digest = input_digest(encode_weights(weights))
    return ReleaseIdentity(site=site, study=study, step="train", round=number, input_digest=digest).digest


def main(arguments: list[str]) -> None:
    """Run the ServerApp; ends at once when standard input closes."""
    path, folder = Path(arguments[0]), Path(arguments[1])
    logging.getLogger("flwr").setLevel(logging.WARNING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    control = connect(path)
    reply, signed = exchange(control, Begin())
    if not isinstance(reply, Start):
        raise SystemExit("the coordinator's main process has no study to run")
    study = open_signed_study(signed).study
    set_task_identity(run_id=int(study.digest[:12], 16))
    declared: dict[str, int] = {}
    grid = LinkGrid(reply.sites, SocketAsk(path, declared), StudyCodec(study, declared))
    context = Context(run_id=grid.run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config={})
    try:
        build_app(grid, study, folder, control)(grid, context)
    finally:
        grid.close()


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
