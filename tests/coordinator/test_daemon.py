"""A coordinator that serves: studies are submitted, offered, approved, run one at a time, stopped, resumed, kept."""

import contextlib
import json
import os
import socket
import stat
import struct
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from served_coordinator import ServedCoordinator
from study_scene import RESEARCHER, Scene, study_of

from fedhealth.coordinator.asking import Shown
from fedhealth.coordinator.evidence import Evidence
from fedhealth.coordinator.home import revoke_site
from fedhealth.coordinator.participation import CompletedRound
from fedhealth.coordinator.research_client import (
    fetch_results,
    list_results,
    list_studies,
    stop_study,
    submit_study,
    watch_study,
)
from fedhealth.coordinator.research_frames import LENGTH, MAX_QUESTION_BYTES, unpack_reply
from fedhealth.coordinator.retention import remove_expired
from fedhealth.coordinator.round_checkpoint import CHECKPOINT_FILE
from fedhealth.coordinator.run_folder import EVIDENCE, MODEL, PUBLISHED, SEAL
from fedhealth.coordinator.service import Coordinator
from fedhealth.coordinator.store.database import open_database
from fedhealth.coordinator.store.runs import Runs
from fedhealth.coordinator.store.studies import Studies
from fedhealth.coordinator.store.tables import StudyState
from fedhealth.errors import BudgetExhausted, ConfigInvalid, IdentityInvalid, LinkUnavailable
from fedhealth.learning.plan import plan_study
from fedhealth.link.catalogue import CATALOGUE, MAX_STUDIES, studies_in
from fedhealth.link.frames import Answer, unpack_request
from fedhealth.signing import public_key_hex
from fedhealth.study.signature import open_signed_study, sign_study

STUDY = study_of()
SIGNED = sign_study(STUDY, RESEARCHER)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)


@pytest.fixture
def served():
    """A coordinator that serves two sites, which have approved nothing yet."""
    with tempfile.TemporaryDirectory(prefix="fh-") as folder:  # short: a socket's path has 107 bytes
        made = ServedCoordinator(Path(folder), STUDY)
        made.start()
        yield made
        made.close()


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


class open_home:  # noqa: N801 - reads as the function that it is used as
    """Open a coordinator's home without serving."""

    def __init__(self, served):
        self.coordinator = Coordinator(served.home, None, True, lambda _: None)

    def __enter__(self):
        return self.coordinator

    def __exit__(self, *_):
        self.coordinator.studies.close()
        self.coordinator._held.close()


def test_more_studies_than_a_catalogue_holds_are_not_taken_in(served):
    for number in range(MAX_STUDIES):
        submit_study(served.socket, sign_study(study_of(name=f"study-{number}"), RESEARCHER))
    with pytest.raises(ConfigInvalid, match="too many studies wait at this coordinator; got 16"):
        submit_study(served.socket, SIGNED)
    first = list_studies(served.socket)[0]
    assert submit_study(served.socket, sign_study(study_of(name=first.name), RESEARCHER)).study == first.study
    stop_study(served.socket, first.study, RESEARCHER)
    assert submit_study(served.socket, SIGNED).state == "offered"


def test_the_socket_is_the_coordinators_own_and_who_asks_is_told_by_the_kernel(served):
    assert stat.S_IMODE(served.socket.stat().st_mode) == 0o600
    list_studies(served.socket)
    assert {"event": "asked", "user": os.getuid(), "what": "list"} in served.events


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to a group it is not in")
def test_a_group_of_researchers_may_use_the_socket_and_see_nothing_else(served):
    served.stop()
    served.start(group="nogroup")
    status, home = served.socket.stat(), served.home.root.stat()
    assert (stat.S_IMODE(status.st_mode), stat.S_IMODE(home.st_mode)) == (0o660, 0o710)
    assert status.st_gid == home.st_gid != 0
    for path in served.home.root.rglob("*"):
        if path != served.socket and path.parent == served.home.root and path.name != "coordinator.toml":
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    served.stop()
    with pytest.raises(ConfigInvalid, match="researchers of group 'no-such-group' cannot be let in; got no such group"):
        served.start(group="no-such-group")


def frame(header, body=b""):
    text = json.dumps(header).encode()
    whole = struct.pack("!I", len(text)) + text + body
    return LENGTH.pack(len(whole)) + whole


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\0",
        LENGTH.pack(MAX_QUESTION_BYTES + 1),
        LENGTH.pack(3) + b"abc",
        frame({"kind": "nonsense"}),
        frame({"kind": "fetch", "study": STUDY.digest, "name": "../witness.key"}),
        frame({"kind": "fetch", "study": "*", "name": "evidence.json"}),
        frame({"kind": "watch", "study": STUDY.digest, "after": -1}),
        frame({"kind": "watch", "study": STUDY.digest, "after": 2**63}),
        frame({"kind": "stop", "study": STUDY.digest, "signature": "00"}),
    ],
    ids=[
        "nothing",
        "half a length",
        "too long",
        "no frame",
        "nonsense",
        "a path",
        "a pattern",
        "before all",
        "after all",
        "no stop",
    ],
)
def test_what_is_no_question_changes_nothing_and_holds_up_nobody(served, sent):
    submit_study(served.socket, SIGNED)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(served.socket))
        stranger.sendall(sent)
        assert len(list_studies(served.socket)) == 1  # while the stranger still holds on
        stranger.shutdown(socket.SHUT_WR)
        stranger.settimeout(5)
        said = stranger.recv(65536)
    assert said == b"" or b'"declined"' in said


def test_only_what_is_published_is_handed_out(served):
    served.approve(SIGNED)
    submit_study(served.socket, SIGNED)
    served.wait_for(STUDY, "done")
    (served.home.runs / STUDY.digest / "notes.txt").write_text("not for researchers")
    assert "notes.txt" not in list_results(served.socket, STUDY.digest)
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(served.socket))
        asking.sendall(frame({"kind": "fetch", "study": STUDY.digest, "name": "notes.txt"}))
        assert b"there is no published file" in asking.recv(65536)


def test_a_file_that_was_changed_on_the_way_is_found_by_the_seal(served, tmp_path, monkeypatch):
    served.approve(SIGNED)
    submit_study(served.socket, SIGNED)
    served.wait_for(STUDY, "done")
    (served.home.runs / STUDY.digest / EVIDENCE).write_bytes(b"{}")
    with pytest.raises(IdentityInvalid, match=r"evidence\.json is not what the coordinator sealed"):
        fetch_results(served.socket, STUDY.digest, tmp_path / "fetched")


DAY = 24 * 3600 * 1000


@pytest.mark.parametrize("days", [29, 30])
def test_results_are_removed_when_the_protocol_says_so_and_that_is_kept(tmp_path, days):
    engine = open_database(tmp_path, None, "ab" * 32)
    studies, runs = Studies(engine), Runs(engine)
    known = studies.submit(open_signed_study(SIGNED), SIGNED, 30, 1)
    folder = tmp_path / "run"
    folder.mkdir()
    runs.begin(known.digest, str(folder), ["ward-a"], 2)
    studies.move(known.digest, StudyState.RUNNING, 2)
    runs.keep_rounds(known.digest, ["ward-a"], [CompletedRound(1, 1)], "11" * 32, Shown(), None, 3)
    runs.finish(known.digest, Shown(), 1000)
    studies.move(known.digest, StudyState.DONE, 1000)
    for name in (*PUBLISHED, SEAL):
        (folder / name).write_text("x")
    removed = remove_expired(studies, runs, 1000 + days * DAY)
    if days < 30:
        assert (removed, len(list(folder.iterdir()))) == ([], len(PUBLISHED) + 1)
    else:
        assert removed == [known.digest]
        assert not folder.exists()
        assert (runs.find(known.digest), runs.rounds(known.digest)) == (None, [])
        found = studies.find(known.digest)
        assert (found.state, found.removed_at) == (StudyState.DONE, 1000 + 30 * DAY)
        assert studies.events(known.digest)[-1].body == {"event": "results-removed"}
    assert remove_expired(studies, runs, 1000 + days * DAY) == []  # once
    engine.dispose()


def test_results_that_were_removed_say_so_and_a_study_that_has_not_ended_is_kept(served):
    served.approve(SIGNED)
    submit_study(served.socket, SIGNED)
    served.wait_for(STUDY, "done")
    served.stop()
    with open_home(served) as coordinator:
        later = coordinator.unix_ms() + (STUDY.retention_days + 1) * DAY
        assert remove_expired(coordinator.studies, coordinator.runs, later) == [STUDY.digest]
    served.start()
    with pytest.raises(
        ConfigInvalid, match=rf"were removed on .*; got a protocol that keeps them {STUDY.retention_days}"
    ):
        list_results(served.socket, STUDY.digest)
    (told,) = list_studies(served.socket)
    assert (told.state, told.removed) == ("done", True)


def test_a_list_that_outgrows_a_header_is_still_a_list(served):
    # A header has at most 64 KiB and a study in a list some 300 bytes: 300 studies that are over are more.
    engine = open_database(served.home.root, None, public_key_hex(served.home.witness_key().public_key()))
    studies = Studies(engine)
    for number in range(300):
        signed = sign_study(study_of(name=f"study-{number}"), RESEARCHER)
        known = studies.submit(open_signed_study(signed), signed, 30, number)
        studies.stop(known.digest, "ab" * 32, "cd" * 64, number)
    engine.dispose()
    assert [each.name for each in list_studies(served.socket)] == [f"study-{number}" for number in range(300)]
    submit_study(served.socket, SIGNED)
    assert stop_study(served.socket, STUDY.digest, RESEARCHER).state == "stopped"


def test_one_user_takes_not_all_places(served, monkeypatch):
    monkeypatch.setattr("fedhealth.coordinator.research_port.peer_user", lambda _: 4001)
    signed = [sign_study(study_of(name=f"study-{number}"), STRANGER) for number in range(MAX_STUDIES // 4 + 1)]
    for each in signed[:-1]:
        submit_study(served.socket, each)
    with pytest.raises(ConfigInvalid, match="too many of your studies wait at this coordinator; got 4"):
        submit_study(served.socket, signed[-1])
    assert submit_study(served.socket, signed[0]).state == "offered"  # the same again takes no other place
    served.stop()
    served.start()  # who handed them in is kept
    with pytest.raises(ConfigInvalid, match="too many of your studies"):
        submit_study(served.socket, signed[-1])
    monkeypatch.setattr("fedhealth.coordinator.research_port.peer_user", lambda _: 4002)
    assert submit_study(served.socket, SIGNED).state == "offered"


def test_one_user_takes_not_all_connections(served, monkeypatch):
    submit_study(served.socket, SIGNED)
    monkeypatch.setattr("fedhealth.coordinator.research_port.peer_user", lambda _: 4001)
    with contextlib.ExitStack() as held:
        for _ in range(64):
            following = held.enter_context(socket.socket(socket.AF_UNIX))
            following.connect(str(served.socket))
            with contextlib.suppress(OSError):  # those beyond the user's share are hung up on
                following.sendall(frame({"kind": "watch", "study": STUDY.digest}))
        with pytest.raises(LinkUnavailable):
            list_studies(served.socket)
        monkeypatch.setattr("fedhealth.coordinator.research_port.peer_user", lambda _: 4002)
        assert len(list_studies(served.socket)) == 1


def test_who_takes_no_answer_is_hung_up_on(served, monkeypatch):
    monkeypatch.setattr("fedhealth.coordinator.research_port._TAKE_SECONDS", 0.2)
    served.approve(SIGNED)
    submit_study(served.socket, SIGNED)
    served.wait_for(STUDY, "done")
    (served.home.runs / STUDY.digest / MODEL).write_bytes(bytes(4 << 20))
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect(str(served.socket))
        idle.sendall(frame({"kind": "fetch", "study": STUDY.digest, "name": MODEL}))
        time.sleep(1.5)
        taken = 0
        idle.settimeout(5)
        with contextlib.suppress(ConnectionError):
            while part := idle.recv(1 << 20):
                taken += len(part)
    assert taken < 4 << 20


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


def test_results_that_cannot_be_removed_stop_nothing_and_leftovers_of_a_kill_go_too(tmp_path):
    engine = open_database(tmp_path, None, "ab" * 32)
    studies, runs = Studies(engine), Runs(engine)
    folders = {}
    for name in ("stuck", "free"):
        signed = sign_study(study_of(name=name), RESEARCHER)
        known = studies.submit(open_signed_study(signed), signed, 30, 1)
        folders[name] = tmp_path / name
        folders[name].mkdir()
        runs.begin(known.digest, str(folders[name]), ["ward-a"], 2)
        studies.stop(known.digest, "ab" * 32, "cd" * 64, 3)
    (folders["stuck"] / EVIDENCE).mkdir()  # no file: it cannot be unlinked
    (folders["free"] / (CHECKPOINT_FILE + ".new")).write_bytes(b"weights")
    (gone,) = remove_expired(studies, runs, 3 + 40 * DAY)
    assert studies.find(gone).name == "free"
    assert not folders["free"].exists()
    (folders["stuck"] / EVIDENCE).rmdir()
    assert len(remove_expired(studies, runs, 4 + 40 * DAY)) == 1


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


def test_a_coordinator_that_names_a_path_writes_nothing():
    for name in ("../evil", "/etc/evil", ""):
        reply = frame({"kind": "files", "files": {name: 1}})[LENGTH.size :]
        with pytest.raises(LinkUnavailable, match="answer is none"):
            unpack_reply(reply)


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [(LENGTH.pack(MAX_QUESTION_BYTES + 1), 60.0), (b"\0", 0.2)],
    ids=["announces too much", "says nothing more"],
)
def test_a_stranger_that_holds_on_is_hung_up_on(served, monkeypatch, sent, seconds):
    monkeypatch.setattr("fedhealth.coordinator.research_port._QUESTION_SECONDS", seconds)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(5)
        stranger.connect(str(served.socket))
        stranger.sendall(sent)
        assert stranger.recv(1) == b""
