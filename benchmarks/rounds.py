"""Overhead of a round: real processes, four hospitals or many made-up sites, and where the time goes.

Gate, mutual TLS, witness and durable ledger are on. Overhead is the time of a round less the compute time of the
slowest gate; the public `reply_after` is part of the overhead, because it is waiting. The same rounds in one process,
without link, node and waiting, are the alternative in the same run: what the border costs is the difference.

With `--sites N`, N made-up sites take part, several to a process (`many_sites.py`). With `--engines`, the four
hospitals train over the link, over a stock SuperLink (`engine = "superlink"`) and over a plain Flower deployment
(`stock_flower.py`), one after the other. `--folder` says where all files are; in a folder that is kept in memory a
flush costs nothing.

Run: .venv/bin/python benchmarks/rounds.py [--rounds 40] [--sites 100 | --engines] [--folder /dev/shm]
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from made_up_site import MEMORY
from many_sites import run_many, set_up_many
from process_memory import Memory, watched_memory
from rich.console import Console
from round_spans import Spans, watched
from stock_flower import run_stock

from fedhealth.demo.federation import Federation, set_up
from fedhealth.demo.run import run_processes
from fedhealth.learning.plan import plan_study
from fedhealth.learning.steps import STEPS
from fedhealth.link.engine import Engine
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.stream import UnsafeFixedNoiseSecret
from fedhealth.records.table import Records, prepare_records, read_table
from fedhealth.simulation.gates import SimulatedSite
from fedhealth.simulation.in_process import InProcessFederation

ROOT = Path(__file__).resolve().parents[1]
TARGET_SECONDS, TARGET_MANY_SECONDS = 0.05, 1.0
TARGET_OF_STOCK = 0.5
"""Seconds of a round over a stock SuperLink, as a part of those of a plain Flower deployment."""
STOCK_ROUNDS = 3
"""Of the plain Flower deployment; each takes seconds."""

OTHERS = "others, measured elsewhere on trivial models: Fed-BioMed 0.26 s, NVFlare 2.5 s, stock Flower 12 s a round"


def main() -> None:
    """Print medians in milliseconds, the phases of a round, and whether the target is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sites", type=int, help="made-up sites; the four hospitals if left out")
    which.add_argument("--engines", action="store_true", help="compare engines, with the four hospitals")
    parser.add_argument("--folder", type=Path, help="where all files are")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    with (
        tempfile.TemporaryDirectory(prefix="fh-", dir=asked.folder) as name,
        tempfile.TemporaryDirectory(prefix="fh-", dir=MEMORY) as beside,  # the spans shall not load the disk
    ):
        folder, spans = Path(name), Path(beside) / "spans"
        print(f"a flush in {folder.parent}: {flush_seconds(folder) * 1e3:.2f} ms; load {os.getloadavg()[0]:.1f}")
        protocol = folder / "protocol.toml"
        text = (ROOT / "protocols" / "heart-disease-diagnosis.toml").read_text()
        rounds = asked.rounds or (10 if asked.sites or asked.engines else 40)
        protocol.write_text(text.replace("rounds = 20\n", f"rounds = {rounds}\n"))
        if asked.engines:
            engines(folder, protocol)
        elif asked.sites:
            many(folder, protocol, asked.sites, spans)
        else:
            hospitals(folder, protocol, spans)


def hospitals(folder: Path, protocol: Path, spans: Path) -> None:
    """Print the overhead with the four hospitals."""
    federation = set_up(folder / "run", protocol, ROOT / "sites")
    seconds: list[float] = []
    with watched(spans):
        run_processes(
            federation,
            Console(quiet=True),
            on_event=lambda event: seconds.append(event["seconds"]) if event["event"] == "round" else None,
        )
    compute, inside = slowest_compute(federation), in_process(federation)
    say_rounds(federation, seconds)
    print(f"slowest gate's compute       median {compute * 1e3:7.1f} ms")
    print(f"public reply_after                  {reply_after(federation):7.1f} ms (part of the overhead)")
    print(f"same rounds in one process   median {inside * 1e3:7.1f} ms (no link, no node, no waiting)")
    overhead = statistics.median(seconds) - compute
    goal = f"target: at most {TARGET_SECONDS * 1e3:.0f}"
    print(f"overhead                     median {overhead * 1e3:7.1f} ms  ({goal}) {overhead <= TARGET_SECONDS}")
    print(OTHERS)
    say_phases(spans, federation)


def engines(folder: Path, protocol: Path) -> None:
    """Print the seconds of a round over each engine, and what a site's processes hold in memory."""
    seconds: dict[str, list[float]] = {}
    memory: dict[str, dict[str, Memory]] = {}
    for engine in Engine:
        federation = set_up(folder / engine.value, protocol, ROOT / "sites")
        seconds[engine.value], memory[engine.value] = over_processes(federation, engine)
    stock = run_stock(
        folder / "stock", training_records(federation), federation.study.training.learning_rate, STOCK_ROUNDS
    )
    seconds["stock"], memory["stock"] = stock.seconds, stock.memory
    print(f"{len(federation.sites)} sites, {federation.study.dimension + 1} weights")
    print(f"{'engine':<10}{'rounds':>8}{'seconds a round':>20}{'MiB of a site: PSS':>22}{'RSS':>6}{'processes':>12}")
    for engine, each in seconds.items():
        sites = memory[engine].values()
        pss, rss = max(max(site.pss) for site in sites), max(max(site.rss) for site in sites)
        print(
            f"{engine:<10}{len(each):>8}{statistics.median(each):>20.3f}{pss:>22.0f}{rss:>6.0f}"
            f"{max(max(site.processes) for site in sites):>12}"
        )
    print("seconds: median; memory: the most that was seen at one site at once, from its start on")
    ratio = statistics.median(seconds[Engine.SUPERLINK]) / statistics.median(seconds["stock"])
    print(f"superlink / stock: {ratio:.2f}  (target: at most {TARGET_OF_STOCK}) {ratio <= TARGET_OF_STOCK}")


def over_processes(federation: Federation, engine: Engine) -> tuple[list[float], dict[str, Memory]]:
    """Run a federation as real processes; return the seconds of its rounds and what its sites held."""
    seconds: list[float] = []

    def of_sites() -> dict[str, list[psutil.Process]]:
        started = [(each, _command(each)) for each in psutil.Process().children()]
        return {
            site.file.id: [each for each, command in started if str(site.state.root) in command]
            for site in federation.sites
        }

    with watched_memory(of_sites) as memory:
        run_processes(
            federation,
            Console(quiet=True),
            on_event=lambda event: seconds.append(event["seconds"]) if event["event"] == "round" else None,
            engine=engine,
        )
    return seconds, memory


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def training_records(federation: Federation) -> dict[str, Records]:
    """Return each site's training side."""
    found = {}
    for site in federation.sites:
        table = read_table(site.file.data_set.file, strict=True)
        key = site.state.split_key(site.file.split_key)
        found[site.file.id], _ = prepare_records(
            table, federation.study, site.file.data_set.patient_column, key, strict=True
        )
    return found


def many(folder: Path, protocol: Path, sites: int, spans: Path) -> None:
    """Print the seconds of a round with many made-up sites."""
    federation = set_up_many(folder, protocol, ROOT / "sites", sites)
    with watched(spans):
        seconds = list(run_many(federation))
    say_rounds(federation, seconds)
    median, goal = statistics.median(seconds), f"target: at most {TARGET_MANY_SECONDS * 1e3:.0f}"
    print(f"public reply_after                  {reply_after(federation):7.1f} ms (part of the round)")
    print(f"target                              {goal}: {median <= TARGET_MANY_SECONDS}")
    say_phases(spans, federation)


def say_rounds(federation: Federation, seconds: Sequence[float]) -> None:
    """Print how long rounds took."""
    late = sorted(seconds)[int(0.95 * len(seconds))]
    print(f"{len(seconds)} rounds, {len(federation.sites)} sites, {federation.study.dimension + 1} weights")
    print(f"round                        median {statistics.median(seconds) * 1e3:7.1f} ms   95 % {late * 1e3:7.1f} ms")


def say_phases(folder: Path, federation: Federation) -> None:
    """Print the phases of a round along the site that answered last, and what each takes of it."""
    rounds = Spans(folder).phases([site.file.id for site in federation.sites])
    means = {name: statistics.fmean(each[name] for each in rounds) for name in rounds[0]}
    print(f"\nwhere it goes, along the site that answers last{'mean':>10}{'share':>13}")
    for name, mean in means.items():
        print(f"{name:<45}{mean * 1e3:9.1f} ms{mean / sum(means.values()):11.0%}")


def flush_seconds(folder: Path) -> float:
    """Return the median seconds of making 4 KiB durable in a folder."""
    trials = []
    with (folder / "flush").open("wb") as file:
        for _ in range(50):
            os.pwrite(file.fileno(), bytes(4096), 0)
            start = time.perf_counter()
            os.fsync(file.fileno())
            trials.append(time.perf_counter() - start)
    return statistics.median(trials)


def slowest_compute(federation: Federation) -> float:
    """Return the median seconds of one training step at the site where that is longest, on its real records."""
    step = plan_study(federation.study)["train"]
    medians = []
    for training in training_records(federation).values():
        streams = partial(UnsafeFixedNoiseSecret(0).stream, "benchmark")
        trials = []
        for _ in range(50):
            start = time.perf_counter()
            STEPS["train"](step, np.zeros(step.input_length), training, streams)
            trials.append(time.perf_counter() - start)
        medians.append(statistics.median(trials))
    return max(medians)


def in_process(federation: Federation) -> float:
    """Return the median seconds of a round without link, node and waiting."""
    sites = [
        SimulatedSite(
            site.file, read_table(site.file.data_set.file, strict=True), site.state.split_key(site.file.split_key), i
        )
        for i, site in enumerate(federation.sites)
    ]
    simulated = InProcessFederation(federation.study, sites)
    seconds, start = [], time.perf_counter()
    for _ in simulated.train():
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    simulated.close()
    return statistics.median(seconds)


def reply_after(federation: Federation) -> int:
    """Return the longest public duration of a training reply among the sites, in milliseconds."""
    durations = []
    for site in federation.sites:
        ledger = Ledger.open(site.state.ledger, site.file.id, site.state.ledger_key())
        durations.append(ledger.account.approved[federation.study.digest].reply_after_ms["train"])
        ledger.close()
    return max(durations)


if __name__ == "__main__":
    main()
