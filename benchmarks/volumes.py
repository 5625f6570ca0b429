"""What a private step costs for volumes of 64 x 64 x 64: time and memory of a 3D network, beside a plain step of SGD.

The network is that of a protocol with `kind = "cnn"`. A step is forward, backward and the sum of the gradients, over
one volume a patient and twice as many patients as fit at once; the methods take turns, in one thread, on the same data.
Plain is the faster of one pass over all volumes, and one over as many at a time as ours takes. Time is by the clock,
which is what is judged, and of the processor, which a busy neighbour moves less.

| method | |
|---|---|
| gate | the clipped sum of `training/image_gradients.py`, exact and of proven sensitivity, as a gate computes it |
| one-backward | `BookKeeper.clipped_sum` |
| Opacus | its hooks, a gradient for each patient, and a clip in torch |
| in pieces | as the gate computes a patient whose volumes do not fit at once: each alone; a volume at a time here |

Run: .venv/bin/python benchmarks/volumes.py [--repeats 15]     (two minutes; memory by a process of its own for each)
"""

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from dp_step import verdict
from opacus import GradSampleModule

from fedhealth.learning.models import cnn
from fedhealth.learning.plan import plan_study
from fedhealth.study.protocol import Study
from fedhealth.training.book_keeping import BookKeeper
from fedhealth.training.image_gradients import ImageGradients, rows_at_once
from fedhealth.training.per_patient import make_deterministic

SHAPE, HIDDEN, PATIENTS = (64, 64, 64), (8, 16, 32), 8
TARGET = 1.3
CLIP = 1.0

STUDY = Study.model_validate(
    {
        "format": 1,
        "name": "volumes",
        "title": "Volumes",
        "task": "diagnosis",
        "purpose": "To measure a step.",
        "legal_basis": "Made-up volumes.",
        "data_set": "volumes",
        "max_records_per_patient": 1,
        "features": [
            {"kind": "image", "column": "scan", "shape": SHAPE, "window": [0, 1], "inputs": {"kind": "pixels"}}
        ],
        "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0, "positive": "is ill"},
        "model": {"kind": "cnn", "hidden": HIDDEN},
        "training": {"rounds": 10, "learning_rate": 0.1, "l2_clip_norm": CLIP},
        "evaluation": {"held_out_fraction": 0.1},
        "privacy": {"unit": "patient", "delta": 1e-5, "training_epsilon": 8.0, "evaluation_epsilon": 8.0},
    }
)

Step = Callable[[], object]


def losses(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the logistic loss of each record."""
    return torch.nn.functional.binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1], reduction="none")


def steps() -> dict[str, Step]:
    """Return a step by method; all on the same volumes."""
    generator = np.random.default_rng(0)
    features = generator.random((PATIENTS, STUDY.dimension), np.float32) * 2 - 1
    labels, patients = np.arange(PATIENTS) % 2.0, np.arange(PATIENTS)
    batch = torch.from_numpy(features), torch.from_numpy(labels).float()
    weights, mechanism = cnn.start(STUDY), plan_study(STUDY)["train"].mechanism
    fitting = rows_at_once(cnn.numbers_of_a_record(STUDY))
    model, hooked = cnn.module(STUDY), GradSampleModule(cnn.module(STUDY), loss_reduction="sum")
    keeper = BookKeeper(cnn.module(STUDY))

    def plain(at_once: int) -> None:
        for each in model.parameters():
            each.grad = None
        for part in zip(*(each.split(at_once) for each in batch), strict=True):
            (losses(model, part).sum() / PATIENTS).backward()

    def gate(rows: int, most_records: int) -> Step:
        computes = ImageGradients(cnn.module(STUDY), cnn.loss(STUDY), (), mechanism, most_records, rows)
        return lambda: computes.sum(weights, features, labels, patients, PATIENTS)

    def opacus() -> None:
        for each in hooked.parameters():
            each.grad_sample = None
        losses(hooked, batch).sum().backward()
        rows = torch.cat([each.grad_sample.flatten(1) for each in hooked.parameters()], dim=1)
        (CLIP / rows.norm(dim=1)).clamp(max=1) @ rows

    return {
        "plain": lambda: plain(PATIENTS),
        "plain, in parts": lambda: plain(fitting),
        "gate": gate(fitting, 1),
        "in pieces": gate(1, 2),
        "one-backward": lambda: keeper.clipped_sum(losses, batch, patients, PATIENTS, CLIP, fitting),
        "Opacus": opacus,
    }


class Medians(NamedTuple):
    """What a step takes, in milliseconds.

    Attributes:
        clock: by the clock.
        processor: of the processor.
    """

    clock: float
    processor: float


def medians(made: dict[str, Step], repeats: int) -> dict[str, Medians]:
    """Return the medians by method; the methods take turns, and the first turn does not count."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for _ in range(repeats + 1):
        for name, step in made.items():
            clock, processor = time.perf_counter(), time.process_time()
            step()
            taken[name].append((time.perf_counter() - clock, time.process_time() - processor))
    columns = {name: zip(*each[1:], strict=True) for name, each in taken.items()}
    return {name: Medians(*(1e3 * statistics.median(each) for each in both)) for name, both in columns.items()}


def peak_megabytes(method: str) -> float:
    """Return the most memory of three steps above that before the first; call in a fresh process."""
    step = steps()[method]

    def resident(field: str) -> float:
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return float(next(line for line in status if line.startswith(field)).split()[1]) / 1024

    held = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    for _ in range(3):
        step()
    return resident("VmHWM") - held


def main() -> None:
    """Print a line a method, and whether the target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Full backward hook")
    make_deterministic()
    if options.memory_of:
        print(peak_megabytes(options.memory_of))
        return
    made = steps()
    took = medians(made, options.repeats)
    plain = [name for name in made if name.startswith("plain")]
    fastest, least = (min(plain, key=lambda name: took[name][kind]) for kind in range(2))
    print(
        f"{PATIENTS} volumes of {' x '.join(map(str, SHAPE))}, {cnn.size(STUDY):,} weights, at most "
        f"{rows_at_once(cnn.numbers_of_a_record(STUDY))} at once; the faster plain step: {fastest} by the clock, "
        f"{least} of the processor"
    )
    memory = {name: memory_of(name) for name in made}
    print(f"{'method':18s} {'clock ms':>9s} {'ratio':>6s} {'proc. ms':>9s} {'ratio':>6s} {'MiB':>6s} {'ratio':>6s}")
    ratios = {
        name: (each.clock / took[fastest].clock, each.processor / took[least].processor, memory[name] / memory[fastest])
        for name, each in took.items()
    }
    for name, (clock, processor, space) in ratios.items():
        print(
            f"{name:18s} {took[name].clock:9.1f} {clock:6.2f} {took[name].processor:9.1f} {processor:6.2f} "
            f"{memory[name]:6.0f} {space:6.2f}"
        )
    clock, _, space = ratios["gate"]
    print(f"gate over plain, at most {TARGET}: time {verdict(clock, TARGET)}, memory {verdict(space, TARGET)}")


def memory_of(method: str) -> float:
    """Return `peak_megabytes` of a fresh process."""
    command = [sys.executable, __file__, "--memory-of", method]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
