"""What a trial's gate releases: sums whose patients are bounded by construction, alone, and read back as they were."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_trial import COLUMNS, rows, trial

from fedhealth.learning import steps
from fedhealth.learning.evaluation import counts_of, lines_of
from fedhealth.learning.outcomes.table import outcome_of
from fedhealth.learning.plan import decode_release, plan_study
from fedhealth.learning.trial_moments import groups_of
from fedhealth.privacy.stream import UnsafeFixedNoiseSecret
from fedhealth.records.table import Records, Table, made_up_records, prepare_records

ONE, TWO = trial(), trial(("week_4", "week_8"))
STUDIES = pytest.mark.parametrize("study", [ONE, TWO], ids=["one visit", "two visits"])


def vectors_of(study, records):
    nobody = np.zeros((0, plan_study(study)["evaluate"].mechanism.dimension))
    return np.concatenate([nobody, *outcome_of(study).vectors(study, np.zeros((len(records.labels), 0)), records)])


def records_of(study, found):
    table = Table(Path("made up"), COLUMNS, tuple(enumerate((tuple(str(cell) for cell in row) for row in found), 2)))
    training, everybody = prepare_records(table, study, "person", bytes(32), strict=False)
    assert training.patient_count == 0
    return everybody


@STUDIES
def test_shares_of_a_group_add_up_to_1_and_cells_have_names_of_their_own(study):
    lines = lines_of(study)
    groups = {line.name.partition(":")[0] if line.name.startswith("up to") else "" for line in lines}
    assert sum(line.share for line in lines) == pytest.approx(len(groups))
    cells = [cell for line in lines for cell in line.cells]
    assert len(set(cells)) == len(cells) == plan_study(study)["evaluate"].mechanism.dimension


def test_one_patient_adds_what_the_lines_say():
    # sex 'm' is compared with 'f' and is a column, and so is 'sex missing'; before 75 is 0.5, and -20 points are -0.5.
    records = records_of(ONE, [("N", "p", "low", 75, "m", "", "-20")])
    found = counts_of(ONE, vectors_of(ONE, records)[0])
    one = {"low": 1.0, "low, sum of before": 0.5, "low, sum of sex=m": 1.0, "low, sum of week_8": -0.5}
    products = {
        "sum of before x before": 0.25,
        "sum of before x sex=m": 0.5,
        "sum of before x week_8": -0.25,
        "sum of sex=m x sex=m": 1.0,
        "sum of sex=m x week_8": -0.5,
        "sum of week_8 x week_8": 0.25,
    }
    assert {cell: value for cell, value in found.items() if value} == pytest.approx(one | products)


def test_a_patient_is_in_the_group_of_the_last_visit():
    records = records_of(TWO, [("N", "p", "low", 75, "m", "-20", ""), ("N", "q", "low", 75, "m", "-20", "-20")])
    first, second = vectors_of(TWO, records)
    assert counts_of(TWO, first)["up to week_4: low"] == pytest.approx(1)
    assert counts_of(TWO, second)["up to week_8: low"] == pytest.approx(1)
    assert not (first.astype(bool) & second.astype(bool)).any()


@STUDIES
def test_who_is_at_the_end_of_every_range_measures_1_and_nobody_more(study):
    generator = np.random.default_rng(0)
    visits = len(study.endpoint.outcomes)
    for corner in (True, False):
        size = (200, study.dimension), (200, visits)
        features, outcomes = (
            generator.choice([-1.0, 1.0], each) if corner else generator.uniform(-1, 1, each) for each in size
        )
        arms = generator.integers(0, 3, 200)
        labels = np.column_stack([arms, np.full(200, visits), outcomes])
        norms = np.linalg.norm(vectors_of(study, Records(features, labels, np.arange(200), 200)), axis=1)
        assert norms.max() <= 1 + 1e-12
        assert not corner or norms.min() == pytest.approx(1)


@STUDIES
def test_made_up_records_can_be_computed(study):
    assert np.isfinite(vectors_of(study, made_up_records(study, 30))).all()


@STUDIES
def test_made_up_patients_take_as_long_as_any_because_all_are_in_the_longest_group(study):
    # A reply's public duration is measured on them: patients who were seen more often must not make it late.
    last = max(sum(len(line.cells) for line in group.lines()) for group in groups_of(study, study.endpoint))
    made_up = vectors_of(study, made_up_records(study, 30))
    assert (made_up[:, :-last] == 0).all() and made_up[:, -last:].any(axis=1).all()


@STUDIES
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_patient_adds_the_same_in_any_company(study, data):
    found = rows(each=8)
    for _ in range(3):
        place = data.draw(st.integers(0, len(found) - 1))
        column = data.draw(st.sampled_from([2, 3, 4, 5, 6]))
        cell = data.draw(st.sampled_from(["", "text", "1e308", "-5", "low", "m"]))
        found[place] = (*found[place][:column], cell, *found[place][column + 1 :])
    every = vectors_of(study, records_of(study, found))
    alone = [vectors_of(study, records_of(study, [row])) for row in found]
    assert every.tobytes() == np.concatenate(alone).tobytes()


def test_a_block_holds_so_many_numbers_however_many_visits_there_are():
    # Of 3 arms, 59 covariates and k visits a group has 3 (60 + k) sums and (59 + k) (60 + k) / 2 products. Over the 20
    # groups that is 4,230 + 49,330 = 53,560 numbers a patient, and 2^22 = 4,194,304 hold 78 patients.
    words = [str(number) for number in range(60)]
    wide = trial(
        [f"week_{number}" for number in range(20)],
        features=[{"kind": "category", "column": "ward", "categories": words}],
    )
    made_up = made_up_records(wide, 100)
    blocks = [block.shape for block in outcome_of(wide).vectors(wide, np.zeros((100, 0)), made_up)]
    assert blocks == [(78, 53_560), (22, 53_560)]


def test_an_unreadable_outcome_counts_as_nobody():
    step = plan_study(ONE)["evaluate"]
    streams = partial(UnsafeFixedNoiseSecret(1).stream, "0" * 64)
    release = steps.evaluate
    good, bad = ("N", "p", "low", 75, "m", "", "-20"), ("N", "q", "low", 75, "m", "", "text")
    with_it, zeroed = release(step, np.zeros(0), records_of(ONE, [good, bad]), streams)
    without, none = release(step, np.zeros(0), records_of(ONE, [good]), streams)
    assert (with_it, zeroed, none) == (without, 1, 0)


def test_a_release_is_the_sums_and_the_noise_of_the_plan():
    step, found = plan_study(ONE)["evaluate"], rows()
    records = records_of(ONE, found)
    payload, zeroed = steps.evaluate(step, np.zeros(0), records, partial(UnsafeFixedNoiseSecret(1).stream, "0" * 64))
    noise = decode_release(payload, step.mechanism) - vectors_of(ONE, records).sum(axis=0)
    assert zeroed == 0
    # Of so many draws the root mean square is within 4 / sqrt(2 n) of the standard deviation.
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(
        step.mechanism.standard_deviation, rel=4 / np.sqrt(2 * len(noise))
    )
