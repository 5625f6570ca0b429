"""Every strategy that a protocol can name: worked by hand, in any order of replies, and with too few sites."""

import random
from typing import get_args

import numpy as np
import pytest
from pydantic import TypeAdapter

from fedhealth.coordinator.participation import quorum_of
from fedhealth.errors import ConfigInvalid
from fedhealth.flower.rounds import Course, SiteMissing, train_rounds
from fedhealth.flower.strategies import strategy_for
from fedhealth.study.strategies import FedTrimmedAvg, Strategy

RATE = {"server_learning_rate": 0.1}
ONE = {"malicious_sites": 1}
NAMED = {
    "fedavg": {},
    "fedavgm": {"server_momentum": 0.5},
    "fedadam": RATE,
    "fedyogi": RATE,
    "fedadagrad": RATE,
    "fedmedian": ONE,
    "fedtrimmedavg": ONE,
    "krum": ONE,
    "multikrum": {**ONE, "selected_sites": 2},
    "bulyan": ONE,
}
LETTERS = "abcdefgh"
STRATEGY = TypeAdapter(Strategy)


def named(kind, **settings):
    return STRATEGY.validate_python({"kind": kind, **NAMED[kind], **settings})


def combine(study, grid_of, scripted, kind, steps, declared=None, rounds=1, **settings):
    """Return the weights after each round, in the unit of one step of one site's release over its own patients."""
    protocol = study(strategy={"kind": kind, **NAMED[kind], **settings})
    declared = declared or dict.fromkeys(steps, 100)
    grid = grid_of(protocol, scripted(steps), declared)
    course = Course(rounds, quorum_of(protocol, list(declared)).holds)
    start = np.zeros(2)
    return [each.weights for each in train_rounds(grid, strategy_for(protocol, len(steps)), start, course)]


def sites(*steps):
    return {f"ward-{letter}": list(step) for letter, step in zip(LETTERS, steps, strict=False)}


def test_every_strategy_that_can_be_named_is_tried_here():
    union = get_args(get_args(Strategy)[0])
    assert {each.model_fields["kind"].annotation.__args__[0] for each in union} == set(NAMED)


def test_the_average_is_weighted_by_declared_patients(study, grid_of, scripted, unit_of):
    # Any hospitals, any figures: a site's model is -unit * step / its patients, and its weight is its patients, so the
    # patients cancel: the common model is -unit * (sum of steps) / all patients.
    draw = random.Random(3)  # noqa: S311 - no secret
    for _ in range(20):
        count = draw.randint(2, 8)
        steps = sites(*([draw.randint(-900, 900), draw.randint(-900, 900)] for _ in range(count)))
        declared = {site: draw.randint(1, 10**6) for site in steps}
        (weights,) = combine(study, grid_of, scripted, "fedavg", steps, declared)
        unit = unit_of(study(), sum(declared.values()))
        np.testing.assert_allclose(weights, -unit * np.sum(list(steps.values()), axis=0), rtol=1e-9, atol=1e-15)


# Five sites of 100 patients, which all step in their own way; the last lies. A model is -unit * step.
FIVE = sites([10, 4], [12, 4], [11, 6], [13, 5], [-5000, 5000])
BY_HAND = {
    # The middle of -5000, 10, 11, 12, 13 and of 4, 4, 5, 6, 5000.
    "fedmedian": [11, 5],
    # Without the least and the greatest: (10 + 11 + 12) / 3 and (4 + 5 + 6) / 3.
    "fedtrimmedavg": [11, 5],
    # Squared distances to the nearest 5 - 1 - 2 = 2 of the others: (10,4): 4 + 5 = 9 (to b, c); (12,4): 2 + 4 = 6
    # (to d, a); (11,6): 5 + 5 = 10 (to a or b, and d); (13,5): 2 + 5 = 7 (to b, c). The least is (12, 4).
    "krum": [12, 4],
    # The two least are (12, 4) and (13, 5); 100 patients each.
    "multikrum": [12.5, 4.5],
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_a_site_that_lies_does_not_count(study, grid_of, scripted, unit_of, kind):
    (weights,) = combine(study, grid_of, scripted, kind, FIVE)
    np.testing.assert_allclose(weights, -unit_of(study(), 100) * np.array(BY_HAND[kind]), rtol=1e-9)


def test_bulyan_takes_of_each_weight_what_is_nearest_the_median(study, grid_of, scripted, unit_of):
    # Seven sites, f = 1: Krum chooses 7 - 2 = 5, and of those the 5 - 2 = 3 values nearest their median count.
    # Squared distances to the nearest 7 - 1 - 2 = 4 others: of 0, 1 + 9 + 16 + 36 = 62; of 1, 1 + 4 + 9 + 25 = 39; of
    # 3, 1 + 4 + 9 + 9 = 23; of 4, 1 + 4 + 9 + 16 = 30; of 6, 4 + 4 + 9 + 25 = 42; of 8, 4 + 16 + 25 + 49 = 94.
    # So 3, 4, 1, 6 and 0 are chosen. Their median is 3, and the nearest three are 3, 4 and 1: 8 / 3.
    steps = sites([0, 0], [1, 0], [3, 0], [4, 0], [6, 0], [8, 0], [900, 0])
    (weights,) = combine(study, grid_of, scripted, "bulyan", steps)
    np.testing.assert_allclose(weights, [-unit_of(study(), 100) * 8 / 3, 0], rtol=1e-9, atol=1e-15)


def test_robust_strategies_do_not_look_at_what_sites_declare_but_for_an_average_of_the_chosen(
    study, grid_of, scripted, unit_of
):
    # The same steps for each patient, whoever declares how many: a site that declares more than it has gains nothing.
    declared = {site: 100 * 10**place for place, site in enumerate(FIVE)}
    steps = {site: [step * 10**place for step in FIVE[site]] for place, site in enumerate(FIVE)}
    for kind, by_hand in BY_HAND.items():
        (weights,) = combine(study, grid_of, scripted, kind, steps, declared)
        # Krum's two best are ward-b with 1,000 patients and ward-d with 100,000.
        wanted = [(12 + 100 * 13) / 101, (4 + 100 * 5) / 101] if kind == "multikrum" else by_hand
        np.testing.assert_allclose(weights, -unit_of(study(), 100) * np.array(wanted), rtol=1e-9)


def adaptive(kind, step, rounds, eta=0.1, beta_1=0.9, beta_2=0.99, tau=1e-3):
    """Algorithm 2 of Reddi et al. (2021), with the bias correction of Adam that Flower adds."""
    weight, mean, square = 0.0, 0.0, 0.0
    found = []
    for number in range(1, rounds + 1):
        if kind == "fedadagrad":
            mean, square = step, square + step**2
        else:
            mean = beta_1 * mean + (1 - beta_1) * step
            if kind == "fedadam":
                square = beta_2 * square + (1 - beta_2) * step**2
            else:
                square -= (1 - beta_2) * step**2 * np.sign(square - step**2)
        pace = eta
        if kind == "fedadam":
            pace *= (1 - beta_2 ** (number + 1)) ** 0.5 / (1 - beta_1 ** (number + 1))
        weight += pace * mean / (square**0.5 + tau)
        found.append(weight)
    return found


@pytest.mark.parametrize("kind", ["fedadam", "fedyogi", "fedadagrad"])
def test_adaptive_strategies_do_what_their_paper_says(study, grid_of, scripted, unit_of, kind):
    # The sites answer the same in each round, so the average step is the same: -unit * (120, 40) over 400 patients.
    steps, declared = {"ward-a": [100, -40], "ward-b": [20, 80]}, {"ward-a": 100, "ward-b": 300}
    found = combine(study, grid_of, scripted, kind, steps, declared, rounds=3)
    unit = unit_of(study(), 400)
    for place, total in enumerate((120, 40)):
        wanted = adaptive(kind, -unit * total, 3)
        np.testing.assert_allclose([weights[place] for weights in found], wanted, rtol=1e-9)


@pytest.mark.parametrize("kind", NAMED)
def test_the_order_of_the_sites_does_not_matter_to_the_last_bit(study, grid_of, scripted, kind):
    draw = random.Random(11)  # noqa: S311 - no secret
    steps = sites(*([draw.randint(-999, 999), draw.randint(-999, 999)] for _ in range(7)))
    declared = {site: draw.randint(10, 5000) for site in steps}
    found = set()
    for _ in range(4):
        order = draw.sample(sorted(steps), len(steps))
        shuffled = {site: declared[site] for site in order}
        found.add(combine(study, grid_of, scripted, kind, steps, shuffled, rounds=3)[-1].tobytes())
    assert len(found) == 1


LEAST = {
    # kind, settings, sites in all: fewest that may be combined.
    ("fedavg", 0, 5): 1,
    ("fedadam", 0, 5): 1,
    ("fedmedian", 1, 5): 3,
    ("fedmedian", 2, 5): 5,
    ("krum", 1, 9): 5,
    ("krum", 3, 9): 9,
    ("bulyan", 1, 9): 7,
    # A share just below 2/5 cuts one of five, of four and of three; 2 f + 1 = 3.
    ("fedtrimmedavg", 1, 5): 3,
    # Just below 3/10 cuts two of ten down to seven (2.1), and one of six (1.8).
    ("fedtrimmedavg", 2, 10): 7,
    # Half at most, so that something is left: one of three.
    ("fedtrimmedavg", 1, 3): 3,
    ("fedtrimmedavg", 1, 2): 3,
}


@pytest.mark.parametrize(("kind", "malicious", "count"), LEAST)
def test_a_strategy_says_how_many_sites_it_needs(kind, malicious, count):
    settings = {"malicious_sites": malicious} if malicious else {}
    assert named(kind, **settings).least_sites(count) == LEAST[kind, malicious, count]


def test_multikrum_needs_more_sites_than_it_chooses():
    assert named("multikrum", selected_sites=2).least_sites(9) == 5
    assert named("multikrum", selected_sites=6).least_sites(9) == 9  # m + f + 2


@pytest.mark.parametrize("malicious", [1, 2, 5])
def test_the_trimmed_mean_cuts_as_many_as_may_lie_whoever_is_absent(malicious):
    part = FedTrimmedAvg(kind="fedtrimmedavg", malicious_sites=malicious)
    for count in range(2 * malicious + 1, 60):
        share, least = part.cut_share(count), part.least_sites(count)
        assert 2 * malicious + 1 <= least <= count
        # Flower cuts int(share * n) at each end.
        assert {int(share * given) for given in range(least, count + 1)} == {malicious}
        assert least == 2 * malicious + 1 or int(share * (least - 1)) < malicious


@pytest.mark.parametrize("kind", ["fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan"])
def test_too_few_sites_are_refused_before_the_first_round(study, kind):
    protocol = study(strategy={"kind": kind, **NAMED[kind]})
    least = named(kind).least_sites(2)
    with pytest.raises(ConfigInvalid, match=f"combines by '{kind}', which needs more sites.*at least {least}"):
        strategy_for(protocol, 2)
    strategy_for(protocol, least)


def test_a_round_with_too_few_sites_to_withstand_a_lie_does_not_count(study, grid_of, scripted):
    # Krum needs 2 + 3 = 5 of the six. The quorum is the study's own, and a strategy may ask for more, never for less.
    protocol = study(strategy={"kind": "krum", **ONE})
    protocol = protocol.model_copy(update={"sites": protocol.sites.model_copy(update={"quorum": 3})})
    six = sites(*([10 + place, 5] for place in range(6)))
    quorum = quorum_of(protocol, list(six))
    assert quorum.least == 5
    ask = scripted(six, refuse={("ward-a", "train", n): "busy" for n in (1, 2, 3)} | {("ward-b", "train", 2): "away"})
    rounds = train_rounds(
        grid_of(protocol, ask, dict.fromkeys(six, 100)), strategy_for(protocol, 6), np.zeros(2), Course(3, quorum.holds)
    )
    assert next(rounds).absent == {"ward-a": "busy"}
    with pytest.raises(SiteMissing, match="ward-a: busy, ward-b: away"):
        next(rounds)
