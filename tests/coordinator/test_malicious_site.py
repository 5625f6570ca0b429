"""A hospital that lies with its own key: ledger, signature and witness are in order, and only its numbers are not."""

import math

import numpy as np
import pytest
from safetensors.numpy import load
from study_scene import Scene, study_of

from fedhealth.compliance.federation import Federation
from fedhealth.compliance.run_checks import check_run
from fedhealth.coordinator.participation import rounds_of
from fedhealth.coordinator.run_folder import MODEL
from fedhealth.coordinator.study_run import QuorumMissing
from fedhealth.learning.plan import encode_release, plan_study

FOUR = ("ward-a", "ward-b", "ward-c", "ward-d")
ONE_MAY_LIE = {"kind": "fedmedian", "malicious_sites": 1}
MEDIAN = {"rounds": 2, "learning_rate": 0.5, "l2_clip_norm": 1.0, "strategy": ONE_MAY_LIE}


def not_a_number(step, weights, records, streams):
    return np.full(step.mechanism.dimension, math.nan).tobytes(), 0


def as_far_as_is_believed(step, weights, records, streams):
    """The longest release that the coordinator takes from 60 declared patients, all in the first weight."""
    steps = np.zeros(step.mechanism.dimension, dtype=np.int64)
    steps[0] = int(step.mechanism.longest_release(120))
    return encode_release(steps), 0


@pytest.fixture
def scene(tmp_path):
    made = []

    def make(lie, **sites):
        made.append(Scene(tmp_path, study_of(sites=sites, training=MEDIAN), FOUR, lying={"ward-d": lie}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_not_a_number_is_left_out_of_every_round_and_the_evidence_says_so(scene):
    made = scene(not_a_number, quorum=3)
    evidence = made.run()
    assert [dict(each.absent) for each in rounds_of(evidence.participation.rounds)] == [{"ward-d": "implausible"}] * 2
    assert evidence.participation.evaluation_absent == {"ward-d": "implausible"}
    assert evidence.partial
    told = {site.site: site for site in evidence.sites}
    assert "ward-d" not in told or told["ward-d"].noisy_counts == {}
    assert made.sites["ward-d"].charges(made.study) == [2, 1]  # it charged its patients for nothing
    wrong = {check.name for check in check_run(made.results, Federation(sites=(), failed=())).checks if check.exit_code}
    assert wrong <= {"report"}  # which the scene does not render


def test_where_all_must_take_part_the_study_stops_and_names_the_site(scene):
    with pytest.raises(QuorumMissing, match=r"round 1: no release from ward-d \(implausible\)"):
        scene(not_a_number).run(patience=1.0)


def test_a_lie_that_can_be_believed_takes_part_and_a_median_does_not_follow_it(scene):
    made = scene(as_far_as_is_believed)
    evidence = made.run()
    assert not evidence.partial
    assert {site.site for site in evidence.sites} == set(FOUR)
    # Honest releases are at most 2,550 steps and six standard deviations of 1,024, in two rounds. The lie is longer
    # than 40,000 each time: a quarter of it, in an average, would be more than that.
    mechanism = plan_study(made.study)["train"].mechanism
    assert mechanism.longest_release(120) > 40_000
    unit = 0.5 * mechanism.grid / 0.75 / 60
    weights = load((made.results / MODEL).read_bytes())
    assert abs(next(iter(weights.values())).ravel()[0]) < 2 * (2_550 + 6 * 1_024) * unit
