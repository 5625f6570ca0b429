"""A simulation takes the protocol's own strategy, with privacy and without."""

import numpy as np
import pytest
from wards import PROTOCOL, patients, write_table

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.raw_figures import step_without_privacy
from fedhealth.records.source import read_table_file
from fedhealth.simulation.hospitals import Split, split_table
from fedhealth.simulation.run import simulate_table
from fedhealth.simulation.without_privacy import train_without_privacy
from fedhealth.study.protocol import load_study

SPLIT = Split("ward", "person", seed=7)


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "wards.csv", patients())


def study_with(tmp_path, strategy):
    file = tmp_path / "falls.toml"
    file.write_text(PROTOCOL.replace("l2_clip_norm = 1.0", f"l2_clip_norm = 1.0\nstrategy = {{ {strategy} }}"))
    return load_study(file)


def test_three_hospitals_are_too_few_for_krum(tmp_path, table):
    study = study_with(tmp_path, 'kind = "krum", malicious_sites = 1')
    with pytest.raises(ConfigInvalid, match="'krum', which needs more sites; got 3; wanted at least 5"):
        simulate_table(study, table, SPLIT, tmp_path / "out")


def test_a_median_of_three_hospitals_is_simulated_and_compared_with_itself_without_privacy(tmp_path, table):
    study = study_with(tmp_path, 'kind = "fedmedian", malicious_sites = 1')
    found = simulate_table(study, table, SPLIT, tmp_path / "out")
    average = simulate_table(study_with(tmp_path, 'kind = "fedavg"'), table, SPLIT, tmp_path / "average")
    assert not np.array_equal(found.weights, average.weights)
    assert found.reference.federated_without_privacy != average.reference.federated_without_privacy


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_rounds_without_privacy_are_one_gradient_descent_over_all_hospitals(tmp_path, table, momentum):
    # Weighted by declared patients, the sites' steps are one step: -rate * (sum of gradients) / all that train.
    strategy = f'kind = "fedavgm", server_momentum = {momentum}' if momentum else 'kind = "fedavg"'
    study = study_with(tmp_path, strategy)
    hospitals = split_table(read_table_file(table), study, SPLIT)
    sides = {site: training for site, (training, _) in hospitals.sides.items()}
    together = sum(hospitals.declared_patients.values())
    weights, velocity = np.zeros(study.dimension + 1), np.zeros(study.dimension + 1)
    for _ in range(study.training.rounds):
        step = sum(step_without_privacy(study, weights, side, together) for side in sides.values())
        velocity = (momentum or 0) * velocity + step
        weights = weights + velocity
    np.testing.assert_allclose(train_without_privacy(study, sides, hospitals.declared_patients), weights, rtol=1e-10)
