"""The research socket: who may use it, what is handed out, and that nobody holds it up."""

import contextlib
import json
import os
import socket
import stat
import struct
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from served_coordinator import SIGNED, STUDY
from study_scene import RESEARCHER, study_of

from fedhealth.coordinator.research_client import (
    fetch_results,
    list_results,
    list_studies,
    stop_study,
    submit_study,
)
from fedhealth.coordinator.research_frames import LENGTH, MAX_QUESTION_BYTES, unpack_reply
from fedhealth.coordinator.run_folder import EVIDENCE, MODEL
from fedhealth.coordinator.store.database import open_database
from fedhealth.coordinator.store.studies import Studies
from fedhealth.errors import ConfigInvalid, IdentityInvalid, LinkUnavailable
from fedhealth.link.catalogue import MAX_STUDIES
from fedhealth.signing import public_key_hex
from fedhealth.study.signature import open_signed_study, sign_study

STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)


def frame(header, body=b""):
    text = json.dumps(header).encode()
    whole = struct.pack("!I", len(text)) + text + body
    return LENGTH.pack(len(whole)) + whole


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


def test_the_operator_stops_a_study_that_no_site_will_approve_and_nobody_else_does_without_its_key(served, monkeypatch):
    submit_study(served.socket, SIGNED)
    with monkeypatch.context() as another:
        another.setattr("fedhealth.coordinator.research_port.peer_user", lambda _: 4001)
        with pytest.raises(IdentityInvalid, match="is stopped by whoever signed it, or by the coordinator's operator"):
            stop_study(served.socket, STUDY.digest, None)
        assert list_studies(served.socket)[0].state == "offered"
    stopped = stop_study(served.socket, STUDY.digest, None)
    assert (stopped.state, stopped.reason) == ("stopped", "the coordinator's operator stopped it")
    with pytest.raises(ConfigInvalid, match="cannot become stopped"):
        stop_study(served.socket, STUDY.digest, None)
