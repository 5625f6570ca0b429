"""The Flower ServerApp of one study, in a process of its own.

Flower keeps the identity of a run in process-wide state, so each study's ServerApp has its own process. It holds no
key and no certificate; it reaches sites only through the coordinator's main process, round by round, and stores each
round's model durably before that process may acknowledge the round to the sites.

Run as `python -m fedhealth.coordinator.server_app SOCKET FOLDER`.
"""

import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import safetensors.numpy
from flwr.app import Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp

from fedhealth.canonical import canonical_bytes
from fedhealth.coordinator.app_frames import (
    AskSite,
    Begin,
    Failed,
    Finished,
    Nothing,
    Payload,
    RoundDone,
    Start,
    exchange,
)
from fedhealth.coordinator.run_folder import MODEL
from fedhealth.flower.link_grid import LinkGrid, NotReleased, set_task_identity
from fedhealth.flower.rounds import (
    EXAMPLES,
    SiteMissing,
    arrays_of,
    evaluate_model,
    strategy_for,
    train_rounds,
    weights_of,
)
from fedhealth.learning.evaluation import counts_of
from fedhealth.learning.plan import decode_release, encode_weights, model_update, plan_study
from fedhealth.privacy.release import StepName
from fedhealth.secret_file import replace_file
from fedhealth.study.protocol import Study
from fedhealth.study.signature import open_signed_study

CHECKPOINT_FILE = "checkpoint.safetensors"

_STEP_OF: dict[str, StepName] = {MessageType.TRAIN: "train", MessageType.EVALUATE: "evaluate"}


class StudyCodec:
    """What Flower's messages mean in bytes for one study.

    Args:
        study: the protocol.
        declared_patients: each site's public figure.
    """

    def __init__(self, study: Study, declared_patients: dict[str, int]) -> None:
        self._study, self._declared, self._plan = study, declared_patients, plan_study(study)

    def encode(self, message: Message) -> tuple[str, int, bytes]:
        """Return the step, the round and the model's weights as bytes."""
        number = message.content.config_records["config"]["server-round"]
        weights = weights_of(message.content.array_records["arrays"])
        return _STEP_OF[message.metadata.message_type], int(str(number)), encode_weights(weights)

    def decode(self, site: str, message: Message, payload: bytes) -> RecordDict:
        """Return new weights with their public weight, or the noisy counts of an evaluation.

        Raises:
            NotReleased: the payload is not of this step; the site does not keep the protocol.
        """
        step = _STEP_OF[message.metadata.message_type]
        if len(payload) != 8 * self._plan[step].mechanism.dimension:
            raise NotReleased("away")
        figures: dict[str, float] = {EXAMPLES: float(self._declared[site])}
        if step == "train":
            weights = weights_of(message.content.array_records["arrays"])
            updated = weights + model_update(payload, self._study, self._declared[site])
            return RecordDict({"arrays": arrays_of(updated), "metrics": MetricRecord(dict(figures))})
        counts = decode_release(payload, self._plan["evaluate"].mechanism)
        figures.update(counts_of(self._study, counts))
        return RecordDict({"metrics": MetricRecord(dict(figures))})


class SocketAsk:
    """Asks sites through the coordinator's main process; one connection per thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    def __call__(self, site: str, step: str, number: int, data: bytes) -> bytes:
        """Return a site's payload, or raise `NotReleased`."""
        if not hasattr(self._local, "connection"):
            self._local.connection = connect(self._path)
        question = AskSite(site=site, step=_STEP_OF_NAME[step], round=number)
        reply, payload = exchange(self._local.connection, question, data)
        if isinstance(reply, Payload):
            return payload
        raise NotReleased(reply.code if isinstance(reply, Nothing) else "away")


_STEP_OF_NAME: dict[str, StepName] = {"train": "train", "evaluate": "evaluate"}


def connect(path: Path) -> socket.socket:
    """Connect to the coordinator's main process."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(path))
    return connection


def store_model(path: Path, weights: "np.typing.NDArray[np.float64]", study: str, completed: int) -> None:
    """Write the weights so that after a crash the file is the old one or the new one, whole.

    Equal models give equal bytes: safetensors writes several metadata keys in any order, so there is one.
    """
    notes = canonical_bytes({"study": study, "rounds": completed}).decode()
    data = safetensors.numpy.save({"weights": weights}, metadata={"fedhealth": notes})
    replace_file(path, data)


def build_app(grid: LinkGrid, study: Study, folder: Path, control: socket.socket) -> ServerApp:
    """Return the ServerApp that trains and evaluates a study."""
    app = ServerApp()

    @app.main()
    def main(_grid: Grid, _context: Context) -> None:
        strategy = strategy_for(study, len(list(grid.get_node_ids())))
        weights = np.zeros(plan_study(study)["train"].input_length)
        completed = 0
        try:
            start = time.monotonic()
            for number, trained in train_rounds(grid, strategy, weights, study.training.rounds):
                weights = trained
                store_model(folder / CHECKPOINT_FILE, weights, study.digest, number)
                now = time.monotonic()
                exchange(control, RoundDone(round=number, seconds=now - start))
                completed, start = number, now
            counts = evaluate_model(grid, strategy, weights)
        except SiteMissing as missing:
            exchange(control, Failed(round=completed + 1, absent=missing.absent))
            return
        store_model(folder / MODEL, weights, study.digest, completed)
        (folder / CHECKPOINT_FILE).unlink()
        exchange(
            control,
            Finished(
                counts={
                    site: {cell: float(str(count)) for cell, count in figures.items() if cell != EXAMPLES}
                    for site, figures in counts.items()
                }
            ),
        )

    return app


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
    grid = LinkGrid(list(reply.declared_patients), SocketAsk(path), StudyCodec(study, reply.declared_patients))
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
