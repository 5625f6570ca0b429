"""With and without one patient, the exact sum differs by that patient's own steps, and by no more than the clip."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedhealth.privacy.gaussian import GridGaussian
from fedhealth.training.book_keeping import BookKeeper
from fedhealth.training.exact_sum import ExactSummer
from fedhealth.training.per_patient import make_deterministic

PATIENTS = np.array([3, 1, 1, 0, 4, 4, 4, 5, 3, 7, 7, 7, 7, 7, 8])  # one to five records; 2 and 6 have none
COUNT, RECORDS = 9, len(PATIENTS)


@pytest.fixture(autouse=True)
def as_in_a_gate():
    threads = torch.get_num_threads()
    make_deterministic()
    torch.set_flush_denormal(False)  # hypothesis draws subnormal numbers
    yield
    torch.set_deterministic_debug_mode("default")
    torch.set_num_threads(threads)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.norm, self.head = nn.Embedding(7, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.norm(self.tokens(x)).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(5, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(torch.tanh(self.one(x)))


MODELS = {
    "logistic": (lambda: nn.Sequential(nn.Linear(13, 1)), (13,)),
    "chain": (lambda: nn.Sequential(nn.Linear(13, 9), nn.ReLU(), nn.Linear(9, 3)), (13,)),
    "positions, ghost": (lambda: nn.Sequential(nn.Linear(60, 70), nn.GELU(), nn.Linear(70, 2)), (3, 60)),
    "positions, kept": (lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)), (9, 5)),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()), (2, 6, 6)),
    "convolution, ghost": (lambda: nn.Sequential(nn.Conv2d(30, 40, 3)), (30, 4, 4)),
    "3D": (lambda: nn.Sequential(nn.Conv3d(1, 3, 3), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(3, 2)), (1, 4, 4, 4)),
    "tokens": (Tokens, (6,)),
    "LSTM": (Recurrent, (3, 5)),
    "tied weights": (Tied, (8,)),
}


def case(name, dtype=torch.float64, scale=1.0):
    build, shape = MODELS[name]
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    model = build().to(dtype)
    for each in model.parameters():
        each.data.mul_(scale)
    x = torch.randint(0, 7, (RECORDS, *shape), generator=generator)
    x = x if name == "tokens" else torch.randn(RECORDS, *shape, generator=generator).to(dtype)
    return model, (x, torch.randn(RECORDS, generator=generator).to(dtype))


def losses(model, batch):
    return (model(batch[0]).flatten(1) - batch[1][:, None]).square().mean(1)


def summer_of(model, clip=1.0, noise_multiplier=1.0, rows=64):
    size = sum(each.numel() for each in model.parameters())
    return ExactSummer(BookKeeper(model), GridGaussian(noise_multiplier, clip, size), most_records=8, rows=rows)


def only(batch, patients, who):
    rows = np.isin(patients, who)
    return tuple(each[torch.from_numpy(rows)] for each in batch), np.searchsorted(who, patients[rows]), len(who)


def assert_one_patient_changes_what_is_proven(summer, batch):
    """Leave each patient out in turn: the difference is the patient's own part, which measures at most the clip."""
    torch.set_flush_denormal(True)  # as in a gate
    try:
        whole, zeroed = summer.fine_sum(losses, batch, PATIENTS, COUNT)
        for patient in range(COUNT):
            others = [each for each in range(COUNT) if each != patient]
            rest, rest_zeroed = summer.fine_sum(losses, *only(batch, PATIENTS, others))
            alone, own_zeroed = summer.fine_sum(losses, *only(batch, PATIENTS, [patient]))
            assert (whole - rest == alone).all() and zeroed == rest_zeroed + own_zeroed
            squared = sum(int(steps) ** 2 for steps in alone.tolist())
            assert squared * Fraction(summer.step) ** 2 <= Fraction(summer.mechanism.l2_clip_norm) ** 2
            assert not (own_zeroed and alone.any())
    finally:
        torch.set_flush_denormal(False)


SCALES = {torch.float64: [1.0, 1e-300, 1e150, 1e300, math.nan], torch.float32: [1.0, 1e30]}


@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("name", MODELS)
def test_one_patient_changes_the_sum_by_that_patients_part_alone(name, dtype):
    model, batch = case(name, dtype)
    summer = summer_of(model, clip=0.1)
    for scale in SCALES[dtype]:
        model.load_state_dict(case(name, dtype, scale)[0].state_dict())
        assert_one_patient_changes_what_is_proven(summer, batch)


VALUES = st.floats(width=64) | st.sampled_from([0.0, 5e-324, 1e-300, 1.0, -1e150, 1e300, -1.7e308, math.inf, math.nan])


@settings(max_examples=30, deadline=None)
@given(st.lists(VALUES, min_size=10, max_size=10), st.lists(VALUES, min_size=RECORDS, max_size=RECORDS))
def test_the_same_with_any_weights_and_any_cells(weights, cells):
    model = nn.Sequential(
        nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1, bias=False), nn.Softplus(), nn.Linear(1, 1)
    ).double()
    flat = torch.tensor(weights, dtype=torch.float64)
    for each, part in zip(model.parameters(), flat.split([4, 2, 2, 1, 1]), strict=True):
        each.data.copy_(part.view_as(each))
    x = torch.tensor(cells, dtype=torch.float64)
    assert_one_patient_changes_what_is_proven(summer_of(model), (torch.stack((x, x.flip(0)), 1), x * 0.5))


@pytest.mark.parametrize("noise_multiplier", [0.05, 1.0, 300.0])
@pytest.mark.parametrize("name", MODELS)
def test_the_sum_is_the_clipped_sum_to_the_grid(name, noise_multiplier):
    model, batch = case(name)
    summer = summer_of(model, clip=0.2, noise_multiplier=noise_multiplier)
    expected = BookKeeper(model).clipped_sum(losses, batch, PATIENTS, COUNT, 0.2)
    found, zeroed = summer.sum(losses, batch, PATIENTS, COUNT)
    assert zeroed == 0 and int((expected.norms > 0.2).sum()) > 0
    # Half a step of the grid in each coordinate; and 1e-3 of each of seven patients' clip for whole steps.
    apart = np.linalg.norm(found * summer.mechanism.grid - expected.total.numpy())
    assert apart <= 0.5 * math.sqrt(len(found)) * summer.mechanism.grid + 7 * 0.2 * 1e-3


def test_rows_of_a_batch_and_more_patients_than_one_flush_change_nothing_beyond_rounding():
    model, _ = case("chain")
    generator = torch.Generator().manual_seed(2)
    batch = torch.randn(1500, 13, generator=generator).double(), torch.randn(1500, generator=generator).double()
    found = [summer_of(model, rows=rows).sum(losses, batch, np.arange(1500), 1500)[0] for rows in (64, 128, 512)]
    assert max(np.abs(found[0] - each).max() for each in found[1:]) <= 1
    expected = BookKeeper(model).clipped_sum(losses, batch, np.arange(1500), 1500, 1.0).total.numpy()
    grid = summer_of(model).mechanism.grid
    assert np.linalg.norm(found[1] * grid - expected) <= 1e-4 * np.linalg.norm(expected) + 0.5 * grid * 12.5


def test_nobody_gives_zeros_and_too_many_records_count_as_zero():
    model, batch = case("chain")
    summer = summer_of(model)
    none, zeroed = summer.sum(losses, tuple(each[:0] for each in batch), np.zeros(0, dtype=np.int64), 4)
    assert not none.any() and zeroed == 0
    crowd = np.array([0] * 9 + [1] * 6)
    found, zeroed = summer.fine_sum(losses, batch, crowd, 2)
    alone, _ = summer.fine_sum(losses, tuple(each[9:] for each in batch), np.zeros(6, dtype=np.int64), 1)
    assert zeroed == 1 and (found == alone).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU])
def test_a_gradient_that_is_rounding_alone_is_the_same_at_every_place_taken(activation, dtype):
    """Labels are what the model says, and weights large: where last bits differ, so do whole gradients.

    Rows of odd length are where kernels treat places apart.
    """
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(129, 257), activation(), nn.Linear(257, 1)).to(dtype)
    model[2].weight.data.mul_(1e6)
    x = torch.randn(64, 129).to(dtype)
    batch = x, model(x).detach()[:, 0]
    summer = summer_of(model)
    whole, _ = summer.fine_sum(losses, batch, np.arange(64), 64)
    alone = [summer.fine_sum(losses, *only(batch, np.arange(64), [each]))[0] for each in range(64)]
    assert (whole == sum(alone)).all()


class PlaceMatters(nn.Linear):
    def forward(self, x):
        return super().forward(x) * (1 + 1e-3 * torch.arange(len(x), dtype=x.dtype)[:, None])


def test_only_places_that_are_alike_are_taken():
    model, (_, batch) = nn.Sequential(nn.Linear(13, 3), PlaceMatters(3, 2)).double(), case("chain")
    assert_one_patient_changes_what_is_proven(summer_of(model), batch)


def test_refuses_a_pass_that_draws_random_numbers_and_leaves_the_weights_as_they_were():
    model, (_, batch) = nn.Sequential(nn.Linear(13, 3), nn.Dropout(0.5)).double(), case("chain")
    before = [each.clone() for each in model.parameters()]
    with pytest.raises(ValueError, match="random numbers"):
        summer_of(model).sum(losses, batch, PATIENTS, COUNT)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    summer_of(model.eval()).sum(losses, batch, PATIENTS, COUNT)


class Ranked(nn.Module):
    """Nothing of its type says so, it has no weights, and with weights of zero nobody sees it."""

    def forward(self, x):
        return x.argsort(0).to(x) * x


@pytest.mark.parametrize("zero", [False, True], ids=["any weights", "weights of zero"])
def test_refuses_a_model_that_mixes_records_before_a_patient_is_read(zero):
    model, (_, batch) = nn.Sequential(nn.Linear(13, 3), Ranked()).double(), case("chain")
    if zero:
        for each in model.parameters():
            each.data.zero_()
    nobody = tuple(each[:0] for each in batch)
    with pytest.raises(ValueError, match="depends on the other records"):
        summer_of(model).sum(losses, nobody, np.zeros(0, dtype=np.int64), 0)


def test_refuses_threads_that_share_a_sum_and_kernels_that_may_change():
    model, batch = case("chain")
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="one thread"):
        summer_of(model).sum(losses, batch, PATIENTS, COUNT)
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("default")
    with pytest.raises(ValueError, match="deterministic"):
        summer_of(model).sum(losses, batch, PATIENTS, COUNT)


@pytest.mark.parametrize(("rows", "dimension"), [(0, 156), (48, 156), (96, 156), (1024, 156), (64, 155)])
def test_refuses_other_rows_and_a_mechanism_of_another_length(rows, dimension):
    model, _ = case("chain")
    with pytest.raises(ValueError, match=r"rows|weights"):
        ExactSummer(BookKeeper(model), GridGaussian(1.0, 1.0, dimension), most_records=8, rows=rows)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["chain", "convolution", "tokens"])
def test_a_gpu_keeps_the_same_promise(name):
    model, batch = case(name, torch.float32)
    assert_one_patient_changes_what_is_proven(summer_of(model.cuda()), tuple(each.cuda() for each in batch))
