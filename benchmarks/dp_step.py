"""A training step under patient-level differential privacy over a plain step, in time and memory.

Plain: forward, backward, update. Ours: `clipped_sum`, and the same update; noise has a line of its own, and so has the
sampler. Opacus: its hooks, per-record gradients averaged per patient, clipped, summed, and the same update. One thread;
the three take turns in one process, and the ratio is between medians of processor time, which a busy neighbour moves
less than time by the clock. Memory is the highest resident set of three steps
above what the process held before the first, each in a process of its own.

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

import numpy as np
import torch
from opacus.grad_sample import GradSampleModule
from torch import nn
from torch.nn import functional

from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.privacy.stream import KeyedStream
from fedhealth.training.book_keeping import Batch, BookKeeper
from fedhealth.training.noisy_mean import noisy_steps
from fedhealth.training.sampling import PatientSampler

CLIP, RATE = 1.0, 1e-4
SAMPLER_TARGET_MS = 0.2


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
    """Two blocks over 64 tokens of a vocabulary of 400."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(400, 64), nn.Embedding(64, 64)
        self.blocks = nn.Sequential(Block(64), Block(64))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shape (records, 10) for tokens of shape (records, 64)."""
        places = torch.arange(x.shape[1]).expand(x.shape)
        return self.head(self.norm(self.blocks(self.tokens(x) + self.places(places))).mean(1))


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


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], torch.Tensor], float]] = {
    "cnn": (cnn, lambda n: torch.randn(n, 1, 28, 28), 1.3),
    "cnn-3d": (cnn_3d, lambda n: torch.randn(n, 1, 32, 32, 32), 1.3),
    "mlp": (lambda: mlp(784, 400, 200, 10), lambda n: torch.randn(n, 784), 1.3),
    "transformer": (Transformer, lambda n: torch.randint(0, 400, (n, 64)), 1.3),
    "logistic": (lambda: mlp(100, 10), lambda n: torch.randn(n, 100), 1.6),
    "small-mlp": (lambda: mlp(100, 64, 10), lambda n: torch.randn(n, 100), 1.6),
}
"""Each with its inputs, and the most its step may cost."""


def losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the cross-entropy of each record."""
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def updates(model: nn.Module) -> Callable[[torch.Tensor, int], None]:
    """Return a step of torch's SGD by a sum of gradients, shape (d,), over so many patients."""
    optimizer, parameters = torch.optim.SGD(model.parameters(), lr=RATE), list(model.parameters())
    mean, start = torch.empty(sum(each.numel() for each in parameters)), 0
    for each in parameters:  # one vector, of which each parameter's gradient is a view
        each.grad = mean[start : start + each.numel()].view_as(each)
        start += each.numel()

    def update(total: torch.Tensor, patients: int) -> None:
        torch.div(total, patients, out=mean)
        optimizer.step()

    return update


def steps_of(name: str, patients: int, records_each: int, at_once: int | None = None) -> dict[str, Callable[[], None]]:
    """Return a step by method; all three on the same records."""
    torch.manual_seed(0)
    build, inputs, _ = MODELS[name]
    plain_model, our_model, hooked = build(), build(), GradSampleModule(build(), loss_reduction="sum")
    batch = (inputs(patients * records_each), torch.randint(0, 10, (patients * records_each,)))
    owners, keeper = np.repeat(np.arange(patients), records_each), BookKeeper(our_model)

    plain_optimizer = torch.optim.SGD(plain_model.parameters(), lr=RATE)
    update_ours, update_hooked = updates(our_model), updates(hooked)

    def plain() -> None:
        plain_optimizer.zero_grad()
        losses(plain_model, batch).mean().backward()
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

    return {"plain": plain, "ours": ours, "opacus": opacus}


def medians(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Return median milliseconds by method; the methods take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            rounds, start = 0, time.process_time()
            while rounds == 0 or time.process_time() - start < 0.05:
                step()
                rounds += 1
            if turn:  # the first is warming up
                seconds[name].append((time.process_time() - start) / rounds)
    return {name: statistics.median(each) * 1e3 for name, each in seconds.items()}


def peak_megabytes(name: str, patients: int, records_each: int, at_once: int | None, method: str) -> float:
    """Return the highest resident set of three steps above that before them; call in a fresh process."""
    step = steps_of(name, patients, records_each, at_once)[method]

    def resident(field: str) -> float:
        status = Path("/proc/self/status").read_text().splitlines()
        return float(next(line for line in status if line.startswith(field)).split()[1]) / 1024

    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        step()
    return resident("VmHWM") - before


def fixed_costs() -> None:
    """Print what does not depend on the model's kind: the sampler and the noise."""
    sampler, stream = PatientSampler(20_000, 0.01), KeyedStream(bytes(32))
    ms = medians({"sampler": lambda: _ignore(sampler.draw(stream))}, 9)
    goal = ms["sampler"] <= SAMPLER_TARGET_MS
    print(f"sampler, 20,000 patients, one step: {ms['sampler']:.3f} ms (target: at most {SAMPLER_TARGET_MS}) {goal}")
    for dimension in (130_000, 400_000):
        mechanism, total = GridGaussian(0.5, CLIP, dimension), torch.zeros(dimension)
        ms = medians({"noise": lambda m=mechanism, t=total: _ignore(noisy_steps(t, m, stream))}, 5)
        print(f"noise, {dimension:,} weights, one step: {ms['noise']:.1f} ms")


def _ignore(_: object) -> None:
    return None


def main() -> None:
    """Print one line a model and batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--records-each", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--at-once", type=int, help="most records at once of ours; the others take all")
    parser.add_argument("--no-opacus", action="store_true")
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
    print(f"{options.records_each} record(s) a patient, one thread")
    print("model        patients   weights   plain ms  ours ms  ratio  target   opacus  | plain MB  ours    opacus")
    for name in options.models:
        for patients in options.patients:
            steps = steps_of(name, patients, options.records_each, options.at_once)
            if options.no_opacus:
                del steps["opacus"]
            ms = medians(steps, options.repeats)
            megabytes = (
                {} if options.no_memory else {method: memory(name, patients, options, method) for method in steps}
            )
            weights = sum(each.numel() for each in MODELS[name][0]().parameters())
            ratio, target = ms["ours"] / ms["plain"], MODELS[name][2]
            print(
                f"{name:12s} {patients:8d} {weights:9,d} {ms['plain']:10.2f} {ms['ours']:8.2f} {ratio:6.2f}  {target} "
                f"{'yes' if ratio <= target else 'NO ':3s} {ms.get('opacus', float('nan')) / ms['plain']:7.2f}  | "
                + ("" if not megabytes else f"{megabytes['plain']:8.1f}")
                + "".join(f"{megabytes[m] / megabytes['plain']:8.2f}" for m in megabytes if m != "plain"),
                flush=True,
            )


def memory(name: str, patients: int, options: argparse.Namespace, method: str) -> float:
    """Return `peak_megabytes` of a fresh process."""
    command = [sys.executable, __file__, "--patients", str(patients), "--records-each", str(options.records_each)]
    command += [] if options.at_once is None else ["--at-once", str(options.at_once)]
    found = subprocess.run([*command, "--memory-of", name, method], capture_output=True, text=True, check=True)
    return float(found.stdout)


if __name__ == "__main__":
    main()
