"""How fast a study is simulated, how much memory that takes, and the same work in Flower's own simulation engine.

Two targets: the four heart hospitals for 30 rounds, after import; and 1,000 hospitals of 100 patients for 10 rounds,
from the CSV file to the report, with every process counted. The hospitals of the second are drawn from the same four
tables with replacement.

Flower's engine (`flwr.simulation`, on Ray) trains the same hospitals with the same step functions, clip, noise and
strategy. It has no gate, ledger, witness, evaluation or report there, so it does less. Both do `--compare` hospitals
of 100 patients for 10 rounds, in the same run, one after the other; start-up is counted on both sides.

Run: .venv/bin/python benchmarks/simulate.py [--compare 100]
For the comparison: pip install 'flwr[simulation]==1.41.0'
"""

import argparse
import csv
import importlib.util
import logging
import random
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from fedhealth.flower.rounds import arrays_of, weights_of
from fedhealth.flower.strategies import strategy_for
from fedhealth.learning.plan import model_update, plan_study
from fedhealth.learning.steps import STEPS
from fedhealth.privacy.stream import UnsafeFixedNoiseSecret
from fedhealth.records.table import Records, prepare_records, read_table
from fedhealth.simulation.hospitals import Split, split_table
from fedhealth.simulation.run import simulate_table, with_rounds
from fedhealth.study.protocol import Study, load_study
from fedhealth.training.per_patient import make_deterministic

ROOT = Path(__file__).resolve().parents[1]
SPLIT = Split("hospital", "patient")
PATIENTS, ROUNDS = 100, 10
HEART_SECONDS, MANY_SECONDS, MANY_GIB = 5.0, 60.0, 2.0


def main() -> None:
    """Print each figure with its target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=1000)
    parser.add_argument("--compare", type=int, default=100)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    study = load_study(ROOT / "protocols" / "heart-disease-diagnosis.toml")
    rows = heart_rows()
    with tempfile.TemporaryDirectory(prefix="fedhealth-bench-") as made:
        folder = Path(made)
        heart = write_table(folder / "heart.csv", rows)
        seconds, cpu, _ = measured(heart, with_rounds(study, 30), folder / "heart")
        print(f"four hospitals, 30 rounds: {seconds:.1f} s after import {target(seconds, HEART_SECONDS, 's')}")
        print(f"  of the processor: {cpu:.1f} s")
        many = write_table(folder / "many.csv", drawn(rows, options.sites))
        seconds, cpu, gib = measured(many, with_rounds(study, ROUNDS), folder / "many")
        work = f"hospitals of {PATIENTS}, {ROUNDS} rounds"
        print(f"{options.sites} {work}: {seconds:.1f} s {target(seconds, MANY_SECONDS, 's')}")
        print(f"  of the processors: {cpu:.1f} s, so that a busy machine can be told from a slow program")
        print(f"  all processes together: {gib:.2f} GiB {target(gib, MANY_GIB, 'GiB')}")
        if importlib.util.find_spec("ray") is None:
            print("Flower's simulation engine: not installed (pip install 'flwr[simulation]==1.41.0')")
            return
        some = write_table(folder / "some.csv", drawn(rows, options.compare))
        ours, _, _ = measured(some, with_rounds(study, ROUNDS), folder / "some")
        theirs = in_flower(some, with_rounds(study, ROUNDS), folder)
        print(f"{options.compare} {work}: here {ours:.1f} s, Flower's engine {theirs:.1f} s")
        print(f"  ratio {theirs / ours:.1f} (above 1: this is faster)")


def target(measured_value: float, wanted: float, unit: str) -> str:
    """Say whether a target is met."""
    return f"(target: at most {wanted:g} {unit}) {measured_value <= wanted}"


def measured(table: Path, study: Study, folder: Path) -> tuple[float, float, float]:
    """Return seconds from the file to the report, those of all processors, and the most GiB held together."""
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            most[0] = max(most[0], proportional_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, before = time.perf_counter(), processor_seconds()
    try:
        simulate_table(study, table, SPLIT, folder)
    finally:
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    return seconds, processor_seconds() - before, most[0] / 2**30


def processor_seconds() -> float:
    """Return what this process and its children that have ended have used."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def proportional_bytes() -> int:
    """Return the memory of this process and its children, what several share counted once."""
    own = psutil.Process()
    total = 0
    for process in (own, *own.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def heart_rows() -> list[dict[str, str]]:
    """Return the rows of the four hospitals, each with its hospital and a patient of its own."""
    rows = []
    for file in sorted((ROOT / "sites").glob("*/patients.csv")):
        with file.open(encoding="utf-8", newline="") as opened:
            rows += [
                {"hospital": file.parent.name, "patient": f"{file.parent.name}-{row['id']}", **row}
                for row in csv.DictReader(opened)
            ]
    return rows


def drawn(rows: list[dict[str, str]], sites: int) -> list[dict[str, str]]:
    """Return rows of so many hospitals, drawn with replacement."""
    draw = random.Random(1)  # noqa: S311 - no secret
    return [
        {**draw.choice(rows), "hospital": f"h{site:04}", "patient": f"{site}-{number}"}
        for site in range(sites)
        for number in range(PATIENTS)
    ]


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def in_flower(table: Path, study: Study, folder: Path) -> float:
    """Return seconds that Flower's simulation engine takes for the training rounds of the same hospitals."""
    from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    start = time.perf_counter()
    hospitals = split_table(read_table(table, strict=True), study, SPLIT).sites
    for place, site in enumerate(hospitals):
        training, _ = prepare_records(site.table, study, "patient", site.split_key, strict=True)
        np.savez(folder / f"{place}.npz", x=training.features, y=training.labels, p=training.patients)
    protocol = study.model_dump_json()
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        make_deterministic()
        own = Study.model_validate_json(protocol)
        place = int(context.node_config["partition-id"])
        data = np.load(folder / f"{place}.npz")
        records = Records(data["x"], data["y"], data["p"], int(data["p"].max()) + 1)
        weights = weights_of(message.content.array_records["arrays"])
        number = message.content.config_records["config"]["server-round"]
        streams = UnsafeFixedNoiseSecret(place)
        payload, _ = STEPS["train"](
            plan_study(own)["train"], weights, records, lambda purpose: streams.stream(str(number), purpose)
        )
        updated = arrays_of(weights + model_update(payload, own, PATIENTS))
        metrics = MetricRecord({"num-examples": float(PATIENTS)})
        return Message(RecordDict({"arrays": updated, "metrics": metrics}), reply_to=message)

    @server.main()
    def run(grid: Grid, _context: Context) -> None:
        strategy = strategy_for(study, len(hospitals))
        arrays = arrays_of(np.zeros(study.dimension + 1))
        for number in range(1, study.training.rounds + 1):
            messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
            replies = list(grid.send_and_receive(messages))
            if any(reply.has_error() for reply in replies) or len(replies) != len(hospitals):
                raise RuntimeError("a client of Flower's engine failed")
            combined, _ = strategy.aggregate_train(number, replies)
            assert combined is not None
            arrays = combined

    run_simulation(
        server, client, len(hospitals), backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
