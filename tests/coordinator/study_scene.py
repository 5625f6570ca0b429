"""A coordinator and its sites in one process: real gates, ledgers, witness, store and ServerApp; no network.

A process is killed by its parts: from that moment on every one of its effects raises `Killed`, so that nothing that it
would still have done happens. What is durable stays, and whoever is started next finds that alone.
"""

import asyncio
import contextlib
import logging
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, RecordDict

from fedhealth.coordinator import round_checkpoint, server_app
from fedhealth.coordinator.app_frames import Begin, exchange
from fedhealth.coordinator.app_process import _serve
from fedhealth.coordinator.asking import Asker
from fedhealth.coordinator.publishing import Publisher
from fedhealth.coordinator.store.database import open_database
from fedhealth.coordinator.store.runs import Runs
from fedhealth.coordinator.store.studies import Studies
from fedhealth.coordinator.study_run import StudyRun
from fedhealth.coordinator.witness import PinnedSite, Witness
from fedhealth.errors import LinkUnavailable
from fedhealth.flower.link_grid import LinkGrid, set_task_identity
from fedhealth.learning.plan import encode_release, envelope_of
from fedhealth.learning.steps import STEPS
from fedhealth.link.frames import MAX_FRAME_BYTES
from fedhealth.link.services import away
from fedhealth.policy.site_file import SiteFile
from fedhealth.privacy.entries import Approved
from fedhealth.records.split import sides_of
from fedhealth.records.table import read_table
from fedhealth.signing import public_key_hex
from fedhealth.simulation.gates import SimulatedSite, open_gate
from fedhealth.simulation.in_process import InProcessFederation
from fedhealth.site.gate_inputs import Clock
from fedhealth.study.protocol import Study
from fedhealth.study.signature import open_signed_study, sign_study

logging.getLogger("flwr").setLevel(logging.WARNING)
CLOCK = Clock(monotonic=time.monotonic, unix_ms=lambda: time.time_ns() // 10**6)
RESEARCHER = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
PROTOCOL = {
    "format": 1,
    "name": "small",
    "title": "A small study",
    "task": "diagnosis",
    "purpose": "To test the coordinator.",
    "legal_basis": "Made-up records.",
    "data_set": "ward",
    "max_records_per_patient": 1,
    "features": [{"kind": "number", "column": "age", "unit": "years", "range": [0, 100], "impute": 50}],
    "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0, "positive": "is ill"},
    "model": {"kind": "logistic-regression"},
    "training": {
        "rounds": 2,
        "learning_rate": 0.5,
        "l2_clip_norm": 1.0,
        "strategy": {"kind": "fedavgm", "server_momentum": 0.5},
    },
    "evaluation": {"held_out_fraction": 0.25},
    "privacy": {"unit": "patient", "delta": 1e-4, "training_epsilon": 2.0, "evaluation_epsilon": 2.0},
}


def study_of(**changed):
    return Study.model_validate(PROTOCOL | changed)


class Killed(BaseException):
    """What a process that is gone meets wherever it would have had an effect."""


class Points:
    """The points at which a process may be killed; counts them, and kills at one, or where a condition holds."""

    def __init__(self, kill_at=None, kill_when=lambda process, name: False):
        self.names, self.kill_at, self.kill_when = [], kill_at, kill_when
        self.dead, self.lock = set(), threading.Lock()
        self.on_death = lambda: None

    def reach(self, process, name):
        with self.lock:
            if process in self.dead:
                raise Killed
            self.names.append((process, name))
            if len(self.names) == self.kill_at or self.kill_when(process, name):
                self.dead.add(process)
                if process == "main":
                    self.dead.add("app")  # it ends with its parent
                self.on_death()
                raise Killed

    def around(self, process, name, function):
        def watched(*arguments, **named):
            self.reach(process, f"before {name}")
            result = function(*arguments, **named)
            self.reach(process, f"after {name}")
            return result

        return watched


def depends_on_every_bit(step, weights, records, streams):
    """Compute what changes with the question, and with the noise key."""
    values = np.frombuffer(weights.tobytes(), np.uint8).astype(np.int64)
    base = np.resize(values, step.mechanism.dimension) * 10
    return encode_release(step.mechanism.add_noise(base, streams("noise"))), 0


def as_a_gate_does(step, weights, records, streams):
    """Compute what the step is for."""
    return STEPS[step.name](step, weights, records, streams)


def written_table(folder, name):
    """Write a hospital's table, and return where it is."""
    table = folder / f"{name}.csv"
    table.write_text("id,age,ill\n" + "".join(f"p{row},{row % 90},{row % 2}\n" for row in range(60)))
    return table


class Hospital:
    """A site: a gate with its ledger, and how the link to it is."""

    def __init__(self, folder, name, study, witness_key, seed, computes=depends_on_every_bit, write=written_table):
        table = write(folder, name)
        file = SiteFile.model_validate(
            {
                "id": name,
                "title": name,
                "data_set": {"name": "ward", "file": table, "patient_column": "id", "declared_patients": 60},
            }
        )
        compute = {"train": computes, "evaluate": computes}
        self.site = SimulatedSite(file, read_table(table, strict=True), bytes(32), seed)
        self.gate, self.ledger = open_gate(self.site, study, folder, RESEARCHER, witness_key, CLOCK, compute)
        self.name, self.connected, self.delay = name, True, None
        self.frames = []

    async def answer(self, frame):
        self.frames.append(frame)
        if self.delay is not None:
            await self.delay(frame)
        if not self.connected:
            raise LinkUnavailable("cut")
        return self.gate.handle(frame).frame

    def approve(self, signed):
        """Approve a study here, as an administrator does; the budget may say no."""
        study = open_signed_study(signed).study
        budget = self.ledger.created.budgets["ward"]
        self.ledger.append(
            Approved(
                study=study.digest,
                researcher=open_signed_study(signed).researcher,
                data_set="ward",
                sides=sides_of(bytes(32), "id", study.evaluation.held_out_fraction),
                declared_patients=60,
                reply_after_ms={"train": 20, "evaluate": 20},
                envelope=envelope_of(study, budget),
                delta=study.privacy.delta,
                by="anna",
                at=CLOCK.unix_ms(),
            )
        )
        self.gate.prepare(signed)

    def charges(self, study):
        return [self.ledger.account.releases(study.digest, step) for step in ("train", "evaluate")]


class Link:
    """As much of the link's server as a run needs."""

    def __init__(self, hospitals):
        self.hospitals = hospitals

    def connected(self):
        return frozenset(name for name, each in self.hospitals.items() if each.connected)

    async def ask(self, site, _service, frame, _seconds, _longest):
        return await self.hospitals[site].answer(frame)

    async def wait_connected(self, sites, timeout_seconds):
        if not set(sites) <= self.connected():
            raise away("a site", "not all sites connected")


class Hub:
    """The coordinator's main process, from its start to its end."""

    def __init__(self, scene, points):
        self.scene, self.points, self.events = scene, points, []
        self.allow_unsafe_test_sites = scene.for_tests
        self.engine = open_database(scene.folder, scene.database, public_key_hex(scene.key.public_key()))
        self.studies, self.runs = Studies(self.engine), Runs(self.engine)
        pinned = {name: PinnedSite(ledger_key=each.ledger.created.ledger_key) for name, each in scene.sites.items()}
        witness = Witness(scene.folder / "witnessed", pinned, scene.key)
        self.link, self.asker = Link(scene.sites), Asker(self.carry, witness)
        self.publisher = Publisher("demo", pinned, scene.key)
        watch = lambda name, function: points.around("main", name, function)  # noqa: E731
        witness.countersign = watch("countersigning", witness.countersign)
        for name in ("begin", "rewind", "keep_rounds", "keep_counts", "finish"):
            setattr(self.runs, name, watch(name, getattr(self.runs, name)))
        for name in ("move", "answered"):
            setattr(self.studies, name, watch(name, getattr(self.studies, name)))

    @property
    def sites(self):
        return tuple(sorted(self.scene.sites))

    def unix_ms(self):
        return CLOCK.unix_ms()

    def on_event(self, event):
        self.events.append(event)

    async def carry(self, site, frame):
        self.points.reach("main", f"before a frame to {site}")
        reply = await self.scene.sites[site].answer(frame)
        self.points.reach("main", f"after a frame to {site}")
        return reply


class Scene:
    """A federation in a folder.

    Args:
        lying: what some sites compute, by name, instead of what they should.
        draws: whether the report is drawn, which takes a second where there are charts.
        write: writes each hospital's table.
    """

    def __init__(
        self, folder, study, names=("ward-a", "ward-b"), seed=7, key=None, lying=None, draws=False, write=written_table
    ):
        self.folder, self.study, self.for_tests, self.draws = folder, study, True, draws
        self.key, self.database = key or Ed25519PrivateKey.from_private_bytes(b"w" * 32), None
        (folder / "witnessed").mkdir(parents=True, exist_ok=True)
        self.results = folder / "results"
        lying = lying or {}
        self.sites = {
            name: Hospital(folder, name, study, self.key, seed + place, lying.get(name, depends_on_every_bit), write)
            for place, name in enumerate(names)
        }
        self.signed = sign_study(study, RESEARCHER)

    def close(self):
        for site in self.sites.values():
            site.ledger.close()

    def simulated_model(self):
        """Return the weights that a simulation over the same sites ends with."""
        federation = InProcessFederation(self.study, [site.site for site in self.sites.values()])
        with contextlib.closing(federation):
            return [weights for _, weights in federation.train()][-1]

    def new_hub(self, points):
        """Return the main process as it is when it starts."""
        self.hub = Hub(self, points)
        self.hub.studies.submit(open_signed_study(self.signed), self.signed, 30, 1)
        return self.hub

    def run(self, points=None, patience=5.0, during=None):
        """Run the study in one process's life; return its evidence, or None if it was killed."""
        return asyncio.run(self._life(points or Points(), patience, during))

    async def _life(self, points, patience, during):
        loop = asyncio.get_running_loop()
        killed = asyncio.Event()
        points.on_death = lambda: "main" in points.dead and loop.call_soon_threadsafe(killed.set)
        hub = self.new_hub(points)
        known = hub.studies.find(self.study.digest)
        with contextlib.ExitStack() as stack:
            patch(stack, points, self.draws)
            run = StudyRun(hub, known, self.results, hub.publisher, patience)
            work = asyncio.create_task(run.run())
            other = asyncio.create_task(killed.wait())
            beside = asyncio.create_task(during(self)) if during else None
            await asyncio.wait([work, other], return_when=asyncio.FIRST_COMPLETED)
            other.cancel()
            if beside is not None:
                beside.cancel()
            try:
                if killed.is_set():
                    work.cancel()
                    with contextlib.suppress(BaseException):
                        await work
                    return None
                return work.result()
            finally:
                hub.engine.dispose()


def patch(stack, points, draws=False):
    """Have the ServerApp in a thread of this process, and watch what it and the publisher write."""

    def replaced(module, name, value):
        before = getattr(module, name)
        setattr(module, name, value)
        stack.callback(setattr, module, name, before)

    from fedhealth.coordinator import publishing, report, study_run

    replaced(study_run, "run_server_app", lambda output, answer: server_app_in_thread(output, answer, points))
    if not draws:
        replaced(report, "render_report", lambda *_: "drawing takes long, and is looked at elsewhere")
    replaced(study_run, "_FIRST_BACK_OFF_SECONDS", 0.001)
    replaced(study_run, "_PAUSE_SECONDS", 0.01)
    for module, process, name in (
        (round_checkpoint, "app", "replace_file"),
        (server_app, "app", "replace_file"),
        (server_app, "app", "exchange"),
        (publishing, "main", "replace_file"),
        (publishing, "main", "seal_run"),
    ):
        replaced(module, name, points.around(process, name, getattr(module, name)))


async def server_app_in_thread(output, answer, points):
    """As `run_server_app`, in a thread of this process."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    points.dead.discard("app")
    connections = []

    async def serve(reader, writer):
        connections.append(asyncio.current_task())
        with contextlib.suppress(Killed, asyncio.CancelledError):
            await _serve(reader, writer, answer)

    def live(path):
        with contextlib.suppress(BaseException):
            control = server_app.connect(path)
            start, signed = exchange(control, Begin())
            study, declared = open_signed_study(signed).study, {}
            set_task_identity(run_id=1)
            ask, codec = server_app.SocketAsk(path, declared), server_app.StudyCodec(study, declared)
            grid = LinkGrid(start.sites, ask, codec)
            context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
            try:
                server_app.build_app(grid, study, Path(output), control)(grid, context)
            finally:
                grid.close()
                control.close()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set)

    with tempfile.TemporaryDirectory(prefix="fh-") as folder:
        path = Path(folder) / "app.sock"
        server = await asyncio.start_unix_server(serve, path=str(path), limit=MAX_FRAME_BYTES)
        thread = threading.Thread(target=live, args=(path,), daemon=True)
        thread.start()
        try:
            await ended.wait()
        finally:
            points.dead.add("app")
            server.close()
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
            await asyncio.to_thread(thread.join, 5)
    return 0
