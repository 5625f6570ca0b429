import math

import pytest
from audited_site import BUDGET, FIRST, SECOND, make_gate

from fedhealth.compliance.budget import budget_use
from fedhealth.compliance.history import read_gate
from fedhealth.privacy.mu_squared import MU_SQUARED_UNITS, delta_of


def test_the_budget_is_told_by_data_set_side_and_study(gate):
    training, held_out = budget_use(read_gate(gate))
    assert (training.data_set, training.cohort, held_out.cohort) == ("ward", "training", "held-out")
    assert (training.epsilon, training.delta, training.currency) == (4.0, 1e-5, "mu-squared")
    first, second = training.studies
    assert (first.name, first.by, first.withdrawn) == ("first", "ada", False)
    assert (second.name, second.by, second.withdrawn) == ("second", "grace", True)
    assert [(step.step, step.charged, step.planned) for step in first.steps] == [("train", 3, 4)]
    assert [(step.step, step.charged, step.planned) for step in held_out.studies[0].steps] == [("evaluate", 0, 1)]
    # Three of four equal rounds, and nothing of the study that was withdrawn.
    assert first.share_of_envelope == pytest.approx(3 / 4)
    assert (second.share_of_cap, second.share_of_envelope) == (0.0, 0.0)
    assert training.share_spent == pytest.approx(3 / 4 * training.share_set_aside)
    assert training.share_left == pytest.approx(1 - training.share_set_aside)


def test_the_share_of_the_cap_is_that_of_mu_squared(gate):
    """The first study costs epsilon 1 of 4 at the same delta, so its mu is that of (1, delta), all rounds together."""
    training, held_out = budget_use(read_gate(gate))
    cap = BUDGET.cap().mu_squared / MU_SQUARED_UNITS
    mu_squared = training.share_set_aside * cap
    assert delta_of(math.sqrt(mu_squared), 1.0) == pytest.approx(1e-5, rel=2e-3)  # a share of delta is for sampling
    assert held_out.share_spent == 0.0
    assert held_out.studies[0].share_of_cap == 0.0


def test_the_plans_epsilon_is_what_the_protocol_asked_for_and_is_labelled(gate):
    training, _ = budget_use(read_gate(gate))
    for used, asked in zip(training.studies, (FIRST, SECOND), strict=True):
        assert used.plan.epsilon == pytest.approx(asked.privacy.training_epsilon, rel=5e-3)
        assert used.plan.delta == 1e-5
        assert "informative" in used.plan.label


def test_a_study_without_its_protocol_keeps_its_figures_but_no_plan(tmp_path):
    folder = make_gate(tmp_path / "gate")
    for file in (folder / "studies").iterdir():
        file.unlink()
    training, held_out = budget_use(read_gate(folder))
    first = training.studies[0]
    assert (first.study, first.name, first.plan) == (FIRST.digest, None, None)
    assert [(step.step, step.charged, step.planned) for step in first.steps] == [("train", 3, None)]
    assert first.share_of_envelope == pytest.approx(3 / 4)
    assert held_out.studies[0].steps == ()
