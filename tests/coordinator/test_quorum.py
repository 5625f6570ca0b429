"""Who is waited for, how long, and what a result says of those who were not there."""

import asyncio

import pytest
from study_scene import Points, Scene, study_of

from fedhealth.coordinator.participation import CompletedRound, Quorum, rounds_of, spans_of
from fedhealth.coordinator.run_folder import EVIDENCE
from fedhealth.coordinator.store.tables import StudyState
from fedhealth.coordinator.study_run import QuorumMissing
from fedhealth.errors import ApprovalMissing, FederationFailed, LinkUnavailable
from fedhealth.link.frames import Answer, unpack_request
from fedhealth.privacy.entries import Withdrawn

THREE = ("ward-a", "ward-b", "ward-c")
TRAINING = {"rounds": 3, "learning_rate": 0.5, "l2_clip_norm": 1.0}


@pytest.fixture
def scene(tmp_path):
    made = []

    def make(**sites):
        made.append(Scene(tmp_path, study_of(sites=sites, training=TRAINING), THREE))
        return made[-1]

    yield make
    for each in made:
        each.close()


def asks_for(frame, step, number):
    request, _ = unpack_request(frame)
    return isinstance(request, Answer) and (request.step, request.round) == (step, number)


def absent_in(evidence):
    return {each.round: each.absent for each in rounds_of(evidence.participation.rounds)}


@pytest.mark.parametrize(
    ("required", "least", "given", "holds"),
    [
        ([], 2, ["ward-a", "ward-b"], True),
        ([], 2, ["ward-a"], False),
        (["ward-c"], 2, ["ward-a", "ward-b"], False),
        (["ward-c"], 2, ["ward-a", "ward-c"], True),
        (["ward-c"], 1, [], False),
    ],
)
def test_a_quorum_is_so_many_sites_with_those_that_are_required(required, least, given, holds):
    assert Quorum(frozenset(required), least).holds(given) is holds


@pytest.mark.parametrize(
    ("sites", "strategy", "wanted"),
    [
        ({}, {"kind": "krum", "malicious_sites": 1}, "got 3; wanted at least 5"),
        ({"quorum": 4}, {"kind": "fedavg"}, "got 3; wanted at least 4"),
        ({"required": ("ward-z",)}, {"kind": "fedavg"}, "got 3; wanted at least 3, ward-z among them"),
    ],
)
def test_nothing_is_asked_where_fewer_sites_have_joined_than_the_study_needs(tmp_path, sites, strategy, wanted):
    made = Scene(tmp_path, study_of(sites=sites, training=TRAINING | {"strategy": strategy}), THREE)
    try:
        with pytest.raises(FederationFailed, match=wanted):
            made.run(patience=1.0)
        assert not any(asks_for(frame, "train", 1) for site in made.sites.values() for frame in site.frames)
    finally:
        made.close()


def test_a_median_goes_on_without_one_of_four_and_not_without_two(tmp_path):
    # 2 f + 1 = 3 sites for one that may lie; the quorum is the study's own.
    strategy = {"kind": "fedmedian", "malicious_sites": 1}
    four = (*THREE, "ward-d")
    made = Scene(tmp_path, study_of(sites={"quorum": 3}, training=TRAINING | {"strategy": strategy}), four)
    away = {2: ("ward-b",), 3: ("ward-b", "ward-d")}

    def leaving(site):
        async def delay(frame):
            request, _ = unpack_request(frame)
            if isinstance(request, Answer) and request.step == "train":
                made.sites[site].connected = site not in away.get(request.round, ())

        return delay

    for name in four:
        made.sites[name].delay = leaving(name)
    try:
        with pytest.raises(QuorumMissing, match=r"round 3.*ward-b \(away\), ward-d \(away\).*one from 3 of 4 sites"):
            made.run(patience=1.0)
        assert [each.absent for each in made.hub.runs.rounds(made.study.digest)] == [{}, {"ward-b": "away"}]
    finally:
        made.close()


def test_rounds_are_kept_as_the_fewest_spans_and_come_back_as_they_were():
    rounds = [CompletedRound(1, 1), CompletedRound(2, 2), CompletedRound(3, 3, {"ward-a": "busy"})]
    rounds += [CompletedRound(4, 5, {"ward-a": "busy"}), CompletedRound(5, 6, {"ward-a": "busy"}), CompletedRound(6, 7)]
    spans = spans_of(rounds)
    assert [(span.first, span.last) for span in spans] == [(1, 2), (3, 3), (5, 6), (7, 7)]  # 4 was lost
    assert rounds_of(spans) == rounds
    assert spans_of(rounds_of(spans)) == spans
    assert spans_of([]) == ()


def test_a_site_that_is_away_in_a_round_comes_back_in_a_later_one_and_the_result_says_so(scene):
    made = scene(quorum=2)
    late = made.sites["ward-c"]

    async def away_in_the_second(frame):
        late.connected = not asks_for(frame, "train", 2)

    late.delay = away_in_the_second
    evidence = made.run(patience=1.0)
    assert absent_in(evidence) == {1: {}, 2: {"ward-c": "away"}, 3: {}}
    assert (evidence.partial, evidence.rounds_completed) == (True, 3)
    found = {site.site: site for site in evidence.sites}
    assert [found[name].rounds for name in THREE] == [(1, 2, 3), (1, 2, 3), (1, 3)]
    assert found["ward-c"].unconfirmed == 1  # it may have been charged: only its ledger knows
    assert made.hub.runs.rounds(made.study.digest)[1].absent == {"ward-c": "away"}
    told = [event["absent"] for event in made.hub.events if event["event"] == "round"]
    assert told == [{}, {"ward-c": "away"}, {}]


def test_a_site_that_is_slow_within_the_wait_is_waited_for(scene):
    made = scene(quorum=2)

    async def a_moment(frame):
        if asks_for(frame, "train", 2):
            await asyncio.sleep(0.3)

    made.sites["ward-c"].delay = a_moment
    evidence = made.run(patience=20)
    assert absent_in(evidence) == {1: {}, 2: {}, 3: {}}
    assert not evidence.partial


def test_a_site_that_is_slow_beyond_the_wait_is_absent_as_slow_and_its_round_is_charged_once(scene):
    made = scene(quorum=2)
    slow = made.sites["ward-c"]

    async def too_long(frame):
        if asks_for(frame, "train", 2):
            await asyncio.sleep(60)

    slow.delay = too_long
    evidence = made.run(patience=1.0)
    assert absent_in(evidence)[2] == {"ward-c": "slow"}
    assert evidence.partial


def test_a_site_that_comes_back_within_the_wait_is_in_the_round(scene):
    made = scene()
    late = made.sites["ward-b"]

    async def cut(frame):
        if asks_for(frame, "train", 2) and not late.__dict__.get("was_away"):
            late.was_away, late.connected = True, False

    async def reconnect(_):
        while not late.__dict__.get("was_away"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        late.delay, late.connected = None, True

    late.delay = cut
    evidence = made.run(patience=20, during=reconnect)
    assert late.was_away
    assert not evidence.partial


def test_below_its_quorum_a_study_waits_and_goes_on_when_it_is_run_again(scene):
    made = scene()  # no quorum: all sites
    gone = made.sites["ward-b"]

    async def cut(frame):
        gone.connected = not asks_for(frame, "train", 2)

    gone.delay = cut
    with pytest.raises(
        QuorumMissing, match=r"stopped in round 2: no release from ward-b \(away\); wanted one from 3 of 3"
    ):
        made.run(patience=0.2)
    known = made.hub.studies.find(made.study.digest)
    assert (known.state, known.reason) == (
        StudyState.WAITING,
        "study 'small' stopped in round 2: no release from ward-b (away)",
    )
    assert not (made.results / EVIDENCE).exists()
    gone.delay, gone.connected = None, True
    evidence = made.run()
    assert not evidence.partial
    assert {"event": "resumed", "round": 1} in made.hub.events
    assert [site.charges(made.study) for site in made.sites.values()] == [[3, 1]] * 3


def test_a_required_site_is_waited_for_whatever_the_quorum(scene):
    made = scene(quorum=1, required=["ward-b"])
    made.sites["ward-b"].connected = False
    with pytest.raises(LinkUnavailable, match="not all sites connected"):
        made.run(patience=0.2)
    assert made.hub.studies.find(made.study.digest).state is StudyState.OFFERED
    assert [site.charges(made.study) for site in made.sites.values()] == [[0, 0]] * 3


def test_an_approval_that_is_withdrawn_in_mid_run_is_public_and_not_waited_for(scene):
    made = scene(quorum=2)
    leaving = made.sites["ward-a"]

    async def withdraw(frame):
        if asks_for(frame, "train", 3) and made.study.digest not in leaving.ledger.account.withdrawn:
            leaving.ledger.append(Withdrawn(study=made.study.digest, by="anna", at=1))

    leaving.delay = withdraw
    evidence = made.run(patience=600)  # would be far too long for this test
    assert absent_in(evidence)[3] == {"ward-a": "not-approved"}
    assert evidence.participation.evaluation_absent == {"ward-a": "not-approved"}
    found = next(site for site in evidence.sites if site.site == "ward-a")
    # An answer before the withdrawal may have been lost: the one round in which it began to refuse counts as charged.
    assert (found.rounds, found.unconfirmed, found.noisy_counts) == ((1, 2), 1, {})
    assert found.figures is None
    assert [line.purpose for line in found.spent] == ["training"]


def test_a_site_that_has_not_approved_can_join_in_a_later_round(scene):
    made = scene(quorum=2)
    new = made.sites["ward-c"]
    approval = new.ledger.account.approved.pop(made.study.digest)

    async def approve_meanwhile(frame):
        if asks_for(frame, "train", 2):
            new.ledger.account.approved[made.study.digest] = approval

    made.sites["ward-a"].delay = approve_meanwhile
    evidence = made.run(patience=5)
    absent = absent_in(evidence)
    assert absent[1] == {"ward-c": "not-approved"}
    assert absent[3] == {}
    assert made.hub.studies.approvals(made.study.digest).keys() == set(THREE)


def test_without_enough_approvals_nothing_is_asked_and_the_site_is_named(scene):
    made = scene(quorum=3)
    del made.sites["ward-b"].ledger.account.approved[made.study.digest]
    with pytest.raises(
        ApprovalMissing, match="'ward-b' does not take part in study 'small'; got the answer 'not-approved'"
    ):
        made.run(patience=0.5)
    assert [site.charges(made.study) for site in made.sites.values()] == [[0, 0]] * 3
    assert made.hub.studies.refusals(made.study.digest) == {"ward-b": "not-approved"}


def test_a_site_that_is_gone_at_the_end_does_not_hold_the_result_back(scene):
    made = scene(quorum=2)
    gone = made.sites["ward-c"]

    async def leave_after_evaluation(frame):
        gone.connected = not any(asks_for(seen, "evaluate", 1) for seen in gone.frames[:-2])

    gone.delay = leave_after_evaluation
    evidence = made.run(patience=1.0)
    assert {site.site for site in evidence.sites} == set(THREE)  # with the last head that it showed
    assert made.hub.runs.unacknowledged(made.study.digest).keys() <= {"ward-c"}


def test_the_whole_of_what_is_published_says_partial_where_a_site_was_missing(scene):
    made = scene(quorum=2)

    async def cut(frame):
        made.sites["ward-b"].connected = not asks_for(frame, "evaluate", 1)

    made.sites["ward-b"].delay = cut
    evidence = made.run(Points(), patience=1.0)
    assert evidence.partial
    assert evidence.participation.evaluation_absent == {"ward-b": "away"}
    assert b'"partial": true' in (made.results / EVIDENCE).read_bytes()
