"""What is knowable before a study runs: costs, noise at hospitals of a size, published limits."""

import math
from pathlib import Path

import pytest

from fedhealth.errors import ConfigInvalid
from fedhealth.learning.evaluation import lines_of
from fedhealth.learning.foresight import foresee
from fedhealth.learning.open_texts import refuse_open_texts
from fedhealth.learning.plan import plan_study
from fedhealth.policy.limits import SiteLimits
from fedhealth.study.protocol import Study, load_study

PROTOCOLS = Path(__file__).parents[2] / "protocols"
STUDY = load_study(PROTOCOLS / "heart-disease-diagnosis.toml")


def changed(**parts):
    return Study.model_validate(STUDY.model_dump(mode="json") | parts)


def limits(site="a", **parts):
    values = {
        "site": site,
        "data_set": STUDY.data_set,
        "declared_patients": 300,
        "tasks": ["diagnosis"],
        "purposes": ["scientific-research"],
        "max_epsilon_a_study": 2.5,
        "budget": {"epsilon": 3.0, "delta": 1e-4},
    }
    return SiteLimits.model_validate(values | parts)


def combining_by(kind, rounds=20, **settings):
    strategy = {"kind": kind, **settings}
    return {"training": STUDY.training.model_dump() | {"rounds": rounds, "strategy": strategy}}


def of_classes(number):
    words = [str(place) for place in range(number)]
    return {
        "endpoint": {"kind": "classes", "column": "num", "classes": words, "outcome": "a grade"},
        "evaluation": {"held_out_fraction": 0.5},
    }


def test_few_classes_of_many_patients_are_none_too_many():
    assert foresee(changed(**of_classes(3)), [limits(declared_patients=3000)]).warnings == ()


def test_the_parts_of_an_evaluation_cost_together_what_the_protocol_asks():
    training, *lines = foresee(STUDY).costs
    assert training.releases == 22 and 1.999 < training.epsilon <= STUDY.privacy.training_epsilon
    # In Gaussian differential privacy mu squared adds up: that of a line is its share of the whole vector's.
    mu = 1 / plan_study(STUDY)["evaluate"].mechanism.noise_multiplier
    for cost, line in zip(lines, lines_of(STUDY), strict=True):
        assert cost.part == f"evaluation: {line.name}"
        assert cost.epsilon == pytest.approx(epsilon_of_gaussian(mu * math.sqrt(line.share), 1e-4), rel=2e-3)
        assert cost.epsilon < STUDY.privacy.evaluation_epsilon


def epsilon_of_gaussian(mu, delta):
    """Solve Corollary 2.13 of Dong, Roth and Su for epsilon by bisection."""

    def phi(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    low, high = 0.0, 50.0
    for _ in range(200):
        middle = (low + high) / 2
        found = phi(-middle / mu + mu / 2) - math.exp(middle) * phi(-middle / mu - mu / 2)
        low, high = (middle, high) if found > delta else (low, middle)
    return high


def test_noise_on_a_weight_is_that_of_the_strategy_or_is_not_stated():
    # Of two rounds with momentum 1/2, the noise of the first is taken one and a half times, that of the second once.
    two = [limits("a"), limits("b")]
    plain, momentum, adaptive, median = (
        foresee(changed(**combining_by(*named, rounds=2, **settings)), two)
        for named, settings in [
            (["fedavg"], {}),
            (["fedavgm"], {"server_momentum": 0.5}),
            (["fedadam"], {"server_learning_rate": 0.1}),
            (["fedmedian"], {"malicious_sites": 1}),
        ]
    )
    assert momentum.sizes[0].weight_noise == pytest.approx(plain.sizes[0].weight_noise * math.sqrt((1 + 2.25) / 2))
    assert (adaptive.sizes[0].weight_noise, adaptive.federation_weight_noise) == (None, None)
    # Of one hospital alone the median is its own model; of several, what is left depends on them.
    assert median.sizes[0].weight_noise == plain.sizes[0].weight_noise
    assert median.federation_weight_noise is None


def test_noise_shrinks_as_hospitals_grow_and_with_every_hospital_more():
    found = foresee(STUDY, [limits("a"), limits("b", declared_patients=600)])
    one, two, *examples = found.sizes
    # 300 declared patients of which 3 in 4 train; the noise of a round is that of the sum over 225 patients.
    sd = plan_study(STUDY)["train"].mechanism.standard_deviation
    assert one.update_noise == pytest.approx(sd / 225)
    assert one.weight_noise == pytest.approx(1.5 * math.sqrt(20) * sd / 225)
    assert two.weight_noise == pytest.approx(one.weight_noise / 2)
    assert found.federation_weight_noise == pytest.approx(1.5 * math.sqrt(20) * sd * math.sqrt(2) / 675)
    assert [line.update_noise for line in examples] == sorted((e.update_noise for e in examples), reverse=True)
    assert examples[0].withheld and not examples[-1].withheld
    assert found.federation_half_width < one.half_width


REFUSALS = {
    "another data set": ({"data_set": "other", "budget": {"epsilon": 3.0, "delta": 1e-4}}, "asks for data set"),
    "no such purpose": ({"purposes": ["public-health"]}, "purpose 'scientific-research' is not among"),
    "no such task": ({"tasks": []}, "is not among"),
    "more than a study may ask": ({"max_epsilon_a_study": 1.0}, "asks epsilon 2.00"),
    "more than the whole budget": ({"budget": {"epsilon": 1.0, "delta": 1e-4}}, "of the whole budget"),
    "too few patients": ({"declared_patients": 50}, "wants 100 declared patients"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_published_limit_that_forbids_the_study_is_named(case):
    parts, words = REFUSALS[case]
    (verdict,) = foresee(STUDY, [limits(**parts)]).sites
    assert any(words in refusal for refusal in verdict.refusals), verdict


def test_a_sampled_study_has_no_price_where_full_batches_are_counted():
    study = changed(training=STUDY.training.model_dump() | {"sampling_rate": 0.2})
    (verdict,) = foresee(study, [limits()]).sites
    assert verdict.share is None and verdict.refusals


def test_nothing_stands_against_a_study_that_fits():
    (verdict,) = foresee(STUDY, [limits()]).sites
    assert verdict.refusals == () and 0.4 < verdict.share < 0.6


@pytest.mark.parametrize(
    "parts, words",
    [
        ({"sites": {"required": ["b"]}}, "published no limits: b"),
        ({"sites": {"quorum": 3}}, "limits of 1 sites are known"),
        ({"privacy": STUDY.privacy.model_dump() | {"delta": 0.01}}, "more than 1 / 300"),
        ({"training": STUDY.training.model_dump() | {"spare_rounds": 0}}, "no spare rounds"),
        ({"purpose": "?"}, "left open: purpose"),
        ({"privacy": STUDY.privacy.model_dump() | {"evaluation_epsilon": 0.05}}, "accuracy: expected to be withheld"),
        (of_classes(5), "5 classes are many"),
        (combining_by("krum", malicious_sites=1), "'krum' needs 5 sites, and limits of 1 sites are known"),
        (combining_by("fedmedian", malicious_sites=1), "no quorum: one hospital whose release is left out"),
    ],
)
def test_what_a_person_should_look_at_is_said(parts, words):
    assert any(words in warning for warning in foresee(changed(**parts), [limits()]).warnings)


def test_a_study_that_nobody_finished_cannot_be_signed():
    refuse_open_texts(STUDY)
    features = STUDY.model_dump(mode="json")["features"]
    features[0]["unit"] = "?"
    with pytest.raises(ConfigInvalid, match="legal_basis, the unit of age"):
        refuse_open_texts(changed(legal_basis="?", features=features))


EVALUATIONS = {
    "a table alone": {"table": 1.0, "scores": None},
    "a table and a histogram": {"table": 0.6, "scores": {"share": 0.4, "bins": 10}},
    "a histogram of much of the budget": {"table": 0.2, "scores": {"share": 0.8, "bins": 4}},
    "subgroups too": {
        "table": 0.5,
        "scores": {"share": 0.3, "bins": 10},
        "subgroups": {"share": 0.2, "columns": ["sex"]},
    },
}


@pytest.mark.parametrize("case", EVALUATIONS)
def test_the_interval_to_expect_is_that_of_the_least_noisy_table_that_the_counts_give(case):
    """By hand: the least squares estimate of a cell that was measured twice, then Wilson's interval with the noise."""
    study = changed(evaluation={"held_out_fraction": 0.25, "too_wide": 0.5, **EVALUATIONS[case]})
    sd, parts = plan_study(study)["evaluate"].mechanism.standard_deviation, EVALUATIONS[case]
    variance = sd**2 / parts["table"]
    if parts["scores"] is not None:
        # A cell of the table is a sum of half of the bins: precisions of the two measurements add up.
        of_bins = parts["scores"]["bins"] / 2 * sd**2 / parts["scores"]["share"]
        variance = 1 / (1 / variance + 1 / of_bins)
    found = foresee(study, [limits("a", declared_patients=2000), limits("b", declared_patients=3000)])
    for half_width, patients, sites in ((found.sizes[0].half_width, 500, 1), (found.federation_half_width, 1250, 2)):
        # Every p with (0.8 n - n p)^2 <= z^2 (n p (1 - p) + s^2 (p^2 + (1 - p)^2)), s^2 of two cells of each site.
        z2, s2 = 1.959963984540054**2, 2 * sites * variance
        a = patients**2 + z2 * (patients - 2 * s2)
        b = 2 * 0.8 * patients**2 + z2 * (patients - 2 * s2)
        c = (0.8 * patients) ** 2 - z2 * s2
        assert half_width == pytest.approx(math.sqrt(b * b - 4 * a * c) / (2 * a), rel=1e-9)
