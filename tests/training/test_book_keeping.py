import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedhealth.training.book_keeping import BookKeeper, clipped_sum
from fedhealth.training.parts import clip_factors

PATIENTS = np.array([3, 1, 1, 0, 4, 4, 4, 5, 3, 7, 7, 7])
COUNT, RECORDS = 9, len(PATIENTS)


def losses(model, batch):
    return (model(batch[0]).flatten(1) - batch[1][:, None]).square().mean(1)


def one_by_one(model, batch, patients, count, clip):
    """Each patient's mean loss differentiated alone, by autograd."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    total, norms = torch.zeros(sum(each.numel() for each in parameters), dtype=torch.float64), []
    for patient in range(count):
        mine = torch.from_numpy(patients == patient)
        norms.append(0.0)
        if mine.any():
            loss = losses(model, tuple(each[mine] for each in batch)).mean()
            found = torch.autograd.grad(loss, parameters)
            gradient = torch.cat([each.reshape(-1) for each in found])
            norms[-1] = float(gradient.norm())
            total += gradient * min(1.0, clip / norms[-1])
    return total, torch.tensor(norms, dtype=torch.float64)


def records(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    return torch.randn(RECORDS, *shape, **draw), torch.randn(RECORDS, **draw)


def multilayer():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 40), nn.Tanh(), nn.Linear(40, 50)).double()


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cells, self.head = kind(5, 4, batch_first=True, num_layers=2, bidirectional=True), nn.Linear(8, 2)

    def forward(self, x):
        output, state = self.cells(x)
        last = state[0] + state[1] if isinstance(state, tuple) else state
        return self.head(output[:, -1]) + last.sum((0, 2))[:, None]


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(5, 4), nn.Linear(4, 2)

    def forward(self, x):
        state = (x.new_zeros(len(x), 4), x.new_zeros(len(x), 4))
        for time in range(x.shape[1]):
            state = self.cell(x[:, time], state)
        return self.head(state[0])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.attention = nn.Linear(5, 6), nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        x = self.into(x)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


class InPlaceActivations(nn.Sequential):
    """Opacus's hooks refuse this, so autograd is the oracle."""

    def __init__(self):
        relu = nn.ReLU(inplace=True)
        super().__init__(nn.Conv1d(1, 9, 3), relu, nn.Flatten(), nn.Linear(27, 30), relu, nn.Linear(30, 2), relu)

    def forward(self, x):
        return super().forward(x[:, None])


class OwnWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(5)), nn.Linear(5, 3)

    def forward(self, x):
        return self.inner(x * self.scale)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.other = nn.Linear(50, 50), nn.Linear(50, 50)
        self.other.weight = self.wide.weight

    def forward(self, x):
        return self.other(torch.tanh(self.wide(torch.tanh(self.wide(x)))))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x):
        middle = self.first(input=x)
        return middle + self.second(middle)


MODELS = {
    "LSTM": (lambda: Recurrent(nn.LSTM), (3, 5)),
    "GRU": (lambda: Recurrent(nn.GRU), (3, 5)),
    "RNN": (lambda: Recurrent(nn.RNN), (3, 5)),
    "LSTM cell, called often": (Cell, (3, 5)),
    "attention": (Attention, (4, 5)),
    "a module with weights of its own": (OwnWeights, (5,)),
    "in-place activations": (InPlaceActivations, (5,)),
    "shared weights": (Twice, (50,)),
    "residual, input by name": (Residual, (5,)),
}


@pytest.mark.parametrize("most", [None, 1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_clipped_sum_is_that_of_each_patient_differentiated_alone(name, most):
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model, batch = build().double(), records(*shape)
    _, norms = one_by_one(model, batch, PATIENTS, COUNT, 1.0)
    clip = float(norms[norms > 0].median())
    expected, _ = one_by_one(model, batch, PATIENTS, COUNT, clip)
    found = clipped_sum(model, losses, batch, PATIENTS, COUNT, clip, most)
    assert torch.linalg.vector_norm(found.total - expected) <= 1e-9 * torch.linalg.vector_norm(expected)
    assert torch.allclose(found.norms, norms, rtol=1e-9, atol=0)


def test_one_patient_with_many_records_among_patients_with_one():
    # 60 records of one patient are more than a ghost of 60 inputs and 70 outputs is worth; 30 others decide for ghosts.
    patients = np.array([0] * 60 + list(range(1, 31)))
    generator = torch.Generator().manual_seed(1)
    batch = (torch.randn(90, 60, generator=generator).double(), torch.randn(90, generator=generator).double())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 70)).double()
    expected, norms = one_by_one(model, batch, patients, 31, 0.1)
    found = clipped_sum(model, losses, batch, patients, 31, 0.1)
    assert torch.linalg.vector_norm(found.total - expected) <= 1e-9 * torch.linalg.vector_norm(expected)
    assert torch.allclose(found.norms, norms, rtol=1e-9, atol=0)


def test_frozen_parameters_are_left_out_and_gradients_pass_through_them():
    model, batch = multilayer(), records(5)
    model[2].weight.requires_grad_(False)
    model[0].bias.requires_grad_(False)
    expected, norms = one_by_one(model, batch, PATIENTS, COUNT, 0.1)
    found = clipped_sum(model, losses, batch, PATIENTS, COUNT, 0.1)
    assert found.total.shape == (5 * 40 + 50,)
    assert torch.allclose(found.total, expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(found.norms, norms, rtol=1e-9, atol=0)
    assert [each.requires_grad for each in model.parameters()] == [True, False, False, True]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=12), st.one_of(st.none(), st.integers(1, 13)))
def test_micro_batches_and_the_order_of_records_change_rounding_only(owners, most):
    patients, model = np.array(owners, dtype=np.int64), multilayer()
    x, y = (each[: len(owners)] for each in records(5))
    expected, norms = one_by_one(model, (x, y), patients, 6, 0.3)
    found = clipped_sum(model, losses, (x, y), patients, 6, 0.3, most)
    assert torch.allclose(found.total, expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(found.norms, norms, rtol=1e-9, atol=0)


@pytest.mark.parametrize("count", [0, 4])
def test_an_empty_batch_is_zeros(count):
    empty = (torch.zeros(0, 5, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
    found = clipped_sum(multilayer(), losses, empty, np.zeros(0, dtype=np.int64), count, 1.0)
    assert found.total.shape == (5 * 40 + 40 + 40 * 50 + 50,)
    assert not found.total.any() and found.norms.tolist() == [0.0] * count and found.zeroed == 0


POISONED = {
    "linear": (multilayer, (5,)),
    "conv kept": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()).double(), (2, 6, 6)),
    "conv ghost": (lambda: nn.Sequential(nn.Conv2d(30, 40, 3)).double(), (30, 4, 4)),
    "LSTM": (lambda: Recurrent(nn.LSTM).double(), (3, 5)),
}


@pytest.mark.parametrize("most", [None, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("name", POISONED)
def test_a_patient_that_is_not_finite_counts_as_zero_and_leaves_the_others_alone(name, value, most):
    torch.manual_seed(0)
    build, shape = POISONED[name]
    model, batch = build(), records(*shape)
    others = PATIENTS != 4
    batch[1][5] = value  # the target of one of the three records of patient 4
    rest = tuple(each[torch.from_numpy(others)] for each in batch)
    expected = clipped_sum(model, losses, rest, PATIENTS[others], COUNT, 0.5)
    found = clipped_sum(model, losses, batch, PATIENTS, COUNT, 0.5, most)
    assert found.zeroed == 1 and not torch.isfinite(found.norms[4])
    assert torch.allclose(found.total, expected.total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_an_input_that_is_not_finite_leaves_the_others_alone(value):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 30)).double()
    batch = records(2, 6, 6)
    others = PATIENTS != 4
    expected = clipped_sum(
        model, losses, tuple(e[torch.from_numpy(others)] for e in batch), PATIENTS[others], COUNT, 0.5
    )
    batch[0][5, 1, 2, 2] = value
    found = clipped_sum(model, losses, batch, PATIENTS, COUNT, 0.5)
    assert found.zeroed == 1
    assert torch.allclose(found.total, expected.total, rtol=1e-9, atol=1e-12)


def test_no_patient_adds_more_than_the_clip():
    model, batch = multilayer(), records(5)
    for patient in set(PATIENTS.tolist()):
        mine = patient == PATIENTS
        alone = clipped_sum(
            model,
            losses,
            tuple(e[torch.from_numpy(mine)] for e in batch),
            np.zeros(mine.sum(), dtype=np.int64),
            1,
            0.01,
        )
        assert torch.linalg.vector_norm(alone.total) <= 0.01 * (1 + 1e-12)


def test_clip_factors_by_hand():
    # Clip 1: norm 4 to a quarter, norm 0.5 untouched, zero untouched, what is not finite to nothing.
    factors, finite = clip_factors(torch.tensor([4.0, 0.5, 0.0, torch.inf, torch.nan]), 1.0)
    assert factors.tolist() == [0.25, 1.0, 1.0, 0.0, 0.0]
    assert finite is not None and finite.tolist() == [True, True, True, False, False]
    assert clip_factors(torch.tensor([4.0, 0.5]), 1.0)[1] is None


def test_the_model_is_left_as_it_was_after_success_and_after_refusal():
    model, batch = multilayer(), records(5)
    before = copy.deepcopy(model.state_dict())
    keeper = BookKeeper(model)
    keeper.clipped_sum(losses, batch, PATIENTS, COUNT, 1.0)

    def broken(model, batch):
        model(batch[0])
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        keeper.clipped_sum(broken, batch, PATIENTS, COUNT, 1.0)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert all(each.requires_grad and each.grad is None for each in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    again = keeper.clipped_sum(losses, batch, PATIENTS, COUNT, 1.0)
    assert torch.equal(again.total, clipped_sum(multilayer(), losses, batch, PATIENTS, COUNT, 1.0).total)


class Counting(nn.Module):
    def __init__(self, replace):
        super().__init__()
        self.inner, self.replace = nn.Linear(5, 3), replace
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.replace:
            self.seen = self.seen + x.sum()
        else:
            self.seen += x.sum().to(self.seen.dtype)
        return self.inner(x)


class Outside(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.unused = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        return self.inner(x) + nn.functional.linear(x, self.unused.weight)


class Merging(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 3)

    def forward(self, x):
        return self.inner(x.reshape(-1, 5)).reshape(len(x), -1)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 5)

    def forward(self, x):
        x = x * 1.0
        y = self.inner(x)
        x += 1.0
        return y


class Named(OwnWeights):
    def forward(self, x):
        return {"out": super().forward(x)}


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Named()

    def forward(self, x):
        return self.inner(x)["out"]


class Mask(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = OwnWeights()

    def forward(self, x):
        return self.inner(x[:3]).repeat(len(x) // 3, 1)


REFUSED = {
    "a dict from a layer of the fallback": (Wrapped, (5,), "returned a dict"),
    "fewer records in a layer of the fallback": (Mask, (5,), "does not hold"),
    "buffer changed in place": (lambda: Counting(False), (5,), "buffer"),
    "buffer replaced": (lambda: Counting(True), (5,), "buffer"),
    "weights used outside their layer": (Outside, (5,), "not called"),
    "records merged with positions": (Merging, (2, 5), "first dimension"),
    "input changed after use": (InPlace, (5,), "in place"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_the_forward_pass_may_not_do(name):
    build, shape, message = REFUSED[name]
    model = build().double()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        clipped_sum(model, losses, records(*shape), PATIENTS, COUNT, 1.0)
    assert all(torch.equal(each, before[key]) for key, each in model.state_dict().items())


ARGUMENTS = {
    "a clip of zero": ({"l2_clip_norm": 0.0}, "l2_clip_norm"),
    "a clip that is not finite": ({"l2_clip_norm": float("nan")}, "l2_clip_norm"),
    "no records at once": ({"max_records_at_once": 0}, "max_records_at_once"),
    "a patient beyond the count": ({"patient_count": 7}, "patients"),
    "a negative patient": ({"patients": PATIENTS - 1}, "patients"),
    "too few patients": ({"patients": PATIENTS[1:]}, "rows"),
    "one loss for all": ({"losses": lambda model, batch: losses(model, batch).mean()}, "losses"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_refuses_arguments_that_do_not_fit(name):
    changed, message = ARGUMENTS[name]
    given_ = {"losses": losses, "batch": records(5), "patients": PATIENTS, "patient_count": COUNT, "l2_clip_norm": 1.0}
    with pytest.raises(ValueError, match=message):
        clipped_sum(multilayer(), **(given_ | changed))


def test_refuses_a_model_without_trainable_parameters():
    with pytest.raises(ValueError, match="trainable"):
        BookKeeper(multilayer().requires_grad_(False))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same():
    model, batch = multilayer(), records(5)
    expected = clipped_sum(model, losses, batch, PATIENTS, COUNT, 0.1)
    found = clipped_sum(model.cuda(), losses, tuple(each.cuda() for each in batch), PATIENTS, COUNT, 0.1)
    assert torch.allclose(found.total.cpu(), expected.total, rtol=1e-9, atol=1e-12)
