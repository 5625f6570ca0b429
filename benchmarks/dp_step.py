"""A training step under patient-level differential privacy over a plain step, in time and memory.

Plain: forward, backward, update by torch's SGD. Ours: `clipped_sum`, and the same update; noise has a line of its own,
and so has the sampler. Opacus: its hooks, per-record gradients averaged per patient, clipped, summed, and the same
update. One thread; the plain step and Opacus take all records at once, ours in parts where a line of `MODELS` says so;
the methods take turns in one process, and the ratio is between medians of processor time, which
a busy neighbour moves less than time by the clock. Memory is the highest resident set of three steps above what the
process held before the first, each in a process of its own. "exact" is `ExactSummer.sum` without an update, whose
sensitivity is proven, in batches of 64, 128 and 256 rows, over a plain step under the same deterministic kernels.

Models for a GPU are measured by the clock and by torch's own count of its memory, where there is one.

Run: .venv/bin/python benchmarks/dp_step.py [--patients 64 256] [--models cnn mlp] [--repeats 7] [--no-opacus]
"""

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from torch import nn
from torch.nn import functional

from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.privacy.stream import KeyedStream
from fedhealth.training.book_keeping import Batch, BookKeeper
from fedhealth.training.exact_sum import ExactSummer
from fedhealth.training.per_patient import make_deterministic
from fedhealth.training.sampling import PatientSampler

CLIP, RATE = 1.0, 1e-4
SAMPLER_TARGET_MS, MEMORY_TARGET = 0.2, 1.8
EXACT_ROWS = (64, 128, 256)


class Block(nn.Module):
    """A transformer block with four heads.

    Args:
        width: of each token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the same shape, (records, tokens, width)."""
        records, tokens, width = x.shape
        q, k, v = self.inner(self.norm_1(x)).view(records, tokens, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(records, tokens, width)
        x = x + self.outer(mixed)
        return x + self.down(functional.gelu(self.up(self.norm_2(x))))


class Transformer(nn.Module):
    """Blocks over up to 256 tokens of a vocabulary of 400.

    Args:
        width: of each token.
        blocks: how many.
    """

    def __init__(self, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(400, width), nn.Embedding(64 if width == 64 else 256, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shape (records, 10) for tokens of shape (records, length)."""
        places = torch.arange(x.shape[1], device=x.device).expand(x.shape)
        return self.head(self.norm(self.blocks(self.tokens(x) + self.places(places))).mean(1))


class UNet(nn.Module):
    """A 3D U-Net of three levels with GroupNorm, from one channel to two classes a voxel.

    Args:
        width: channels of the first level.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            self._level(a, b) for a, b in ((1, width), (width, 2 * width), (2 * width, 4 * width))
        )
        self.up = nn.ModuleList(self._level(a, b) for a, b in ((6 * width, 2 * width), (3 * width, width)))
        self.head = nn.Conv3d(width, 2, 1)

    @staticmethod
    def _level(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.ReLU(),
            nn.Conv3d(outputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shape (records, 2, depth, height, width) for (records, 1, depth, height, width)."""
        seen = []
        for level in self.levels:
            x = level(x if not seen else functional.max_pool3d(x, 2))
            seen.append(x)
        for level, beside in zip(self.up, reversed(seen[:-1]), strict=True):
            x = level(torch.cat((functional.interpolate(x, scale_factor=2), beside), dim=1))
        return self.head(x)


def cnn() -> nn.Module:
    """Return the usual small network for 28 x 28, 421,642 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def cnn_3d() -> nn.Module:
    """Return three convolutions with GroupNorm for 32 x 32 x 32."""
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.AdaptiveAvgPool3d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def mlp(*sizes: int) -> nn.Module:
    """Return linear layers of these sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn_224() -> nn.Module:
    """Return eight convolutions with GroupNorm for 224 x 224, in four levels."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128), (128, 256)):
        for first, stride in ((inputs, 2), (outputs, 1)):
            layers += [nn.Conv2d(first, outputs, 3, stride, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


class Case(NamedTuple):
    """A model with its inputs, and the most its step may cost.

    Attributes:
        build: the model.
        inputs: for so many records.
        target: most time over a plain step.
        device: "cpu" or "cuda".
        labels: their shape beyond the records.
        patients: of a step, where the usual numbers are too many.
        at_once: most records that ours takes at once: the gradients of 64 are more than the cache holds.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int], torch.Tensor]
    target: float
    device: str = "cpu"
    labels: tuple[int, ...] = ()
    patients: tuple[int, ...] | None = None
    at_once: int | None = None


MODELS = {
    "cnn": Case(cnn, lambda n: torch.randn(n, 1, 28, 28), 1.3),
    "cnn-3d": Case(cnn_3d, lambda n: torch.randn(n, 1, 32, 32, 32), 1.3),
    "mlp": Case(lambda: mlp(784, 400, 200, 10), lambda n: torch.randn(n, 784), 1.3),
    "transformer": Case(Transformer, lambda n: torch.randint(0, 400, (n, 64)), 1.3, at_once=32),
    "logistic": Case(lambda: mlp(100, 10), lambda n: torch.randn(n, 100), 1.6),
    "small-mlp": Case(lambda: mlp(100, 64, 10), lambda n: torch.randn(n, 100), 1.6),
    "cnn-224": Case(cnn_224, lambda n: torch.randn(n, 3, 224, 224), 1.3, "cuda"),
    "unet-96": Case(UNet, lambda n: torch.randn(n, 1, 96, 96, 96), 1.3, "cuda", (96, 96, 96), (4, 8)),
    "transformer-10m": Case(lambda: Transformer(512, 3), lambda n: torch.randint(0, 400, (n, 256)), 1.3, "cuda"),
}


def losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the cross-entropy of each record, the mean over its voxels if it has any."""
    each = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    return each if each.dim() == 1 else each.flatten(1).mean(1)


def updates(model: nn.Module) -> Callable[[torch.Tensor, int], None]:
    """Return a step of torch's SGD by a sum of gradients, shape (d,), over so many patients."""
    optimizer, parameters = torch.optim.SGD(model.parameters(), lr=RATE), list(model.parameters())
    mean, start = parameters[0].new_empty(sum(each.numel() for each in parameters)).detach(), 0
    for each in parameters:  # one vector, of which each parameter's gradient is a view
        each.grad = mean[start : start + each.numel()].view_as(each)
        start += each.numel()

    def update(total: torch.Tensor, patients: int) -> None:
        torch.div(total, patients, out=mean)
        optimizer.step()

    return update


def steps_of(name: str, patients: int, records_each: int, at_once: int | None = None) -> dict[str, Callable[[], None]]:
    """Return a step by method; all on the same records."""
    torch.manual_seed(0)
    case = MODELS[name]
    at_once = case.at_once if at_once is None else at_once
    plain_model, our_model, hooked_model = (case.build().to(case.device) for _ in range(3))
    hooked = GradSampleModule(hooked_model, loss_reduction="sum")
    records = patients * records_each
    batch = tuple(each.to(case.device) for each in (case.inputs(records), torch.randint(0, 2, (records, *case.labels))))
    owners, keeper = np.repeat(np.arange(patients), records_each), BookKeeper(our_model)

    plain_optimizer = torch.optim.SGD(plain_model.parameters(), lr=RATE)
    update_ours, update_hooked = updates(our_model), updates(hooked)

    def plain() -> None:
        plain_optimizer.zero_grad()
        losses(plain_model, batch).mean().backward()
        plain_optimizer.step()

    def plain_in_parts() -> None:
        plain_optimizer.zero_grad()
        for part in zip(*(each.split(at_once or records) for each in batch), strict=True):
            (losses(plain_model, part).sum() / records).backward()
        plain_optimizer.step()

    def ours() -> None:
        result = keeper.clipped_sum(losses, batch, owners, patients, CLIP, at_once)
        update_ours(result.total, patients)

    def opacus() -> None:
        for each in hooked.parameters():
            each.grad_sample = None
        losses(hooked, batch).sum().backward()
        rows = [
            each.grad_sample.reshape(patients, records_each, -1).mean(1)
            if records_each > 1
            else each.grad_sample.reshape(patients, -1)
            for each in hooked.parameters()
        ]
        norms = torch.stack([each.norm(dim=1) for each in rows], dim=1).norm(dim=1)
        factors = (CLIP / norms).clamp(max=1)
        update_hooked(torch.cat([factors @ each for each in rows]), patients)

    parts = {"plain in parts": plain_in_parts} if at_once and at_once < records else {}
    return {"plain": plain, **parts, "ours": ours, "opacus": opacus}


def exact_steps_of(name: str, patients: int, records_each: int) -> dict[str, Callable[[], None]]:
    """Return the exact sum, by rows of a physical batch."""
    torch.manual_seed(0)
    case, records = MODELS[name], patients * records_each
    batch = case.inputs(records), torch.randint(0, 2, (records, *case.labels))
    owners, found = np.repeat(np.arange(patients), records_each), dict[str, Callable[[], None]]()
    for rows in EXACT_ROWS:
        model = case.build()
        mechanism = GridGaussian(1.0, CLIP, sum(each.numel() for each in model.parameters()))
        summer = ExactSummer(BookKeeper(model), mechanism, records_each, rows)
        found[f"exact, {rows} rows"] = lambda s=summer: _ignore(s.sum(losses, batch, owners, patients))
    return found


def medians(steps: dict[str, Callable[[], None]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Return median milliseconds by method; the methods take turns."""

    def now() -> float:
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            rounds, start = 0, now()
            while rounds == 0 or now() - start < 0.05:
                step()
                rounds += 1
            if turn:  # the first is warming up
                seconds[name].append((now() - start) / rounds)
    return {name: statistics.median(each) * 1e3 for name, each in seconds.items()}


def peak_megabytes(name: str, patients: int, records_each: int, at_once: int | None, method: str) -> float:
    """Return the most memory of three steps above that before them; call in a fresh process."""
    step = steps_of(name, patients, records_each, at_once)[method]
    if MODELS[name].device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def resident(field: str) -> float:
        status = Path("/proc/self/status").read_text().splitlines()
        return float(next(line for line in status if line.startswith(field)).split()[1]) / 1024

    held = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        step()
    return resident("VmHWM") - held


def fixed_costs() -> None:
    """Print what does not depend on the model's kind: the sampler and the noise."""
    sampler, stream = PatientSampler(20_000, 0.01), KeyedStream(bytes(32))
    ms = medians({"sampler": lambda: _ignore(sampler.draw(stream))}, 9)
    print(
        f"sampler, 20,000 patients, one step: {ms['sampler']:.3f} ms (target: {SAMPLER_TARGET_MS}) "
        f"{verdict(ms['sampler'], SAMPLER_TARGET_MS)}"
    )
    for dimension in (130_000, 400_000):
        mechanism, total = GridGaussian(0.5, CLIP, dimension), np.zeros(dimension, dtype=np.int64)
        ms = medians({"noise": lambda m=mechanism, t=total: _ignore(m.add_noise(t, stream))}, 5)
        print(f"noise, {dimension:,} weights, one step: {ms['noise']:.1f} ms")


def verdict(figure: float, target: float) -> str:
    """Return what a reader wants to know first."""
    return "ok" if figure <= target else "missed"


def _ignore(_: object) -> None:
    return None


def main() -> None:
    """Print a table, a line or two for each model and batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--records-each", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--at-once", type=int, help="most records at once of ours; the others take all")
    parser.add_argument("--no-opacus", action="store_true")
    parser.add_argument("--no-exact", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Full backward hook")
    torch.set_num_threads(1)
    if options.memory_of:
        name, method = options.memory_of
        print(peak_megabytes(name, options.patients[0], options.records_each, options.at_once, method))
        return
    fixed_costs()
    print(f"{options.records_each} record(s) a patient, one thread; memory target {MEMORY_TARGET}")
    head = (
        "model",
        "patients",
        "weights",
        "plain ms",
        "ours ms",
        "ratio",
        "target",
        "",
        "opacus",
        "memory",
        "",
        "opacus",
    )
    print("{:15s} {:>8s} {:>10s} {:>10s} {:>10s} {:>6s} {:>7s} {:6s} {:>8s} {:>8s} {:6s} {:>8s}".format(*head))
    for name in options.models:
        case = MODELS[name]
        if case.device == "cuda" and not torch.cuda.is_available():
            print(f"{name:15s} skipped: no CUDA device here")
            continue
        for patients in case.patients or options.patients:
            print_line(name, patients, options)


def print_line(name: str, patients: int, options: argparse.Namespace) -> None:
    """Measure one model and batch."""
    case = MODELS[name]
    steps = steps_of(name, patients, options.records_each, options.at_once)
    if options.no_opacus or case.device == "cuda":
        del steps["opacus"]
    ms = medians(steps, options.repeats, case.device)
    megabytes = {} if options.no_memory else {method: memory(name, patients, options, method) for method in steps}
    # Ours in parts is compared with the faster of plain in parts and plain in one piece.
    faster = min((method for method in steps if method.startswith("plain")), key=lambda method: ms[method])
    ms["plain"], at_best = ms[faster], " (in parts)" if faster != "plain" else ""
    if megabytes:
        megabytes["plain"] = megabytes[faster]
    weights = sum(each.numel() for each in case.build().parameters())
    ratio = ms["ours"] / ms["plain"]
    line = f"{name:15s} {patients:8d} {weights:10,d} {ms['plain']:10.2f} {ms['ours']:10.2f} {ratio:6.2f}"
    line += f" {case.target:7.1f} {verdict(ratio, case.target):6s}"
    line += f" {ms['opacus'] / ms['plain']:8.2f}" if "opacus" in ms else " " * 9
    if megabytes:
        more = megabytes["ours"] / megabytes["plain"]
        line += f" {more:8.2f} {verdict(more, MEMORY_TARGET):6s}"
        line += f" {megabytes['opacus'] / megabytes['plain']:8.2f}" if "opacus" in megabytes else ""
    line += f"  plain{at_best}" if at_best else ""
    print(line, flush=True)
    if options.no_exact or case.device == "cuda":
        return
    make_deterministic()
    exact = {"plain": steps["plain"], **exact_steps_of(name, patients, options.records_each)}
    ms = medians(exact, options.repeats)
    torch.set_deterministic_debug_mode("default")
    ratios = (f"{method} {ms[method] / ms['plain']:.2f}" for method in exact if method != "plain")
    print(f"{'':15s} {', '.join(ratios)}", flush=True)


def memory(name: str, patients: int, options: argparse.Namespace, method: str) -> float:
    """Return `peak_megabytes` of a fresh process."""
    command = [sys.executable, __file__, "--patients", str(patients), "--records-each", str(options.records_each)]
    command += [] if options.at_once is None else ["--at-once", str(options.at_once)]
    found = subprocess.run([*command, "--memory-of", name, method], capture_output=True, text=True, check=True)
    return float(found.stdout)


if __name__ == "__main__":
    main()
