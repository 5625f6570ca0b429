"""A chain of linear layers without hooks gives what the same layers give with hooks, and is not taken for another."""

import numpy as np
import pytest
import torch
from torch import nn

from fedhealth.training.book_keeping import BookKeeper, clipped_sum
from fedhealth.training.feed_forward import feed_forward

ONE_EACH = np.arange(12)
SEVERAL = np.array([3, 1, 1, 0, 4, 4, 4, 5, 3, 7, 7, 7])


class Wrapped(nn.Module):
    """The same computation in a module of its own, which only hooks can follow."""

    def __init__(self, chain):
        super().__init__()
        self.chain = chain

    def forward(self, x):
        return self.chain(x)


def chain(*shape):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Flatten() if len(shape) > 1 else nn.Identity(),
        nn.Linear(12, 9),
        nn.Tanh(),
        nn.Linear(9, 1, bias=False),
        nn.Softplus(),
        nn.Linear(1, 7),
    ).double()


def records(*shape):
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64}
    return torch.randn(12, *shape, **draw), torch.randn(12, **draw)


def losses(model, batch):
    return (model(batch[0]).flatten(1) - batch[1][:, None]).square().mean(1)


def is_chain(model):
    return BookKeeper(model)._chain is not None


@pytest.mark.parametrize("broken", [None, np.nan, np.inf, 1e200])
@pytest.mark.parametrize("patients", [ONE_EACH, SEVERAL], ids=["one record", "several records"])
@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 12)], ids=["vectors", "flattened", "positions"])
def test_a_chain_gives_what_hooks_give(shape, patients, broken):
    model, batch = chain(*shape), records(*shape)
    if shape == (2, 12):
        model[0] = nn.Identity()
    if broken is not None:
        batch[0][5] = broken
    assert is_chain(model) and not is_chain(Wrapped(model))
    found = clipped_sum(model, losses, batch, patients, 12, 0.5)
    expected = clipped_sum(Wrapped(model), losses, batch, patients, 12, 0.5)
    assert found.zeroed == expected.zeroed == (broken is not None)
    assert torch.allclose(found.norms, expected.norms, rtol=1e-12, atol=0, equal_nan=True)
    assert torch.linalg.vector_norm(found.total - expected.total) <= 1e-12 * torch.linalg.vector_norm(expected.total)


def test_a_chain_called_twice_adds_up_before_the_norm():
    def twice(model, batch):
        return losses(model, batch) + losses(model, (batch[0] * 0.5, batch[1]))

    model, batch = chain(12), records(12)
    found, expected = (clipped_sum(each, twice, batch, ONE_EACH, 12, 0.5) for each in (model, Wrapped(model)))
    assert torch.allclose(found.norms, expected.norms, rtol=1e-12, atol=0)
    assert torch.allclose(found.total, expected.total, rtol=1e-12, atol=1e-15)


def with_hook():
    model = chain(12)
    model[2].register_forward_hook(lambda module, arguments, output: output * 2)
    return model


def with_shared_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    "build",
    [
        with_hook,
        with_shared_weights,
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4)),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
        lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Tanh()),
        lambda: nn.Sequential(nn.Linear(4, 4), Wrapped(nn.Tanh())),
    ],
)
def test_anything_else_is_left_to_hooks(build):
    assert not is_chain(build())
    assert feed_forward(nn.Linear(4, 4), []) is None


def test_the_model_has_its_own_forward_again_after_success_and_after_refusal():
    model, batch = chain(12), records(12)
    keeper = BookKeeper(model)
    keeper.clipped_sum(losses, batch, ONE_EACH, 12, 0.5)
    with pytest.raises(ValueError, match="not called"):
        keeper.clipped_sum(lambda model, batch: batch[1], batch, ONE_EACH, 12, 0.5)
    with pytest.raises(ZeroDivisionError):
        keeper.clipped_sum(lambda model, batch: model(batch[0]) / (1 // 0), batch, ONE_EACH, 12, 0.5)
    assert "forward" not in vars(model)


def test_an_input_changed_after_use_is_refused():
    def changing(model, batch):
        x = batch[0] * 1.0
        y = model(x)
        x += 1.0
        return y.square().mean(1)

    with pytest.raises(ValueError, match="in place"):
        clipped_sum(chain(12), changing, records(12), ONE_EACH, 12, 0.5)
