"""The model that is published is the mean of those after the last rounds; the rounds go on from the last."""

import numpy as np
import pytest

from fedhealth.flower.weight_average import WeightAverage
from fedhealth.study.protocol import Training

MODELS = [np.array([8.0, 0.0]), np.array([2.0, 4.0]), np.array([6.0, -2.0])]


# Over the last two of three: (2 + 6) / 2 = 4 and (4 - 2) / 2 = 1.
@pytest.mark.parametrize(
    ("over", "published"),
    [(1, [[8, 0], [2, 4], [6, -2]]), (2, [[8, 0], [2, 4], [4, 1]]), (3, [[8, 0], [5, 2], [16 / 3, 2 / 3]])],
)
def test_the_mean_is_over_the_last_rounds(study, over, published):
    average = WeightAverage(study(weight_averaging=over))
    found = [average.after(number, model).tolist() for number, model in enumerate(MODELS, 1)]
    assert found == published


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_another_process_goes_on_with_the_same_bits(study, killed_after):
    protocol = study(weight_averaging=2)
    calm, first, second = (WeightAverage(protocol) for _ in range(3))
    models = [model / 3 for model in MODELS]
    for number, model in enumerate(models, 1):
        calm.after(number, model)
    for number, model in enumerate(models[:killed_after], 1):
        first.after(number, model)
    second.put_back({"momentum_vector/0": np.zeros(2), **first.take()})
    for number, model in enumerate(models[killed_after:], killed_after + 1):
        second.after(number, model)
    assert second.of(models[-1]).tobytes() == calm.of(models[-1]).tobytes()


def test_more_rounds_than_there_are_cannot_be_averaged():
    with pytest.raises(ValueError, match="weight_averaging is 4, wanted at most the 3 rounds"):
        Training.model_validate({"rounds": 3, "learning_rate": 1, "l2_clip_norm": 1, "weight_averaging": 4})


def test_a_protocol_that_says_nothing_of_it_has_the_bytes_that_it_had(study):
    assert study(weight_averaging=1).digest == study().digest != study(weight_averaging=2).digest
    assert "weight_averaging" not in study().model_dump_json()
