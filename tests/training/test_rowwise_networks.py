"""Networks of several layers and outputs: each patient's gradient is that patient's alone, to the last bit."""

import contextlib
import hashlib
import itertools

import numpy as np
import pytest
import torch

from fedhealth.learning.dense_layers import size_of, start_of
from fedhealth.learning.losses import logistic_loss, softmax_loss, squared_loss
from fedhealth.training import per_patient
from fedhealth.training.per_patient import (
    RowwiseNetwork,
    model_outputs,
    per_patient_gradients,
    softsign,
)

PATIENTS = np.array([0, 1, 1, 2, 3, 3, 3, 4, 5, 0, 2])
COUNT = 6
CASES = {
    "yes or no": ((5, 4, 1), logistic_loss),
    "one wide layer": ((3, 17, 1), logistic_loss),
    "a number": ((7, 8, 5, 1), squared_loss),
    "classes": ((6, 9, 4), softmax_loss),
    "classes without hidden layers": ((13, 3), softmax_loss),
    "many classes": ((2, 3, 33), softmax_loss),
    "layers of one unit": ((1, 1, 1, 1), squared_loss),
}


def records(widths, loss, seed=0):
    generator, n = np.random.default_rng(seed), len(PATIENTS)
    features = generator.uniform(-1, 1, (n, widths[0]))
    if loss is squared_loss:
        return features, generator.uniform(-1, 1, n)
    return features, generator.integers(0, max(2, widths[-1]), n).astype(np.float64)


@contextlib.contextmanager
def as_in_a_gate():
    """One thread and no subnormals, as `make_deterministic` has it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def layers_of(widths, weights):
    """Return each layer's weights, a row for each output, and biases: so they lie in the vector."""
    sizes = [size for inputs, outputs in itertools.pairwise(widths) for size in (inputs * outputs, outputs)]
    parts = np.split(weights, np.cumsum(sizes)[:-1])
    shapes = list(itertools.pairwise(widths))
    return [(parts[2 * n].reshape(shapes[n][::-1]), parts[2 * n + 1]) for n in range(len(shapes))]


def bits(rows):
    """Return the bytes of numbers; all that are none are alike, because their patient counts as zero."""
    return np.where(np.isnan(rows), np.nan, rows).tobytes()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [0.0, 5e-324, 1e-3, 1.0, 30.0, 1e150, 1.7e308])
@pytest.mark.parametrize("gate", [False, True], ids=["plain process", "gate"])
def test_whoever_else_is_there_a_patients_row_has_the_same_bits(case, scale, gate, monkeypatch):
    widths, loss = CASES[case]
    model, (x, y) = RowwiseNetwork(widths), records(widths, loss, seed=1)
    weights = np.random.default_rng(2).uniform(-1, 1, size_of(widths)) * scale
    with as_in_a_gate() if gate else contextlib.nullcontext():
        whole = per_patient_gradients(model, weights, loss, x, y, PATIENTS, COUNT)
        outputs = model_outputs(model, weights, x)
        for left_out in (1, 8, 32, 0b000111, 0b111110, 0b101111):
            kept = [patient for patient in range(COUNT) if not left_out >> patient & 1]
            rows = np.isin(PATIENTS, kept)
            index = np.searchsorted(kept, PATIENTS[rows])
            part = per_patient_gradients(model, weights, loss, x[rows], y[rows], index, len(kept))
            assert bits(part) == bits(whole[kept])
            assert bits(model_outputs(model, weights, x[rows])) == bits(outputs[rows])
        monkeypatch.setattr(per_patient, "_NUMBERS_AT_ONCE", 1)  # each patient in a block of its own
        assert bits(per_patient_gradients(model, weights, loss, x, y, PATIENTS, COUNT)) == bits(whole)
        assert bits(model_outputs(model, weights, x)) == bits(outputs)


def values_that_move_with_their_place(loss):
    """Return how many of 1,000 patients have another gradient where up to 16 before or after them are not there."""
    model = RowwiseNetwork((3, 4, 5 if loss is softmax_loss else 1))
    generator = np.random.default_rng(4)
    n, size = 1000, sum(parameter.numel() for parameter in model.parameters())
    x, weights = generator.normal(0, 3, (n, 3)), generator.normal(0, 3, size)
    y = generator.integers(0, 2, n).astype(np.float64)

    def found(rows):
        return per_patient_gradients(model, weights, loss, x[rows], y[rows], np.arange(len(x[rows])), len(x[rows]))

    whole, moved = found(slice(None)), np.zeros(n, dtype=np.bool_)
    for gone in range(1, 17):
        for rows in (slice(gone, None), slice(None, n - gone)):
            moved[rows] |= (found(rows) != whole[rows]).any(axis=1)
    return int(moved.sum())


@pytest.mark.parametrize("loss", [softmax_loss, squared_loss, logistic_loss], ids=lambda loss: loss.__name__)
def test_a_gradient_does_not_move_with_its_place_among_many(loss):
    assert values_that_move_with_their_place(loss) == 0


def test_a_function_that_torch_computes_otherwise_at_the_end_of_a_tensor_is_found(monkeypatch):
    monkeypatch.setattr(per_patient, "softsign", torch.nn.functional.silu)
    assert values_that_move_with_their_place(squared_loss) > 0


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_torchs_own_layers_for_each_patient_alone(case):
    widths, loss = CASES[case]
    x, y = records(widths, loss, seed=3)
    weights = np.random.default_rng(5).normal(size=size_of(widths))
    found = per_patient_gradients(RowwiseNetwork(widths), weights, loss, x, y, PATIENTS, COUNT)
    losses = {
        logistic_loss: lambda out, label: torch.nn.functional.binary_cross_entropy_with_logits(out[:, 0], label),
        softmax_loss: lambda out, label: torch.nn.functional.cross_entropy(out, label.long()),
        squared_loss: lambda out, label: torch.nn.functional.mse_loss(out[:, 0], label) / 2,
    }
    for patient in range(COUNT):
        layers = [torch.nn.Linear(*pair).double() for pair in itertools.pairwise(widths)]
        for layer, (matrix, biases) in zip(layers, layers_of(widths, weights), strict=True):
            layer.weight.data, layer.bias.data = torch.from_numpy(matrix.copy()), torch.from_numpy(biases.copy())
        mine = patient == PATIENTS
        value = torch.from_numpy(x[mine])
        for number, layer in enumerate(layers):
            value = layer(value if number == 0 else torch.nn.functional.softsign(value))
        losses[loss](value, torch.from_numpy(y[mine])).backward()
        expected = torch.cat([each.grad.reshape(-1) for layer in layers for each in (layer.weight, layer.bias)])
        assert np.allclose(found[patient], expected.numpy(), rtol=0, atol=1e-9)
        said = model_outputs(RowwiseNetwork(widths), weights, x[mine])
        assert np.allclose(said, value.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["feature", "label"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_not_finite_in_one_patient_stays_in_that_patients_row(value, place, case):
    widths, loss = CASES[case]
    x, y = records(widths, loss)
    weights = np.random.default_rng(6).normal(size=size_of(widths))
    model = RowwiseNetwork(widths)
    before = per_patient_gradients(model, weights, loss, x, y, PATIENTS, COUNT)
    if place == "feature":
        x[4, 0] = value  # one of the three records of patient 3
    else:
        y[4] = value
    after = per_patient_gradients(model, weights, loss, x, y, PATIENTS, COUNT)
    others = [0, 1, 2, 4, 5]
    assert not np.isfinite(after[3]).all()
    assert after[others].tobytes() == before[others].tobytes()


def test_softsign_has_a_slope_of_one_at_zero_and_none_that_is_zero():
    x = torch.tensor([0.0, 1.0, -1.0, 1e6], dtype=torch.float64, requires_grad=True)
    softsign(x).sum().backward()
    # Its derivative is 1 / (1 + |x|)^2: 1, 1/4, 1/4 and 1e-12.
    assert x.grad.tolist() == pytest.approx([1, 0.25, 0.25, 1e-12], rel=1e-5)


def test_the_start_follows_from_the_digest_alone():
    widths, digest = (4, 3, 2), "ab" * 32
    start = start_of(widths, digest)
    assert start.tobytes() == start_of(widths, digest).tobytes()
    assert not np.array_equal(start, start_of(widths, "ac" * 32))
    # First draw, worked out anew: 53 bits of the first 8 bytes of SHAKE-256, within +-sqrt(6 / (4 + 3)).
    first = int.from_bytes(hashlib.shake_256(b"fedhealth/start/" + digest.encode()).digest(8), "little") >> 11
    assert start[0] == (6 / 7) ** 0.5 * (first / 2**52 - 1)
    (first_matrix, first_biases), (second_matrix, second_biases) = layers_of(widths, start)
    assert not first_biases.any() and not second_biases.any()
    assert np.abs(first_matrix).max() <= (6 / 7) ** 0.5 and np.abs(second_matrix).max() <= (6 / 5) ** 0.5
    many = start_of((100, 100, 1), digest)[:10_000]
    # Uniform on +-r: mean 0 and variance r^2 / 3, to 4 standard errors of 10,000 draws.
    reach = (6 / 200) ** 0.5
    assert abs(many.mean()) < 4 * reach / 3**0.5 / 100
    assert many.var() == pytest.approx(reach**2 / 3, rel=4 * (4 / 5) ** 0.5 / 100)
