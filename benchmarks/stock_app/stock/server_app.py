"""Federated averaging by Flower's own loop; writes down when each round was over."""

import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and append the seconds of a clock to a file before the first round and after each."""
    given, nodes = context.run_config, int(str(context.run_config["nodes"]))
    times = Path(str(given["times"]))

    def round_over(_round: int, _arrays: ArrayRecord) -> MetricRecord | None:
        with times.open("a") as file:
            file.write(f"{time.monotonic()}\n")
        return None

    # Every node has connected before the first round begins, so that no round waits for one to appear.
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"weights": Array(np.zeros(int(str(given["weights"]))))}),
        num_rounds=int(str(given["rounds"])),
        train_config=ConfigRecord({"learning-rate": float(str(given["learning-rate"]))}),
        evaluate_fn=round_over,
    )
