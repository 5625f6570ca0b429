"""Opacus's hooks are the oracle: per-record gradients, averaged over each patient's records, clipped and summed."""

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import nn

from fedhealth.training.book_keeping import clipped_sum

# Opacus says so of every first layer whose inputs are data.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")

PATIENTS = np.array([3, 1, 1, 0, 4, 4, 4, 5, 3, 7, 7, 7])  # out of order; 2, 6 and 8 have no records
COUNT, RECORDS = 9, len(PATIENTS)
ONE_EACH = np.arange(RECORDS)


def floats(*shape):
    return lambda: torch.randn(RECORDS, *shape, dtype=torch.float64)


def tokens(length):
    return lambda: torch.randint(0, 7, (RECORDS, length))


def sequential(*layers):
    return lambda: nn.Sequential(*(make() for make in layers))


def of(kind, *args, **options):
    return lambda: kind(*args, **options)


# Those named "ghost" are wide for their positions, so that a norm without gradients is smaller; the others are kept.
CASES = {
    "linear ghost, no bias": (sequential(of(nn.Linear, 50, 40, bias=False)), floats(50)),
    "linear of one output": (sequential(of(nn.Linear, 5, 1)), floats(5)),
    "linear over positions, kept": (sequential(of(nn.Linear, 5, 6), nn.Tanh, of(nn.Linear, 6, 4)), floats(9, 5)),
    "linear over positions, ghost": (sequential(of(nn.Linear, 60, 70), nn.Tanh, of(nn.Linear, 70, 3)), floats(4, 60)),
    "linear over two dimensions of positions": (sequential(of(nn.Linear, 5, 6)), floats(2, 3, 5)),
    "embedding": (sequential(of(nn.Embedding, 7, 5), of(nn.Linear, 5, 3)), tokens(6)),
    "layer norm": (sequential(of(nn.Linear, 5, 6), of(nn.LayerNorm, 6)), floats(3, 5)),
    "layer norm over two dimensions": (sequential(of(nn.LayerNorm, (3, 5))), floats(2, 3, 5)),
    "conv1d": (sequential(of(nn.Conv1d, 2, 4, 3, padding=1), of(nn.Conv1d, 4, 3, 3, stride=2)), floats(2, 9)),
    "conv1d, padding same": (sequential(of(nn.Conv1d, 2, 4, 4, padding="same", dilation=2)), floats(2, 9)),
    "conv2d": (
        sequential(of(nn.Conv2d, 2, 4, 3, padding=(1, 2)), of(nn.ReLU), of(nn.Conv2d, 4, 6, 3, stride=2)),
        floats(2, 9, 8),
    ),
    "conv2d, groups and dilation": (sequential(of(nn.Conv2d, 4, 6, 3, groups=2, dilation=2)), floats(4, 9, 9)),
    "conv2d, depthwise": (sequential(of(nn.Conv2d, 4, 8, 3, groups=4)), floats(4, 5, 5)),
    "conv2d ghost": (sequential(of(nn.Conv2d, 30, 40, (3, 2), stride=2, padding=1, dilation=2)), floats(30, 6, 7)),
    "conv3d": (sequential(of(nn.Conv3d, 2, 4, 3, padding=1), of(nn.Conv3d, 4, 3, (2, 3, 1))), floats(2, 4, 5, 6)),
    "conv3d ghost": (sequential(of(nn.Conv3d, 20, 30, 2, stride=2)), floats(20, 4, 4, 4)),
    "group norm": (sequential(of(nn.Conv2d, 2, 4, 3), of(nn.GroupNorm, 2, 4)), floats(2, 6, 6)),
    "group norm without positions": (sequential(of(nn.Linear, 5, 4), of(nn.GroupNorm, 2, 4)), floats(5)),
    "instance norm, by fallback": (
        sequential(of(nn.Conv1d, 2, 4, 3), of(nn.InstanceNorm1d, 4, affine=True)),
        floats(2, 9),
    ),
    "RMS norm, by fallback": (sequential(of(nn.Linear, 5, 4), of(nn.RMSNorm, 4)), floats(3, 5)),
}


def losses(model, batch):
    return (model(batch[0]).flatten(1) - batch[1][:, None]).square().mean(1)


def opacus(model, batch, patients, count, clip):
    hooked = GradSampleModule(model, loss_reduction="sum")
    losses(hooked, batch).sum().backward()
    rows = torch.cat([each.grad_sample.reshape(len(patients), -1) for each in model.parameters()], dim=1)
    hooked.remove_hooks()
    means = torch.zeros(count, rows.shape[1], dtype=rows.dtype)
    for patient in set(patients.tolist()):
        means[patient] = rows[torch.from_numpy(patients == patient)].mean(0)
    norms = means.norm(dim=1)
    return (means * (clip / norms.clamp(min=clip))[:, None]).sum(0), norms


@pytest.mark.parametrize("patients", [PATIENTS, ONE_EACH], ids=["several records", "one record"])
@pytest.mark.parametrize("name", CASES)
def test_clipped_sum_and_norms_are_those_of_opacus(name, patients):
    torch.manual_seed(1)
    build, inputs = CASES[name]
    model, batch = build().double(), (inputs(), torch.randn(RECORDS, dtype=torch.float64))
    count = max(COUNT, len(set(patients.tolist())))
    _, norms = opacus(model, batch, patients, count, 1.0)
    clip = float(norms[norms > 0].median())  # about half of the patients are clipped
    expected, _ = opacus(model, batch, patients, count, clip)
    model.zero_grad()
    found = clipped_sum(model, losses, batch, patients, count, clip)
    assert found.zeroed == 0
    assert torch.linalg.vector_norm(found.total - expected) <= 1e-9 * torch.linalg.vector_norm(expected)
    assert torch.allclose(found.norms, norms, rtol=1e-9, atol=0)
    assert all(each.grad is None and each.requires_grad for each in model.parameters())


def test_a_norm_without_gradients_is_never_below_the_true_one():
    # Records that cancel: equal inputs, opposite targets around the model's output.
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(80, 90))
    x = torch.randn(1, 80).expand(2, 80).contiguous()
    middle = model(x).detach()
    batch = (x, middle + torch.tensor([[1.0], [-1.0]]) * torch.randn(1, 90))

    def distance(model, batch):
        return (model(batch[0]) - batch[1]).square().sum(1)

    found = clipped_sum(model, distance, batch, np.array([0, 0]), 1, 1e6)
    true = clipped_sum(model.double(), distance, (x.double(), batch[1].double()), np.array([0, 0]), 1, 1e6)
    # About 1e-6 in exact arithmetic, from products of norms of about 1e3.
    assert found.norms[0] >= torch.linalg.vector_norm(found.total.double())
    assert found.norms[0] >= true.norms[0]
