import contextlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule

from fedhealth.learning.losses import logistic_loss
from fedhealth.training.per_patient import RowwiseLinear, model_outputs, per_patient_gradients

PATIENTS = np.array([0, 1, 1, 2, 3, 3, 3, 4, 5, 0, 2])
COUNT = 6


def records(inputs, seed=0):
    generator = np.random.default_rng(seed)
    n = len(PATIENTS)
    return generator.uniform(-1, 1, (n, inputs)), generator.integers(0, 2, n).astype(np.float64)


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


def multilayer():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()


def flat(parameters):
    return torch.cat([parameter.detach().reshape(-1) for parameter in parameters]).numpy()


def gradients(model, weights, x, y, patients=PATIENTS, count=COUNT):
    return per_patient_gradients(model, weights, logistic_loss, x, y, patients, count)


def test_gradients_are_those_of_opacus_averaged_over_each_patients_records():
    x, y = records(5)
    model = multilayer()
    weights = flat(model.parameters())
    reference = GradSampleModule(multilayer(), loss_reduction="sum")
    output = reference(torch.from_numpy(x).requires_grad_())[:, 0]
    torch.nn.functional.binary_cross_entropy_with_logits(output, torch.from_numpy(y), reduction="sum").backward()
    samples = torch.cat([p.grad_sample.reshape(len(y), -1) for p in reference.parameters()], dim=1).numpy()
    expected = np.stack([samples[patient == PATIENTS].mean(axis=0) for patient in range(COUNT)])
    assert np.allclose(gradients(model, weights, x, y), expected, rtol=0, atol=1e-9)


def test_gradients_are_those_of_each_patient_differentiated_alone():
    x, y = records(7)
    generator = np.random.default_rng(5)
    weights = generator.normal(size=8)
    found = gradients(RowwiseLinear(7), weights, x, y)
    for patient in range(COUNT):
        mine = patient == PATIENTS
        # The derivative of log(1 + e^z) - y z is sigmoid(z) - y, times the input, and times 1 for the bias.
        z = x[mine] @ weights[:7] + weights[7]
        factor = 1 / (1 + np.exp(-z)) - y[mine]
        expected = np.append((factor[:, None] * x[mine]).mean(axis=0), factor.mean())
        assert np.allclose(found[patient], expected, rtol=0, atol=1e-9)


SCALES = [0.0, 5e-324, 1e-300, 1.0, 1e150, 1e300, 1.7e308]


@pytest.mark.parametrize("gate", [False, True], ids=["plain process", "gate"])
@pytest.mark.parametrize("inputs", [1, 2, 3, 5, 8, 13, 101])
@pytest.mark.parametrize("scale", SCALES)
def test_whoever_else_is_there_a_patients_row_has_the_same_bits(inputs, scale, gate):
    x, y = records(inputs, seed=inputs)
    generator = np.random.default_rng(inputs)
    weights = generator.uniform(-1, 1, inputs + 1) * scale
    model = RowwiseLinear(inputs)
    with as_in_a_gate() if gate else contextlib.nullcontext():
        whole, scores = gradients(model, weights, x, y), model_outputs(model, weights, x)
        for left_out in (1, 2, 4, 8, 16, 32, 0b000111, 0b111000, 0b111110, 0b011111, 0b101111):
            kept = [patient for patient in range(COUNT) if not left_out >> patient & 1]
            rows = np.isin(PATIENTS, kept)
            index = np.searchsorted(kept, PATIENTS[rows])
            part = gradients(model, weights, x[rows], y[rows], index, len(kept))
            assert part.tobytes() == whole[kept].tobytes()
            assert model_outputs(model, weights, x[rows]).tobytes() == scores[rows].tobytes()


ANY = st.floats(width=64)


@settings(max_examples=100, deadline=None)
@given(st.lists(ANY, min_size=4, max_size=4), st.lists(ANY, min_size=15, max_size=15), st.integers(0, 3))
def test_any_weights_and_any_cells_of_one_patient_leave_the_others_rows_alone(weights, cells, patient):
    patients = np.array([0, 1, 2, 3, 3])
    x, y = np.array(cells).reshape(5, 3), np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    model, kept = RowwiseLinear(3), [number for number in range(4) if number != patient]
    whole = gradients(model, np.array(weights), x, y, patients, 4)
    rows = patients != patient
    part = gradients(model, np.array(weights), x[rows], y[rows], np.searchsorted(kept, patients[rows]), 3)
    assert np.array_equal(part, whole[kept], equal_nan=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["feature", "label"])
def test_what_is_not_finite_in_one_patient_stays_in_that_patients_row(value, place):
    x, y = records(3)
    weights = np.array([1.0, -1.0, 0.5, 0.0])
    before = gradients(RowwiseLinear(3), weights, x, y)
    if place == "feature":
        x[4, 1] = value  # one of the three records of patient 3
    else:
        y[4] = value
    after = gradients(RowwiseLinear(3), weights, x, y)
    others = [0, 1, 2, 4, 5]
    assert not np.isfinite(after[3]).all()
    assert after[others].tobytes() == before[others].tobytes()


def test_a_model_with_buffers_is_refused():
    model = torch.nn.Sequential(RowwiseLinear(3), torch.nn.BatchNorm1d(1)).double()
    x, y = records(3)
    with pytest.raises(ValueError, match="buffers"):
        gradients(model, np.zeros(6), x, y)


@pytest.mark.parametrize("size", [0, 3, 5])
def test_weights_that_do_not_fit_are_refused(size):
    x, y = records(3)
    with pytest.raises(ValueError, match="weights"):
        gradients(RowwiseLinear(3), np.zeros(size), x, y)
    with pytest.raises(ValueError, match="weights"):
        model_outputs(RowwiseLinear(3), np.zeros(size), x)


def test_nobody_has_no_rows_and_is_no_error():
    empty = np.zeros((0, 3)), np.zeros(0), np.zeros(0, dtype=np.int64), 0
    assert gradients(RowwiseLinear(3), np.zeros(4), *empty).shape == (0, 4)
    assert model_outputs(RowwiseLinear(3), np.zeros(4), empty[0]).shape == (0, 1)


def test_the_model_itself_is_not_changed():
    model = multilayer()
    before = flat(model.parameters()).copy()
    x, y = records(5)
    gradients(model, before * 2, x, y)
    assert (flat(model.parameters()) == before).all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_gate_learns_without_loading_the_compiler_of_torch():
    # It takes a second, several times what this does, and a gate would load it before its first answer.
    script = (
        "import sys, numpy; from fedhealth.training import per_patient; from fedhealth.learning.losses import *\n"
        "per_patient.make_deterministic()\n"
        "x, y, n = numpy.ones((4, 3)), numpy.ones(4), numpy.arange(4)\n"
        "found = per_patient.per_patient_gradients("
        "per_patient.RowwiseLinear(3, 1), numpy.ones(4), logistic_loss, x, y, n, 4)\n"
        "sys.exit('torch._dynamo' in sys.modules or 'torch._inductor' in sys.modules or not found.any())"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
