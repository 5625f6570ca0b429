"""Losses of survival models: by hand, by differences, against Cox's regression of others, and bit by bit."""

import math

import numpy as np
import pytest
import torch

from fedhealth.learning.hazards import DiscreteTimeLoss, PiecewiseExponentialLoss, ProportionalHazards
from fedhealth.learning.raw_survival import fit_cox, harrell_concordance
from fedhealth.learning.time_grid import TimeGrid
from fedhealth.training.per_patient import RowwiseNetwork, model_outputs, per_patient_gradients

GRID = TimeGrid((2.0, 5.0, 10.0))
SKSURV = "scikit-survival is not installed (extra 'dev')"


def cohort(size, inputs, seed=0, horizon=10.0):
    generator = np.random.default_rng(seed)
    x = generator.uniform(-1, 1, (size, inputs))
    event_at = generator.exponential(6 * np.exp(-x[:, 0] + 0.5 * x[:, -1]))
    left_at = generator.uniform(0.5, 1.6 * horizon, size)
    time = np.minimum(np.minimum(event_at, left_at), horizon)
    return x, time, (event_at <= left_at) & (event_at <= horizon)


def labels_of(time, event):
    return np.column_stack([event.astype(np.float64), time])


def gradients(model, weights, loss, x, labels, patients=None):
    patients = np.arange(len(x)) if patients is None else patients
    return per_patient_gradients(model, weights, loss, x, labels, patients, len(x))


def test_the_grid_splits_follow_up_and_names_the_interval_it_ended_in():
    times = np.array([0.0, 2.0, 3.5, 10.0, 12.0, math.nan])
    assert GRID.lived(times[:5]).tolist() == [[0, 0, 0], [2, 0, 0], [2, 1.5, 0], [2, 3, 5], [2, 3, 5]]
    assert GRID.interval_of(times).tolist() == [0, 0, 1, 2, 3, 3]


# Log hazards log 0.1, log 0.2, log 0.4. Time 3.5: lived 2 and 1.5, expected 0.2 + 0.3 events.
@pytest.mark.parametrize(
    ("time", "event", "expected"),
    [
        (3.5, 0.0, 0.5),
        (3.5, 1.0, 0.5 - math.log(0.2)),
        (2.0, 1.0, 0.2 - math.log(0.1)),  # an end belongs to the interval that it ends
        (0.0, 1.0, 0.0 - math.log(0.1)),  # time 0 to the first
        (10.0, 0.0, 0.2 + 0.6 + 2.0),
    ],
)
def test_the_piecewise_exponential_loss_by_hand(time, event, expected):
    output = torch.log(torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64))
    label = torch.tensor([event, time], dtype=torch.float64)
    assert float(PiecewiseExponentialLoss(GRID)(output, label)) == pytest.approx(expected)


# Hazards 0.1, 0.2, 0.4 as chances. Survived intervals cost -log(1 - h), the event's costs -log h.
@pytest.mark.parametrize(
    ("time", "event", "expected"),
    [
        (3.5, 1.0, -math.log(0.9) - math.log(0.2)),
        (3.5, 0.0, -math.log(0.9) - math.log(0.8)),  # half of (2, 5] was lived through
        (3.4, 0.0, -math.log(0.9)),
        (0.0, 1.0, -math.log(0.1)),
        (0.9, 0.0, 0.0),
        (10.0, 0.0, -math.log(0.9 * 0.8 * 0.6)),
        (10.0, 1.0, -math.log(0.9 * 0.8 * 0.4)),
    ],
)
def test_the_discrete_time_loss_by_hand(time, event, expected):
    chance = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    label = torch.tensor([event, time], dtype=torch.float64)
    assert float(DiscreteTimeLoss(GRID)(torch.log(chance / (1 - chance)), label)) == pytest.approx(expected)


def test_coxs_gradient_of_a_patient_is_the_martingale_residual_times_the_inputs():
    x, time, event = cohort(40, 2)
    weights = np.array([0.3, -0.7, *np.log([0.05, 0.1, 0.2])])
    found = gradients(ProportionalHazards(2, 3), weights, PiecewiseExponentialLoss(GRID), x, labels_of(time, event))
    hazard = np.exp(x @ weights[:2])[:, None] * np.array([0.05, 0.1, 0.2])
    happened = np.eye(4)[GRID.interval_of(time)][:, :3] * event[:, None]
    residual = GRID.lived(time) * hazard - happened
    assert np.allclose(found, np.column_stack([residual.sum(axis=1)[:, None] * x, residual]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden", [(), (4,), (3, 2)])
def test_the_networks_gradients_are_differences_of_its_loss(hidden):
    x, time, event = cohort(3, 2, seed=4)
    model, loss, labels = RowwiseNetwork((2, *hidden, 3)), DiscreteTimeLoss(GRID), labels_of(time, event)
    size = sum(parameter.numel() for parameter in model.parameters())
    weights = np.random.default_rng(1).normal(size=size)
    found = gradients(model, weights, loss, x, labels)

    def losses(at):
        outputs = torch.from_numpy(model_outputs(model, at, x))
        return np.array([float(loss(out, label)) for out, label in zip(outputs, torch.from_numpy(labels), strict=True)])

    step = 1e-6
    for place in range(size):
        ahead, behind = weights.copy(), weights.copy()
        ahead[place] += step
        behind[place] -= step
        assert found[:, place] == pytest.approx((losses(ahead) - losses(behind)) / (2 * step), abs=1e-6)


MODELS = {
    "cox": (lambda inputs: ProportionalHazards(inputs, 3), PiecewiseExponentialLoss(GRID)),
    "network": (lambda inputs: RowwiseNetwork((inputs, 5, 3)), DiscreteTimeLoss(GRID)),
}


def bits(rows):
    """Return the bits, of NaN the same ones everywhere: its sign says nothing, and the mechanism takes it for zero."""
    return np.where(np.isnan(rows), np.nan, rows).tobytes()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("inputs", [1, 3, 8, 13])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e150, 1.7e308])
def test_whoever_else_is_there_a_patients_row_has_the_same_bits(kind, inputs, scale):
    make, loss = MODELS[kind]
    model = make(inputs)
    x, time, event = cohort(67, inputs, seed=inputs)
    labels = labels_of(time, event)
    size = sum(parameter.numel() for parameter in model.parameters())
    weights = np.random.default_rng(inputs).uniform(-1, 1, size) * scale
    whole, outputs = gradients(model, weights, loss, x, labels), model_outputs(model, weights, x)
    for first, last in [(0, 1), (1, 2), (66, 67), (0, 3), (5, 12), (3, 67), (1, 66), (0, 16), (17, 33)]:
        rows = slice(first, last)
        assert bits(gradients(model, weights, loss, x[rows], labels[rows])) == bits(whole[rows])
        assert bits(model_outputs(model, weights, x[rows])) == bits(outputs[rows])


def descend(strata, grid, rounds=6000, pace=4.0):
    """Minimise the Poisson form by plain steps, each stratum with a baseline of its own."""
    inputs = strata[0][0].shape[1]
    size = sum(len(stratum[1]) for stratum in strata)
    shared, baselines = np.zeros(inputs), [np.full(grid.intervals, math.log(grid.hazard_of(0.5))) for _ in strata]
    for _ in range(rounds):
        total = np.zeros(inputs)
        for number, (x, time, event) in enumerate(strata):
            hazard = grid.lived(time) * np.exp((x @ shared)[:, None] + baselines[number])
            happened = np.eye(grid.intervals + 1)[grid.interval_of(time)][:, :-1] * event[:, None]
            residual = hazard - happened
            total += residual.sum(axis=1) @ x
            baselines[number] = baselines[number] - residual.sum(axis=0) / (happened.sum(axis=0) + 1)
        shared = shared - pace * total / size
    return shared


def test_on_a_fine_grid_the_poisson_form_has_the_coefficients_of_coxs_regression():
    strata = [cohort(250, 2, seed=1), cohort(150, 2, seed=2)]
    found = descend(strata, TimeGrid(tuple(np.linspace(0.1, 10, 100))))
    assert found == pytest.approx(fit_cox(strata), abs=0.01)


def test_coxs_regression_is_that_of_an_independent_library():
    cox = pytest.importorskip("sksurv.linear_model", reason=SKSURV).CoxPHSurvivalAnalysis
    x, time, event = cohort(400, 3, seed=7)
    time = np.ceil(time)  # ties
    outcome = np.array(list(zip(event, time, strict=True)), dtype=[("event", bool), ("time", float)])
    assert fit_cox([(x, time, event)]) == pytest.approx(cox(ties="breslow").fit(x, outcome).coef_, abs=1e-4)


def test_strata_are_not_compared_with_each_other():
    # In the second stratum everybody fails later; with one baseline for all, input 0, which marks it, would explain
    # that. Within each stratum it is constant, so nothing is known of it: the ridge keeps it at 0.
    one, two = cohort(200, 3, seed=1), cohort(200, 3, seed=2)
    one[0][:, 0], two[0][:, 0] = 1.0, -1.0
    later = (two[0], two[1] + 20, two[2])
    assert fit_cox([one, later])[0] == pytest.approx(0, abs=1e-6)
    joined = tuple(np.concatenate(pair) for pair in zip(one, later, strict=True))
    assert abs(fit_cox([joined])[0]) > 1


def test_the_concordance_index_is_that_of_an_independent_library():
    index = pytest.importorskip("sksurv.metrics", reason=SKSURV).concordance_index_censored
    x, time, event = cohort(3000, 2, seed=3)
    time, risk = np.ceil(time), np.round(x[:, 0], 1)  # ties of both
    assert harrell_concordance(risk, time, event) == pytest.approx(index(event, time, risk)[0], abs=1e-12)


def test_the_concordance_index_by_hand():
    # Event at 1 (risk 2), censored at 2 (risk 3), event at 3 (risk 1), censored at 4 (risk 1). Known pairs: (1, 2)
    # lost, (1, 3) won, (1, 4) won, (3, 4) level: 2.5 of 4.
    risk, time = np.array([2.0, 3.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0, 4.0])
    assert harrell_concordance(risk, time, np.array([True, False, True, False])) == 2.5 / 4
    assert harrell_concordance(risk, time, np.zeros(4, dtype=bool)) is None
