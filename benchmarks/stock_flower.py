"""A plain Flower deployment, as its documentation has a new user start one: what a round takes and a node holds.

One `flower-superlink`, a `flower-supernode` for each site and `flwr run`, in the default isolation, without TLS, as in
Flower's guide "Run Flower with the Deployment Engine". The app (`stock_app`) does one step of logistic regression with
torch on the same tables; there is no privacy, no gate and no ledger. What would only make it slower or ask the network
is off: reports to its makers, the look for updates, the fetching of an app's dependencies, and the evaluation that
Flower does after every round. Each round is timed by the ServerApp, from model to model.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
from process_memory import Memory, watched_memory

from fedhealth.records.table import Records

APP = Path(__file__).resolve().parent / "stock_app"
PROGRAMS = Path(sys.executable).parent
_START_SECONDS, _STOP_SECONDS = 60.0, 10.0
ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


@dataclass(frozen=True)
class StockRun:
    """What a run took.

    Attributes:
        seconds: of each round.
        memory: of each node and everything it started.
    """

    seconds: list[float]
    memory: dict[str, Memory]


def run_stock(folder: Path, sites: Mapping[str, Records], learning_rate: float, rounds: int) -> StockRun:
    """Train over all sites on a deployment of its own, which is gone when this returns.

    Args:
        folder: where its files go; must not exist.
        sites: the records of each; a column of ones is put beside their features, for the intercept.
        learning_rate: of a step.
        rounds: how many.
    """
    folder.mkdir()
    shutil.copytree(APP, folder / "app", ignore=shutil.ignore_patterns("__pycache__"))
    (superlink, *ports) = free_ports(1 + len(sites))
    address = f"127.0.0.1:{superlink}"
    home = folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "stock"\n\n[superlink.stock]\naddress = "{address}"\ninsecure = true\n'
    )
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(_running(folder / f"{name}.log", home, arguments))

        start(
            *("superlink", "flower-superlink", "--insecure", "--port", str(superlink)),
            "--disable-runtime-dependency-installation",
        )
        _wait_for_port(superlink)
        nodes: dict[str, psutil.Process] = {}
        for (site, records), port in zip(sites.items(), ports, strict=True):
            table = folder / f"{site}.npz"
            np.savez(table, features=with_ones(records.features), labels=records.labels)
            node = start(
                *(site, "flower-supernode", "--insecure", "--superlink", address, "--port", str(port)),
                *("--node-config", f'table="{table}"'),
            )
            nodes[site] = psutil.Process(node.pid)
        memory = stack.enter_context(watched_memory(lambda: {site: [node] for site, node in nodes.items()}))
        times = folder / "times"
        given: dict[str, object] = {
            "rounds": rounds,
            "nodes": len(sites),
            "weights": next(iter(sites.values())).features.shape[1] + 1,
            "learning-rate": learning_rate,
            "times": f'"{times}"',
        }
        start(
            *("run", "flwr", "run", str(folder / "app"), "stock"),
            *("--run-config", " ".join(f"{name}={value}" for name, value in given.items())),
        )
        moments = _moments(times, rounds, folder)
    return StockRun([end - begin for begin, end in pairwise(moments)], memory)


def with_ones(features: np.ndarray) -> np.ndarray:
    """Return features, shape (n, d), with a column of ones after them."""
    return np.hstack([features, np.ones((len(features), 1))])


def _moments(times: Path, rounds: int, folder: Path) -> Sequence[float]:
    deadline = time.monotonic() + _START_SECONDS + 60 * rounds
    while time.monotonic() < deadline:
        if times.exists() and len(lines := times.read_text().splitlines()) > rounds:
            return [float(line) for line in lines]
        time.sleep(0.2)
    raise SystemExit("the stock deployment did not finish: " + (folder / "superlink.log").read_text()[-2000:])


@contextmanager
def _running(log: Path, home: Path, arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of Flower's programs; it and everything it started are gone when this is left."""
    path = f"{PROGRAMS}:{os.environ['PATH']}"  # Flower starts its own programs by name
    with log.open("wb") as file:
        process = subprocess.Popen(
            [PROGRAMS / arguments[0], *arguments[1:]],
            stdout=file,
            stderr=file,
            env={**os.environ, **ENVIRONMENT, "FLWR_HOME": str(home), "PATH": path},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        every = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        psutil.wait_procs(every, timeout=_STOP_SECONDS)
        for each in every:
            if each.is_running():
                each.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listened at a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing listens at port {port}") from None
            time.sleep(0.1)
