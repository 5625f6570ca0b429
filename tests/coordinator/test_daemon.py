"""A coordinator that serves: studies are submitted, offered, approved, run one at a time, stopped, resumed."""

import threading
import time
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from served_coordinator import SIGNED, STUDY, open_home
from study_scene import RESEARCHER, Scene, study_of

from fedhealth.coordinator.evidence import Evidence
from fedhealth.coordinator.home import revoke_site
from fedhealth.coordinator.research_client import (
    fetch_results,
    list_results,
    list_studies,
    stop_study,
    submit_study,
    watch_study,
)
from fedhealth.coordinator.run_folder import EVIDENCE, MODEL, PUBLISHED, SEAL
from fedhealth.coordinator.service import Coordinator
from fedhealth.errors import BudgetExhausted, ConfigInvalid, IdentityInvalid, LinkUnavailable
from fedhealth.learning.plan import plan_study
from fedhealth.link.catalogue import CATALOGUE, studies_in
from fedhealth.link.frames import Answer, unpack_request
from fedhealth.study.signature import open_signed_study, sign_study

STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)


def kinds(happened):
    return [event.body["event"] if hasattr(event, "body") else event.state for event in happened]


def test_a_study_is_offered_approved_run_and_its_results_are_handed_out(served, tmp_path):
    told = submit_study(served.socket, SIGNED)
    assert (told.study, told.state, told.approved) == (STUDY.digest, "offered", ())
    assert submit_study(served.socket, SIGNED).study == told.study
    served.approve(SIGNED, "ward-a")
    following = watch_study(served.socket, STUDY.digest[:8])
    seen = [next(following) for _ in range(2)]
    assert kinds(seen)[0] == "submitted"
    with pytest.raises(ConfigInvalid, match="has no results; got a study that is offered"):
        list_results(served.socket, STUDY.digest)
    served.approve(SIGNED, "ward-b")
    seen += list(following)
    assert kinds(seen)[-1] == "done"
    assert {"approved", "running", "round", "evaluated"} <= set(kinds(seen))
    assert [event.body["round"] for event in seen[:-1] if event.body["event"] == "round"] == [1, 2]
    numbers = [event.number for event in seen[:-1]]
    assert numbers == sorted(set(numbers))
    fetched = fetch_results(served.socket, STUDY.digest[:8], tmp_path / "fetched")
    assert {path.name for path in fetched} == {*PUBLISHED, SEAL} == set(list_results(served.socket, STUDY.digest))
    evidence = Evidence.model_validate_json((tmp_path / "fetched" / EVIDENCE).read_bytes())
    assert [site.rounds for site in evidence.sites] == [(1, 2), (1, 2)]
    # Seen again from the middle: what was seen is left out.
    assert [event.number for event in list(watch_study(served.socket, STUDY.digest, numbers[3]))[:-1]] == numbers[4:]


def test_a_serving_coordinator_gives_the_bits_of_one_run(served, tmp_path):
    calm = Scene(tmp_path, STUDY)
    calm.run()
    served.approve(SIGNED)
    submit_study(served.socket, SIGNED)
    served.wait_for(STUDY, "done")
    ours = served.home.runs / STUDY.digest / MODEL
    assert ours.read_bytes() == (calm.results / MODEL).read_bytes()
    calm.close()


@pytest.mark.parametrize(
    "data",
    [b"", b"not a study", SIGNED[:-5], SIGNED.replace(b"A small study", b"A smell study"), SIGNED + b" "],
    ids=["nothing", "garbage", "cut off", "one byte changed", "a blank more"],
)
def test_what_is_not_well_signed_is_not_taken_in(served, data):
    with pytest.raises(IdentityInvalid, match="cannot be trusted"):
        submit_study(served.socket, data)
    assert list_studies(served.socket) == ()


def test_a_study_signed_by_an_unknown_key_is_refused_by_every_site_and_costs_nothing(served):
    signed = sign_study(STUDY, STRANGER)
    submit_study(served.socket, signed)
    following = watch_study(served.socket, STUDY.digest)
    seen = [next(following) for _ in range(3)]
    assert kinds(seen) == ["submitted", "not-approved", "not-approved"]
    (told,) = list_studies(served.socket)
    assert (told.state, told.refused) == ("offered", {"ward-a": "policy", "ward-b": "policy"})
    assert all(site.charges(STUDY) == [0, 0] for site in served.scene.sites.values())
    with pytest.raises(ConfigInvalid, match="submitted by another researcher"):
        submit_study(served.socket, SIGNED)


def slow_rounds(served):
    """Have ward-a hold every answer of training until the returned event is set."""
    import asyncio

    go_on = threading.Event()

    async def hold(frame):
        request, _ = unpack_request(frame)
        while isinstance(request, Answer) and request.round == 2 and not go_on.is_set():
            await asyncio.sleep(0.01)

    served.scene.sites["ward-a"].delay = hold
    return go_on


def wait_for_round(served, number):
    for event in watch_study(served.socket, STUDY.digest):
        if event.body["event"] == "round" and event.body["round"] == number:
            return


def test_a_running_study_is_stopped_by_the_key_that_signed_it_and_for_ever(served):
    slow_rounds(served)
    served.approve(SIGNED)
    submit_study(served.socket, SIGNED)
    wait_for_round(served, 1)
    with pytest.raises(IdentityInvalid, match="signature of this study-stop does not hold"):
        stop_study(served.socket, STUDY.digest, STRANGER)
    assert served.wait_for(STUDY, "running")
    told = stop_study(served.socket, STUDY.digest[:8], RESEARCHER)
    assert (told.state, told.reason, told.rounds) == ("stopped", "its researcher stopped it", 1)
    with pytest.raises(ConfigInvalid, match="is stopped"):
        stop_study(served.socket, STUDY.digest, RESEARCHER)
    assert submit_study(served.socket, SIGNED).state == "stopped"
    assert kinds(watch_study(served.socket, STUDY.digest))[-2:] == ["stopped", "stopped"]
    with pytest.raises(ConfigInvalid, match="has no results; got a study that is stopped"):
        fetch_results(served.socket, STUDY.digest, served.home.root / "none")
    assert not list(served.home.runs.glob("*/" + EVIDENCE))


def test_one_study_runs_at_a_time_in_the_order_in_which_they_came(served):
    others = [study_of(name=f"study-{number}") for number in range(2)]
    go_on = slow_rounds(served)
    for study in (STUDY, *others):
        signed = sign_study(study, RESEARCHER)
        submit_study(served.socket, signed)
        served.approve(signed)
    wait_for_round(served, 1)
    assert [each.state for each in list_studies(served.socket)] == ["running", "offered", "offered"]
    go_on.set()
    for study in (STUDY, *others):
        served.wait_for(study, "done")
    done = [event["study"] for event in served.events if event["event"] == "done"]
    assert done == [study.digest for study in (STUDY, *others)]


def test_researchers_who_race_for_the_last_budget_get_as_many_studies_as_it_holds(served):
    # Each study may cost a patient epsilon 20 of the 50 on each side, so that some of eight are approved, whoever comes
    # first, and not all; the rest are never run.
    privacy = {"unit": "patient", "delta": 1e-4, "training_epsilon": 20.0, "evaluation_epsilon": 20.0}
    signed = [sign_study(study_of(name=f"study-{n}", privacy=privacy), RESEARCHER) for n in range(8)]
    for each in signed:
        submit_study(served.socket, each)
    approved, refused, lock = [], [], threading.Lock()
    together = threading.Barrier(len(signed))

    def race(data):
        together.wait()
        with lock:  # a site has one administrator's socket: one approval at a time, in whatever order
            try:
                served.approve(data)
                approved.append(open_signed_study(data).study)
            except BudgetExhausted:
                refused.append(open_signed_study(data).study)

    threads = [threading.Thread(target=race, args=(each,)) for each in signed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert approved
    assert refused
    for study in approved:
        served.wait_for(study, "done")
    for study in refused:
        assert served.wait_for(study, "offered").refused == {"ward-a": "not-approved", "ward-b": "not-approved"}
        assert all(site.charges(study) == [0, 0] for site in served.scene.sites.values())


def test_what_was_running_when_the_coordinator_ended_goes_on_when_it_is_started_again(served, tmp_path):
    calm = Scene(tmp_path, STUDY)
    calm.run()
    go_on = slow_rounds(served)
    served.approve(SIGNED)
    submit_study(served.socket, SIGNED)
    wait_for_round(served, 1)
    served.stop()
    assert not served.socket.exists()
    with pytest.raises(LinkUnavailable, match="does not answer"):
        list_studies(served.socket)
    go_on.set()
    served.start()
    seen = list(watch_study(served.socket, STUDY.digest))
    assert kinds(seen)[-1] == "done"
    assert "resumed" in kinds(seen)
    assert (served.home.runs / STUDY.digest / MODEL).read_bytes() == (calm.results / MODEL).read_bytes()
    assert all(site.charges(STUDY) == [2, 1] for site in served.scene.sites.values())
    calm.close()


def test_a_second_coordinator_on_the_same_home_is_refused(served):
    with pytest.raises(ConfigInvalid, match=r"coordinator at .*home is running already"):
        Coordinator(served.home, None, True, print)


def test_a_study_without_its_quorum_waits_lets_another_go_first_and_goes_on_by_itself(served):
    study = study_of(sites={"wait_seconds": 1})
    signed, other = sign_study(study, RESEARCHER), study_of(name="other", sites={"quorum": 1, "wait_seconds": 1})
    gone = served.scene.sites["ward-b"]

    async def leave(frame):
        request, _ = unpack_request(frame)
        if isinstance(request, Answer) and (request.study, request.round) == (study.digest, 2):
            raise LinkUnavailable("cut")

    gone.delay = leave
    served.approve(signed)
    submit_study(served.socket, signed)
    told = served.wait_for(study, "waiting")
    assert told.reason == "study 'small' stopped in round 2: no release from ward-b (away)"
    served.approve(sign_study(other, RESEARCHER), "ward-a")
    submit_study(served.socket, sign_study(other, RESEARCHER))
    served.wait_for(other, "done")
    gone.delay = None
    served.wait_for(study, "done")
    evidence = Evidence.model_validate_json((served.home.runs / other.digest / EVIDENCE).read_bytes())
    assert evidence.partial


def leave_after(served, name, study, step, number):
    """Have a site go away once it has given a release of a study, and before it could be told to drop it."""
    site = served.scene.sites[name]

    async def leave(frame):
        request, _ = unpack_request(frame)
        asked = [unpack_request(seen)[0] for seen in site.frames[:-1]]
        given = [each for each in asked if isinstance(each, Answer) and each.study == study.digest]
        if given and (given[-1].step, given[-1].round) == (step, number) and request.kind in ("head", "answer"):
            site.connected = False

    site.delay = leave
    return site


def test_a_site_that_was_away_at_the_end_is_told_to_drop_its_payloads_in_the_next_study(served):
    study, other = study_of(sites={"quorum": 1, "wait_seconds": 1}), study_of(name="other")
    signed, next_one = sign_study(study, RESEARCHER), sign_study(other, RESEARCHER)
    site = leave_after(served, "ward-b", study, "evaluate", 1)
    served.approve(signed)
    submit_study(served.socket, signed)
    served.wait_for(study, "done")
    releases = list(site.ledger.account.reserved)
    assert "stored" in {site.ledger.row(release).state for release in releases}
    site.delay, site.connected = None, True
    served.approve(next_one)
    submit_study(served.socket, next_one)
    served.wait_for(other, "done")
    assert {site.ledger.row(release).state for release in releases} == {"sent"}


def test_a_site_that_is_taken_out_in_mid_study_stays_in_the_evidence_with_what_it_did(served):
    study = study_of(sites={"quorum": 1, "wait_seconds": 1})
    signed = sign_study(study, RESEARCHER)
    leave_after(served, "ward-b", study, "train", 1)
    served.approve(signed)
    submit_study(served.socket, signed)
    for event in watch_study(served.socket, study.digest):
        if event.body["event"] == "round":
            break
    revoke_site(served.home, "ward-b", datetime.now(UTC))
    served.wait_for(study, "done")
    evidence = Evidence.model_validate_json((served.home.runs / study.digest / EVIDENCE).read_bytes())
    assert [(site.site, site.rounds) for site in evidence.sites] == [("ward-a", (1, 2)), ("ward-b", (1,))]
    assert evidence.partial
    assert evidence.participation.sites == ("ward-a", "ward-b")


def test_sites_are_told_of_all_studies_that_are_not_over(served):
    import asyncio

    def catalogue():
        with open_home(served) as coordinator:

            class Empty:
                async def whole(self):
                    return b""

            async def ask():
                service = coordinator._border.link._services_for("ward-a")[CATALOGUE]
                return b"".join([bytes(chunk) async for chunk in (await service.answer(Empty())).chunks])

            return studies_in(asyncio.run(ask()))

    other = sign_study(study_of(name="other"), RESEARCHER)
    submit_study(served.socket, SIGNED)
    submit_study(served.socket, other)
    stop_study(served.socket, STUDY.digest, RESEARCHER)
    served.stop()
    assert catalogue() == (other,)


def test_a_study_that_all_sites_approve_waits_no_longer_for_them(served):
    study = study_of(sites={"quorum": 1, "wait_seconds": 3600})
    signed = sign_study(study, RESEARCHER)
    served.approve(signed, "ward-a")
    submit_study(served.socket, signed)
    for event in watch_study(served.socket, study.digest):
        if event.body["event"] == "approved":
            break
    time.sleep(1.2)  # it is looked at once a second: the quorum holds, and the other has its time
    assert served.wait_for(study, "offered").approved == ("ward-a",)
    served.approve(signed, "ward-b")
    assert served.wait_for(study, "done").rounds == 2


def test_a_study_that_takes_long_to_work_out_holds_up_nobody(served, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slowly(study):
        begun.set()
        assert go_on.wait(20)
        return plan_study(study)

    monkeypatch.setattr("fedhealth.coordinator.research_desk.plan_study", slowly)
    submitting = threading.Thread(target=submit_study, args=(served.socket, SIGNED))
    submitting.start()
    assert begun.wait(10)
    assert list_studies(served.socket) == ()
    go_on.set()
    submitting.join()
    assert len(list_studies(served.socket)) == 1
